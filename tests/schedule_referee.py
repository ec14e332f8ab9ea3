"""Follows a scheduler from outside, and holds it to its promises at every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tilevision.errors import Failure
from tilevision.grid import Tile
from tilevision.schedule import Policy, Scheduler
from tilevision.schedule.messages import (
    Abandon,
    Action,
    Announce,
    Cancelled,
    ClusterChanged,
    ClusterLost,
    Committed,
    End,
    Happening,
    Hold,
    Paused,
    Refused,
    Resumed,
    Submit,
    TaskFinished,
    TaskLost,
)

__all__ = ["Referee"]


@dataclass
class Referee:
    """Keeps its own books on what the scheduler was told and what it ordered."""

    scheduler: Scheduler
    tiles: Sequence[Tile]
    policy: Policy
    in_flight: dict[str, set[Tile]] = field(default_factory=dict)
    arrived: set[Tile] = field(default_factory=set)
    committed: set[Tile] = field(default_factory=set)
    refused: set[Tile] = field(default_factory=set)
    failed: dict[Tile, Failure] = field(default_factory=dict)
    status: dict[Tile, str] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    workers: set[str] | None = None
    last_task: dict[Tile, str] = field(default_factory=dict)
    free: set[str] = field(default_factory=set)
    accompanied: set[str] = field(default_factory=set)
    sent_at: list[float] = field(default_factory=list)
    paused: bool = False
    held: bool = False
    cancelled: bool = False
    holds: int = 0
    end: End | None = None

    # What the scheduler is told ----------------------------------------------------------

    def heard(self, happening: Happening) -> None:
        """Enter what the scheduler is about to be told."""
        match happening:
            case TaskFinished(task, outcomes):
                self.in_flight.pop(task, None)
                self._arrive(tile for tile, failure in outcomes.items() if failure is None)
            case TaskLost(task):
                self.in_flight.pop(task, None)
            case Committed(tiles):
                self._commit(set(tiles))
            case Refused(failures):
                self.arrived -= failures.keys()
                self.refused |= failures.keys()
                self.failed |= {t: f for t, f in failures.items() if t in self.failed}
            case ClusterLost():
                self.in_flight, self.workers = {}, set()
            case ClusterChanged(workers):
                self.workers = set(workers)
            case _:
                self._command(happening)

    def _command(self, happening: Happening) -> None:
        match happening:
            case Paused():
                self.paused = True
            case Resumed():
                self.paused = self.held = False
            case Cancelled():
                self.cancelled = True

    def _arrive(self, tiles) -> None:
        for tile in tiles:
            final = tile in self.failed and self.failed[tile].kind == "permanent"
            if tile not in self.committed and tile not in self.refused and not final:
                self.arrived.add(tile)
                self.failed.pop(tile, None)

    def _commit(self, tiles: set[Tile]) -> None:
        assert not self.committed & tiles, "a tile is committed twice"
        self.committed |= tiles
        self.arrived -= tiles
        for tile in tiles:
            self.failed.pop(tile, None)
            for aloft in self.in_flight.values():
                aloft.discard(tile)

    # What it orders ----------------------------------------------------------------------

    def ordered(self, action: Action, now: float) -> None:
        """Check an action against the promises."""
        match action:
            case Submit():
                self._check_submit(action, now)
            case Abandon(task):
                self.in_flight.pop(task, None)
            case Announce():
                self._check_announce(action)
            case Hold(reason):
                assert reason
                assert not self.held, "holds twice"
                self.held = True
                self.holds += 1
            case End():
                assert not any(self.in_flight.values()), "ends with tiles in flight"
                assert not self.arrived, "ends with tiles to be committed"
                self.end = action

    def _check_submit(self, submit: Submit, now: float) -> None:
        assert submit.task not in self.keys, "a task key is used twice"
        self.keys.add(submit.task)
        assert not self.paused, "sent while paused"
        assert not self.held, "sent while held"
        assert not self.cancelled, "sent after it was cancelled"
        assert submit.worker is None or submit.worker in (self.workers or ()), "pinned to nobody"
        assert self.workers is None or self.workers, "sent to nobody"
        assert 1 <= len(set(submit.tiles)) == len(submit.tiles) == len(submit.attempts)
        aloft = set().union(*self.in_flight.values())
        for tile in submit.tiles:
            assert tile not in self.committed, f"{tile.id} is sent after its commit"
            assert tile not in aloft, f"{tile.id} is in flight twice"
            assert tile not in self.arrived, f"{tile.id} is sent though it has arrived"
            assert tile not in self.failed, f"{tile.id} is sent after it failed"
        self._note_company(submit)
        self.in_flight[submit.task] = set(submit.tiles)
        self.sent_at += [now] * len(submit.tiles)
        busy = len(aloft) + len(submit.tiles) + len(self.arrived)
        quota = self.policy.quota.concurrency
        assert busy <= self.scheduler.window, "more in flight than the window"
        assert quota is None or busy <= quota, "more in flight than the quota"

    def _note_company(self, submit: Submit) -> None:
        """Note which tasks run beside one that could take their worker down."""
        self.last_task |= dict.fromkeys(submit.tiles, submit.task)
        self.free &= self.in_flight.keys()
        if submit.worker is None:
            self.accompanied |= self.in_flight.keys()
            self.free.add(submit.task)
        if self.free - {submit.task}:
            self.accompanied.add(submit.task)

    def _check_announce(self, news: Announce) -> None:
        tile, status = news.tile, news.status
        assert tile not in self.committed, f"{tile.id} is {status} after it was done"
        if status == "pending" and tile in self.failed:  # somebody asked to retry it
            del self.failed[tile]
            self.refused.discard(tile)
            self.cancelled = self.held = False
        if status == "failed":
            assert tile not in self.failed, f"{tile.id} failed twice"
            assert news.failure is not None
            self.failed[tile] = news.failure
            alone = self.last_task[tile] not in self.accompanied
            assert alone or news.failure.kind != "lost", f"{tile.id} was convicted in company"
        if status == "running":
            assert self.status.get(tile) != "running", f"{tile.id} is running twice"
        self.status[tile] = status

    def after(self) -> None:
        """Check what must hold between any two steps."""
        counts = self.scheduler.counts
        assert sum(counts.values()) == len(self.tiles)
        assert counts["done"] == len(self.committed)
        assert counts["failed"] == len(self.failed)
        assert self.scheduler.ended or self.scheduler.waiting_for, "waits without saying why"

    def check_per_minute(self) -> None:
        """Hold the rate limit over every half-open minute of the run."""
        per_minute, first = self.policy.quota.per_minute, 0
        for last, time in enumerate(self.sent_at if per_minute else ()):
            while self.sent_at[first] <= time - 60 + 1e-6:
                first += 1
            assert last - first + 1 <= max(1, per_minute or 0), "too many requests in a minute"
