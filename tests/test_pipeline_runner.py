"""Tiles on their way through the passes of a run, without a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import inline_tiles
import numpy as np
import pytest
from inline_tiles import Inline, inline_runs, once_each  # noqa: F401 - a fixture

import tilevision as tv
from tilevision import cluster as clusters
from tilevision import fanout
from tilevision.checkpoint import MemoryCheckpoint
from tilevision.errors import CheckpointCorrupt, PermanentError
from tilevision.events import StageDone, TileChanged
from tilevision.modelspec import Calls
from tilevision.pipeline import runner
from tilevision.status import RunStatus

Make = Callable[..., Inline]


class Fails:
    """A model that fails on dark tiles until it is mended."""

    def __init__(self, below: int) -> None:
        self.below = below
        self.seen: list[int] = []

    def __call__(self, pixels: np.ndarray) -> Any:
        """Find one object, or fail."""
        value = int(pixels[0, 0, 0])
        self.seen.append(value)
        if value < self.below:
            raise PermanentError(f"{value} is too dark")
        return once_each(pixels)


def model(function: Any, monkeypatch: pytest.MonkeyPatch, name: str = "mine") -> tv.ModelSpec:
    """Return a model that calls this very object: it is not pickled into a copy."""
    from tilevision import infer

    built = infer.calls_of

    class Adapter:
        def predict(self, batch: list[np.ndarray]) -> list[tv.Findings]:
            answers = [function(pixels) for pixels in batch]
            return [
                tv.Findings(
                    [one["box"] for one in found],
                    labels=[one["label"] for one in found],
                    scores=[one["score"] for one in found],
                )
                for found in answers
            ]

    spec = tv.model(once_each, name=name, fingerprint=name)
    monkeypatch.setattr(
        infer, "calls_of", lambda asked: Calls(Adapter()) if asked.name == name else built(asked)
    )
    return spec


def test_every_tile_goes_through_and_is_stored(inline: Make) -> None:
    """Found, committed and published as done, each once."""
    run = inline()
    result = run.conduct()
    assert result.complete and len(result.findings) == 6
    done = [event.tile for event in run.told(TileChanged) if event.status == "done"]
    assert sorted(done) == sorted(run.plan.tiles)
    assert run.store.done(list(run.plan.passes[0].keys.values())) == {
        *run.plan.passes[0].keys.values()
    }


def test_what_is_stored_needs_no_cluster(inline: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose tiles are all restored neither looks for a cluster nor sends a tile."""
    store = MemoryCheckpoint()
    inline(store=store).conduct()
    monkeypatch.setattr(clusters, "find_cluster", lambda *_: pytest.fail("no cluster is needed"))
    run = inline(store=store)
    result = run.conduct()
    assert {row.status for row in result.rows} == {"restored"}
    assert "cluster" not in [event.stage for event in run.told(StageDone)]
    assert run.control.dashboard_link is None


def test_the_link_of_the_dashboard_is_published_without_its_query(inline: Make) -> None:
    """What follows the ? may be a key; the process itself has the whole address."""
    run = inline()
    run.conduct()
    assert run.control.dashboard_link == "http://here/status?token=1"
    (cluster,) = [event for event in run.told(StageDone) if event.stage == "cluster"]
    assert (cluster.link, cluster.message) == ("http://here/status", "a cluster in this process")


