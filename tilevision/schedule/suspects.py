"""Tiles that may have killed a worker: tried apart, until they are cleared or convicted.

A worker's death takes everything on it along, so it proves nothing against a single tile.
Suspects run pinned, one task to a worker, beside the main pass; large sets are halved
first. Only a death with nothing else in flight that could be to blame convicts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence

from tilevision.schedule.tilestates import Ledger, Place, TileState

__all__ = ["DEATHS", "LOSSES", "Suspects"]

DEATHS = 3  # a tile fails after so many, each when it ran alone, the last when it was quiet
LOSSES = 3  # after so many tasks lost before it was seen to start, a tile is a suspect too
SINGLY = 4  # sets up to this size are tried tile by tile
SETTLE_SECONDS = 2.0  # for news of dead and new workers to arrive


class Suspects:
    """Groups of suspects, to be sent as one task each.

    Parameters
    ----------
    ledger : Ledger
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._groups: deque[list[TileState]] = deque()
        self._last_resort: deque[TileState] = deque()
        self._accused: list[TileState] = []
        self.quiet_from = 0.0

    @property
    def any(self) -> bool:
        """Whether suspects wait to be tried."""
        return self._ledger.places[Place.SUSPECT] > 0

    @property
    def last_resort(self) -> bool:
        """Whether some suspect waits for a try with nothing else in flight."""
        while self._last_resort and self._last_resort[0].place is not Place.SUSPECT:
            self._last_resort.popleft()
        return bool(self._last_resort)

    def disturbed(self, now: float) -> None:
        """Note that workers came or went: no conviction until it has been quiet."""
        self.quiet_from = max(self.quiet_from, now + SETTLE_SECONDS)

    def accuse(self, state: TileState) -> None:
        """Suspect a tile of the main pass; `group` decides how it is tried."""
        self._ledger.move(state, Place.SUSPECT)
        self._accused.append(state)

    def group(self) -> None:
        """Sort those accused at the same time into groups: halves, or one by one."""
        self._enqueue(_parts(self._accused))
        self._accused = []

    def retry(self, state: TileState) -> None:
        """Try a suspect alone, quietly where all depends on it."""
        self._ledger.move(state, Place.SUSPECT)
        if state.deaths >= DEATHS - 1 or state.losses >= LOSSES:
            self._last_resort.append(state)
        else:
            self._groups.append([state])

    def regroup(self, states: Sequence[TileState], started: Collection[TileState]) -> None:
        """Split a group that took its worker down; its parts are always smaller."""
        for state in states:
            self._ledger.move(state, Place.SUSPECT)
        begun = [state for state in states if state in started]
        others = [state for state in states if state not in started]
        self._enqueue(_parts(begun))
        self._enqueue([others] if begun and others else _parts(others))

    def put_back(self, states: Sequence[TileState]) -> None:
        """Keep a group as it was, since its task was lost for a known reason."""
        if len(states) == 1:
            self.retry(states[0])
            return
        for state in states:
            self._ledger.move(state, Place.SUSPECT)
        self._enqueue([list(states)])

    def take(self, most: int) -> list[TileState]:
        """Take the next group, up to `most` tiles of it; empty where none waits."""
        while self._groups:
            group = [state for state in self._groups.popleft() if state.place is Place.SUSPECT]
            if group:
                if group[most:]:
                    self._groups.appendleft(group[most:])
                return group[:most]
        return []

    def take_last_resort(self) -> list[TileState]:
        """Take the next tile that is tried with nothing else in flight."""
        return [self._last_resort.popleft()] if self.last_resort else []

    def _enqueue(self, groups: Iterable[list[TileState]]) -> None:
        self._groups.extend(groups)


def _parts(states: Sequence[TileState]) -> list[list[TileState]]:
    if len(states) <= SINGLY:
        return [[state] for state in states]
    half = len(states) // 2
    return [list(states[:half]), list(states[half:])]
