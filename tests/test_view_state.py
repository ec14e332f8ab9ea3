"""The fold from events to what a view shows, and its words: pure, so tested without a screen."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilevision.events import RunChanged, StageDone, TileChanged
from tilevision.findings import Findings
from tilevision.geometry import Box
from tilevision.grid import Grid, Tile
from tilevision.plot import STATUSES
from tilevision.plot.wording import OUTLINE
from tilevision.seams import MergeSettings
from tilevision.view.picture import boxes as boxes_module
from tilevision.view.picture.boxes import BoxLayer, LayerMix
from tilevision.view.picture.caption import Counted, alt_text, caption
from tilevision.view.picture.viewstate import ViewState, fold, initial
from tilevision.view.results import result_of_events

TILES = Grid(2, 3).tiles((90, 60))
BOX = (1, 2, 3, 4, "star")


def _changed(i: int, status: str, when: float = 1.0, n: int = 0, **more: object) -> TileChanged:
    return TileChanged(when, TILES[i], status, n_findings=n, boxes=(BOX,) * n, **more)


def _facts(state: ViewState) -> tuple[object, ...]:
    """All that a view shows of a state, but the order in which boxes came."""
    rows = [
        (int(tile), int(rank), *map(float, box), state.boxes.labels[label])
        for chunk in state.boxes.chunks
        for tile, rank, box, label in zip(
            chunk.tiles, chunk.ranks, chunk.boxes, chunk.labels, strict=True
        )
    ]
    columns = (state.status, state.times, state.attempts, state.n_findings, state.saturated)
    return (*(c.tolist() for c in columns), state.errors, sorted(rows), state.run_status)


def test_the_legend_says_how_many_tiles_were_sent_on_and_why() -> None:
    """By the model that each tile's latest event names: those that wait for it count, too."""
    state = fold(
        initial(TILES),
        [
            *(_changed(i, "done", 1.0, model="cheap") for i in range(4)),
            _changed(1, "pending", 2.0, model="careful"),
            _changed(2, "failed", 3.0, model="careful", error="ModelError: no"),
        ],
    )
    entries = caption(state, "x", 3.0, sent_on={"careful": "a score from 0.3 to 0.5"})["legend"]
    assert "2 sent on to careful (a score from 0.3 to 0.5)" in [one["words"] for one in entries]
    assert state.given_to("careful").nonzero()[0].tolist() == [1, 2]
    told = caption(state, "x", 3.0)["legend"]
    assert not any("sent on" in one["words"] for one in told)


events = st.lists(
    st.one_of(
        st.builds(
            lambda i, status, when, n: _changed(i, status, when, n if status.analysed else 0),
            st.integers(0, len(TILES) - 1),
            st.sampled_from(STATUSES),
            st.floats(1, 9),
            st.integers(0, 3),
        ),
        st.builds(RunChanged, st.floats(1, 9), st.sampled_from(["running", "paused", "complete"])),
    ),
    max_size=20,
)


@given(events, st.integers(0, 20))
def test_taking_events_in_batches_changes_nothing(history, cut) -> None:
    """One by one, all at once or in parts, the same events lead to the same state."""
    whole = fold(initial(TILES), history)
    parts = fold(fold(initial(TILES), history[:cut]), history[cut:])
    single = initial(TILES)
    for event in history:
        single = fold(single, [event])
    assert _facts(whole) == _facts(parts) == _facts(single)


@given(events)
def test_hearing_a_snapshot_before_the_events_changes_nothing(history) -> None:
    """A late listener that hears the end first, then all of it, ends at the same state."""
    last = {e.tile if isinstance(e, TileChanged) else "run": e for e in history}
    late = fold(initial(TILES), [*last.values(), *history])
    assert _facts(late) == _facts(fold(initial(TILES), history))


@given(events)
def test_counts_add_up_and_only_finished_tiles_have_boxes(history) -> None:
    """Every tile is counted once, and no box stands on a tile that is not done."""
    state = fold(initial(TILES), history)
    assert sum(state.counts.values()) == len(TILES)
    assert all(STATUSES[state.status[i]].analysed for i in state.boxes.filled)
    assert sum(state.boxes.counts.values()) == len(state.boxes)


def test_a_step_leaves_the_state_before_it_alone() -> None:
    """The renderer may still draw the old state while the new one is made."""
    before = fold(initial(TILES), [_changed(0, "done", n=2)])
    facts = _facts(before)
    fold(before, [_changed(0, "failed", 2.0, error="x"), _changed(1, "done", n=3)])
    assert _facts(before) == facts


