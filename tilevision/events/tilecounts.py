"""The latest status of each tile, counted: the one fold of what a run tells about its tiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Any

from tilevision.status import TileStatus

__all__ = ["TileCounts"]

_ENDED = tuple(status for status in TileStatus if status.ended)


class TileCounts:
    """The latest status of each tile, and how many tiles have which.

    Not locked: whoever changes it from several threads holds a lock of their own.

    Parameters
    ----------
    statuses : mapping of tile to str, optional
        What is known to begin with. A tile is whatever names it: a `Tile`, its id.
    """

    def __init__(self, statuses: Mapping[Any, str] | None = None) -> None:
        self._latest: dict[Hashable, str] = dict(statuses or {})
        self._counts: Counter[str] = Counter(self._latest.values())

    def change(self, tile: Hashable, status: str) -> str:
        """Give `tile` a new status; return the one it had, empty if it is new here."""
        before = self._latest.get(tile, "")
        if before:
            self._counts[before] -= 1
        self._latest[tile] = status
        self._counts[status] += 1
        return before

    def __contains__(self, tile: object) -> bool:
        return tile in self._latest

    def __len__(self) -> int:
        return len(self._latest)

    def __getitem__(self, status: str) -> int:
        return self._counts[status]

    @property
    def ended(self) -> int:
        """Tiles that the run will not touch again by itself."""
        return sum(self._counts[status] for status in _ENDED)

    def by_status(self) -> dict[str, int]:
        """Return the number of tiles by status, without those that no tile has."""
        return {status: n for status, n in self._counts.copy().items() if n}
