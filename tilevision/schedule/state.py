"""Everything a run's decisions rest on, in one place, and the workers that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tilevision.grid import Tile
from tilevision.schedule.limits import Batches, Bucket, Circuit, Deadlines, Window
from tilevision.schedule.policy import Backoff, Policy
from tilevision.schedule.tilestates import Backlog, Flight, Ledger, Suspects

__all__ = ["Board", "Workers"]

RESTART_SECONDS = 60.0  # by then a restarted worker is back, be it at the same address


class Workers:
    """Workers as last told; until then, one of one thread is taken for granted.

    Attributes
    ----------
    threads : int
        Of all workers.
    addresses : list of str
        In a fixed order; ``[""]`` before anything was told.
    """

    def __init__(self) -> None:
        self.threads = 1
        self.addresses = [""]
        self._restarting: dict[str, float] = {}
        self._restarted: dict[str, float] = {}

    def changed(self, workers: Mapping[str, int]) -> bool:
        """Take over what is there now; say whether any worker came or went."""
        gone = set(self.addresses) - workers.keys()
        new = workers.keys() - set(self.addresses)
        self.addresses = sorted(workers)
        self.threads = sum(max(1, n) for n in workers.values())
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
        """Whether tasks lost on this worker are our own doing."""
        return self._restarted.get(address, 0.0) > now

    def restarting(self, address: str) -> bool:
        """Whether a worker that is still listed is about to go."""
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
        return tiles if self.allowed is None else min(tiles, self.allowed)