def test_a_layer_only_grows_until_boxes_are_taken_away() -> None:
    """Chunks that were drawn are the same objects, unless a tile in them is run again."""
    state = fold(initial(TILES), [_changed(0, "done", n=2)])
    grown = fold(state, [_changed(1, "done", n=3)]).boxes
    assert grown.chunks[0] is state.boxes.chunks[0]
    again = fold(state, [_changed(0, "done", 2.0, n=1)]).boxes
    assert len(again) == 1
    assert again.chunks[0] is not state.boxes.chunks[0]


def test_past_the_limit_every_tile_keeps_fewer_boxes(monkeypatch) -> None:
    """Memory stays bounded, and no tile loses all its boxes to those before it."""
    monkeypatch.setattr(boxes_module, "LIMIT", 100)
    layer = BoxLayer()
    for tile in range(40):
        layer = layer.with_tiles({tile: [(rank, 0, rank + 1, 1, "x", 0.5) for rank in range(20)]})
    assert len(layer) <= 100
    assert set(np.concatenate([chunk.tiles for chunk in layer.chunks]).tolist()) == set(range(40))
    assert all((chunk.boxes[:, 0] == chunk.ranks).all() for chunk in layer.chunks)


def test_a_tile_of_another_run_is_ignored() -> None:
    """An event about a tile that is not the run's changes no tile."""
    stray = TileChanged(1.0, Tile(9, 9, Box(0, 0, 1, 1)), "failed")
    assert _facts(fold(initial(TILES), [stray])) == _facts(initial(TILES))


def test_errors_are_kept_until_the_tile_changes() -> None:
    """A failed tile says why; once it is done, it no longer does."""
    failed = fold(initial(TILES), [_changed(2, "failed", error="ValueError: no")])
    assert failed.errors == {2: "ValueError: no"}
    assert fold(failed, [_changed(2, "done", 2.0)]).errors == {}


def test_stages_are_heard_once() -> None:
    """A stage that a snapshot repeats is listed once, and stages take part in the time."""
    stage = StageDone(3.0, "open", 0.1)
    state = fold(fold(initial(TILES), [stage]), [stage, RunChanged(4.0, "running")])
    assert state.stages == (stage,)
    assert (state.started, state.latest) == (3.0, 4.0)


def test_boxes_of_tiles_that_end_after_a_count_are_drawn_beside_the_merged_ones() -> None:
    """Each tile once: those that were counted merged, the others as they come, in their colours."""
    state = fold(initial(TILES), [_changed(0, "done", n=2), _changed(1, "done", n=3)])
    merged, mix = BoxLayer.of(Findings([[0, 0, 9, 9]], labels=["late"])), LayerMix()
    assert mix.layer(merged, frozenset({0, 1}), state.boxes) is merged
    later = fold(state, [_changed(2, "done", n=4)]).boxes
    mixed = mix.layer(merged, frozenset({0, 1}), later)
    assert mixed.counts == {"late": 1, "star": 4}
    assert mixed.chunks[0] is merged.chunks[0]
    more = mix.layer(merged, frozenset({0, 1}), fold(state, [_changed(2, "done", n=4)]).boxes)
    assert more.counts == mixed.counts
    grown = later.with_tiles({3: [(*BOX, 0.5)]})
    assert mix.layer(merged, frozenset({0, 1}), grown).chunks[: len(mixed.chunks)] == mixed.chunks


def test_what_events_tell_is_merged_as_the_result_is() -> None:
    """One object in the overlap of two tiles counts once; where boxes are missing there is none."""
    tiles = Grid(1, 2, overlap=0.5).tiles((90, 60))
    shared = (40, 20, 50, 30, "cell")
    assert all(t.box.x0 <= 40 and t.box.x1 >= 50 for t in tiles)
    events = [
        TileChanged(1.0, t, "done", n_findings=1, boxes=(shared,), scores=(0.5,)) for t in tiles
    ]
    state = fold(initial(tiles), events)
    run = SimpleNamespace(
        id="r", name="x", model=SimpleNamespace(name="m"), source=SimpleNamespace(size=(90, 60))
    )
    result = result_of_events(run, state, MergeSettings())
    assert len(result.findings) == 1
    assert result.findings.boxes.tolist() == [[40, 20, 50, 30]]
    assert len(result_of_events(run, state, MergeSettings("none")).findings) == 2
    assert len(result_of_events(run, state, MergeSettings(min_score=0.9)).findings) == 0
    crowded = TileChanged(2.0, tiles[0], "done", n_findings=900, boxes=(shared,))
    assert result_of_events(run, fold(state, [crowded]), MergeSettings()) is None


