"""What a task that came back, or never will, means for its tiles."""

from __future__ import annotations

from distributed.scheduler import KilledWorker, NoValidWorkerError, NoWorkerError

from tilevision.cluster import Cluster
from tilevision.errors import Failure
from tilevision.fanout.client import Broken, Flight, Landed
from tilevision.schedule.messages import TaskFinished, TaskLost
from tilevision.schedule.outcomes import DIED

__all__ = ["DIED", "broken", "finished", "lost_with_scheduler"]

LOST_WITH_SCHEDULER = ("scheduler-connection-lost", "scheduler-restart")
GIVEN_UP = (KilledWorker, NoValidWorkerError, NoWorkerError)


def lost_with_scheduler(signal: Broken, cluster: Cluster) -> bool:
    """Whether a task is gone because all tasks are: nothing speaks against its tiles."""
    if signal.raised:
        return False
    reason = getattr(signal.error, "reason", "")
    return reason in LOST_WITH_SCHEDULER or not cluster.alive


def broken(flight: Flight, signal: Broken) -> TaskFinished | TaskLost:
    """Return what a task without a result means: it raised, or Dask lost it."""
    if not signal.raised or isinstance(signal.error, GIVEN_UP):
        return TaskLost(signal.task, _loss(signal.error))
    tiles = flight.submit.tiles
    failure = Failure.of(signal.error)
    batched = frozenset(tiles if len(tiles) > 1 else ())
    return TaskFinished(signal.task, dict.fromkeys(tiles, failure), batched=batched)


def finished(flight: Flight, signal: Landed) -> TaskFinished:
    """Return what a task brought; a tile that it left out has failed."""
    outcomes = {outcome.tile: outcome.failure for outcome in signal.report.outcomes}
    for tile in flight.submit.tiles:
        if tile not in outcomes:
            outcomes[tile] = Failure("transient", "RuntimeError", "the worker left this tile out")
    batched = frozenset(
        outcome.tile for outcome in signal.report.outcomes if outcome.failure and outcome.batched
    )
    return TaskFinished(flight.submit.task, outcomes, signal.report.seconds, batched)


def _loss(error: BaseException) -> Failure:
    """Say in one line what became of a task that never came back."""
    if isinstance(error, KilledWorker):
        return DIED
    if isinstance(error, (NoValidWorkerError, NoWorkerError)):
        return Failure("lost", "NoWorker", "Dask found no worker for it in time")
    line = " ".join(str(error).split())[:300]
    return Failure("lost", type(error).__name__, f"Dask lost the task ({line})")
