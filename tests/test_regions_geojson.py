"""Regions from map files on images that know where on Earth they are."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from tilevision.analysis.units import Georeference
from tilevision.errors import GridError, SourceError
from tilevision.evaluation.truth import read_truth
from tilevision.regions import Region, read_region
from tilevision.sources import ImageMetadata, open_source

# 10 m a pixel, north up, somewhere in Florida.
TRANSFORM = (10.0, 0.0, 404_000.0, 0.0, -10.0, 3_286_000.0)
CRS = "EPSG:32617"
BOX = [[100, 50], [300, 50], [300, 250], [100, 250], [100, 50]]
HOLE = [[150, 100], [200, 100], [200, 150], [150, 150], [150, 100]]


class Scene:
    """An image (400 × 300) with a place on the ground."""

    size = (400, 300)

    def __init__(self, crs: str | None = CRS, transform: Any = TRANSFORM) -> None:
        self.metadata = ImageMetadata(crs=crs, transform=transform)


def _read(value: Any, **place: Any) -> Region:
    return read_region(value, Scene(**place))  # type: ignore[arg-type]  # asked for no pixels


def _ground(ring: list[list[float]], crs: str, transform: Any = TRANSFORM) -> list[list[float]]:
    """Return pixels as coordinates of `crs`."""
    from rasterio.warp import transform as warp

    a, b, c, d, e, f = transform
    x, y = np.array(ring, dtype=float).T
    return np.column_stack(warp(CRS, crs, a * x + b * y + c, d * x + e * y + f)).tolist()


def _polygon(*rings: list[list[float]], **members: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings), **members}


def _same(region: Region, *rings: list[list[float]], within: float = 0.05) -> bool:
    expected = shapely.Polygon(rings[0], rings[1:])
    return bool(shapely.hausdorff_distance(region.geometry, expected) < within)


def test_longitude_and_latitude_come_to_lie_on_their_pixels() -> None:
    """As RFC 7946 has them, holes included, whatever the image's own system is."""
    value = _polygon(_ground(BOX, "EPSG:4326"), _ground(HOLE, "EPSG:4326"))
    assert _same(_read(value), BOX, HOLE)
    turned = (7.0, 7.0, 404_000.0, 7.0, -7.0, 3_286_000.0)
    value = _polygon(_ground(BOX, "EPSG:4326", turned))
    assert _same(_read(value, transform=turned), BOX)


def test_straight_lines_on_the_map_are_followed() -> None:
    """An edge of 500 km along a parallel is bent in UTM; the region follows it to a pixel."""
    wide = (1000.0, 0.0, 200_000.0, 0.0, -1000.0, 6_700_000.0)
    corners = [[-84.0, 58.0], [-78.0, 58.0], [-78.0, 60.0], [-84.0, 60.0], [-84.0, 58.0]]
    region = _read(_polygon(corners), transform=wide)
    (middle,) = _pixels([[-81.0, 60.0]], wide)
    assert region.holds(middle[None] + [[0, 0.1]]).all()
    assert not region.holds(middle[None] - [[0, 0.1]]).any()


def _pixels(points: list[list[float]], transform: Any) -> np.ndarray:
    from rasterio.warp import transform as warp

    x, y = np.array(points).T
    ground = np.column_stack(warp("EPSG:4326", CRS, x, y))
    a, _, c, _, e, f = transform
    return (ground - (c, f)) / (a, e)


def test_pixels_are_pixels_where_the_file_says_so() -> None:
    """Our own exports do; with an origin they count from there."""
    value = _polygon(BOX, coordinates_in="pixels of the full-resolution image, x right, y down")
    assert _same(_read(value), BOX)
    assert _same(_read(value, crs=None, transform=None), BOX)
    moved = [[x - 30, y - 40] for x, y in BOX]
    value = _polygon(moved, coordinates_in="pixels from 30, 40", origin=[30, 40])
    assert _same(_read(value), BOX)


def test_on_an_image_without_a_place_geojson_is_pixels() -> None:
    """QuPath and labelling tools write no more than coordinates."""
    assert _same(_read(_polygon(BOX), crs=None, transform=None), BOX)


def test_a_compressed_file_is_the_region_in_it(tmp_path: Path) -> None:
    """By its content, whatever its name; a damaged one is one line, and no mask is asked for."""
    plain, zipped = tmp_path / "drawn.geojson", tmp_path / "drawn.geojson.gz"
    plain.write_text(json.dumps(_polygon(BOX, coordinates_in="pixels")))
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert _read(zipped).geometry.equals(_read(plain).geometry)
    assert _read(zipped.rename(tmp_path / "drawn.json")).geometry.equals(_read(plain).geometry)
    zipped.write_bytes(gzip.compress(plain.read_bytes())[:-12])
    with pytest.raises(SourceError, match="compressed in it is damaged") as said:
        _read(zipped)
    assert "\n" not in str(said.value)


