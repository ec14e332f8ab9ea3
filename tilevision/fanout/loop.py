"""The loop that carries the scheduler's decisions out, in the run's own thread, with a watchdog."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import dask

from tilevision.cluster import Cluster, Crew, Sighting
from tilevision.errors import ClusterError, Failure
from tilevision.fanout.client import (
    DIED,
    Broken,
    Heard,
    Landed,
    Sent,
    TakenBack,
    Tasks,
    WorkersSeen,
    broken,
    finished,
    lost_with_scheduler,
)
from tilevision.fanout.probe import Fitness, probe
from tilevision.grid import Tile
from tilevision.infer import TileOutcome, Work
from tilevision.schedule.messages import (
    Abandon,
    Action,
    Announce,
    ClusterChanged,
    ClusterLost,
    Committed,
    End,
    Happening,
    Hold,
    Refused,
    Renewed,
    Submit,
    TakeBack,
    TaskLost,
    TileStarted,
    TileWaits,
)

__all__ = ["Decider", "TileSink", "Watchdog", "run_tiles"]

HEARTBEAT_SECONDS = 1.0
# Our own cluster replaces its workers within seconds; this long without any, it is broken.
WORKERLESS_REBUILD_SECONDS = 90.0
# Losing the scheduler this often, with no tile committed in between, is not bad luck.
FRUITLESS_REBUILDS = 3
QUIET_SECONDS = 60.0
WORKERLESS_SECONDS = 5.0
REMIND_SECONDS = 60.0
WORKERS_A_LOOK = 100  # a scheduler describes so many in a few milliseconds
SILENT_DEATH_SECONDS = 20.0
SILENT = Failure(
    "lost",
    "WorkerSilent",
    "its worker did not answer for so long that Dask gave it up (a tile that holds Python's "
    "lock?); a larger distributed.scheduler.worker-ttl in Dask's configuration waits longer",
)
LEFT_OUT = Failure("lost", "HostLeftOut", "its host cannot do the work")
TAKEN_BACK = Failure("lost", "WorkerPaused", "its worker takes no more tiles")
QUEUED = Failure("lost", "TakenBack", "no worker had begun it")
RETIRED = Failure("lost", "WorkerRetired", "its worker was closed")


class Decider(Protocol):
    """What the loop needs of `tilevision.schedule.Scheduler`."""

    def advance(self, happenings: Sequence[Happening], now: float) -> list[Action]:
        """Return what to do after what happened."""
        ...

    def wake_at(self, now: float) -> float | None:
        """Return when something is due though nothing happens."""
        ...


class TileSink(Protocol):
    """Takes what becomes of tiles; called in the thread that fans them out."""

    def back(self, outcome: TileOutcome) -> None:
        """Take an outcome that came back, failed or not, before anything else is made of it."""
        ...

    def commit(self, outcomes: list[TileOutcome]) -> dict[Tile, Failure]:
        """Store outcomes in one transaction; return those that cannot be stored, and why."""
        ...

    def keep(self, outcome: TileOutcome, attempt: int, worker: str) -> None:
        """Take an outcome that is committed; its tile is done."""
        ...

    def announce(self, change: Announce) -> None:
        """Take a new status of a tile, except ``done``."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """Return a context: what is kept and announced within may be written at its end."""
        ...

    def model(self, line: str) -> None:
        """Take one line before the first tile: on what the model runs, where that is known."""
        ...

    def waiting(self, line: str) -> None:
        """Take one line whenever the run stands still, or the cluster had to be rebuilt."""
        ...

    def hold(self, reason: str) -> None:
        """Take the reason when the run pauses by itself."""
        ...


def run_tiles(
    cluster: Cluster,
    work: Work,
    scheduler: Decider,
    sink: TileSink,
    *,
    run_id: str,
    commands: SimpleQueue[Happening],
) -> End:
    """Fan tiles out until the scheduler ends; in the caller's thread.

    Parameters
    ----------
    cluster : Cluster
    work : Work
        Pickled once, brought to each worker once.
    scheduler : Scheduler
        Decides; gets everything that happens.
    sink : TileSink
        Takes what becomes of the tiles.
    run_id : str
        Names the run on the dashboard.
    commands : SimpleQueue
        `Paused`, `Resumed`, `Cancelled`, `RetryFailed`, `SetConcurrency`, from any thread. The
        loop sleeps on this queue, so it puts its own signals there too.

    Returns
    -------
    End

    Raises
    ------
    ClusterError
        If a user's cluster cannot do the work or is lost, or ours is time after time. What was
        committed stays.
    ModelError
        If the model's device or library is not there.
    """
    fitness = probe(cluster, work, sink.waiting) if cluster.alive else Fitness()
    if fitness.runtime:
        sink.model(fitness.runtime)
    loop = _Loop(
        cluster=cluster,
        scheduler=scheduler,
        sink=sink,
        tasks=Tasks(cluster, work, run_id, commands, fitness.fit, bool(fitness.unfit)),
        inbox=commands,
        watchdog=Watchdog(sink.waiting, time.monotonic()),
        crew=Crew(dask.get_annotations(), fitness.unfit),
    )
    return loop.run()


@dataclass(slots=True)
class _Loop:
    cluster: Cluster
    scheduler: Decider
    sink: TileSink
    tasks: Tasks
    inbox: SimpleQueue[Any]
    watchdog: Watchdog
    crew: Crew
    workers: ClusterChanged = field(default_factory=lambda: ClusterChanged({}))
    looked: float = 0.0
    rebuilds: int = 0

    def run(self) -> End:
        happenings: list[Happening] = []
        try:
            happenings.extend(self._join())
            happenings.extend(self._take_in(self._receive(0.0)))  # such as a pause before it began
            while True:
                end = self._carry_out(self.scheduler.advance(happenings, time.monotonic()))
                if end is not None:
                    return end
                happenings = self._take_in(self._receive())
        finally:
            self.tasks.close()

    def _join(self) -> list[Happening]:
        """Meet the cluster, at the start and after a rebuild."""
        if not self.cluster.alive:
            return self._rebuild()
        try:
            self.tasks.open()
            self.crew.saw(_sighted(self.cluster), time.monotonic())
        except ClusterError:
            if self.cluster.alive:
                raise
            return self._rebuild()
        self.watchdog.saw(len(self.crew.workers), time.monotonic())
        self._bind()
        self.workers = self._there()
        return [self.workers]

    def _bind(self) -> None:
        """Keep tasks from hosts that cannot do the work.

        Raises
        ------
        ClusterError
            If no worker is on a host that can.
        """
        if self.crew.hopeless:
            host, trouble = next(iter(self.crew.unfit.items()))
            raise ClusterError(f"Worker host {host} {trouble}.")
        self.tasks.bounded = self.crew.bounded

    def _there(self) -> ClusterChanged:
        """Return the workers that are there, as the scheduler wants to know them."""
        working = {a: n for a, n in self.crew.workers.items() if a not in self.crew.idle}
        may_have = self.cluster.may_have(working)
        return ClusterChanged(dict(self.crew.workers), self.crew.idle, may_have)

    # What is to be done ------------------------------------------------------------------

    def _carry_out(self, actions: Iterable[Action]) -> End | None:
        submits: list[Submit] = []
        left: list[str] = []
        end: End | None = None
        with self.sink.together():
            for action in actions:
                match action:
                    case Submit():
                        submits.append(action)
                    case Announce():
                        self.sink.announce(action)
                    case Abandon():
                        left.extend(self._abandon(action))
                    case TakeBack():
                        self.tasks.take_back(action)
                    case Hold():
                        self.sink.hold(action.reason)
                    case End():
                        end = action
        if submits:
            self.tasks.submit(submits)
        if left:
            workers = ", ".join(sorted(set(left)))
            self.sink.waiting(
                f"{len(left)} tiles still run on {workers}; the run no longer waits for them. "
                "Restart those workers if the tiles hang."
            )
        return end

    def _abandon(self, action: Abandon) -> list[str]:
        """Forget a task; return the worker that a cancelled run leaves it to, where that stays."""
        flight = self.tasks.flights.get(action.task)
        theirs = action.left and not self.cluster.owned
        restart = action.restart_worker and not theirs
        self.tasks.abandon(action.task, restart_worker=restart)
        return [flight.worker] if flight is not None and action.left and not restart else []

    # What has happened -------------------------------------------------------------------

    def _receive(self, patience: float = HEARTBEAT_SECONDS) -> list[Any]:
        """Sleep until something comes or is due, and return all that has come."""
        now = time.monotonic()
        due = self.scheduler.wake_at(now)
        patience = patience if due is None else min(patience, due - now)
        signals = []
        try:
            signals.append(self.inbox.get(timeout=max(0.0, patience)))
            while True:
                signals.append(self.inbox.get_nowait())
        except Empty:
            return signals

    def _take_in(self, signals: Sequence[Any]) -> list[Happening]:
        """Turn signals into happenings; results are committed first."""
        happenings: list[Happening] = []
        landed: list[tuple[Sent, Landed]] = []
        lost = False
        for signal in signals:
            match signal:
                case Heard():
                    happenings.extend(self._heard(signal))
                case Landed():
                    landed.extend((flight, signal) for flight in self.tasks.release([signal.task]))
                case Broken():
                    if lost_with_scheduler(signal, self.cluster):
                        lost = signal.task in self.tasks.flights or lost
                    else:
                        happenings.extend(self._broken(signal))
                case TakenBack():
                    happenings.extend(self._taken_back(signal))
                case WorkersSeen():
                    happenings.extend(self._workers_seen(signal))
                case _:
                    happenings.append(signal)
        happenings.extend(self._landed(landed))
        if lost or self._stands_still():
            happenings.extend(self._rebuild())
        return happenings

    def _heard(self, heard: Heard) -> list[Happening]:
        flight = self.tasks.flights.get(heard.task)
        if flight is None:
            return []
        flight.worker = heard.worker
        tiles = [flight.submit.tiles[number] for number in heard.tiles]
        if heard.waits:
            return [TileWaits(heard.task, tile, heard.worker) for tile in tiles]
        return [TileStarted(heard.task, tile, heard.worker, heard.cold) for tile in tiles]

    def _landed(self, landed: Sequence[tuple[Sent, Landed]]) -> list[Happening]:
        """Commit all that has arrived in one transaction, then report it."""
        if not landed:
            return []
        self.watchdog.moved(time.monotonic())
        unfit = [(flight, signal) for flight, signal in landed if signal.report.unfit]
        landed = [(flight, signal) for flight, signal in landed if not signal.report.unfit]
        happenings = self._unfit(unfit)
        for _, signal in landed:
            for outcome in signal.report.outcomes:
                self.sink.back(outcome)
        good = [o for _, signal in landed for o in signal.report.outcomes if o.failure is None]
        refused = self.sink.commit(good) if good else {}
        committed = tuple(outcome.tile for outcome in good if outcome.tile not in refused)
        if committed:
            self.rebuilds = 0
            happenings.append(Committed(committed))
        if refused:
            happenings.append(Refused(refused))
        happenings.extend(finished(flight, signal) for flight, signal in landed)
        with self.sink.together():
            for flight, signal in landed:
                attempts, worker = flight.attempts(), signal.report.worker
                for outcome in signal.report.outcomes:
                    if outcome.failure is None and outcome.tile not in refused:
                        self.sink.keep(outcome, attempts.get(outcome.tile, 1), worker)
        return happenings

    def _broken(self, signal: Broken) -> list[Happening]:
        flights = self.tasks.release([signal.task])
        if not flights:
            return []
        self.watchdog.moved(time.monotonic())
        happening = broken(flights[0], signal)
        if isinstance(happening, TaskLost):
            self.looked = 0.0  # a worker is likely to have gone
        return [happening]

    def _taken_back(self, signal: TakenBack) -> list[Happening]:
        self.tasks.release(signal.tasks)
        return [TaskLost(task, QUEUED, "", blameless=True) for task in signal.tasks]

    def _workers_seen(self, seen: WorkersSeen) -> list[Happening]:
        now = time.monotonic()
        happenings: list[Happening] = []
        for address in self.crew.workers.keys() - seen.workers.keys():
            happenings.extend(self._orphaned(address, now))
        self.crew.saw(seen.workers, now)
        self.watchdog.saw(
            len(self.crew.workers if (fit := self.crew.bounded) is None else fit), now
        )
        happenings.extend(self._bound_to_nobody())
        for line in self.crew.news(now, owned=self.cluster.owned):
            self.sink.waiting(line)
        for address in self.crew.stuck(now):
            happenings.extend(self._stuck(address, seen.held.get(address, ())))
        there = self._there()
        if there != self.workers:
            self.workers = there
            happenings.append(there)
        idle = not (self.crew.workers or self.tasks.flights)
        self.tasks.want_workers(wanted=idle and there.may_have > 0)
        return happenings

    def _orphaned(self, address: str, now: float) -> list[Happening]:
        """Take back what a worker had begun that is gone.

        Dask may run a task again wherever the user's cluster allows for failures: a tile that
        kills workers is not given the next one.
        """
        retired = self.crew.retires(address)
        silent = self.crew.silent(address, now) >= SILENT_DEATH_SECONDS
        failure = RETIRED if retired else SILENT if silent else DIED
        orphans = [task for task, flight in self.tasks.flights.items() if flight.worker == address]
        self.tasks.release(orphans)
        return [TaskLost(task, failure, address, blameless=retired) for task in orphans]

    def _bound_to_nobody(self) -> list[Happening]:
        """Take back tasks whose workers have all gone before they began; bind others anew."""
        self.tasks.bounded = self.crew.bounded
        if not self.crew.bounded:
            return []
        back = [
            task
            for task, flight in self.tasks.flights.items()
            if flight.bound and not (flight.worker or flight.bound & self.crew.workers.keys())
        ]
        self.tasks.release(back)
        return [TaskLost(task, RETIRED, "", blameless=True) for task in back]

    def _stuck(self, address: str, keys: Sequence[str]) -> list[Happening]:
        """Take back what waits on a paused worker; renew ours, once nothing runs there."""
        waiting = {
            flight.future.key: task
            for task, flight in self.tasks.flights.items()
            if not flight.worker
        }
        back = [waiting[key] for key in keys if key in waiting]
        self.tasks.release(back)
        happenings: list[Happening] = [
            TaskLost(task, TAKEN_BACK, address, blameless=True) for task in back
        ]
        if self.cluster.owned and len(back) == len(keys):
            if line := self.crew.renewed(address, time.monotonic()):
                self.sink.waiting(line)
            self.cluster.restart_worker(address)
            happenings.append(Renewed(address))
        return happenings

    def _unfit(self, landed: Sequence[tuple[Sent, Landed]]) -> list[Happening]:
        """Leave hosts out that cannot do the work; send what they were given elsewhere.

        Raises
        ------
        ClusterError
            If no worker is on a host that can.
        """
        happenings: list[Happening] = []
        for flight, signal in landed:
            worker, trouble = signal.report.worker, signal.report.unfit
            if line := self.crew.leave_out(worker, trouble):
                self.sink.waiting(line)
            happenings.append(TaskLost(flight.submit.task, LEFT_OUT, worker, blameless=True))
        if landed:
            seen = self.crew.seen
            if not {signal.report.worker for _, signal in landed} <= seen.keys():
                # A worker that has just joined answers before anybody has looked around. Those
                # that are gone stay until then: what they had begun is taken back there.
                with suppress(ClusterError):
                    seen = _sighted(self.cluster) | seen
            self.crew.saw(dict(seen), time.monotonic())
            self._bind()
            self.workers = self._there()
            happenings.append(self.workers)
        return happenings

    # When the cluster fails --------------------------------------------------------------

    def _stands_still(self) -> bool:
        """Look around once a second; return whether the cluster has to be rebuilt."""
        now = time.monotonic()
        if not self.cluster.alive:
            return True
        if now - self.looked >= HEARTBEAT_SECONDS * max(1, len(self.crew.workers) / WORKERS_A_LOOK):
            self.looked = now
            self.tasks.look()
            if self.cluster.heal():
                self.sink.waiting(
                    "The Dask cluster had given up on workers that died; it starts them again."
                )
            self.watchdog.check(len(self.tasks.flights), now)
        return self.cluster.owned and self.watchdog.workerless(now) > WORKERLESS_REBUILD_SECONDS

    def _rebuild(self) -> list[Happening]:
        """Start the cluster anew, or end the run where that is not ours to do."""
        self.tasks.flights.clear()
        if not self.cluster.alive or self.cluster.owned:
            self.rebuilds += 1
            if self.rebuilds > FRUITLESS_REBUILDS:
                raise ClusterError(
                    f"The local cluster was lost {self.rebuilds} times without one tile done. Is "
                    "memory short? Fewer workers= need less."
                )
            self.cluster.rebuild()
            self.sink.waiting("The Dask scheduler was lost; the cluster has been started again.")
        return [ClusterLost(), *self._join()]


def _sighted(cluster: Cluster) -> dict[str, Sighting]:
    """Return the workers that are there now."""
    return {address: Sighting.of(worker) for address, worker in cluster.described().items()}


@dataclass(slots=True)
class Watchdog:
    """Says now and then why nothing happens, so that a run never hangs without a word.

    Parameters
    ----------
    tell : callable
        Gets one line.
    now : float
        Seconds on the caller's clock, as in the methods.
    """

    tell: Callable[[str], None]
    now: float
    _moved: float = 0.0
    _worker_seen: float = 0.0
    _said: float | None = None

    def __post_init__(self) -> None:
        self._moved = self._worker_seen = self.now

    def moved(self, now: float) -> None:
        """Note that a task came back."""
        self._moved = now
        self._said = None

    def saw(self, workers: int, now: float) -> None:
        """Note how many workers there are."""
        if workers:
            if self.workerless(now) >= WORKERLESS_SECONDS:
                self._said = None
            self._worker_seen = now

    def workerless(self, now: float) -> float:
        """Return for how many seconds no worker was seen."""
        return now - self._worker_seen

    def check(self, flying: int, now: float) -> None:
        """Say what is wrong if something is, at most once a minute.

        Parameters
        ----------
        flying : int
            Tasks that were submitted and have not come back.
        now : float
        """
        line = self._complaint(flying, now)
        if line and (self._said is None or now - self._said >= REMIND_SECONDS):
            self._said = now
            self.tell(line)

    def _complaint(self, flying: int, now: float) -> str:
        gone = self.workerless(now)
        if gone >= WORKERLESS_SECONDS:
            return f"The Dask cluster has had no worker for {gone:.0f} s; waiting for one."
        quiet = now - self._moved
        if flying and quiet >= QUIET_SECONDS:
            return (
                f"No tile has come back for {quiet:.0f} s ({flying} tasks in progress); "
                "timeout= gives up on tiles that take too long."
            )
        return ""