def test_the_result_of_events_leaves_boxes_with_their_tiles() -> None:
    """Whatever order tiles come in and scores have, each tile has what its own event told."""
    tiles = Grid(1, 3, overlap=0).tiles((90, 30))
    told = {
        2: [(62, 4, 70, 9, "b", 0.2), (75, 4, 80, 9, "a", 0.9)],
        0: [(5, 4, 12, 9, "a", 0.5)],
        1: [(33, 4, 40, 9, "b", 0.7), (41, 4, 44, 9, "a", 0.1)],
    }
    changes = [
        TileChanged(
            *(1.0, tiles[i], "done"),
            n_findings=len(rows),
            boxes=tuple(row[:5] for row in rows),
            scores=tuple(row[5] for row in rows),
        )
        for i, rows in told.items()
    ]
    run = SimpleNamespace(
        id="r", name="x", model=SimpleNamespace(name="m"), source=SimpleNamespace(size=(90, 30))
    )
    result = result_of_events(run, fold(initial(tiles), changes), MergeSettings())
    for i, found in enumerate(result.tile_findings):
        there = found.in_image()
        rows = zip(there.boxes.tolist(), there.labels, there.scores.tolist(), strict=True)
        assert sorted((*box, label, pytest.approx(score)) for box, label, score in rows) == sorted(
            told[i]
        )


def test_the_rate_counts_what_became_done_lately() -> None:
    """Tiles per second since the first was done: neither the start nor restored tiles count."""
    history = [RunChanged(20.0, "running"), _changed(0, "done", 85.0)]
    history += [_changed(i, "done", 95.0) for i in (1, 2, 3)]
    state = fold(initial(TILES), [*history, _changed(4, "restored", 95.0)])
    assert state.rate(95.0) == pytest.approx(0.3)
    assert state.rate(115.0) == pytest.approx(0.1)  # nothing has come for a while
    assert fold(initial(TILES), history[:2]).rate(90.0) is None
    resumed = fold(state, [RunChanged(500.0, "paused"), RunChanged(900.0, "running")])
    assert resumed.rate(901.0) is None  # not by how it went before the pause


@settings(max_examples=25, deadline=None)
@given(st.integers(30, 400), st.floats(0.01, 20), st.floats(0, 60), st.integers(1, 8), st.randoms())
def test_an_estimate_is_right_within_half_or_is_not_given(n, seconds, start, batch, random) -> None:
    """From a tenth of the tiles on, what is left is foretold within a factor of 1.5; before, not.

    Tiles end in batches, after a start of the cluster that takes its own time, and each batch
    takes up to a fifth more or less than the others.
    """
    tiles = Grid(1, n, overlap=0).tiles((10 * n, 10))
    now, ends = 100 + start, []
    for i in range(0, n, batch):
        now += seconds * len(tiles[i : i + batch]) * random.uniform(0.8, 1.2)
        ends += [now] * len(tiles[i : i + batch])
    state = fold(initial(tiles), [RunChanged(100.0, "running")])
    assert state.seconds_left(101.0) is None
    for k, (tile, end) in enumerate(zip(tiles, ends, strict=True), start=1):
        state = fold(state, [TileChanged(end, tile, "done")])
        whole = k == n or ends[k] != end
        left, truth = state.seconds_left(end), ends[-1] - end
        if k < 0.1 * n:
            assert left is None or k >= 100
        elif whole and k > 4 * batch and n - k > 4 * batch:
            assert truth / 1.5 <= left <= truth * 1.5


def test_the_time_taken_leaves_out_pauses_and_idling() -> None:
    """Neither a pause counts, nor the time until a run that had ended is resumed or retried."""
    history = [RunChanged(10.0, "running"), _changed(0, "done", 14.0), RunChanged(15.0, "paused")]
    history += [_changed(1, "done", 16.0), RunChanged(100.0, "running")]
    history += [_changed(2, "failed", 104.0, error="x"), RunChanged(105.0, "partial")]
    assert fold(initial(TILES), history).seconds_active == pytest.approx(6 + 5)
    retried = [RunChanged(1000.0, "running"), _changed(2, "done", 1002.0)]
    state = fold(fold(initial(TILES), history), [*retried, RunChanged(1003.0, "complete")])
    assert state.seconds_active == pytest.approx(6 + 5 + 3)
    assert "took 14 s" in caption(state, "x", now=5000.0, final=True)["detail"]


@pytest.mark.slow
def test_a_hundred_thousand_tiles_are_folded_at_once_as_one_by_one() -> None:
    """A history of many tiles is counted whole; `benchmarks/frame.py` says how long it takes."""
    tiles = Grid(400, 250).tiles((100_000, 160_000))
    start = initial(tiles)
    history = [TileChanged(float(i), t, "done", boxes=(BOX,)) for i, t in enumerate(tiles)]
    state = fold(start, history)
    assert state.counts == {"done": 100_000}
    assert fold(fold(start, history[:1000]), history[1000:]).counts == state.counts


