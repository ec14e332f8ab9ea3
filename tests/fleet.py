"""A thousand workers on a fake clock: what a run's decisions make of them.

The scheduler is the real one. Workers take tasks from a queue, as Dask's do; the client works
for a while on each thing that it does, and everything waits while it is busy.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from dataclasses import dataclass, field
from random import Random

from tilevision.grid import Grid
from tilevision.schedule import Policy, Scheduler
from tilevision.schedule.messages import (
    ClusterChanged,
    Committed,
    Happening,
    Submit,
    TaskFinished,
    TileStarted,
)

__all__ = ["ClientCost", "Fleet", "Outcome"]


@dataclass(frozen=True)
class ClientCost:
    """Seconds of the client's processor; measured on one core of 2026 with no-op tiles.

    Parameters
    ----------
    call : float
        For one `Client.compute`, however many tasks it sends.
    task : float
        For each task in it, and its result.
    tile : float
        For each tile: its record decoded, stored, counted and told.
    """

    call: float = 0.0023
    task: float = 0.0003
    tile: float = 0.00015


@dataclass(frozen=True)
class Outcome:
    """What became of a simulated run.

    Parameters
    ----------
    elapsed : float
        Seconds on the fake clock.
    used : float
        Share of the workers' time in which they had a tile.
    tasks : int
    deciding : float
        Real seconds in the scheduler, a tile.
    """

    elapsed: float
    used: float
    tasks: int
    deciding: float


@dataclass
class Fleet:
    """Simulates one run.

    Parameters
    ----------
    tiles, workers : int
    seconds : float
        That a tile takes; each by up to a fifth more or less.
    cost : ClientCost
    """

    tiles: int
    workers: int
    seconds: float
    cost: ClientCost = ClientCost()
    now: float = 0.0
    free: int = 0
    waiting: deque[Submit] = field(default_factory=deque)
    running: list[tuple[float, int, Submit]] = field(default_factory=list)
    landed: list[Submit] = field(default_factory=list)
    busy: float = 0.0
    tasks: int = 0
    number: itertools.count[int] = field(default_factory=itertools.count)
    random: Random = field(default_factory=lambda: Random(0))

    def run(self) -> Outcome:
        """Carry all tiles out."""
        columns = 1000 if self.tiles >= 1000 else self.tiles
        grid = Grid(rows=self.tiles // columns, cols=columns)
        scheduler = Scheduler(grid.tiles((10_000_000, 10_000_000)), Policy())
        self.free, deciding = self.workers, 0.0
        happenings: list[Happening] = [ClusterChanged({f"w{i}": 1 for i in range(self.workers)})]
        while not scheduler.ended:
            began = time.perf_counter()
            actions = scheduler.advance(happenings, self.now)
            deciding += time.perf_counter() - began
            self._send([action for action in actions if isinstance(action, Submit)])
            happenings = self._hear()
        return Outcome(
            self.now, self.busy / (self.workers * self.now), self.tasks, deciding / self.tiles
        )

    def _send(self, submits: list[Submit]) -> None:
        self.tasks += len(submits)
        self._pass((self.cost.call if submits else 0.0) + self.cost.task * len(submits))
        self.waiting.extend(submits)
        while self.free and self.waiting:
            self._begin(self.now)

    def _begin(self, when: float) -> None:
        submit = self.waiting.popleft()
        takes = len(submit.tiles) * self.seconds * self.random.uniform(0.8, 1.2)
        self.busy += takes
        self.free -= 1
        heapq.heappush(self.running, (when + takes, next(self.number), submit))

    def _pass(self, seconds: float) -> None:
        """Let time pass; workers that finish take the next task by themselves."""
        self.now += seconds
        while self.running and self.running[0][0] <= self.now:
            when, _, submit = heapq.heappop(self.running)
            self.landed.append(submit)
            self.free += 1
            if self.waiting:
                self._begin(when)

    def _hear(self) -> list[Happening]:
        """Take in what has landed, or wait for the next."""
        if not self.landed and self.running:
            self._pass(max(0.0, self.running[0][0] - self.now))
        landed, self.landed = self.landed, []
        out: list[Happening] = []
        for submit in landed:
            out.extend(TileStarted(submit.task, tile, "w0") for tile in submit.tiles)
            out.append(Committed(submit.tiles))
            out.append(
                TaskFinished(
                    submit.task, dict.fromkeys(submit.tiles), len(submit.tiles) * self.seconds
                )
            )
        self._pass(self.cost.tile * sum(len(submit.tiles) for submit in landed))
        return out
