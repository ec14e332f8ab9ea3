"""The result of a past run, as far as the checkpoint holds it; nothing runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tilevision.errors import RunError
from tilevision.events import JournalTail, TileChanged
from tilevision.findings import TileFindings
from tilevision.grid import Tile
from tilevision.history.followedrun import JournaledRun
from tilevision.history.runrecord import Recording
from tilevision.pipeline import Run
from tilevision.pipeline.manifest import check_same_work, find_manifest, recall, run_facts
from tilevision.pipeline.planning import (
    Pass,
    Plan,
    Store,
    labels,
    make_plan,
    resolve_stages,
    stored_findings,
)
from tilevision.pipeline.run import open_checkpoint
from tilevision.pipeline.settings import Settings
from tilevision.result import MergeSettings, Result, RunFacts, TileRow
from tilevision.sources import open_source
from tilevision.sources.addresses import is_address
from tilevision.status import TileStatus

__all__ = ["CascadeSteps", "ReadRun", "cascade_steps", "keep", "planned_result", "stored_result"]


def stored_result(
    run: JournaledRun,
    checkpoint: str | os.PathLike[str],
    *,
    model: Any = None,
    working: bool = False,
) -> Result:
    """Return the result of a run that is read from its journal, as far as it is stored.

    Parameters
    ----------
    run : FollowedRun or ReplayedRun
    checkpoint : path-like
        Its folder.
    model : optional
        The model, if the run cannot know it: a function.
    working : bool
        True if a process may be working on the run.

    Raises
    ------
    RunError
        If its model has to be given.
    SourceError, ModelError
        If image or model are not those of the run.
    """
    manifest = find_manifest(run.id, checkpoint)
    others: dict[str, Any] = {"moderation": None, "synthesis": None, "device": "auto"}
    image, settings = recall(manifest, checkpoint, run.source, model, working=working, **others)
    with open_checkpoint(checkpoint) as store:
        plan = make_plan(image, settings, resolve_stages(settings), store)
        check_same_work(manifest, plan)
        found, whose = _stored(plan, store)
    facts = replace(
        run_facts(run.id, run.status, plan, manifest), checkpoint=settings.checkpoint_folder
    )
    events = (event for event in run.events() if isinstance(event, TileChanged))
    rows = _rows(plan, found, whose, events)
    how = settings.merging(), facts, run.name, settings.blending()
    return Result(plan.source, rows, list(found.values()), *how)


@dataclass(frozen=True, slots=True)
class CascadeSteps:
    """What the first model of a cascade found in all tiles, and which of them went on.

    Attributes
    ----------
    first : Result
        As if the run had been of the first model alone.
    went_on : tuple of Tile
        Tiles that the first model was unsure of.
    words : str
        How many went on to which model, and why.
    """

    first: Result
    went_on: tuple[Tile, ...]
    words: str


def cascade_steps(
    run: JournaledRun | Run, checkpoint: str | os.PathLike[str], *, model: Any = None
) -> CascadeSteps:
    """Return what the first model of a run's cascade found, as far as it is stored; nothing runs.

    Parameters
    ----------
    run, checkpoint, model
        As for `stored_result`.

    Raises
    ------
    RunError
        If its model has to be given, or is no cascade.
    SourceError, ModelError
        If image or model are not those of the run.
    """
    manifest = find_manifest(run.id, checkpoint)
    image, settings = recall(
        manifest, checkpoint, run.source, model, moderation=None, synthesis=None
    )
    with open_checkpoint(checkpoint) as store:
        plan = make_plan(image, settings, resolve_stages(settings), store)
        check_same_work(manifest, plan)
        begin = tuple(one for one in plan.passes if one.after is None)
        found, whose = _stored(replace(plan, passes=begin), store)
    second = [one for one in plan.passes if one.after is not None]
    if not second:
        raise RunError(f"Run {run.id} has no cascade: one model decided on each tile.")
    went_on = tuple(tile for one in second for tile in one.wanted(found))
    facts = run_facts(run.id, run.status, plan, manifest)
    firsts = " or ".join(dict.fromkeys(one.label for one in begin))
    events = (event for event in run.events() if isinstance(event, TileChanged))
    rows = _rows(plan, found, whose, events)
    labels_of = {one.label for one in begin}
    models = tuple(pair for pair in facts.models if pair[0] in labels_of)
    first = Result(
        *(plan.source, rows, list(found.values()), settings.merging()),
        replace(facts, model=firsts, models=models),
        run.name,
    )
    return CascadeSteps(first, went_on, _went_on(second, len(went_on), len(found)))


def _went_on(second: Sequence[Pass], n: int, n_all: int) -> str:
    """Return how many tiles went on, where to, and why."""
    names = " or ".join(dict.fromkeys(one.label for one in second))
    rules = [one.cascade.when for one in second if one.cascade is not None]
    whys = (
        f"a score in each lies in {when[0]:g} to {when[1]:g}"
        if isinstance(when, tuple)
        else "when= says so of what was found in them"
        for when in rules
    )
    why = " or ".join(dict.fromkeys(whys))
    return f"{n:,} of {n_all:,} tiles were also given to {names}: {why}."


def planned_result(plan: Plan, checkpoint: str | os.PathLike[str] | None) -> Result:
    """Return the result of the tiles of a plan that are stored already.

    Parameters
    ----------
    plan : Plan
    checkpoint : path-like or None
        The folder that the plan was made with.
    """
    with open_checkpoint(checkpoint) as store:
        found, whose = _stored(plan, store) if plan.restored else ({}, {})
    stages = plan.stages
    facts = RunFacts(
        run_id="",
        status="planned",
        model=stages.asked.name,
        model_fingerprint=stages.tile.fingerprint,
        models=tuple((label, mark) for mark, label in labels(stages.models).items()),
        grid=str(plan.tiling),
        scales=plan.tiling.scales,
        region=plan.region,
        checkpoint=None if checkpoint is None else str(Path(checkpoint).expanduser().absolute()),
    )
    settings = MergeSettings(min_score=plan.stages.min_score)
    rows = _rows(plan, found, whose, ())
    return Result(plan.source, rows, list(found.values()), settings, facts, plan.name)


def _stored(plan: Plan, store: Store) -> tuple[dict[Tile, TileFindings], dict[Tile, str]]:
    """Return what is stored for each tile by the model that decides on it, and that model."""
    found: dict[Tile, TileFindings] = {}
    whose: dict[Tile, str] = {}
    for one in plan.passes:
        tiles = one.stored
        if one.after is not None:
            wanted = one.wanted({tile: found[tile] for tile in one.keys if tile in found})
            for tile in wanted:
                del found[tile]
            tiles = tiles.intersection(wanted)
        mine = dict(stored_findings(one, tiles, store))
        found |= mine
        whose |= dict.fromkeys(mine, one.label)
    return found, whose


def _rows(
    plan: Plan,
    found: dict[Tile, TileFindings],
    whose: dict[Tile, str],
    events: Iterable[TileChanged],
) -> list[TileRow]:
    """Return the row of each tile as the journal has it; what is not stored is not done.

    The model of a tile is the one whose findings these are, whichever looked at it last.
    """
    told = {event.tile: event for event in events}
    rows = []
    for tile in plan.tiles:
        event = told.get(tile, TileChanged(0.0, tile, TileStatus.PENDING))
        done = event.status in (TileStatus.DONE, TileStatus.RESTORED)
        status = event.status if tile in found or not done else TileStatus.PENDING
        status = TileStatus.SKIPPED if tile in plan.skipped else status
        row = replace(
            event,
            status=TileStatus.RESTORED if tile in found and not done else status,
            model=whose.get(tile, event.model),
            error="" if tile in found else event.error,
            details="" if tile in found else event.details,
            n_findings=len(found[tile].findings) if tile in found else 0,
            saturated=tile in found and found[tile].saturated,
            boxes=(),
            scores=(),
        )
        rows.append(row)
    return rows


def keep(result: Result, image: Any, settings: Settings) -> Callable[[], Result]:
    """Return a function that makes `result` again; it holds neither pixels nor open files.

    Parameters
    ----------
    result : Result
    image
        That it is of.
    settings : Settings
        Of its run. Without a checkpoint the findings are held in memory.
    """
    facts, name, merging = result.facts, result.name, result.settings
    more = result.blending, result.by_hand
    checkpoint = settings.checkpoint
    if isinstance(image, (str, os.PathLike)) and not is_address(image):
        image = Path(image).absolute()  # the working folder may be another by then
    if checkpoint is not None:

        def read() -> Result:
            run = ReadRun(Recording(facts.run_id, checkpoint, image))
            found = stored_result(run, checkpoint, model=settings.model)
            seen = found.tile_findings
            return Result(found.source, found.rows, seen, merging, facts, name, *more)

        return read
    rows, findings = result.rows, result.tile_findings

    def again() -> Result:
        source = open_source(image, mpp=settings.mpp)
        return Result(source, rows, findings, merging, facts, name, *more)

    return again


class ReadRun(JournaledRun):
    """A run that is read from its journal at once; nobody listens.

    Parameters
    ----------
    recording : Recording
    """

    def __init__(self, recording: Recording) -> None:
        super().__init__(recording)
        for event in JournalTail(recording.path).read():
            self._tell(event)

    def _step(self) -> float | None:
        return None
