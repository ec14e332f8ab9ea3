"""The loop that carries the scheduler's decisions out, in the run's own thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from tilevision.cluster import Cluster
from tilevision.errors import ClusterError, Failure
from tilevision.fanout.client import Broken, Dispatch, Flight, Heard, Landed, WorkersSeen
from tilevision.fanout.probe import probe
from tilevision.fanout.returns import DIED, broken, finished, lost_with_scheduler
from tilevision.fanout.watchdog import Watchdog
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
    Submit,
    TaskLost,
    TileStarted,
)

__all__ = ["Decider", "run_tiles"]

HEARTBEAT_SECONDS = 1.0
# Our own cluster replaces its workers within seconds; this long without any, it is broken.
WORKERLESS_REBUILD_SECONDS = 90.0
# Losing the scheduler this often, with no tile committed in between, is not bad luck.
FRUITLESS_REBUILDS = 3


class Decider(Protocol):
    """What the loop needs of `tilevision.schedule.Scheduler`."""

    def advance(self, happenings: Sequence[Happening], now: float) -> list[Action]:
        """Return what to do after what happened."""
        ...

    def wake_at(self, now: float) -> float | None:
        """Return when something is due though nothing happens."""
        ...


def _no_words(_: str) -> None:
    return None


def _no_account(_: TileOutcome) -> None:
    return None


def run_tiles(
    cluster: Cluster,
    work: Work,
    scheduler: Decider,
    *,
    run_id: str,
    commit: Callable[[list[TileOutcome]], dict[Tile, Failure]],
    announce: Callable[[Announce], None],
    commands: SimpleQueue[Happening],
    on_outcome: Callable[[TileOutcome, int, str], None],
    on_wait: Callable[[str], None] = _no_words,
    on_hold: Callable[[str], None] = _no_words,
    on_model: Callable[[str], None] = _no_words,
    on_back: Callable[[TileOutcome], None] = _no_account,
) -> End:
    """Fan tiles out until the scheduler ends; in the caller's thread.

    Parameters
    ----------
    cluster : Cluster
    work : Work
        Pickled once, brought to each worker once.
    scheduler : Scheduler
        Decides; told of everything that happens.
    run_id : str
        Names the run on the dashboard.
    commit : callable
        Stores the outcomes given in one transaction; returns those it cannot hold.
    announce : callable
        Told each new status of a tile, except ``done``.
    commands : SimpleQueue
        `Paused`, `Resumed`, `Cancelled`, `RetryFailed`, `SetConcurrency`, from any thread. The
        loop sleeps on this queue, so it puts its own signals there too.
    on_outcome : callable
        ``on_outcome(outcome, attempt, worker)`` for each tile once it is committed.
    on_wait : callable
        One line whenever the run stands still or the cluster had to be rebuilt.
    on_hold : callable
        The reason, when the run pauses of its own accord.
    on_model : callable
        One line before the first tile: on what the model runs, where that is known.
    on_back : callable
        Each outcome that came back, failed ones too, before anything else is made of it.

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
    if cluster.alive and (line := probe(cluster, work, on_wait)):
        on_model(line)
    loop = _Loop(
        cluster=cluster,
        scheduler=scheduler,
        commit=commit,
        announce=announce,
        on_outcome=on_outcome,
        on_wait=on_wait,
        on_hold=on_hold,
        on_back=on_back,
        dispatch=Dispatch(cluster, work, run_id, commands),
        inbox=commands,
        watchdog=Watchdog(on_wait, time.monotonic()),
    )
    return loop.run()


