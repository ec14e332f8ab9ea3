"""What stands beside the picture: speed, tiles worth a look, boxes to point at; pure."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilevision.events import RunChanged, TileChanged
from tilevision.findings import Findings, TileFindings
from tilevision.geometry import Box
from tilevision.grid import Grid, Tile
from tilevision.plot import class_colours
from tilevision.view.panel.inspector import MOST_DETECTIONS, tile_at, tile_facts, tile_rows
from tilevision.view.panel.throughput import BINS, throughput
from tilevision.view.panel.tilelist import notable_tiles
from tilevision.view.picture.boxes import MOST_HITS, BoxLayer, hits
from tilevision.view.picture.viewstate import ViewState, fold, initial

HOSTILE = ["<script>x</script>", "y" * 10_000, "\u202egnp.exe", "🔬"]


def _state(n: int, changes: list[TileChanged]) -> ViewState:
    return fold(initial(_tiles(n)), [RunChanged(100.0, "running"), *changes])


def _tiles(n: int) -> tuple[Tile, ...]:
    return Grid(1, n, overlap=0).tiles((10 * n, 10))


def _done(tile: Tile, when: float, seconds: float | None) -> TileChanged:
    return TileChanged(when, tile, "done", attempt=1, read_seconds=0.0, infer_seconds=seconds)


timings = st.lists(st.tuples(st.floats(100, 1e5), st.floats(0, 100)), min_size=2, max_size=60)


@given(timings)
def test_the_chart_of_speed_holds_every_tile_once(timed) -> None:
    """Rates add up to the tiles done, and percentiles lie among the seconds that were measured."""
    tiles = _tiles(len(timed))
    events = [_done(t, when, s) for t, (when, s) in zip(tiles, timed, strict=True)]
    said = throughput(_state(len(tiles), events))
    assert len(said["rate"]) == len(said["median"]) == len(said["p95"]) <= BINS + 1
    bins = np.array(said["rate"]) * said["width"]
    assert bins.sum() == pytest.approx(len(tiles), rel=0.1, abs=0.01 * len(bins) * said["width"])
    seconds = [s for _, s in timed]
    for median, p95 in filter(None, [said["overall"]]):
        assert min(seconds) - 1e-3 <= median <= p95 <= max(seconds) + 1e-3
    json.dumps(said, allow_nan=False)


def test_restored_tiles_tell_nothing_of_the_speed() -> None:
    """A run that only restores has no chart."""
    tiles = _tiles(4)
    assert throughput(_state(4, [TileChanged(101.0, tile, "restored") for tile in tiles])) == {}


def test_failed_throttled_saturated_and_slow_tiles_are_listed() -> None:
    """Each once, the worst first, with what is known; all the others are left out."""
    tiles = _tiles(14)
    changes = [_done(tile, 101.0, 0.1) for tile in tiles[:10]]
    changes.append(_done(tiles[10], 102.0, 5.0))
    changes.append(TileChanged(102.0, tiles[11], "done", n_findings=300, saturated=True))
    changes.append(TileChanged(102.0, tiles[12], "throttled", attempt=3))
    changes.append(TileChanged(102.0, tiles[13], "failed", attempt=2, error="ValueError: <b>no"))
    said = notable_tiles(_state(14, changes))
    assert [(row[0], row[2]) for row in said["rows"]] == [
        (13, "failed"),
        (12, "throttled"),
        (11, "saturated"),
        (10, "slow"),
    ]
    assert said["rows"][0][6] == "ValueError: <b>no"
    assert said["counts"] == {"failed": 1, "throttled": 1, "saturated": 1, "slow": 1}
    json.dumps(said, allow_nan=False)


def test_tiles_are_slow_only_where_somebody_would_notice() -> None:
    """Of tiles of 2 ms, one of 19 ms is no news, though it took nine times as long."""
    tiles = _tiles(100)
    changes = [_done(tile, 101.0, 0.002 if i % 5 else 0.019) for i, tile in enumerate(tiles)]
    assert notable_tiles(_state(100, changes))["rows"] == []
    changes.append(_done(tiles[3], 102.0, 0.6))
    assert [row[0] for row in notable_tiles(_state(100, changes))["rows"]] == [3]


def test_the_list_is_bounded_and_its_counts_are_not() -> None:
    """Ten thousand failed tiles are counted, not sent."""
    tiles = _tiles(10_000)
    state = _state(10_000, [TileChanged(101.0, tile, "failed", error="x") for tile in tiles])
    said = notable_tiles(state)
    assert len(said["rows"]) == 300
    assert said["counts"] == {"failed": 10_000}


boxes = st.lists(
    st.tuples(st.integers(0, 90), st.integers(0, 90), st.integers(1, 40), st.integers(1, 40)),
    max_size=30,
)


def _layer(found: list[tuple[int, int, int, int]], labels: list[str]) -> BoxLayer:
    n = len(found)
    corners = np.array([(x, y, x + w, y + h) for x, y, w, h in found], float).reshape(-1, 4)
    names = [labels[i % len(labels)] for i in range(n)]
    return BoxLayer.of(Findings(corners, scores=[0.5] * n, labels=names))


@given(boxes, st.integers(1, 40))
def test_what_can_be_pointed_at_is_in_the_view(found, limit) -> None:
    """Boxes come relative to the view, those outside are left out, and there are never more."""
    view = Box(20, 20, 60, 50)
    rows, names = hits(_layer(found, HOSTILE), view, limit)
    table = np.frombuffer(rows, "<f4").reshape(-1, 6)
    seen = [b for b in found if b[0] < 60 and b[0] + b[2] > 20 and b[1] < 50 and b[1] + b[3] > 20]
    assert len(table) == min(limit, len(seen))
    expected = {(x - 20, y - 20, x + w - 20, y + h - 20) for x, y, w, h in seen}
    assert {tuple(row[:4]) for row in table.tolist()} <= expected
    assert all(0 <= row[4] < len(names) for row in table)
    assert all(len(name) <= 60 for name in names)
    assert "\u202e" not in "".join(names)


def test_a_crowd_is_cut_to_the_largest() -> None:
    """Of 100,000 boxes the 2,000 largest."""
    rng = np.random.default_rng(0)
    side = rng.integers(1, 60, 100_000)
    corner = rng.integers(0, 50_000, (100_000, 2))
    found = np.column_stack([corner, corner + side[:, None]]).astype(float)
    layer = BoxLayer.of(Findings(found))
    rows, _ = hits(layer, Box(0, 0, 50_100, 50_100))
    table = np.frombuffer(rows, "<f4").reshape(-1, 6)
    assert len(table) == MOST_HITS
    assert (table[:, 2] - table[:, 0]).min() >= np.sort(side)[-2 * MOST_HITS]


@given(st.integers(0, 899), st.integers(0, 599))
def test_a_click_finds_the_tile_whose_middle_is_nearest(x, y) -> None:
    """Every point of the image is in a tile; the one found holds it; beside the image is none."""
    tiles = Grid(4, 6, overlap=0.3).tiles((900, 600))
    number = tile_at(tiles, x + 0.5, y + 0.5)
    assert number is not None
    box = tiles[number].box
    assert box.x0 <= x < box.x1 and box.y0 <= y < box.y1
    assert tile_at(tiles, -1, y) is None


def test_a_click_finds_the_small_tile_before_the_large() -> None:
    """The tile of the whole image does not hide those of the grid."""
    tiles = (*Grid(2, 2).tiles((90, 60)), Tile(0, 0, Box(0, 0, 90, 60), 0.1, "whole"))
    assert tile_at(tiles, 45, 30) != 4


def test_the_inspector_tells_what_is_known_as_text() -> None:
    """Facts and detections are plain, bounded JSON; labels are cut and made visible."""
    tile = Tile(1, 2, Box(100, 100, 300, 200), 0.5)
    n = MOST_DETECTIONS + 5
    corners = np.column_stack([np.arange(n) % 90, np.zeros(n), np.arange(n) % 90 + 5, np.ones(n)])
    found = Findings(
        corners,
        labels=[HOSTILE[i % 4] for i in range(n)],
        tile_scores={"tumour": 0.25, "normal": 0.75},
        note="<b>note</b>",
    )
    seen = TileFindings(tile, found, saturated=True)
    event = TileChanged(5.0, tile, "done", 2, "tcp://w", 0.004, 2.5, n, saturated=True, model="m")
    facts, rows = tile_facts(event, seen), tile_rows(seen)
    lines = dict(map(tuple, facts["lines"]))
    assert lines["Region"] == "x 100–300, y 100–200 px"
    assert lines["Model sees"] == "100 × 50 px, scale 0.5"
    assert (lines["Reading"], lines["Inference"]) == ("4 ms", "2.5 s")
    assert lines["Detections"] == f"{n:,} (saturated)"
    assert facts["scores"] == [["normal", 0.75], ["tumour", 0.25]]
    assert len(rows["boxes"]) == MOST_DETECTIONS and rows["total"] == n
    assert np.min(rows["boxes"]) >= 0 and np.max(rows["boxes"]) <= 1
    assert set(rows["scores"]) == {None}
    assert max(map(len, rows["labels"])) <= 80
    assert "\u202e" not in json.dumps([facts, rows], allow_nan=False, ensure_ascii=False)


def test_a_class_has_the_same_colour_in_the_inspector_as_in_the_picture() -> None:
    """Whatever other classes there are in the tile or in the image."""
    tile = Tile(0, 0, Box(0, 0, 100, 100))
    seen = TileFindings(tile, Findings([(0, 0, 5, 5)], labels=["late"]))
    assert tile_rows(seen)["colours"] == [class_colours(["early", "late"])["late"]]
