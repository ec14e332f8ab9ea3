"""Everything a run's decisions rest on, in one place, and the workers that are there."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from tilevision.grid import Tile
from tilevision.schedule.limits import Batches, Bucket, Circuit, Deadlines, Window
from tilevision.schedule.policy import Backoff, Policy
from tilevision.schedule.tilestates import Backlog, Flight, Ledger, Suspects

__all__ = ["Board", "Workers"]

# Dask asks for as many workers as finish within 5 s what waits, and takes 0.5 s for a task that it
# does not know.
DEMAND_SECONDS = 5.0
UNKNOWN_TASK_SECONDS = 0.5
QUEUED_AT_FIRST = 100  # while batches still grow: many small tasks would cost more than they bring
QUEUED_AT_MOST = 2000
CANCEL_SECONDS = 10.0  # tiles that take longer than the others did, by so much, seem to hang
CANCEL_SLACK = 3.0
CANCEL_HOSTED_SECONDS = 30.0
RESTART_SECONDS = 60.0  # by then a restarted worker is back, be it at the same address


class Workers:
    """Workers as last told; until then, one of one thread is taken for granted.

    Attributes
    ----------
    threads : int
        Of the workers that take tasks.
    may_have : int
        Threads that the cluster may come to have; 0 where it stays as it is.
    addresses : list of str
        Of the workers that take tasks, in a fixed order; ``[""]`` before anything was told.
    """

    def __init__(self) -> None:
        self.threads = 1
        self.may_have = 0
        self.addresses = [""]
        self._present = {""}
        self._restarting: dict[str, float] = {}
        self._restarted: dict[str, float] = {}

    def changed(
        self, workers: Mapping[str, int], idle: Collection[str] = (), may_have: int = 0
    ) -> bool:
        """Take over what is there now; say whether any worker came or went."""
        gone = self._present - workers.keys()
        new = workers.keys() - self._present
        self._present = set(workers)
        working = {address: n for address, n in workers.items() if address not in idle}
        self.addresses = sorted(working)
        self.threads = sum(max(1, n) for n in working.values())
        self.may_have = may_have
        for address in gone:
            self._restarting.pop(address, None)
        if gone:
            self._restarting.pop("", None)
        for address in new:
            self._restarted.pop(address, None)
        return bool(gone or new)

    def restart(self, address: str, now: float) -> None:
        """Note that a worker is about to be restarted; "" where it is not known which."""
        self._restarting[address] = self._restarted[address] = now + RESTART_SECONDS

    def restarted(self, address: str, now: float) -> bool:
        """Return True if tasks lost on this worker are our own doing."""
        return self._restarted.get(address, 0.0) > now

    def restarting(self, address: str) -> bool:
        """Return True if a worker that is still listed is about to go."""
        return address in self._restarting

    def restarts_until(self, now: float) -> float | None:
        """When the last restart that may still be going on is over for sure."""
        self._restarting = {a: until for a, until in self._restarting.items() if until > now}
        return max(self._restarting.values(), default=None)


class Board:
    """Tiles, tasks, queues and limits of one run.

    Parameters
    ----------
    tiles : sequence of Tile
    policy : Policy
    seed : int

    Attributes
    ----------
    allowed : int or None
        Tiles that may be in flight whatever the window says; None: no such bound.
    """

    def __init__(self, tiles: Sequence[Tile], policy: Policy, seed: int) -> None:
        self.policy = policy
        self.allowed: int | None = None
        self.ledger = Ledger(tiles)
        self.flight = Flight(self.ledger)
        self.backlog = Backlog(self.ledger)
        self.suspects = Suspects(self.ledger)
        self.workers = Workers()
        self.window = Window(policy)
        self.bucket = Bucket(policy.quota.per_minute)
        self.batches = Batches(policy.batch_size, policy.model_batch, hosted=policy.hosted)
        self.backoff = Backoff(policy.retry, seed)
        self.circuit = Circuit(self.backoff, hosted=policy.hosted)
        self.deadlines = Deadlines(policy.timeout, policy.model_batch)

    @property
    def limit(self) -> int:
        """Tiles that may be in flight or uncommitted now."""
        tiles = self.window.tiles(self.workers.threads, self.batches.size)
        tiles = max(tiles, self.queue * self.batches.size)
        return tiles if self.allowed is None else min(tiles, self.allowed)

    @property
    def tasks(self) -> float:
        """Tasks that may be in flight now; infinity where only tiles are counted."""
        return max(self.window.tasks(self.workers.threads), self.queue)

    @property
    def queue(self) -> int:
        """Tasks that the cluster is given so that it sees how many workers are wanted; 0: none.

        Those beyond its threads wait in its queue. They have not begun, so a worker that dies
        does not take them along.
        """
        wanted = self.workers.may_have
        if wanted <= self.workers.threads or not self.window.follows_threads:
            return 0
        seconds = self.batches.task_seconds or UNKNOWN_TASK_SECONDS
        most = QUEUED_AT_MOST if self.batches.settled else QUEUED_AT_FIRST
        return min(most, math.ceil(DEMAND_SECONDS / seconds) * wanted)

    @property
    def queued(self) -> bool:
        """Return True if more tasks are in flight than the workers that are there can begin."""
        return len(self.flight.tasks) > self.window.tasks(self.workers.threads)

    @property
    def untried(self) -> int:
        """Tiles that have their first try before them, those in the cluster's queue included."""
        count = self.backlog.untried
        if self.queued:
            count += sum(task.size for task in self.flight.tasks.values() if not task.started)
        return count

    @property
    def patience(self) -> float:
        """Seconds that a cancelled run waits for what is in flight."""
        seconds = self.batches.task_seconds
        if seconds is None:
            return CANCEL_HOSTED_SECONDS if self.policy.hosted else CANCEL_SECONDS
        return max(CANCEL_SECONDS, CANCEL_SLACK * seconds)
