"""Regions of interest: what people give, as polygons in pixels of the image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from tilevision.errors import GridError, SourceError
from tilevision.geometry import Box
from tilevision.grid import Grid
from tilevision.pipeline.tiling import outside
from tilevision.regions import Region, read_region
from tilevision.sources import ImageMetadata

SIZE = (400, 300)
patient = settings(deadline=None, max_examples=60)


class Picture:
    """An image of a size, with what its file says, that can show itself small."""

    dtype = np.dtype(np.uint8)
    bands = 3

    def __init__(self, size=SIZE, pixels=None, **metadata):
        self.size, self._pixels = size, pixels
        self.metadata = ImageMetadata(**metadata)

    def thumbnail(self, max_side):
        """Return what it was given to show."""
        assert max(self._pixels.shape) <= max_side
        return self._pixels


def _read(value: Any, **picture: Any) -> Region:
    return read_region(value, Picture(**picture))


def _square(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def _feature(*rings, **members):
    geometry = {"type": "Polygon", "coordinates": list(rings)}
    return {"type": "Feature", "properties": {}, "geometry": geometry, **members}


TRIANGLE = [(10, 10), (110, 10), (10, 110)]
HOLED = _feature(_square(0, 0, 100, 100), _square(20, 20, 80, 80))


@pytest.mark.parametrize(
    ("value", "area", "name"),
    [
        ((10, 20, 30, 60), 800, "box"),
        ([10, 20, 30, 60], 800, "box"),
        (np.array([10.0, 20, 30, 60]), 800, "box"),
        (Box(10, 20, 30, 60), 800, "box"),
        ("10, 20,30,60", 800, "box"),
        ("-10.5,20,30,60", 1200, "box"),
        ((-50, -50, 10, 10), 100, "box"),
        (TRIANGLE, 5000, "polygon"),
        (np.array(TRIANGLE), 5000, "polygon"),
        (np.array(TRIANGLE, dtype=float), 5000, "polygon"),
        (shapely.Polygon(TRIANGLE), 5000, "polygon"),
        (shapely.MultiPolygon([shapely.box(0, 0, 5, 5), shapely.box(9, 9, 12, 12)]), 34, "polygon"),
        (HOLED, 6400, "GeoJSON"),
        (HOLED["geometry"], 6400, "GeoJSON"),
        ({"type": "FeatureCollection", "features": [HOLED, HOLED]}, 6400, "GeoJSON"),
        ({"type": "GeometryCollection", "geometries": [HOLED["geometry"]]}, 6400, "GeoJSON"),
        ([(0, 0, 10, 10), (5, 0, 20, 10)], 200, "2 shapes"),
        ([TRIANGLE], 5000, "polygon"),
        ([(0, 0, 10, 10), TRIANGLE, HOLED], None, "3 shapes"),
        (np.eye(4, dtype=bool), 30_000, "mask"),
        (np.eye(4, dtype=np.uint8) * 9, 30_000, "mask"),
        (np.eye(4, dtype=np.int32), 30_000, "mask"),
    ],
)
def test_whatever_describes_a_part_of_the_image_is_understood(
    value: Any, area: float | None, name: str
) -> None:
    """Boxes, points, shapely, GeoJSON, masks and lists become one region within the image."""
    region = _read(value)
    assert region.name == name
    assert region.geometry.is_valid
    assert area is None or region.area == pytest.approx(area)
    assert json.loads(json.dumps(region.to_dict())) == region.to_dict()
    assert Region.from_dict(json.loads(json.dumps(region.to_dict()))) == region
    assert _read(region) is region


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ((5, 5, 5, 9), "x0 < x1"),
        ((9, 9, 5, 12), "x0 < x1"),
        ((1, 2, 3), "not understood"),
        (3, "not understood"),
        (b"10,20,30,40", "not understood"),
        ([], "not understood"),
        ([(0, 0), (9, 9)], "3 points"),
        ([(0, 0), (9, 9), (18, 18)], "no area"),
        ((500, 0, 600, 100), "misses the image"),
        ((0, 0, float("nan"), 9), "not finite"),
        (["a", "b", "c", "d"], "no file"),
        (np.zeros((4, 4), bool), "nothing is marked"),
        (np.zeros((4, 4, 3), bool), "not understood"),
        (np.array(["a"]), "not understood"),
        (shapely.Point(1, 1), "no area"),
        (shapely.Polygon(), "no area"),
        ({}, "type None"),
        ({"type": "Topology"}, "type 'Topology'"),
        ({"type": "Point", "coordinates": [1, 1]}, "without a polygon"),
        ({"type": "FeatureCollection"}, "without its list"),
        ({"type": "Feature", "geometry": None}, "without a polygon"),
        (_feature([[0, 1]]), "rings of x, y"),
        (_feature([[0, 0], [1, 0], [1, None], [0, 0]]), "rings of x, y|not finite"),
        ("nowhere.geojson", "no file"),
        ("/", "a folder"),
    ],
)
def test_what_is_no_region_is_one_line(value: Any, says: str) -> None:
    """The line says what is wrong with it."""
    with pytest.raises((GridError, SourceError), match=says) as caught:
        _read(value)
    assert "\n" not in str(caught.value)


def test_geojson_that_nests_without_end_is_one_line() -> None:
    """No recursion error comes out."""
    value = HOLED["geometry"]
    for _ in range(500):
        value = {"type": "GeometryCollection", "geometries": [value]}
    with pytest.raises(GridError, match="nested"):
        _read(value)


def test_a_polygon_that_crosses_itself_is_mended_and_told() -> None:
    """A bow tie is its two triangles, and a note says to look at it."""
    region = _read([(0, 0), (100, 100), (100, 0), (0, 100)])
    assert region.area == pytest.approx(5000)
    assert "crosses itself" in region.notes[0]
    rings = ([(0, 0), (50, 50), (50, 0), (0, 50)], [(60, 60), (90, 60), (90, 90), (60, 90)])
    shapes = [{"type": "Polygon", "coordinates": [[*ring, ring[0]]]} for ring in rings]
    several = _read({"type": "GeometryCollection", "geometries": shapes})
    assert "1 of 2 polygons crosses itself and was made valid" in several.notes[-1]


def test_points_and_lines_of_a_collection_are_left_out_and_told() -> None:
    """What has no area cannot be analysed."""
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [3, 3]}}
    region = _read({"type": "FeatureCollection", "features": [HOLED, point]})
    assert region.area == 6400
    assert "1 points and lines" in region.notes[0]


points = st.tuples(st.integers(-20, 420), st.integers(-20, 320))


@st.composite
def shapes(draw: st.DrawFn) -> Any:
    """Draw polygons with holes, valid and with area on the image."""
    hull = shapely.MultiPoint(draw(st.lists(points, min_size=3, max_size=8))).convex_hull
    for _ in range(draw(st.integers(0, 3))):
        x, y = draw(points)
        side = draw(st.integers(1, 150))
        hull = hull.difference(shapely.box(x, y, x + side, y + side))
    assume(hull.intersection(shapely.box(0, 0, *SIZE)).area > 1)
    return hull


@patient
@given(shapes(), st.integers(20, 120), st.sampled_from([0.0, 0.2, 0.5]))
def test_exactly_the_tiles_without_area_in_the_region_are_skipped(
    shape: Any, side: int, overlap: float
) -> None:
    """Brute force over all tiles: a shared border is no shared area."""
    tiles = Grid.by_tile(side, overlap).tiles(SIZE)
    region = _read(shape)
    skipped = outside(region, tiles)
    for tile in tiles:
        shared = shapely.box(*tile.box.as_tuple()).intersection(region.geometry).area
        assert (tile in skipped) == (shared < 1e-6)
    assert outside(None, tiles) == frozenset()
    assert region.area_within(tiles) == pytest.approx(region.area)
    assert region.area_within([t for t in tiles if t not in skipped]) == pytest.approx(region.area)
    assert region.area_within([]) == 0


masks = arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@patient
@given(masks, st.integers(1, 7), st.integers(5, 40))
def test_a_mask_is_its_pixels_at_any_resolution(mask: np.ndarray, times: int, side: int) -> None:
    """The region holds a pixel's centre and touches a tile where, and only where, it is marked."""
    assume(mask.any())
    painted = mask.repeat(times, axis=0).repeat(times, axis=1)
    size = (painted.shape[1], painted.shape[0])
    region = _read(mask, size=size)
    assert region.area == painted.sum()
    y, x = np.indices(painted.shape)
    for corner in (0.0, 0.5):  # half-open: the left and upper border of a pixel are its own
        held = region.holds(np.column_stack([x.ravel() + corner, y.ravel() + corner]))
        assert (held.reshape(painted.shape) == painted).all()
    for tile in Grid.by_tile(side).tiles(size):
        x0, y0, x1, y1 = map(int, tile.box.as_tuple())
        assert region.touches([tile])[0] == painted[y0:y1, x0:x1].any()