def test_another_system_is_taken_where_the_file_names_it() -> None:
    """GeoJSON of 2008 could; programs still write it."""
    name = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::3857"}}
    assert _same(_read(_polygon(_ground(BOX, "EPSG:3857"), crs=name)), BOX)
    same = {"type": "name", "properties": {"name": CRS}}
    assert _same(_read(_polygon(_ground(BOX, CRS), crs=same)), BOX)


@pytest.mark.parametrize(
    ("value", "place", "says"),
    [
        (_polygon(BOX), {}, '"coordinates_in": "pixels"'),
        (_polygon([[0, 0], [1, 0], [1, 1], [0, 0]]), {}, "cannot be brought"),
        (_polygon(BOX, coordinates_in="degrees"), {"crs": None}, "in degrees"),
        (_polygon(BOX, coordinates_in="pixels", origin="here"), {}, "origin"),
        (_polygon(BOX, coordinates_in="pixels", origin=[1, 2, 3]), {}, "origin"),
        (_polygon(BOX, crs={"properties": {"name": "no such"}}), {}, "from no such"),
        (_polygon([[10, 10], [11, 10], [11, 11], [10, 10]]), {"crs": "bad"}, "cannot be brought"),
        (
            _polygon([[1, 1], [2, 1], [2, 2], [1, 1]]),
            {"transform": (0.0,) * 6},
            "cannot be brought",
        ),
    ],
)
def test_what_cannot_be_placed_is_one_line(value: Any, place: Any, says: str) -> None:
    """The line says what the coordinates were taken for."""
    with pytest.raises(GridError, match=says) as caught:
        _read(value, **place)
    assert "\n" not in str(caught.value)


def test_without_rasterio_the_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only degrees need it; pixels do not."""
    monkeypatch.setitem(sys.modules, "rasterio.crs", None)
    with pytest.raises(SourceError, match=r"pip install 'tilevision\[geo\]'"):
        _read(_polygon([[-82, 29.7], [-81.9, 29.7], [-81.9, 29.8], [-82, 29.7]]))
    assert _same(_read(_polygon(BOX, coordinates_in="pixels")), BOX)


def test_a_file_drawn_over_a_real_scene_lies_where_it_was_drawn(
    shared_data: Path, tmp_path: Path
) -> None:
    """A real GeoTIFF says where it is, and rasterio turns pixels into degrees."""
    import rasterio
    from rasterio.warp import transform_geom

    scene = open_source(shared_data / "trees-osbs-029.tif")
    with rasterio.open(shared_data / "trees-osbs-029.tif") as file:
        ring = [file.transform @ (x, y) for x, y in BOX]
        geometry = transform_geom(
            file.crs, "OGC:CRS84", {"type": "Polygon", "coordinates": [ring]}, precision=12
        )
    path = tmp_path / "drawn.geojson"
    path.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": geometry}))
    try:
        region = read_region(path, scene)
    finally:
        scene.close()
    assert region.name == "drawn.geojson"
    assert _same(region, BOX)


ALBERS = (
    "+proj=aea +lat_1=29.5 +lat_2=45.5 +lat_0=37.5 +lon_0=-96 +datum=NAD83 +units=us-ft +no_defs"
)
FILES = ["a.gpkg", "a.fgb", "a.shp", "A.GPKG"]


def _write(path: Path, shapes: list[Any], crs: str | None, layer: str = "areas") -> Path:
    """Save shapes with pyogrio, GDAL's vector drivers."""
    raw = pytest.importorskip("pyogrio.raw")
    kinds = {".gpkg": "GPKG", ".fgb": "FlatGeobuf", ".shp": "ESRI Shapefile"}
    driver = kinds[path.suffix.lower()]
    names = np.array([f"area {n}" for n in range(len(shapes))], dtype=object)
    where: dict[str, Any] = {"layer": layer, "append": path.exists()} if driver == "GPKG" else {}
    wkb = shapely.to_wkb(np.array(shapes, dtype=object))
    how: dict[str, Any] = {"geometry_type": shapes[0].geom_type, "crs": crs, "driver": driver}
    raw.write(path, geometry=wkb, field_data=[names], fields=["name"], **how, **where)
    return path


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("crs", ["EPSG:4326", CRS, "EPSG:3857", "ESRI:102003", ALBERS])
def test_a_map_file_lies_by_its_own_system(tmp_path: Path, name: str, crs: str) -> None:
    """GeoPackage, FlatGeobuf and Shapefile in degrees, metres and feet (GDAL 3.10, PROJ 9)."""
    from tilevision.analysis.units import Georeference
    from tilevision.evaluation.truth import read_truth

    pytest.importorskip("pyogrio")
    shape = shapely.Polygon(_ground(BOX, crs), [_ground(HOLE, crs)])
    path = _write(tmp_path / name, [shape], crs)
    region = _read(path)
    assert region.name == path.name
    assert region.area == pytest.approx(200 * 200 - 50 * 50, rel=1e-3)
    assert region.geometry.bounds == pytest.approx((100, 50, 300, 250), abs=0.2)
    found = read_truth(path, place=Georeference(CRS, TRANSFORM))
    assert found.boxes.tolist() == [pytest.approx([100, 50, 300, 250], abs=0.2)]
    assert found.labels.tolist() == ["area 0"]


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
@pytest.mark.parametrize("name", FILES)
def test_a_map_file_without_a_system(tmp_path: Path, name: str) -> None:
    """Pixels on an image that has no place either; else one line says what to give."""
    from tilevision.evaluation.truth import read_truth

    pytest.importorskip("pyogrio")
    path = _write(tmp_path / name, [shapely.Polygon(BOX)], None)
    assert _same(_read(path, crs=None, transform=None), BOX)
    assert read_truth(path).boxes.tolist() == [[100, 50, 300, 250]]
    with pytest.raises(SourceError, match="the file has none; give the region in pixels"):
        _read(path)
    other = _write(tmp_path / f"b{path.suffix}", [shapely.Polygon(BOX)], CRS)
    with pytest.raises(SourceError, match="the image has none; give the region in pixels"):
        _read(other, crs=None, transform=None)
    with pytest.raises(SourceError, match="the image has none; give the truth in pixels"):
        read_truth(other)


