"""Chooses what to send next, within window, quota and circuit."""

from __future__ import annotations

import math

from tilevision.schedule.state import Board
from tilevision.schedule.tilestates import TileState

__all__ = ["Dispatch"]


class Dispatch:
    """Sends tiles off: suspects first, then retries that are due, then fresh ones in order.

    Parameters
    ----------
    board : Board

    Attributes
    ----------
    until : float
        When there may be more to send though nothing happens; infinity where never.
    obstacle : str
        What keeps tiles that are ready from being sent; empty where nothing does.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._flight, self._backlog = board.flight, board.backlog
        self._suspects, self._workers = board.suspects, board.workers
        self._circuit = board.circuit
        self.stop()

    def stop(self) -> None:
        """Send nothing: the run is paused or draining."""
        self.until, self.obstacle = math.inf, ""

    def fill(self, now: float) -> None:
        """Send as much as may be sent."""
        self.stop()
        if not self._workers.threads:
            self.obstacle = "workers; the cluster has none"
            if not self._workers.may_have:
                return  # else it starts workers for what waits
        self._suspects.group()
        while self._next(now):
            pass

    def _next(self, now: float) -> bool:
        """Send one task; False where none is left or allowed."""
        room = self._room()
        if room < 1:
            return False
        shut = self._circuit.protects(self._backlog.untried)
        if shut and not self._may_probe(now):
            return False
        bucket = self._board.bucket
        tokens = bucket.available(now)
        if tokens < 1:
            return self._wait(bucket.ready_at(now), "the quota of requests per minute")
        limit = 1 if shut else tokens
        return self._send_suspects(int(min(room, limit)), now) or self._send_main(room, limit, now)

    def _room(self) -> int:
        if len(self._flight.tasks) >= self._board.tasks:
            return 0
        return self._board.limit - self._board.ledger.busy

    def _may_probe(self, now: float) -> bool:
        obstacle = f"the backend to recover ({self._circuit.trouble})"
        if self._circuit.probing:
            self.obstacle = obstacle
            return False
        return now >= self._circuit.shut_until or self._wait(self._circuit.shut_until, obstacle)

    def _wait(self, until: float, obstacle: str = "") -> bool:
        self.until = min(self.until, until)
        self.obstacle = obstacle or self.obstacle
        return False

    def _send_suspects(self, most: int, now: float) -> bool:
        """Send suspects to a worker that has none; False where none can go now."""
        if not self._suspects.any:
            return False
        worker = self._free_worker(now)
        if worker is None:
            return False
        if self._quiet(now) and self._flight.unpinned == 0:
            states = self._suspects.take_last_resort()
            if states:
                self._send(states, now, worker, exclusive=True)
                return True
        states = self._suspects.take(most)
        if states:
            self._send(states, now, worker)
        return bool(states)

    def _free_worker(self, now: float) -> str | None:
        """Return a worker that has no suspect and is not being restarted."""
        restarts = self._workers.restarts_until(now)
        if restarts is not None:
            self._wait(restarts)
        for address in self._workers.addresses:
            if address not in self._flight.pinned and not self._workers.restarting(address):
                return address
        return None

    def _quiet(self, now: float) -> bool:
        """Whether a death now could only be the doing of what is sent now."""
        quiet_from = max(self._suspects.quiet_from, self._workers.restarts_until(now) or 0.0)
        if now < quiet_from and self._suspects.last_resort:
            self._wait(quiet_from)
        return now >= quiet_from

    def _send_main(self, room: int, limit: float, now: float) -> bool:
        """Send a retry that is due, or a batch of fresh tiles."""
        if self._flight.exclusive or (self._suspects.last_resort and self._quiet(now)):
            return False  # the cluster is being emptied for suspects
        single = self._backlog.single(now)
        if single is not None:
            self._send([single], now)
            return True
        due = self._backlog.next_due()
        if due is not None:
            self._wait(due)
        states = self._backlog.batch(self._batch(room, limit))
        if states:
            self._send(states, now)
        return bool(states)

    def _batch(self, room: int, limit: float) -> int:
        """Return the size of the next batch; 0 to wait for more room."""
        threads, batches = self._workers.threads, self._board.batches
        sharing = max(1, threads, self._workers.may_have if self._board.queue else 0)
        size = batches.next(self._backlog.untried, sharing, self._board.limit)
        wanted = int(min(size, self._board.window.share(threads), limit))
        busy = len(self._flight.tasks) >= threads and not self._board.policy.hosted
        if room < wanted and busy:
            return 0  # or ever smaller batches would follow
        return batches.whole(min(wanted, room))

    def _send(
        self,
        states: list[TileState],
        now: float,
        pin: str | None = None,
        *,
        exclusive: bool = False,
    ) -> None:
        task = self._flight.submit(states, now, pin, exclusive=exclusive)
        self._board.bucket.take(len(states))
        self._circuit.sent(task)
        self._board.deadlines.submitted(task, self._board.ledger.busy, self._workers.threads)