def test_a_point_on_a_shared_border_lies_in_one_region_only() -> None:
    """Two boxes side by side divide what lies on their border: it is the right one's."""
    border = np.column_stack([np.full(50, 200.0), np.arange(50)])
    assert _read((200, 0, 400, 300)).holds(border).all()
    assert not _read((0, 0, 200, 300)).holds(border).any()


def test_a_noisy_mask_is_reduced_and_told() -> None:
    """What would take a million rectangles is taken coarser; a marked pixel stays marked."""
    mask = np.random.default_rng(0).random((400, 400)) < 0.5
    region = _read(mask, size=(400, 400))
    assert "taken at 200 × 200 px" in region.notes[0]
    y, x = np.nonzero(mask)
    assert region.holds(np.column_stack([x + 0.5, y + 0.5])).all()


def test_a_mask_of_other_proportions_is_told() -> None:
    """A mask on its side is a mistake that nobody should have to find out."""
    assert "other proportions" in _read(np.ones((400, 300), bool)).notes[0]
    assert not _read(np.ones((30, 40), bool)).notes
    assert not _read(np.ones((3, 5), bool)).notes  # as near as so few pixels come


@pytest.mark.parametrize("name", ["m.png", "m.tif", "m.jpg", "l.png", "rgba.png", "m.bmp"])
def test_a_mask_file_is_what_was_painted(tmp_path: Path, name: str) -> None:
    """Whatever the format: zeros of a lossy one are not exact, an alpha channel is no mask."""
    painted = np.zeros((75, 100), dtype=np.uint8)
    painted[20:50, 30:80] = 1 if name.startswith("l") else 255
    picture = Image.fromarray(painted)
    if name.startswith("rgba"):
        picture = picture.convert("RGBA")
    picture.save(tmp_path / name)
    region = _read(tmp_path / name)
    assert region.name == name
    allowed = 0.03 if name.endswith("jpg") else 1e-9
    assert region.area == pytest.approx(30 * 50 * 16, rel=allowed)


