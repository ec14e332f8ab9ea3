"""What is still to be sent: fresh tiles, and those that get another try."""

from __future__ import annotations

import heapq
from collections import deque

from tilevision.schedule.ledger import Ledger, Place, TileState

__all__ = ["Backlog"]


class Backlog:
    """Queues of tiles, in order; entries that are out of date are skipped when met.

    Parameters
    ----------
    ledger : Ledger
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._cursor = 0
        self._requeued: list[int] = []
        self._alone: deque[TileState] = deque()
        self._waiting: list[tuple[float, int]] = []

    @property
    def untried(self) -> int:
        """Tiles that have their first try before them."""
        return self._ledger.places[Place.READY]

    def requeue(self, state: TileState) -> None:
        """Put a tile back as if it had not been sent."""
        if state.alone:
            self._ledger.move(state, Place.ALONE)
            self._alone.append(state)
        else:
            self._ledger.move(state, Place.READY)
            heapq.heappush(self._requeued, state.order)

    def again(self, state: TileState, due: float) -> None:
        """Try a tile again by itself, not before `due`."""
        state.alone, state.due = True, due
        self._ledger.move(state, Place.WAITING)
        heapq.heappush(self._waiting, (due, state.order))

    def next_due(self) -> float | None:
        """When the next waiting tile is due."""
        while self._waiting:
            due, order = self._waiting[0]
            state = self._ledger.states[order]
            if state.place is Place.WAITING and state.due == due:
                return due
            heapq.heappop(self._waiting)
        return None

    def single(self, now: float) -> TileState | None:
        """Take the next tile that goes by itself, if one is due."""
        due = self.next_due()
        if due is not None and due <= now:
            return self._ledger.states[heapq.heappop(self._waiting)[1]]
        while self._alone:
            state = self._alone.popleft()
            if state.place is Place.ALONE:
                return state
        return None

    def batch(self, size: int) -> list[TileState]:
        """Take up to `size` tiles that were never tried, in order."""
        states: list[TileState] = []
        while len(states) < size and (order := self._pop()) is not None:
            states.append(self._ledger.states[order])
        return states

    def _pop(self) -> int | None:
        while self._requeued:
            order = heapq.heappop(self._requeued)
            if self._ledger.states[order].place is Place.READY:
                return order
        while self._cursor < len(self._ledger):
            order, self._cursor = self._cursor, self._cursor + 1
            if self._ledger.states[order].place is Place.READY:
                return order
        return None
