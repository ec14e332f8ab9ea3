"""Everything a run's decisions rest on, in one place."""

from __future__ import annotations

from collections.abc import Sequence

from tilevision.grid import Tile
from tilevision.schedule.circuit import Circuit
from tilevision.schedule.deadlines import Deadlines
from tilevision.schedule.limits import Batches, Bucket, Window
from tilevision.schedule.policy import Backoff, Policy
from tilevision.schedule.suspects import Suspects
from tilevision.schedule.tilestates import Backlog, Flight, Ledger
from tilevision.schedule.workers import Workers

__all__ = ["Board"]


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
