"""The decoded maps of the tiles that were read last, in memory that is used again."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.payloads import StoredArray
from tilevision.rasters.regionmask import Window

__all__ = ["KEPT", "TileCache"]

KEPT = 80 * 2**20  # bytes of decoded tiles
SPARE = 11 * 2**20  # bytes of those that went, for the next ones: fresh memory is slow to fill
_COMPARED = 64  # tiles, of those read longest ago, of which one goes: of small ones there are many


class _Agenda:
    """Which tiles windows need that are blended one after the other.

    Parameters
    ----------
    needs : mapping of tuple to sequence of bytes
        Of each window, in their order, the digests of the maps of its tiles.
    """

    def __init__(self, needs: Mapping[Window, Sequence[bytes]]) -> None:
        self._needs = dict(needs)
        self._numbers = {window: number for number, window in enumerate(needs)}
        self._uses: dict[bytes, deque[int]] = {}
        for number, keys in enumerate(self._needs.values()):
            for key in dict.fromkeys(keys):  # equal maps of several tiles are one
                self._uses.setdefault(key, deque()).append(number)
        self._next = 0

    def passed(self, window: Window) -> None:
        """Note that a window needs its tiles no more."""
        number = self._numbers.get(window)
        if number is not None:
            self._next = max(self._next, number)
            for key in dict.fromkeys(self._needs.pop(window, ())):
                self._uses[key].remove(number)

    def until(self, key: bytes) -> float:
        """Return how many windows on a tile is needed; infinity: it is not."""
        uses = self._uses.get(key)
        return uses[0] - self._next if uses else math.inf


class TileCache:
    """Decodes maps of tiles, and has the last ones at hand. Safe to use from several threads.

    The memory of those that went is used again once nobody looks at it: a thread looks at what it
    got while it is within `reading`. A tile that two threads want is decoded once. Those that were
    read longest ago go first; within `expecting` those that are needed last.
    """

    def __init__(self) -> None:
        self._tiles: OrderedDict[bytes, NDArray[Any]] = OrderedDict()
        self._bytes = 0  # of tiles, and of those that are being decoded
        self._begun = 0
        self._readers: set[int] = set()  # by when each began
        self._seen: dict[bytes, int] = {}  # whoever began later has not seen a tile
        self._gone: list[tuple[int, NDArray[Any]]] = []  # the same of those that went
        self._spare: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()
        self._decoding: dict[bytes, threading.Lock] = {}
        self._agendas: list[_Agenda] = []

    @contextmanager
    def expecting(self, needs: Mapping[Window, Sequence[bytes]]) -> Iterator[None]:
        """Keep the tiles that are needed next, of windows that are blended in an order known.

        Parameters
        ----------
        needs : mapping of tuple to sequence of bytes
            Of each window, in their order, the digests of the maps of its tiles. `passed` says
            that one is through.
        """
        agenda = _Agenda(needs)
        with self._lock:
            self._agendas.append(agenda)
        try:
            yield
        finally:
            with self._lock:
                self._agendas.remove(agenda)

    def passed(self, window: Window) -> None:
        """Note that a window was blended."""
        with self._lock:
            for agenda in self._agendas:
                agenda.passed(window)

    def fetch(self, array: StoredArray) -> None:
        """Decode a map that is needed soon, unless what had to go for it is needed sooner.

        Raises
        ------
        CheckpointCorrupt
            If it is damaged or missing.
        """
        key = array.ref.digest
        with self._lock:
            full = self._bytes + array.ref.size > KEPT
            if full and self._tiles and self._until(self._last()) <= self._until(key):
                return
        self.get(array)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep what `get` returns as it is until the end of the block."""
        with self._lock:
            self._begun += 1
            mine = self._begun
            self._readers.add(mine)
        try:
            yield
        finally:
            with self._lock:
                self._readers.remove(mine)
                self._free()

    def get(self, array: StoredArray) -> NDArray[Any]:
        """Return the map ``(k, h, w)`` of a tile as it is kept.

        Raises
        ------
        CheckpointCorrupt
            If it is damaged or missing.
        """
        key = array.ref.digest
        with self._lock:
            if (found := self._at_hand(key)) is not None:
                return found
            own = self._decoding.setdefault(key, threading.Lock())
        with own:  # another thread may have been at it
            with self._lock:
                if (found := self._at_hand(key)) is not None:
                    return found
                room = self._room(array.ref.size)
            found = None
            try:
                found = array.load(room)
            finally:
                with self._lock:
                    self._decoding.pop(key, None)
                    self._keep(key, array.ref.size, found)
        return found

    def _at_hand(self, key: bytes) -> NDArray[Any] | None:
        found = self._tiles.get(key)
        if found is not None:
            self._tiles.move_to_end(key)
            self._seen[key] = self._begun
        return found

    def _room(self, size: int) -> NDArray[np.uint8] | None:
        """Let tiles go for one of `size` bytes; return memory for it, of one that went."""
        self._bytes += size
        while self._bytes > KEPT and self._tiles:
            key = self._last()
            gone = self._tiles.pop(key)
            self._bytes -= gone.nbytes
            self._gone.append((self._seen.pop(key), gone))
        self._free()
        while sum(one.nbytes for _, one in self._gone) > SPARE:
            self._gone.pop(0)  # its memory is freed when nobody looks at it any more
        fitting = [n for n, one in enumerate(self._spare) if one.size == size]
        return self._spare.pop(fitting[0]) if fitting else None

    def _keep(self, key: bytes, size: int, found: NDArray[Any] | None) -> None:
        """Keep a tile for which there was room; None: it could not be decoded."""
        if found is None or key in self._tiles:
            self._bytes -= size
        else:
            self._tiles[key] = found
        if found is not None:
            self._seen[key] = self._begun

    def _last(self) -> bytes:
        """Return which tile is needed last; of equal ones that which was read longest ago."""
        if not self._agendas:
            return next(iter(self._tiles))
        return max(islice(self._tiles, _COMPARED), key=self._until)

    def _until(self, key: bytes) -> float:
        return min((agenda.until(key) for agenda in self._agendas), default=math.inf)

    def _free(self) -> None:
        """Take the memory of the tiles that went, and nobody looks at, for the next ones."""
        first = min(self._readers, default=self._begun + 1)
        free = [one for when, one in self._gone if when < first]
        self._gone = [(when, one) for when, one in self._gone if when >= first]
        self._spare += [one.reshape(-1).view(np.uint8) for one in free]
        while sum(one.nbytes for one in self._spare) > SPARE:
            self._spare.pop(0)