def test_a_map_file_that_is_no_region_says_so(tmp_path: Path) -> None:
    """Points have no area, of two layers one is meant, and what is damaged cannot be read."""
    pytest.importorskip("pyogrio")
    points = _write(tmp_path / "points.gpkg", [shapely.Point(404_100, 3_285_900)], CRS)
    with pytest.raises(GridError, match="holds no polygon; draw one"):
        _read(points)
    square = shapely.Polygon(_ground(BOX, CRS))
    for layer in ("fields", "lakes"):
        _write(tmp_path / "two.gpkg", [square], CRS, layer)
    with pytest.raises(SourceError, match="has the layers fields, lakes; save the region"):
        _read(tmp_path / "two.gpkg")
    (tmp_path / "broken.fgb").write_bytes(b"fgb" + bytes(40))
    with pytest.raises(SourceError, match=r"broken\.fgb cannot be read"):
        _read(tmp_path / "broken.fgb")


@pytest.mark.parametrize("west", [300.0, -0.2, 179.8, -180.2, 0.0])
def test_longitudes_may_count_from_elsewhere(west: float) -> None:
    """An image of 0.4° whose longitudes go on past 180 or below 0: RFC 7946 has -180 to 180.

    Where a region crosses the antimeridian it is cut there, and one again on the image.
    """
    transform = (0.001, 0.0, west, 0.0, -0.001, 10.0)
    scene = Scene("EPSG:4326", transform)
    scene.metadata = ImageMetadata(crs="EPSG:4326", transform=transform, levels=((400, 300),))
    ring = np.array(BOX) * [0.001, -0.001] + [west, 10.0]
    placed = Georeference.of(scene.metadata)
    assert placed is not None
    degrees = placed.to_degrees(np.array(BOX, float))
    np.testing.assert_allclose((degrees - ring)[:, 0] % 360 % 359.9, 0, atol=1e-6)
    assert np.abs(degrees[:, 0]).max() <= 180
    value: Any = {"type": "Polygon", "coordinates": [degrees.tolist()]}
    if np.ptp(degrees[:, 0]) > 180:
        halves = [
            [[side, 9.95], [end, 9.95], [end, 9.75], [side, 9.75], [side, 9.95]]
            for side, end in ((179.9, 180.0), (-180.0, -179.9))
        ]
        value = {"type": "MultiPolygon", "coordinates": [[half] for half in halves]}
    region = read_region(value, scene)  # type: ignore[arg-type]  # asked for no pixels
    assert _same(region, BOX)
    (found,) = read_truth(
        {
            "type": "FeatureCollection",
            "features": [{"type": "Feature", "properties": {}, "geometry": value}],
        },
        place=placed,
        size=(400, 300),
    ).boxes.tolist()
    np.testing.assert_allclose(found, (100, 50, 300, 250), atol=0.05)
