"""Grids cut an image into tiles that cover it exactly."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilevision.errors import GridError
from tilevision.geometry import Box
from tilevision.grid import Grid, Tile

sizes = st.tuples(st.integers(1, 300), st.integers(1, 300))
overlaps = st.one_of(st.floats(0, 0.9), st.integers(0, 40).map("{}px".format))
grids = st.one_of(
    st.builds(Grid, rows=st.integers(1, 12), cols=st.integers(1, 12), overlap=overlaps),
    st.builds(Grid.by_tile, st.integers(41, 200), overlaps),
)
scales = st.sampled_from([1.0, 0.5, 0.25, 2.0, 1 / 3])


def _tiles(grid: Grid, size: tuple[int, int], scale: float) -> tuple[Tile, ...] | None:
    try:
        return grid.tiles(size, scale)
    except GridError:  # more rows than pixels, or an overlap that leaves no room: refused
        return None


@given(grids, sizes, scales)
def test_tiles_cover_every_pixel_and_never_leave_the_image(
    grid: Grid, size: tuple[int, int], scale: float
) -> None:
    """Every pixel lies in at least one tile; boxes are whole pixels inside the image."""
    tiles = _tiles(grid, size, scale)
    if tiles is None:
        return
    seen = np.zeros((size[1], size[0]), dtype=int)
    for tile in tiles:
        x0, y0, x1, y1 = tile.box.as_tuple()
        assert all(isinstance(v, int) for v in (x0, y0, x1, y1))
        assert 0 <= x0 < x1 <= size[0]
        assert 0 <= y0 < y1 <= size[1]
        seen[y0:y1, x0:x1] += 1  # type: ignore[misc]  # shown to be int above
    assert seen.min() >= 1


@given(grids, sizes, scales)
def test_no_two_tiles_are_the_same_region(grid: Grid, size: tuple[int, int], scale: float) -> None:
    """Identities are unique, and so are the ids people read."""
    tiles = _tiles(grid, size, scale) or ()
    assert len({tile.region for tile in tiles}) == len(tiles)
    assert len({tile.id for tile in tiles}) == len(tiles)


@given(st.integers(20, 200), st.floats(0, 0.9), sizes)
def test_by_tile_keeps_one_size(side: int, overlap: float, size: tuple[int, int]) -> None:
    """All tiles are as large as asked, or as the image where that is smaller."""
    tiles = Grid.by_tile(side, overlap).tiles(size)
    assert {(t.box.width, t.box.height) for t in tiles} == {
        (min(side, size[0]), min(side, size[1]))
    }


@given(st.integers(1, 10), st.integers(1, 10), st.floats(0, 0.5))
def test_rows_and_cols_are_kept(rows: int, cols: int, overlap: float) -> None:
    """ROWSxCOLS gives exactly that many, in row-major order, with that overlap or a pixel more."""
    tiles = Grid(rows=rows, cols=cols, overlap=overlap).tiles((997, 1003))
    assert [(t.row, t.col) for t in tiles] == [(r, c) for r in range(rows) for c in range(cols)]
    for left, right in pairwise(tiles):
        if left.row == right.row:
            shared = left.box.x1 - right.box.x0
            assert overlap * left.box.width - 2 <= shared <= overlap * left.box.width + 2


def test_pixel_overlap_counts_what_the_model_sees() -> None:
    """``"64px"`` at scale 0.5 is 128 image pixels."""
    tiles = Grid.by_tile(256, "64px").tiles((2000, 512), scale=0.5)
    assert tiles[0].box == Box(0, 0, 512, 512)
    assert tiles[1].box.x0 == 512 - 128
    assert tiles[0].output_size == (256, 256)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("8x4", Grid(rows=8, cols=4)),
        ("8 × 4", Grid(rows=8, cols=4)),
        ((8, 4), Grid(rows=8, cols=4)),
        (640, Grid.by_tile(640)),
        ("640", Grid.by_tile(640)),
        ("640px", Grid.by_tile(640)),
        (Grid(rows=1, cols=2), Grid(rows=1, cols=2)),
    ],
)
def test_parse_reads_what_people_write(given_: Any, expected: Grid) -> None:
    """A grid is ROWSxCOLS, a tile size or a Grid; overlap is 0.2 where not given."""
    assert Grid.parse(given_) == expected
    assert Grid.parse(given_).overlap == 0.2


@pytest.mark.parametrize(
    "bad", ["0x4", "4x0", 0, -3, True, 1.5, "eight", "8x", None, (1, 2, 3), (2.5, 2), "8x4px", []]
)
def test_parse_refuses_the_rest_in_one_line(bad: Any) -> None:
    """Anything else is a GridError of one line."""
    with pytest.raises(GridError) as caught:
        Grid.parse(bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [1, 1.0, 1.5, -0.1, math.nan, "64", "x", True, None])
def test_overlap_is_a_fraction_below_one_or_pixels(bad: Any) -> None:
    """An overlap of the whole tile or more has no end."""
    with pytest.raises(GridError, match="overlap"):
        Grid(rows=2, cols=2, overlap=bad)


def test_overlap_in_pixels_must_be_smaller_than_the_tile() -> None:
    """300 px of overlap on a 256 px tile names both."""
    with pytest.raises(GridError, match=r"300px.*256"):
        Grid.by_tile(256, "300px")


@pytest.mark.parametrize(
    ("grid", "side"),
    [
        (Grid.by_tile(1), 100_000),
        (Grid.by_tile(512), 10**13),
        (Grid(50_000, 50_000), 100_000),
        (Grid(10**9, 1), 10**12),
        (Grid.adaptive(2, 2, np.ones((8, 8), bool), 0), 20_000),
        (Grid.adaptive(64, 512, np.ones((8, 8), bool)), 10**13),
    ],
)
def test_more_tiles_than_a_machine_can_hold_are_refused(grid: Grid, side: int) -> None:
    """They are counted before one of them is made; the line says how many, and the remedy."""
    with pytest.raises(GridError, match=r"tiles; an image has 10,000,000 at most.*larger tiles"):
        grid.tiles((side, side))


def test_more_rows_than_pixels_is_refused() -> None:
    """A grid finer than the image names what to lower."""
    with pytest.raises(GridError, match="lower rows"):
        Grid(rows=9, cols=1).tiles((100, 8))


@given(grids, sizes)
def test_plain_json_round_trips(grid: Grid, size: tuple[int, int]) -> None:
    """A journal can hold a grid and its tiles."""
    assert Grid.from_dict(grid.to_dict()) == grid
    for tile in _tiles(grid, size, 1.0) or ():
        assert Tile.from_dict(tile.to_dict()) == tile


def test_ids_have_three_digits_or_more() -> None:
    """``r003c017`` for people."""
    assert Tile(3, 17, Box(0, 0, 1, 1)).id == "r003c017"
    assert Tile(1234, 0, Box(0, 0, 1, 1)).id == "r1234c000"


@given(grids, sizes, scales, st.sampled_from([2, 4, 8, 16, 32]))
def test_tiles_begin_at_multiples_of_a_stride_and_share_no_less(
    grid: Grid, size: tuple[int, int], scale: float, stride: int
) -> None:
    """All but the last, which end with the image; with a stride too large they stay as they are."""
    plain = _tiles(grid, size, scale)
    if plain is None:
        return
    tiles = grid.tiles(size, scale, stride)
    seen = np.zeros((size[1], size[0]), dtype=bool)
    for tile in tiles:
        box = tile.box
        assert 0 <= box.x0 < box.x1 <= size[0] and 0 <= box.y0 < box.y1 <= size[1]
        seen[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = True
    assert seen.all()
    assert len({tile.region for tile in tiles}) == len(tiles)
    for axis in (0, 1):
        before, after = (
            sorted({(t.box.as_tuple()[axis], t.box.as_tuple()[axis + 2]) for t in ts})
            for ts in (plain, tiles)
        )
        if after == before:
            continue
        inner = after if grid.tile is None else after[:-1]
        assert all(abs(round(a * scale / stride) * stride - a * scale) < 0.5 for a, _ in inner)
        shared = [min(b - c for (_, b), (c, _) in pairwise(spans)) for spans in (before, after)]
        assert shared[1] >= shared[0] - (0 if (stride / scale).is_integer() else 1)


def test_a_stride_of_one_changes_no_tile() -> None:
    """What was planned before is planned again."""
    grid = Grid.by_tile(256, 0.2)
    assert [t.box.x0 for t in grid.tiles((912, 848))][:4] == [0, 205, 410, 615]
    few = Grid(1, 2, 0.0).tiles((5, 1), 0.5)
    assert [(t.box.x0, t.box.x1) for t in few] == [(0, 3), (2, 5)]
    assert [t.box.x0 for t in grid.tiles((912, 848), 1.0, 8)][:5] == [0, 200, 400, 600, 656]
    halved = [t.box.x0 for t in grid.tiles((2048, 512), 0.5, 32)][:5]
    assert halved == [0, 384, 768, 1152, 1536]