def test_the_caption_counts_in_words() -> None:
    """Headline, alternative text and legend say the counts that the colours show."""
    history = [RunChanged(1.0, "running"), _changed(0, "done", 2.0, n=2)]
    history += [_changed(1, "failed", 2.0, error="x"), _changed(2, "running", 2.0)]
    state = fold(initial(TILES), history)
    said = caption(state, "tissue.png", now=3.0)
    assert said["headline"] == "tissue.png · Running · 1 of 6 tiles · counting detections"
    assert said["alt"] == alt_text(state, "tissue.png")
    assert "3 pending, 1 running, 1 done, 1 failed" in said["alt"]
    words = [entry["words"] for entry in said["legend"]]
    assert words == ["3 pending", "1 running", "1 done", "1 failed", "2 star"]
    assert said["shares"] == pytest.approx([1 / 6, 1 / 6])


def test_a_partial_run_is_not_captioned_as_complete() -> None:
    """The run's own status and its reason are shown as they are."""
    history = [_changed(0, "failed", error="x"), RunChanged(2.0, "partial", "1 tile failed")]
    said = caption(fold(initial(TILES), history), "x", now=3.0, final=True)
    assert "Partial · 0 of 6 tiles" in said["headline"]
    assert "1 tile failed" in said["detail"]


@pytest.mark.parametrize("status", ["complete", "partial", "cancelled", "stopped"])
def test_a_run_is_said_to_have_ended_once_its_result_is_drawn(status) -> None:
    """Until the merged detections are counted, it is merging: the boxes are not the result's."""
    state = fold(initial(TILES), [_changed(0, "done", n=2), RunChanged(2.0, status)])
    merging = caption(state, "x", now=3.0)
    assert "Merging" in merging["headline"] and ", merging: " in merging["alt"]
    assert status not in merging["alt"] and merging["status"] == "merging"
    layer = BoxLayer.of(Findings([[1, 2, 3, 4]], labels=["star"]))
    counted = Counted(layer, {"star": 1}, "merged by seam")
    ended = caption(state, "x", now=3.0, counted=counted, final=True)
    assert f", {status}: " in ended["alt"] and "1 detection merged by seam" in ended["alt"]


def test_tiles_outside_the_region_are_not_waited_for() -> None:
    """Progress and counts are of the tiles that are wanted; the region is named with its size."""
    history = [RunChanged(1.0, "running")]
    history += [_changed(i, "skipped") for i in (0, 1)] + [
        _changed(i, "done") for i in (2, 3, 4, 5)
    ]
    state = fold(initial(TILES), [*history, RunChanged(9.0, "complete")])
    said = caption(state, "x", now=10.0, final=True, region="tissue, 1.2 mm²")
    assert said["shares"] == [1.0, 0.0]
    assert "4 of 4 tiles" in said["headline"]
    assert "2 tiles outside the region skipped" in said["detail"]
    assert {"words": "region: tissue, 1.2 mm²", "colour": OUTLINE, "dashed": True} in said["legend"]


def test_class_counts_admit_when_boxes_were_left_out() -> None:
    """Where a tile has more detections than an event carries, its class counts end in a plus."""
    crowded = TileChanged(1.0, TILES[0], "done", n_findings=900, boxes=(BOX,) * 256)
    state = fold(initial(TILES), [crowded])
    said = caption(state, "x", now=2.0)
    assert said["legend"][-1]["words"] == "256+ star"
    assert "counting detections" in said["headline"]
    assert "900 detections in tiles, not merged" in caption(state, "x", 2.0, final=True)["headline"]


def test_what_is_stored_of_a_plan_is_counted_before_a_number_is_said() -> None:
    """A plan knows which tiles are stored, not what was found in them."""
    state = fold(initial(TILES, planned=True), [_changed(0, "restored")])
    assert "counting detections" in caption(state, "x", now=2.0)["headline"]
    uncounted = caption(state, "x", now=2.0, final=True)["headline"]
    assert "0 detections in tiles, not merged" in uncounted


def test_labels_in_the_legend_are_cut_and_made_visible() -> None:
    """A label of 10,000 characters, or one that turns the text around, stays in its place."""
    event = TileChanged(1.0, TILES[0], "done", n_findings=2,
                        boxes=((1, 2, 3, 4, "x" * 10_000), (1, 2, 3, 4, "\u202egnp")))  # fmt: skip
    words = [e["words"] for e in caption(fold(initial(TILES), [event]), "x", 2.0)["legend"]]
    assert max(map(len, words)) < 40
    assert "1 gnp" in words