@dataclass(slots=True)
class _Loop:
    cluster: Cluster
    scheduler: Decider
    commit: Callable[[list[TileOutcome]], dict[Tile, Failure]]
    announce: Callable[[Announce], None]
    on_outcome: Callable[[TileOutcome, int, str], None]
    on_wait: Callable[[str], None]
    on_hold: Callable[[str], None]
    on_back: Callable[[TileOutcome], None]
    dispatch: Dispatch
    inbox: SimpleQueue[Any]
    watchdog: Watchdog
    workers: dict[str, int] = field(default_factory=dict)
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
            self.dispatch.close()

    def _join(self) -> list[Happening]:
        """Meet the cluster, at the start and after a rebuild."""
        if not self.cluster.alive:
            return self._rebuild()
        try:
            self.dispatch.open()
            self.workers = self.cluster.workers()
        except ClusterError:
            if self.cluster.alive:
                raise
            return self._rebuild()
        self.watchdog.saw(len(self.workers), time.monotonic())
        return [ClusterChanged(self.workers)]

    # What is to be done ------------------------------------------------------------------

    def _carry_out(self, actions: Iterable[Action]) -> End | None:
        submits: list[Submit] = []
        end: End | None = None
        for action in actions:
            match action:
                case Submit():
                    submits.append(action)
                case Announce():
                    self.announce(action)
                case Abandon():
                    self.dispatch.abandon(action.task, restart_worker=action.restart_worker)
                case Hold():
                    self.on_hold(action.reason)
                case End():
                    end = action
        if submits:
            self.dispatch.submit(submits)
        return end

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
        landed: list[tuple[Flight, Landed]] = []
        lost = False
        for signal in signals:
            match signal:
                case Heard():
                    happenings.extend(self._heard(signal))
                case Landed():
                    landed.extend(
                        (flight, signal) for flight in self.dispatch.release([signal.task])
                    )
                case Broken():
                    if lost_with_scheduler(signal, self.cluster):
                        lost = signal.task in self.dispatch.flights or lost
                    else:
                        happenings.extend(self._broken(signal))
                case WorkersSeen():
                    happenings.extend(self._workers_seen(signal.workers))
                case _:
                    happenings.append(signal)
        happenings.extend(self._landed(landed))
        if lost or self._stands_still():
            happenings.extend(self._rebuild())
        return happenings

    def _heard(self, heard: Heard) -> list[Happening]:
        flight = self.dispatch.flights.get(heard.task)
        if flight is None:
            return []
        flight.worker = heard.worker
        tile = flight.submit.tiles[heard.tile]
        return [TileStarted(heard.task, tile, heard.worker, heard.cold)]

    def _landed(self, landed: Sequence[tuple[Flight, Landed]]) -> list[Happening]:
        """Commit all that has arrived in one transaction, then tell of it."""
        if not landed:
            return []
        self.watchdog.moved(time.monotonic())
        for _, signal in landed:
            for outcome in signal.report.outcomes:
                self.on_back(outcome)
        good = [o for _, signal in landed for o in signal.report.outcomes if o.failure is None]
        refused = self.commit(good) if good else {}
        committed = tuple(outcome.tile for outcome in good if outcome.tile not in refused)
        happenings: list[Happening] = []
        if committed:
            self.rebuilds = 0
            happenings.append(Committed(committed))
        if refused:
            happenings.append(Refused(refused))
        for flight, signal in landed:
            happenings.append(finished(flight, signal))
            attempts = flight.attempts()
            for outcome in signal.report.outcomes:
                if outcome.failure is None and outcome.tile not in refused:
                    self.on_outcome(outcome, attempts.get(outcome.tile, 1), signal.report.worker)
        return happenings

    def _broken(self, signal: Broken) -> list[Happening]:
        flights = self.dispatch.release([signal.task])
        if not flights:
            return []
        self.watchdog.moved(time.monotonic())
        happening = broken(flights[0], signal)
        if isinstance(happening, TaskLost):
            self.looked = 0.0  # a worker is likely to have gone
        return [happening]

    def _workers_seen(self, workers: dict[str, int]) -> list[Happening]:
        self.watchdog.saw(len(workers), time.monotonic())
        if workers == self.workers:
            return []
        gone = self.workers.keys() - workers.keys()
        self.workers = workers
        # Dask may run a task again wherever the user's cluster allows for failures: a tile that
        # kills workers is not given the next one.
        orphans = [task for task, flight in self.dispatch.flights.items() if flight.worker in gone]
        self.dispatch.release(orphans)
        return [*(TaskLost(task, DIED) for task in orphans), ClusterChanged(workers)]

    # When the cluster fails --------------------------------------------------------------

    def _stands_still(self) -> bool:
        """Look around once a second; return whether the cluster has to be rebuilt."""
        now = time.monotonic()
        if not self.cluster.alive:
            return True
        if now - self.looked >= HEARTBEAT_SECONDS:
            self.looked = now
            self.dispatch.look()
            if self.cluster.heal():
                self.on_wait(
                    "the Dask cluster had given up workers that died; it starts them again"
                )
            self.watchdog.check(len(self.dispatch.flights), now)
        return self.cluster.owned and self.watchdog.workerless(now) > WORKERLESS_REBUILD_SECONDS

    def _rebuild(self) -> list[Happening]:
        """Start the cluster anew, or end the run where that is not ours to do."""
        self.dispatch.flights.clear()
        if not self.cluster.alive or self.cluster.owned:
            self.rebuilds += 1
            if self.rebuilds > FRUITLESS_REBUILDS:
                raise ClusterError(
                    f"the local cluster was lost {self.rebuilds} times without one tile done; "
                    "is memory short? fewer workers= need less"
                )
            self.cluster.rebuild()
            self.on_wait("the Dask scheduler was lost; the cluster has been started again")
        return [ClusterLost(), *self._join()]
