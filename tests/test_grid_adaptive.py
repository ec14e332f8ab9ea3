"""Adaptive grids: fine where a picture is detailed, coarse where it is empty."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scenes import SCENES, Scene, f1, mixed, observe, small

from tilevision.errors import GridError
from tilevision.geometry import Box
from tilevision.grid import Grid, Tile
from tilevision.grid.detail import edge_strength
from tilevision.pipeline.tiling import Tiling
from tilevision.seams import merge, seam_bias
from tilevision.sources import open_source

maps = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))
overlaps = st.one_of(st.floats(0, 0.7), st.integers(0, 14).map("{}px".format))
grids = st.builds(
    lambda low, more, detail, overlap: Grid.adaptive(low, low + more, detail, overlap),
    *(st.integers(15, 60), st.integers(0, 200), maps, overlaps),
)
sizes = st.tuples(st.integers(1, 200), st.integers(1, 200))
scales = st.sampled_from([1.0, 0.5, 2.0, 1 / 3])
# A busy machine is no failure; grids of thousands of tiles take their time.
patient = settings(deadline=None, max_examples=40)
LEFT = np.zeros((40, 40), dtype=bool)
LEFT[:, :20] = True


class Picture:
    """What shows itself small, and counts how often it was asked."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels, self.asked = pixels, 0

    def thumbnail(self, max_side: int) -> np.ndarray:
        """Return the pixels, which are small already."""
        assert max(self.pixels.shape[:2]) <= max_side
        self.asked += 1
        return self.pixels


def _sides(tiles: tuple[Tile, ...]) -> set[float]:
    return {tile.box.width for tile in tiles} | {tile.box.height for tile in tiles}


def _textured() -> np.ndarray:
    """Return a grey picture (200, 300, 3) with texture in its lower right."""
    pixels = np.full((200, 300, 3), 200, dtype=np.uint8)
    pixels[120:, 200:] = np.random.default_rng(0).integers(0, 255, (80, 100, 1))
    return pixels


@patient
@given(grids, sizes, scales)
def test_tiles_cover_every_pixel_and_never_leave_the_image(
    grid: Grid, size: tuple[int, int], scale: float
) -> None:
    """Every pixel lies in at least one tile; boxes are whole pixels, and none is there twice."""
    tiles = grid.tiles(size, scale)
    seen = np.zeros((size[1], size[0]), dtype=int)
    for tile in tiles:
        x0, y0, x1, y1 = tile.box.as_tuple()
        assert all(isinstance(v, int) for v in (x0, y0, x1, y1))
        assert 0 <= x0 < x1 <= size[0]
        assert 0 <= y0 < y1 <= size[1]
        seen[y0:y1, x0:x1] += 1  # type: ignore[misc]  # shown to be int above
    assert seen.min() >= 1
    assert len({tile.region for tile in tiles}) == len(tiles)
    assert [tile.id for tile in tiles] == [f"a{number:06d}" for number in range(len(tiles))]
    assert sorted(tiles) == list(tiles)


@patient
@given(grids, sizes, st.data())
def test_what_fits_the_smallest_overlap_is_whole_in_some_tile(
    grid: Grid, size: tuple[int, int], data: st.DataObject
) -> None:
    """Neighbours of any two sizes share the smaller one's overlap: no seam cuts it everywhere."""
    tiles = grid.tiles(size)
    assert grid.quadtree is not None
    shared = grid.overlap
    least = min(_sides(tiles))
    side = int(shared[:-2]) if isinstance(shared, str) else int(shared * least)
    width, height = (min(side, length) for length in size)
    x = data.draw(st.integers(0, size[0] - width))
    y = data.draw(st.integers(0, size[1] - height))
    assert any(tile.box.contains(Box(x, y, x + width, y + height)) for tile in tiles)


@patient
@given(st.integers(100, 200), st.integers(2, 9), st.floats(0, 0.5), st.integers(2600, 4000), maps)
def test_sides_lie_between_the_smallest_and_the_largest(
    low: int, times: int, overlap: float, length: int, detail: np.ndarray
) -> None:
    """On an image that is large enough no tile is smaller than asked for, and none larger."""
    sides = _sides(Grid.adaptive(low, low * times + 9, detail, overlap).tiles((length, length - 7)))
    assert low - 1 <= min(sides)
    assert max(sides) <= low * times + 9


def test_tiles_are_small_in_detail_and_large_elsewhere() -> None:
    """Detail in the left half: only small tiles there, large ones at the right edge, few in all."""
    tiles = Grid.adaptive(128, 1024, LEFT).tiles((4096, 4096))
    left = [tile.box.width for tile in tiles if tile.box.x1 <= 2048]
    right = [tile.box.width for tile in tiles if tile.box.x0 >= 3072]
    assert max(left) < 160
    assert min(right) > 750
    assert len(tiles) < len(Grid.by_tile(128).tiles((4096, 4096))) * 0.6