def test_a_large_mask_file_is_read_in_strips(tmp_path: Path) -> None:
    """More than 4096 px a side are reduced on the way; no marked pixel is lost."""
    painted = np.zeros((10, 9001), dtype=np.uint8)
    painted[3, 9000] = painted[0, 1] = 1
    Image.fromarray(painted).save(tmp_path / "m.png")
    region = _read(tmp_path / "m.png", size=(90010, 100))
    assert region.holds(np.array([[90005, 35], [15, 5], [45000, 35]])).tolist() == [1, 1, 0]
    assert "taken at 3,001" in region.notes[0]


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    """Broken JSON, JSON that is a list, a text, and an empty file name themselves."""
    for name, content in (
        ("broken.geojson", '{"type": "Poly'),
        ("list.json", "[1, 2]"),
        ("text.txt", "a region"),
        ("empty.geojson", ""),
        ("deep.json", '{"a":' * 100_000),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(SourceError, match=name) as caught:
            _read(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_geojson_file_may_begin_with_a_mark_and_blanks(tmp_path: Path) -> None:
    """As some programs on Windows write them."""
    path = tmp_path / "with ümlaut.json"
    path.write_bytes(b"\xef\xbb\xbf\n  " + json.dumps(HOLED).encode())
    assert _read(str(path)).area == 6400
    assert _read(str(path)).name == "with ümlaut.json"


@pytest.mark.parametrize(
    "geometry",
    [
        *(None, "x", {"type": "Point", "coordinates": [1, 2]}, {"type": "Polygon"}),
        *({"type": "x", "coordinates": []}, {"type": "Polygon", "coordinates": ""}),
    ],
)
def test_a_damaged_stored_region_is_one_line(geometry: Any) -> None:
    """What a journal holds may have been cut or changed."""
    with pytest.raises(GridError, match="damaged"):
        Region.from_dict({"name": "box", "geometry": geometry})


def _slide() -> np.ndarray:
    """Return a slide of glass (300, 400, 3) with stained tissue, a hole, dust and a black rim."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(240, 3, (300, 400, 1)).repeat(3, axis=2)
    pixels[50:250, 100:300] = rng.normal((200, 120, 170), 20, (200, 200, 3))
    pixels[100:200, 150:250] = 240
    pixels[60:65, 110:115] = 240
    pixels[20:22, 350:352] = (180, 80, 150)
    pixels[:, -10:] = rng.integers(0, 4, (300, 10, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def test_tissue_is_what_is_stained() -> None:
    """Not glass, not a large hole, not dust nor the black rim; a small hole is part of it."""
    region = _read("tissue", size=(4000, 3000), pixels=_slide())
    assert region.name == "tissue"
    assert region.area == pytest.approx(3_000_000, rel=0.08)  # and a rim
    inside = np.array([(1200, 700), (2900, 2400), (1120, 620)])
    beyond = np.array([(500, 500), (2000, 1500), (3510, 210), (3950, 1500)])
    assert region.holds(inside).all()
    assert not region.holds(beyond).any()
    assert shapely.get_num_coordinates(region.geometry) < 200
    assert _read("tissue", size=(4000, 3000), pixels=_slide()) == region


def test_found_tissue_is_the_same_after_it_was_drawn_or_exported() -> None:
    """Its corners lie on tenths of a pixel, to which drawn and exported regions are kept."""
    region = _read("tissue", size=(4000, 3000), pixels=_slide())
    corners = shapely.get_coordinates(region.geometry)
    assert np.allclose(corners, corners.round(1), rtol=0, atol=1e-9)


def test_regions_with_names_are_called_by_them() -> None:
    """As people read it in legend, summary and methods; a list of many is cut."""
    square = {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]]}
    features = [
        {"type": "Feature", "properties": {"name": name}, "geometry": square}
        for name in ("rim", "core", "rim", "duct", "fat", "vein")
    ]

    def named(n: int) -> str:
        return _read({"type": "FeatureCollection", "features": features[:n]}).name

    assert named(1) == "rim"
    assert named(3) == "rim, core"
    assert named(6) == "rim, core, duct and 2 more"
    assert _read(["tissue", features[1]], size=(4000, 3000), pixels=_slide()).name == "tissue, core"
    assert _read(square).name == "GeoJSON"


@pytest.mark.parametrize("kind", ["glass", "black", "grey", "dust"])
def test_no_tissue_is_one_line(kind: str) -> None:
    """Glass alone, or a picture without colour, says so instead of analysing noise."""
    pixels = np.full((300, 400, 3), {"black": 0}.get(kind, 240), dtype=np.uint8)
    noise = np.random.default_rng(0).integers(0, 6, pixels.shape)
    if kind == "grey":
        pixels[:] = np.random.default_rng(0).integers(0, 255, (300, 400, 1))
    else:
        pixels += noise.astype(np.uint8)
    if kind == "dust":
        pixels[40:42, 50:52] = (200, 30, 100)
    with pytest.raises(GridError, match="no tissue"):
        _read("tissue", pixels=pixels)


def test_a_picture_of_nothing_but_tissue_is_all_tissue() -> None:
    """A threshold between pale and dark stain would lose the pale half."""
    pixels = np.random.default_rng(0).normal((210, 150, 190), 8, (300, 400, 3))
    pixels[:, :200] = np.random.default_rng(1).normal((120, 50, 110), 8, (300, 200, 3))
    region = _read("tissue", pixels=pixels.clip(0, 255).astype(np.uint8))
    assert region.area == pytest.approx(SIZE[0] * SIZE[1], rel=0.01)
