"""The flow of a run, and the models that see the image as a whole; without a cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inline_tiles import Inline, inline_runs  # noqa: F401 - a fixture

import tilevision as tv
from tilevision.checkpoint import MemoryCheckpoint
from tilevision.errors import ModelError, RunError
from tilevision.events import RunChanged, StageDone, TileChanged
from tilevision.modelspec import Price
from tilevision.status import RunStatus

Make = Callable[..., Inline]


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions are pickled with copies of their globals, so they note their calls in a file."""
    monkeypatch.chdir(tmp_path)


def called(stage: str) -> None:
    """Note a call of a stage."""
    with Path("calls.txt").open("a") as file:
        print(stage, file=file)


def calls() -> list[str]:
    """Return the stages that were called, in order."""
    noted = Path("calls.txt")
    return noted.read_text().split() if noted.exists() else []


def fine(thumbnail: Any) -> dict[str, Any]:
    """Allow an image."""
    called("moderation")
    return {"allowed": True, "reason": "a fine image"}


def refuse(thumbnail: Any) -> dict[str, Any]:
    """Refuse an image."""
    called("moderation")
    return {"allowed": False, "reason": "private"}


def words(digest: Any, thumbnail: Any) -> str:
    """Describe a result."""
    called("synthesis")
    return "Six things."


def broken(digest: Any, thumbnail: Any) -> str:
    """Fail to describe one."""
    called("synthesis")
    raise ValueError("no words")


def stages(run: Inline) -> list[str]:
    """Return the stages that were published, in order."""
    return [event.stage for event in run.told(StageDone)]


def test_the_stages_of_a_run_follow_one_another(inline: Make) -> None:
    """Moderation before any tile, synthesis after the merge, the end last of all."""
    run = inline(moderation=fine, synthesis=words)
    result = run.conduct()
    assert stages(run) == ["moderation", "cluster", "merge", "synthesis"]
    assert [event.status for event in run.told(RunChanged)] == ["running", "complete"]
    assert isinstance(run.events[-1], RunChanged)
    assert result.summary.startswith("Six things.") and calls() == [
        "moderation",
        "synthesis",
    ]


def test_a_refused_image_costs_no_tile(inline: Make) -> None:
    """The run is blocked with the reason, and its result says so."""
    run = inline(moderation=refuse)
    result = run.conduct()
    assert run.control.status is RunStatus.BLOCKED and result.status == "blocked"
    assert "private" in run.told(RunChanged)[-1].reason
    assert run.told(TileChanged) == [] and not result.verdict.allowed
    assert stages(run) == ["moderation"]


def test_answers_about_the_image_are_asked_once(inline: Make) -> None:
    """A second run takes them from the checkpoint, and says that it did."""
    store = MemoryCheckpoint()
    inline(moderation=fine, synthesis=words, store=store).conduct()
    run = inline(moderation=fine, synthesis=words, store=store)
    run.conduct()
    assert calls() == ["moderation", "synthesis"]
    kept = {event.stage for event in run.told(StageDone) if event.restored}
    assert kept == {"moderation", "restore", "synthesis"}


def test_without_reuse_they_are_asked_again(inline: Make) -> None:
    """``reuse=False`` holds for answers about the image as for tiles."""
    store = MemoryCheckpoint()
    for _ in range(2):
        inline(moderation=fine, store=store, reuse=False).conduct()
    assert calls() == ["moderation"] * 2


def test_a_failed_synthesis_costs_no_tile(inline: Make) -> None:
    """The result is there, and its summary says what failed."""
    result = inline(synthesis=broken).conduct()
    assert result.complete
    assert "failed: ValueError: no words" in result.summary


def test_a_failed_moderation_stops_the_run(inline: Make) -> None:
    """Nobody has allowed the image."""

    def unsure(thumbnail: Any) -> Any:
        return "perhaps"

    with pytest.raises(ModelError):
        inline(moderation=unsure).conduct()


