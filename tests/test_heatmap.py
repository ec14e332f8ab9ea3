"""Probabilities of tiles as one map of the image."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tilevision.analysis.heatmap import heatmap
from tilevision.errors import RunError
from tilevision.findings import Findings, TileFindings
from tilevision.geometry import Box
from tilevision.grid import Grid, Tile


def _seen(box: tuple[int, int, int, int], **scores: float) -> TileFindings:
    return TileFindings(Tile(0, 0, Box(*box)), Findings(tile_scores=scores))


def test_overlapping_tiles_are_averaged() -> None:
    """Where two tiles lie the map has their mean, elsewhere what the one tile says."""
    tiles = [_seen((0, 0, 60, 40), tumour=0.8), _seen((40, 0, 100, 40), tumour=0.2)]
    found = heatmap(tiles, (100, 40), cell=20).of("tumour")
    assert found.tolist() == np.float32([[0.8, 0.8, 0.5, 0.2, 0.2]] * 2).tolist()


def test_what_no_tile_covers_is_not_a_number() -> None:
    """A tile that failed leaves a hole, never a probability of 0."""
    found = heatmap([_seen((0, 0, 50, 50), a=0.3)], (100, 50), cell=50)
    assert np.isnan(found.values[0]).tolist() == [[False, True]]


def test_a_class_that_a_tile_does_not_name_counts_as_nothing_there() -> None:
    """Classes are the union, in alphabetical order."""
    found = heatmap([_seen((0, 0, 9, 9), b=0.5), _seen((9, 0, 18, 9), a=1.0)], (18, 9), cell=9)
    assert found.labels == ("a", "b")
    assert found.values[:, 0].tolist() == [[0.0, 1.0], [0.5, 0.0]]


@settings(max_examples=60, deadline=None)
@example(size=(5, 21), rows=1, cols=1, overlap=0.0, cell=0.7, seed=0)  # 21 / 0.7 > 30
@given(
    size=st.tuples(st.integers(5, 80), st.integers(5, 80)),
    rows=st.integers(1, 4),
    cols=st.integers(1, 4),
    overlap=st.sampled_from([0.0, 0.2, 0.5]),
    cell=st.floats(0.7, 30),
    seed=st.integers(0, 99),
)
def test_the_map_is_what_painting_each_pixel_gives(size, rows, cols, overlap, cell, seed) -> None:
    """Each cell is the mean over its tiles, weighted by the area each covers of it."""
    rng = np.random.default_rng(seed)
    tiles = Grid(rows=rows, cols=cols, overlap=overlap).tiles(size)
    seen = [TileFindings(t, Findings(tile_scores={"a": float(rng.random())})) for t in tiles]
    found = heatmap(seen, size, cell).of("a")
    for (row, col), value in np.ndenumerate(found):
        area, total = 0.0, 0.0
        for one in seen:
            x0, y0, x1, y1 = one.tile.box.as_tuple()
            w = min(x1, (col + 1) * cell) - max(x0, col * cell)
            h = min(y1, (row + 1) * cell) - max(y0, row * cell)
            if w > 0 and h > 0:
                area += w * h
                total += w * h * one.findings.tile_scores["a"]
        assert value == pytest.approx(total / area, abs=1e-5)


@pytest.mark.parametrize(
    ("seen", "cell", "said"),
    [
        ([], None, "no heatmap"),
        ([_seen((0, 0, 9, 9), a=1.0)], 0, "side in image pixels"),
        ([_seen((0, 0, 9, 9), a=1.0)], 1e-6, "larger cell"),
    ],
)
def test_what_makes_no_map_is_refused_in_one_line(seen, cell, said) -> None:
    """No probabilities, no cell, and more cells than memory."""
    with pytest.raises(RunError, match=said):
        heatmap(seen, (9, 9), cell)


def test_an_unknown_class_names_the_known_ones() -> None:
    """Asking for what is not there says what is."""
    with pytest.raises(RunError, match="there are a"):
        heatmap([_seen((0, 0, 9, 9), a=1.0)], (9, 9)).of("b")
