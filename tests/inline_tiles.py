"""Runs without a cluster: what `run_tiles` does on Dask, done at once in this process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile

import tilevision as tv
from tilevision import cluster as clusters
from tilevision import fanout
from tilevision.checkpoint import MemoryCheckpoint
from tilevision.events import Bus, Event
from tilevision.infer import infer
from tilevision.pipeline.conductor import Conductor
from tilevision.pipeline.control import Control
from tilevision.pipeline.manifest import describe_run
from tilevision.pipeline.planning import make_plan, resolve_stages
from tilevision.pipeline.settings import Settings
from tilevision.schedule.messages import (
    Announce,
    ClusterChanged,
    Committed,
    End,
    Hold,
    Refused,
    Submit,
    TaskFinished,
    TileStarted,
)

SIDE = 32


def run_tiles(
    cluster: Any, work: Any, scheduler: Any, sink: Any, *, run_id: str, commands: SimpleQueue[Any]
) -> End:
    """Carry the scheduler's decisions out, one task after the other."""
    happenings: list[Any] = [ClusterChanged({"here": 1})]
    now = 0.0
    while True:
        while not commands.empty():
            happenings.append(commands.get())
        actions, happenings = scheduler.advance(happenings, now), []
        for action in actions:
            if isinstance(action, End):
                return action
            if isinstance(action, Announce):
                sink.announce(action)
            elif isinstance(action, Hold):
                sink.hold(action.reason)
            elif isinstance(action, Submit):
                happenings += _task(action, work, sink)
        if not happenings:
            now = max(now + 0.01, scheduler.wake_at(now) or 0.0)


def _task(submit: Submit, work: Any, sink: Any) -> list[Any]:
    outcomes = infer(work, submit.tiles)
    for outcome in outcomes:
        sink.back(outcome)
    good = [outcome for outcome in outcomes if outcome.failure is None]
    refused = sink.commit(good) if good else {}
    kept = [outcome for outcome in good if outcome.tile not in refused]
    attempts = dict(zip(submit.tiles, submit.attempts, strict=True))
    for outcome in kept:
        sink.keep(outcome, attempts[outcome.tile], "here")
    return [
        *(TileStarted(submit.task, tile, "here") for tile in submit.tiles),
        *([Refused(refused)] if refused else []),
        *([Committed(tuple(outcome.tile for outcome in kept))] if kept else []),
        TaskFinished(submit.task, {outcome.tile: outcome.failure for outcome in outcomes}),
    ]


def picture(folder: Path, rows: int = 2, columns: int = 3) -> Path:
    """Write an image whose tiles of `SIDE` pixels are 10, 20, 30, … bright, row by row."""
    values = (np.arange(rows * columns, dtype=np.uint8) + 1).reshape(rows, columns) * 10
    pixels = np.repeat(np.kron(values, np.ones((SIDE, SIDE), np.uint8))[..., None], 3, axis=2)
    path = folder / "picture.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(SIDE, SIDE))
    return path


def once_each(pixels: np.ndarray) -> list[dict[str, Any]]:
    """Find one object in the middle of each tile, labelled by the tile's brightness."""
    return [{"box": (8, 8, 20, 20), "score": 0.5, "label": str(int(pixels[0, 0, 0]))}]


class Inline:
    """One run in this process: its control, its conductor, and the events that it published."""

    def __init__(self, image: Path, model: Any, store: Any = None, **arguments: Any) -> None:
        grid = tv.Grid.by_tile(SIDE, 0)
        settings = Settings(model, **{"grid": grid, "progress": False, **arguments})
        self.store = MemoryCheckpoint() if store is None else store
        self.plan = make_plan(image, settings, resolve_stages(settings), self.store)
        self.control = Control(Bus())
        self.events: list[Event] = []
        self.control.bus.subscribe(self.events.append)
        manifest = describe_run("20260101-000000-abcdef", image, self.plan, settings)
        self.conductor = Conductor(self.plan, settings, manifest, self.control)

    def conduct(self) -> Any:
        """Carry the run out, and return its result."""
        self.conductor.conduct(self.store)
        return self.control.result

    def told(self, kind: type) -> list[Any]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture(name="inline")
def inline_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Inline]:
    """Return what makes an `Inline` run; its image lies in the test's own folder."""
    cluster = nullcontext(SimpleNamespace(dashboard_link="http://here/status?token=1"))
    cluster.dashboard_link = "http://here/status?token=1"  # type: ignore[attr-defined]
    monkeypatch.setattr(fanout, "run_tiles", run_tiles)
    monkeypatch.setattr(clusters, "find_cluster", lambda *_: (cluster, "a cluster in this process"))
    monkeypatch.setattr(clusters, "reported", lambda *_: nullcontext())
    image = picture(tmp_path)
    return lambda model=once_each, **given: Inline(image, model, **given)