def test_the_budget_covers_the_image_stages_too(inline: Make) -> None:
    """A moderation that would exceed it is not asked."""
    moderation = tv.model(fine, stages=("moderation",), price=Price(call=3.0))
    with pytest.raises(RunError, match="does not cover moderation"):
        inline(moderation=moderation, budget=2.0).conduct()
    assert calls() == []
    result = inline(moderation=moderation, budget=4.0).conduct()
    assert result.cost == 3.0


def test_so_far_is_the_result_of_what_is_known(inline: Make) -> None:
    """At any time, from a listener as from another thread; after the end it is the result."""
    run, shares = inline(), []

    def look(event: Any) -> None:
        if isinstance(event, TileChanged) and event.status == "done":
            shares.append((run.control.so_far().status, len(run.control.so_far().findings)))

    run.control.bus.subscribe(look)
    result = run.conduct()
    assert shares == [("running", n) for n in range(1, 7)]
    assert run.control.so_far() is result


def test_the_estimate_ends_with_the_run(inline: Make) -> None:
    """Before: all tiles; after: nothing left."""
    run = inline()
    assert run.control.estimate().tiles == 6
    run.conduct()
    assert str(run.control.estimate()) == "nothing left to run"


def test_the_time_is_told_by_this_run_or_not_at_all(inline: Make) -> None:
    """While it runs an estimate says seconds, or why it cannot; never both, never neither."""
    run, told = inline(), []

    def look(event: Any) -> None:
        if isinstance(event, TileChanged) and event.status == "done":
            told.append(run.control.estimate())

    run.control.bus.subscribe(look)
    run.conduct()
    assert [one.tiles for one in told] == [5, 4, 3, 2, 1, 0]
    for one in told[:-1]:
        assert (one.seconds is None) == ("no time can be given: " in one.basis), one
    assert told[0].seconds is None and "too few tiles are timed" in str(told[0])
    assert told[3].seconds is not None and "time not known" not in str(told[3])


def test_of_a_cascade_nothing_is_foretold_before_its_second_model(inline: Make) -> None:
    """Which tiles it gets is not known before; then its own pace counts, not the first one's."""

    def first(pixels: Any) -> Any:
        return [(8, 8, 20, 20, 0.5)]

    def second(pixels: Any) -> Any:
        return [(8, 8, 20, 20, 0.9)]

    run, told = inline(tv.Cascade(first, second)), []

    def look(event: Any) -> None:
        if isinstance(event, TileChanged) and event.status == "done":
            told.append((event.model, run.control.estimate()))

    run.control.bus.subscribe(look)
    run.conduct()
    before = [one for name, one in told if name == "first"]
    assert len(before) == 6 and all(one.seconds is None for one in before)
    assert "a further model follows" in before[2].basis
    later = [one for name, one in told if name == "second"]
    assert "too few tiles are timed" in later[0].basis and later[3].seconds is not None


def test_facts_and_recipe_come_from_the_manifest(inline: Make) -> None:
    """The result names its run, its model and its grid, and holds what makes it again."""
    run = inline(min_score=0.25)
    facts = run.conduct().facts
    assert facts.run_id == "20260101-000000-abcdef"
    assert facts.model == facts.recipe["model"] == "once_each"
    assert facts.grid == str(run.plan.tiling)
    assert facts.recipe["settings"]["min_score"] == 0.25
    assert "path" not in facts.recipe


def test_a_retry_asked_for_while_the_end_is_prepared_is_not_lost(inline: Make) -> None:
    """The run tries the failed tile again, and ends after that."""
    tries: list[int] = []

    def fails(pixels: Any) -> Any:
        raise ValueError("no")

    run = inline(fails, retry=tv.Retry(attempts=1))

    def ask(event: Any) -> None:
        if isinstance(event, StageDone) and event.stage == "merge":
            tries.append(1)
            if len(tries) == 1:
                assert not run.control.retry(None)

    run.control.bus.subscribe(ask)
    result = run.conduct()
    assert len(tries) == 2 and result.status == "partial"
    assert [event.status for event in run.told(RunChanged)] == ["running", "partial"]