def test_sizes_are_what_the_model_sees() -> None:
    """At half the resolution, tiles cover twice the pixels and follow the same detail."""
    grid = Grid.adaptive(128, 1024, LEFT)
    fine, coarse = grid.tiles((4096, 4096)), grid.tiles((4096, 4096), 0.5)
    assert {t.output_size for t in coarse if t.box.x1 <= 2000} <= {
        (w, h) for w in range(128, 160) for h in range(128, 160)
    }
    assert max(_sides(coarse)) > 1.8 * max(_sides(fine))


def test_a_picture_is_looked_at_once_and_only_where_needed() -> None:
    """Fitting reads one thumbnail; a grid that knows its detail, or needs none, reads nothing."""
    picture = Picture(_textured())
    fitted = Grid.adaptive(64, 512).fitted(picture)
    assert picture.asked == 1
    assert fitted.fitted(picture) is not None
    Grid.by_tile(64).fitted(picture)
    Grid.adaptive(64, 512, LEFT).fitted(picture)
    assert picture.asked == 1
    tiles = fitted.tiles((3000, 2000))
    detailed = [t for t in tiles if t.box.x0 >= 2050 and t.box.y0 >= 1250]
    assert max(_sides(tuple(detailed))) < 80
    assert max(_sides(tiles)) > 250


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_depth_does_not_matter(kind: str) -> None:
    """The same picture at another depth, NaN included, has its detail in the same places."""
    plain = Grid.adaptive(64, 512).fitted(Picture(_textured()))
    pixels = _textured().astype(kind)
    pixels = pixels * 100 if kind == "uint16" else pixels
    if kind == "float32":
        pixels[0, 0] = np.nan
    other = Grid.adaptive(64, 512).fitted(Picture(pixels))
    assert plain.quadtree is not None
    assert other.quadtree is not None
    assert plain.quadtree.found is not None
    assert other.quadtree.found is not None
    same = plain.quadtree.found.marked() == other.quadtree.found.marked()
    assert same[1:, 1:].mean() > 0.97


def test_an_empty_or_noisy_picture_has_no_detail() -> None:
    """A flat picture, and one with a sensor's noise alone, give the largest tiles only."""
    noise = np.random.default_rng(0).normal(128, 1, (200, 300, 1)).round().astype(np.uint8)
    for pixels in (np.zeros((200, 300, 1), np.uint8), noise):
        tiles = Grid.adaptive(128, 1024).fitted(Picture(pixels)).tiles((3000, 2000))
        assert min(_sides(tiles)) > 600


def test_detail_is_a_threshold_an_array_or_a_function() -> None:
    """All four ways agree where they say the same."""
    picture = Picture(_textured())
    strength = edge_strength(picture.pixels)
    least = 0.25 * float(np.percentile(strength, 95))
    expected = Grid.adaptive(64, 512).fitted(picture).tiles((3000, 2000))
    for detail in (least, strength, strength > least, edge_strength):
        grid = Grid.adaptive(64, 512, detail).fitted(picture)
        assert grid.tiles((3000, 2000)) == expected


def test_without_a_picture_it_says_so() -> None:
    """One line that names `fitted`."""
    with pytest.raises(GridError, match=r"grid\.fitted\(source\)"):
        Grid.adaptive().tiles((3000, 2000))


@pytest.mark.parametrize(
    "arguments",
    [
        {"min_tile": 0},
        {"min_tile": 2.5},
        {"min_tile": 512, "max_tile": 256},
        {"max_tile": True},
        {"overlap": 1.0},
        {"min_tile": 64, "overlap": "64px"},
        {"detail": -1},
        {"detail": "high"},
        {"detail": True},
        {"detail": float("nan")},
        {"detail": np.zeros((2, 2, 3))},
        {"detail": np.zeros((0, 2))},
        {"detail": np.array([[0.1, np.nan]])},
        {"detail": np.array([["a", "b"]])},
    ],
)
def test_what_makes_no_sense_is_one_line(arguments: dict[str, Any]) -> None:
    """Bad numbers and arrays are a GridError of one line."""
    with pytest.raises(GridError) as caught:
        Grid.adaptive(**arguments)
    assert "\n" not in str(caught.value)


def test_a_function_that_returns_no_map_is_one_line() -> None:
    """What the user's function made of the thumbnail is checked as an array is."""
    with pytest.raises(GridError, match=r"Detail is .* of shape"):
        Grid.adaptive(detail=lambda pixels: pixels).fitted(Picture(_textured()))


@patient
@given(grids, sizes)
def test_plain_json_gives_the_same_tiles(grid: Grid, size: tuple[int, int]) -> None:
    """A manifest holds the detail found, so that any process lays the same tiles."""
    told = json.loads(json.dumps(Tiling(grid, (1.0, 0.5)).to_dict()))
    again = Tiling.from_dict(told)
    assert again.grid == grid
    assert again.tiles(size) == Tiling(grid, (1.0, 0.5)).tiles(size)


