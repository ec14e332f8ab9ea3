"""Seam bias and overlap check: what an analyst can see without ground truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scenes

from tilevision.findings import Findings, TileFindings
from tilevision.geometry import Box
from tilevision.grid import Grid, Tile
from tilevision.seams import diagnostics, merge, overlap_check, seam_bias

NAMES = ["mixed", "crowd", "elongated", "nested"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_seam_bias_is_near_zero_for_seam_and_not_for_the_others(name: str) -> None:
    """Seam leaves the bias that the scene itself has by chance; none and nms add to it."""
    scene = scenes.SCENES[name](7)
    tiles = scenes.grid_tiles(scene.size, 0.2)
    seen = scenes.observe(scene, tiles)
    chance = seam_bias(Findings(scene.boxes), tiles, size=scene.size)
    seam, none, nms = (
        seam_bias(merge(seen, method, size=scene.size), tiles, size=scene.size)
        for method in ("seam", "none", "nms")
    )
    assert abs(seam.excess - chance.excess) < 0.02
    assert none.visible and none.low > 0
    assert nms.excess > seam.excess + 0.05


def test_points_are_found_in_few_boxes_as_in_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Edges included, whichever of the two ways looks for them."""
    rng = np.random.default_rng(3)
    corner = rng.integers(0, 40, (30, 2)).astype(np.float64)
    boxes = np.hstack([corner, corner + rng.integers(0, 12, (30, 2))])
    points = rng.integers(0, 50, (2000, 2)) / 1.0
    one_by_one = diagnostics._within(points, boxes)
    monkeypatch.setattr(diagnostics, "_FEW", 0)
    assert np.array_equal(one_by_one, diagnostics._within(points, boxes))
    assert 0 < one_by_one.sum() < 2000
    assert not diagnostics._within(points, boxes[:0]).any()


def test_seam_bias_sees_loss() -> None:
    """Objects lost along the seams show as a lack."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 1980, (6000, 2))
    tiles = Grid.by_tile(400, 0.1).tiles((2000, 2000))
    lost = (np.abs((corner[:, 0] + 10) % 360 - 380) < 20) | (
        np.abs((corner[:, 0] + 10) % 360 - 20) < 20
    )
    kept = corner[~lost | (rng.random(6000) < 0.3)]
    bias = seam_bias(Findings(np.hstack([kept, kept + 20])), tiles)
    assert bias.visible
    assert bias.high < 0


@pytest.mark.slow
def test_the_interval_holds_what_is_true_most_of_the_time() -> None:
    """For objects strewn at random, at least 16 of 20 intervals hold 0."""
    tiles = Grid.by_tile(400, 0.2).tiles((2000, 2000))
    held = 0
    for seed in range(20):
        corner = np.random.default_rng(seed).uniform(0, 1980, (300, 2))
        held += not seam_bias(Findings(np.hstack([corner, corner + 20])), tiles).visible
    assert held >= 16


def test_nothing_to_say_is_said() -> None:
    """With one tile, or no objects, the bias is NaN and says so."""
    one = [Tile(0, 0, Box(0, 0, 100, 100))]
    assert math.isnan(seam_bias(Findings([[1, 1, 9, 9]]), one).excess)
    assert "too few" in str(seam_bias(Findings(), Grid(rows=2, cols=2).tiles((100, 100))))
    assert math.isnan(seam_bias(Findings(), []).excess)


def test_overlap_check_suggests_what_holds_the_objects() -> None:
    """Small objects fit; large ones are cut, and the suggestion would hold 95 % of them."""
    small, large = scenes.small(3), scenes.mixed(3)
    tiles = scenes.grid_tiles(small.size, 0.2)
    fits = overlap_check(scenes.observe(small, tiles), size=small.size)
    assert fits.enough and fits.never_whole == 0 and fits.overlap == 96
    cut = overlap_check(scenes.observe(large, tiles), size=large.size)
    assert not cut.enough
    assert cut.suggested > 96 and cut.never_whole > 0.02 and cut.cut > cut.never_whole
    wider = scenes.grid_tiles(large.size, f"{cut.suggested}px", 800)
    again = overlap_check(scenes.observe(large, wider), size=large.size)
    assert again.enough and again.never_whole < 0.05
    assert again.remedy == "" and "would hold" not in str(again)


def test_objects_as_large_as_a_tile_call_for_larger_tiles() -> None:
    """An overlap of more than half a tile would make many of them: that is not what is advised."""
    tiles = Grid(rows=1, cols=2, overlap="20px").tiles((200, 100))
    for side, remedy in (
        (10, ""),
        (45, "an overlap of 45 px"),
        (90, "larger tiles with an overlap of 90 px"),
    ):
        found = [TileFindings(tile, Findings([[0, 0, side, side]])) for tile in tiles]
        told = overlap_check(found)
        assert told.remedy == remedy
        assert (f"{remedy} would hold them" in str(told)) is bool(remedy)


def test_only_the_side_that_tiles_cut_counts() -> None:
    """Lines of text as wide as the page fit into two tiles, one above the other."""
    rows, columns = (Grid(rows=r, cols=3 - r, overlap=0.2).tiles((1000, 1000)) for r in (2, 1))
    line = Findings([[0, 20, 1000, 40]])
    check = overlap_check([TileFindings(tile, line) for tile in rows])
    assert check.enough and (check.size_p95, check.side) == (20, "high")
    assert "95% of objects are up to 20 px high; 0.0%" in str(check)
    tall = Findings([[20, 0, 40, 1000]])
    assert overlap_check([TileFindings(tile, tall) for tile in columns]).side == "wide"
    both = Grid(rows=2, cols=2).tiles((1000, 1000))
    assert not overlap_check([TileFindings(both[0], Findings([[0, 20, 540, 40]]))]).side


def test_saturated_tiles_are_named() -> None:
    """A tile that returned as many detections as it can is pointed out."""
    tiles = [
        TileFindings(tile, Findings([[1, 1, 9, 9]]), saturated=tile.col == 1)
        for tile in Grid(rows=1, cols=2).tiles((200, 100))
    ]
    assert overlap_check(tiles).saturated == ("r000c001",)
    assert "saturated" in str(overlap_check(tiles))


def test_overlap_check_of_nothing() -> None:
    """No tiles, and tiles without findings, are no error."""
    assert overlap_check([]).suggested == 0
    empty = [TileFindings(tile, Findings()) for tile in Grid(rows=1, cols=2).tiles((200, 100))]
    assert overlap_check(empty).never_whole == 0
