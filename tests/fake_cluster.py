"""A cluster made of a heap and a random generator, to run schedules by the thousand.

It runs tiles by script, delays and reorders what it tells, lets workers die with all they
have, hangs, vanishes and comes back.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from schedule_referee import Referee

from tilevision.errors import Failure
from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.schedule import Policy, Scheduler
from tilevision.schedule.messages import (
    Abandon,
    Action,
    ClusterChanged,
    ClusterLost,
    Committed,
    Happening,
    Hold,
    Refused,
    Resumed,
    Submit,
    TakeBack,
    TaskFinished,
    TaskLost,
    TileStarted,
)

__all__ = ["HANGS", "KILLS", "OK", "SLOW", "FakeCluster", "Script", "row_of_tiles"]

LOST = Failure("lost", "WorkerDied", "its worker died")
TOO_LARGE = Failure("permanent", "CheckpointTooLarge", "too large")
OK, KILLS, HANGS, SLOW = "ok", "kills", "hangs", "slow"
SLOW_SECONDS = (4.0, 9.0)


def row_of_tiles(n: int) -> tuple[Tile, ...]:
    return tuple(Tile(0, i, Box(10 * i, 0, 10 * i + 10, 10)) for i in range(n))


@dataclass
class Script:
    """What one schedule does: to tiles, to workers, to the run.

    Parameters
    ----------
    tiles : tuple of Tile
    policy : Policy
    behaviour : dict of Tile to list
        What each try of a tile does: `OK`, a `Failure`, `KILLS`, `HANGS` or `SLOW`; the
        last one for all further tries.
    workers, threads : int
    seconds : float
        That a tile takes, on average.
    hints_lost : float
        Fraction of `TileStarted` that never arrive.
    batch_failures : float
        Fraction of errors that take the whole task along.
    same_address : bool
        Whether a dead worker comes back under its name.
    silent_pins : bool
        Whether Dask says nothing of a task that is pinned to a worker that is gone.
    late_results : bool
        Whether tasks that were given up still report.
    commit_first : bool
        Whether `Committed` comes before its `TaskFinished`, else up to `commit_delay` after.
    refused : frozenset of Tile
        Too large for the checkpoint.
    kills, losses : tuple of float
        When a worker is killed from outside, and when the whole cluster is lost.
    outage : tuple of (float, float, Failure), optional
        From when to when every tile fails, and how.
    commands : tuple of (float, Happening)
    tick : float
        Seconds by which the conductor is late, so that it hears of several things at once.
    resume_after : float, optional
        Seconds after which somebody resumes a run that holds; None: nobody does.
    """

    tiles: tuple[Tile, ...]
    policy: Policy
    behaviour: dict[Tile, list[str | Failure]]
    workers: int = 2
    threads: int = 1
    seconds: float = 0.05
    hints_lost: float = 0.0
    batch_failures: float = 0.0
    same_address: bool = False
    silent_pins: bool = False
    late_results: bool = False
    commit_first: bool = True
    commit_delay: float = 0.0
    refused: frozenset[Tile] = frozenset()
    kills: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    outage: tuple[float, float, Failure] | None = None
    commands: tuple[tuple[float, Happening], ...] = ()
    tick: float = 0.0
    resume_after: float | None = 5.0


@dataclass
class Order:
    """A task that the cluster has."""

    submit: Submit
    worker: str
    running: bool = False
    abandoned: bool = False
    dead: bool = False
    hung: bool = False


Happens = list[Happening]


@dataclass
class FakeCluster:
    """Runs a `Script` against a real `Scheduler`, watched by a `Referee`."""

    script: Script
    random: Random
    now: float = 1000.0
    heap: list[Any] = field(default_factory=list)
    number: itertools.count[int] = field(default_factory=itertools.count)
    alive: dict[str, int] = field(default_factory=dict)
    orders: dict[str, Order] = field(default_factory=dict)
    stored: set[Tile] = field(default_factory=set)
    tries: Counter[Tile] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        script = self.script
        self.scheduler = Scheduler(script.tiles, script.policy, seed=1)
        self.referee = Referee(self.scheduler, script.tiles, script.policy)
        for _ in range(script.workers):
            self._join()
        for delay, command in script.commands:
            self._later(delay, self._tell, command)
        for delay in script.kills:
            self._later(delay, self._kill_any)
        for delay in script.losses:
            self._later(delay, self._lose_cluster)

    def run(self, steps: int = 6000) -> None:
        """Go on until nothing happens any more."""
        for _ in range(steps):
            happenings = self._due()
            for happening in happenings:
                self.referee.heard(happening)
            for action in self.scheduler.advance(happenings, self.now):
                self.referee.ordered(action, self.now)
                self._carry_out(action)
            self.referee.after()
            wake = self.scheduler.wake_at(self.now)
            assert wake is None or wake >= self.now
            times = [time for time in (wake, self.heap[0][0] if self.heap else None) if time]
            if not times:
                return
            self.now = max(self.now, min(times)) + self.script.tick
        raise AssertionError(f"no end in sight; it waits for {self.scheduler.waiting_for!r}")

    # Time --------------------------------------------------------------------------------

    def _later(self, delay: float, what: Callable[..., Happens], *arguments: object) -> None:
        heapq.heappush(self.heap, (self.now + delay, next(self.number), what, arguments))

    def _due(self) -> Happens:
        """Let everything due happen, and return what the scheduler is told of it."""
        out: Happens = []
        while self.heap and self.heap[0][0] <= self.now:
            _, _, what, arguments = heapq.heappop(self.heap)
            out.extend(what(*arguments))
        return out

    def _tell(self, happening: Happening) -> Happens:
        return [happening]

    # Workers -----------------------------------------------------------------------------

    def _join(self, address: str = "") -> Happens:
        if len(self.alive) < self.script.workers:
            self.alive[address or f"w{next(self.number)}"] = self.script.threads
            self._later(self.random.uniform(0, 0.5), self._census)
        return []

    def _census(self) -> Happens:
        return [ClusterChanged(dict(self.alive))]

    def _kill_any(self) -> Happens:
        return self._kill(self.random.choice(sorted(self.alive))) if self.alive else []

    def _kill(self, address: str) -> Happens:
        """Let a worker die with all it has; the news, and a new worker, come in time."""
        if self.alive.pop(address, None) is None:
            return []
        for order in list(self.orders.values()):
            if order.worker == address:
                order.dead = True
                del self.orders[order.submit.task]
                if not order.abandoned:
                    self._lose(order.submit)
        self._later(self.random.uniform(0, 0.8), self._census)
        back = address if self.script.same_address else ""
        self._later(self.random.uniform(1.0, 4.0), self._join, back)
        return []

    def _lose_cluster(self) -> Happens:
        for order in self.orders.values():
            order.dead = True
        self.orders.clear()
        missing, self.alive = len(self.alive), {}
        for _ in range(max(missing, 1)):
            self._later(self.random.uniform(0.1, 5.0), self._join)
        return [ClusterLost()]

    # Tasks -------------------------------------------------------------------------------

    def _carry_out(self, action: Action) -> None:
        match action:
            case Submit():
                self._accept(action)
            case Abandon(task, restart_worker):
                if task in self.orders:
                    self._abandon(self.orders[task], restart_worker=restart_worker)
            case TakeBack(tasks):
                self._later(self.random.uniform(0, 0.1), self._give_back, tasks)
            case Hold() if self.script.resume_after is not None:
                self._later(self.script.resume_after, self._tell, Resumed())

    def _accept(self, submit: Submit) -> None:
        loads = Counter(order.worker for order in self.orders.values())
        target = submit.worker or min(self.alive, key=loads.__getitem__, default="nowhere")
        if target in self.alive:
            self.orders[submit.task] = Order(submit, target)
            self._later(self.random.uniform(0, 0.005), self._pull, target)
        else:
            self._lose(submit)

    def _lose(self, submit: Submit) -> None:
        if not (self.script.silent_pins and submit.worker):
            self._later(self.random.uniform(0, 0.5), self._tell, TaskLost(submit.task, LOST))

    def _abandon(self, order: Order, *, restart_worker: bool) -> None:
        order.abandoned = True
        if not order.running:
            del self.orders[order.submit.task]
        elif restart_worker:
            self._later(self.random.uniform(0, 2), self._kill, order.worker)
        else:
            self._later(self.random.uniform(0, 2), self._hang_up, order)

    def _give_back(self, tasks: Sequence[str]) -> Happens:
        """Drop what no worker has begun."""
        out: Happens = []
        for task in tasks:
            order = self.orders.get(task)
            if order is not None and not (order.running or order.abandoned):
                del self.orders[task]
                out.append(TaskLost(task, LOST, "", blameless=True))
        return out

    def _hang_up(self, order: Order) -> Happens:
        """End a request that was given up, as its own timeout would."""
        if order.hung and self.orders.pop(order.submit.task, None):
            self._pull(order.worker)
        return []

    def _pull(self, worker: str) -> Happens:
        """Let a worker begin what it has threads for."""
        mine = [order for order in self.orders.values() if order.worker == worker]
        running = sum(order.running for order in mine)
        for order in mine:
            if not order.running and running < self.alive.get(worker, 0):
                order.running = True
                running += 1
                self._step(order, 0, {}, frozenset())
        return []

    def _step(
        self,
        order: Order,
        index: int,
        outcomes: dict[Tile, Failure | None],
        batched: frozenset[Tile],
    ) -> Happens:
        """Begin the tile at `index` of a task, or finish the task."""
        if order.dead:
            return []
        tiles = order.submit.tiles
        if index == len(tiles) or batched:
            return self._finish(order, outcomes, batched)
        tile = tiles[index]
        wanted = tile not in self.referee.committed or order.abandoned
        assert wanted, f"{tile.id} runs after its commit"
        self._hint(TileStarted(order.submit.task, tile, order.worker))
        does = self._does(tile)
        seconds = self.random.uniform(0.2, 1.8) * self.script.seconds
        if does == SLOW:
            seconds = self.random.uniform(*SLOW_SECONDS)
        if does == KILLS:
            self._later(seconds, self._kill, order.worker)
            return []
        if does == HANGS:
            order.hung = True
            if order.abandoned:
                self._later(self.random.uniform(0, 2), self._hang_up, order)
            return []
        failure = does if isinstance(does, Failure) else None
        outcomes[tile] = failure
        if failure and len(tiles) > 1 and self.random.random() < self.script.batch_failures:
            outcomes, batched = dict.fromkeys(tiles, failure), frozenset(tiles)
        self._later(seconds, self._step, order, index + 1, outcomes, batched)
        return []

    def _does(self, tile: Tile) -> str | Failure:
        if self.script.outage is not None:
            begins, ends, failure = self.script.outage
            if begins <= self.now - 1000 < ends:
                return failure
        script = self.script.behaviour[tile]
        self.tries[tile] += 1
        return script[min(self.tries[tile], len(script)) - 1]

    def _hint(self, hint: TileStarted) -> None:
        """Tell of a start soon, late, twice or never."""
        if self.random.random() >= self.script.hints_lost:
            for _ in range(1 + (self.random.random() < 0.05)):
                self._later(self.random.expovariate(300), self._tell, hint)

    def _finish(
        self, order: Order, outcomes: dict[Tile, Failure | None], batched: frozenset[Tile]
    ) -> Happens:
        del self.orders[order.submit.task]
        self._later(0.0, self._pull, order.worker)
        if not order.abandoned or self.script.late_results:
            seconds = self.script.seconds * len(order.submit.tiles)
            finished = TaskFinished(order.submit.task, outcomes, seconds, batched)
            self._later(self.random.expovariate(100), self._arrive, finished)
        return []

    def _arrive(self, finished: TaskFinished) -> Happens:
        """Commit what is news, then or later; once it has ended, nobody listens."""
        if self.scheduler.ended:
            return []
        good = [t for t, f in finished.outcomes.items() if f is None and self.scheduler.wants(t)]
        good = [tile for tile in good if tile not in self.stored]
        kept = tuple(tile for tile in good if tile not in self.script.refused)
        refused = {tile: TOO_LARGE for tile in good if tile in self.script.refused}
        self.stored |= set(kept)
        stored: Happens = [Committed(kept)] if kept else []
        stored += [Refused(refused)] if refused else []
        if self.script.commit_first:
            return [*stored, finished]
        for happening in stored:
            self._later(self.random.uniform(0, self.script.commit_delay), self._tell, happening)
        return [finished]