def test_the_stored_detail_stays_small() -> None:
    """A map of a million places is kept at 512 px a side, marked where any place is."""
    detail = np.zeros((1000, 3000), dtype=bool)
    detail[999, 2999] = detail[500, 1500] = True
    grid = Grid.adaptive(detail=detail)
    assert grid.quadtree is not None
    assert grid.quadtree.found is not None
    marked = grid.quadtree.found.marked()
    assert max(marked.shape) <= 512
    assert marked.sum() == 2
    assert marked[-1, -1]
    assert len(json.dumps(grid.to_dict())) < 1000


@pytest.mark.parametrize("bits", ["", "!", "AAAA", None, "eJwDAAAAAAE="])
def test_damaged_detail_is_one_line(bits: Any) -> None:
    """Neither a wrong length nor what is no code is taken for a map."""
    raw = Grid.adaptive(detail=LEFT).to_dict()
    raw["quadtree"]["found"]["bits"] = bits
    with pytest.raises(GridError, match="damaged"):
        Grid.from_dict(raw)


@pytest.mark.slow
def test_another_process_finds_the_same_tiles() -> None:
    """The same picture gives the same tiles in a fresh interpreter."""
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]);"
        "from test_grid_adaptive import Picture, _textured; from tilevision.grid import Grid;"
        "grid = Grid.adaptive(64, 512).fitted(Picture(_textured()));"
        "print(json.dumps([t.to_dict() for t in grid.tiles((3000, 2000))]))"
    )
    folder = str(Path(__file__).parent)
    out = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True
    ).stdout
    here = Grid.adaptive(64, 512).fitted(Picture(_textured())).tiles((3000, 2000))
    assert json.loads(out) == [tile.to_dict() for tile in here]


def test_parse_knows_the_word() -> None:
    """``--grid adaptive`` is the default adaptive grid, and says what it is."""
    assert Grid.parse("adaptive") == Grid.adaptive()
    assert str(Grid.parse("adaptive")) == "adaptive tiles of 256 to 2048 px, overlap 0.2"


@pytest.mark.parametrize("name", ["small", "mixed", "crowd", "elongated", "nested"])
@pytest.mark.parametrize("limits", [(200, 2048), (256, 1024)])
def test_a_perfect_observer_loses_nothing_at_seams_of_unlike_tiles(
    name: str, limits: tuple[int, int]
) -> None:
    """Where a tile of 200 px meets one of 1600, objects are counted once, with their whole box."""
    counts = {"small": 200, "mixed": 200, "crowd": 400, "elongated": 80, "nested": 60}
    scene = SCENES[name](3, n=counts[name])  # type: ignore[call-arg]  # each takes its number
    detail = np.hypot(*(np.mgrid[:40, :40] - 15)) < 7
    tiles = Grid.adaptive(*limits, detail=detail).tiles(scene.size)
    assert len(_sides(tiles)) > 2
    assert f1(scene, merge(observe(scene, tiles), size=scene.size)) >= 0.99


def test_the_whole_image_goes_over_an_adaptive_grid() -> None:
    """A tile within another, and one that holds all, still count each object once."""
    scene = mixed(5, n=150)
    grid = Grid.adaptive(128, 2048, LEFT)
    tiles = Tiling(grid, (1.0,), 0.25).tiles(scene.size)
    assert tiles[-1].id == "whole"
    assert f1(scene, merge(observe(scene, tiles), size=scene.size)) >= 0.99


def test_crowds_under_small_tiles_are_no_bias() -> None:
    """A grid that has its seams where objects crowd is not blamed for the crowd."""
    rng = np.random.default_rng(0)
    size = (6000, 5000)
    crowds = rng.uniform((600, 600), (5400, 4400), (12, 2))
    points = np.vstack([*(rng.normal(c, 150, (250, 2)) for c in crowds)])
    boxes = np.hstack([points, points + rng.uniform(8, 16, points.shape)])
    scene = Scene("crowds", size, boxes, small(0, n=1).labels.repeat(len(boxes)))
    detail = np.histogram2d(*boxes[:, 1::-1].T, (100, 120), [(0, 5000), (0, 6000)])[0] >= 3
    tiles = Grid.adaptive(256, 2048, detail).tiles(size)
    found = merge(observe(scene, tiles), size=size)
    assert len(found) == len(boxes)
    assert not seam_bias(found, tiles, size=size).visible


def test_a_real_slide_gets_large_tiles_on_glass(shared_data: Any) -> None:
    """Tissue in the middle of glass: half the tiles of a grid that is fine everywhere."""
    slide = open_source(shared_data / "cmu-1-small-region.svs")
    try:
        tiles = Grid.adaptive(128, 1024).fitted(slide).tiles(slide.size)
    finally:
        slide.close()
    assert len(tiles) < 0.75 * len(Grid.by_tile(128).tiles(slide.size))
    glass = [tile for tile in tiles if tile.box.contains(Box(150, 1700, 160, 1710))]
    tissue = [tile for tile in tiles if tile.box.contains(Box(1100, 1500, 1110, 1510))]
    assert min(tile.box.width for tile in glass) > 2 * max(tile.box.width for tile in tissue)