def test_failed_tiles_make_a_run_partial_and_can_be_tried_again(
    inline: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only they are sent again; the others keep what they saw."""
    finder = Fails(below=30)
    run = inline(model(finder, monkeypatch))
    result = run.conduct()
    assert (result.status, result.facts.reason) == ("partial", "2 of 6 tiles failed.")
    assert run.control.retry(None)
    finder.below, finder.seen = 0, []
    run.conductor.conduct_again(run.store)
    assert sorted(finder.seen) == [10, 20]
    assert run.control.result is not None and run.control.result.complete
    assert run.control.status is RunStatus.COMPLETE


def test_what_failed_is_told_of_all_tiles_of_a_run_that_restored_some(
    inline: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason says the numbers that the picture and the coverage say."""
    finder = Fails(below=30)
    before = inline(model(finder, monkeypatch))
    before.conduct()
    again = inline(model(finder, monkeypatch), store=before.store).conduct()
    assert (again.tiles["status"] == "restored").sum() == 4
    assert again.facts.reason == "2 of 6 tiles failed."


def test_only_the_chosen_tiles_are_tried_again(
    inline: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other failed tiles stay failed."""
    finder = Fails(below=30)
    run = inline(model(finder, monkeypatch))
    run.conduct()
    finder.below, finder.seen = 0, []
    run.control.retry(frozenset([run.plan.tiles[1]]))
    run.conductor.conduct_again(run.store)
    assert finder.seen == [20]
    assert run.control.status is RunStatus.PARTIAL


def test_too_many_failures_stop_a_run(inline: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fraction counts by all tiles of the run, and what is left is not sent."""
    finder = Fails(below=100)
    run = inline(model(finder, monkeypatch), max_failures=0.3, concurrency=1, batch_size=1)
    result = run.conduct()
    assert result.status == "stopped"
    assert result.facts.reason == "2 of 6 tiles failed, which is the limit."
    assert len(finder.seen) == 2


def test_a_cancelled_run_ends_with_what_is_done(inline: Make) -> None:
    """A command from before the first tile reaches the pass."""
    run = inline()
    run.control.cancel()
    result = run.conduct()
    assert (result.status, result.facts.reason) == ("cancelled", "0 of 6 tiles done.")


def test_a_cascade_sends_on_what_its_first_model_leaves_open(inline: Make) -> None:
    """Two passes: the second one gets the tiles that need it, and decides on them."""
    first = tv.model(once_each, name="first", fingerprint="1")
    second = tv.model(once_each, name="second", fingerprint="2")
    dark = tv.Cascade(first, second, when=lambda findings: int(findings.labels[0]) < 25)
    run = inline(dark)
    assert [after for _, after in [(one, one.after) for one in run.plan.passes]] == [None, 0]
    result = run.conduct()
    assert [row.model for row in result.rows] == ["second"] * 2 + ["first"] * 4
    assert result.complete and len(result.findings) == 6
    assert [n for _, n in run.conductor._runner.left()] == [0, 0]


def test_how_many_tiles_are_left_counts_down(inline: Make) -> None:
    """An estimate asks for them at any time, on any thread."""
    run = inline()
    left: list[Any] = []

    def look(event: Any) -> None:
        if isinstance(event, TileChanged) and event.status == "done":
            ((_, n),) = run.conductor._runner.left()
            left.append(n)

    run.control.bus.subscribe(look)
    run.conduct()
    assert left == [5, 4, 3, 2, 1, 0]


def test_findings_that_cannot_be_stored_fail_their_tile(
    inline: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are committed; the reason is the tile's error."""
    from tilevision.errors import CheckpointTooLarge

    checked = runner.check_records
    run = inline()
    refused = run.plan.passes[0].keys[run.plan.tiles[2]]

    def check(key: str, records: Any) -> Any:
        if key == refused:
            raise CheckpointTooLarge("too large a record")
        return checked(key, records)

    monkeypatch.setattr(runner, "check_records", check)
    result = run.conduct()
    assert [row.status for row in result.rows].count("done") == 5
    assert "too large a record" in result.first_failure


def test_a_damaged_checkpoint_ends_the_run(inline: Make) -> None:
    """Nothing can be kept in it: the error is the run's, not a tile's."""

    class Damaged(MemoryCheckpoint):
        def commit(self, entries: Any, payloads: Any) -> None:
            raise CheckpointCorrupt("damaged")

    run = inline(store=Damaged())
    with pytest.raises(CheckpointCorrupt):
        run.conduct()


def test_the_harness_is_the_one_that_runs(inline: Make) -> None:
    """No test here starts a cluster by mistake."""
    assert fanout.run_tiles is inline_tiles.run_tiles
