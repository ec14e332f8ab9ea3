"""The decoded maps of the tiles that were read last, in memory that is used again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.payloads import StoredArray

__all__ = ["KEPT", "TileCache"]

KEPT = 80 * 2**20  # bytes of decoded tiles
SPARE = 11 * 2**20  # bytes of those that went, for the next ones: fresh memory is slow to fill


class TileCache:
    """Decodes maps of tiles, and has the last ones at hand. Safe to use from several threads.

    The memory of those that went is used again once nobody looks at it: a thread looks at what it
    got while it is within `reading`. A tile that two threads want is decoded once.
    """

    def __init__(self) -> None:
        self._tiles: OrderedDict[bytes, NDArray[Any]] = OrderedDict()
        self._bytes = 0
        self._begun = 0
        self._readers: set[int] = set()  # by when each began
        self._gone: list[tuple[int, NDArray[Any]]] = []  # whoever began later has not seen it
        self._spare: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()
        self._decoding: dict[bytes, threading.Lock] = {}

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
            try:
                found = array.load(room)
                with self._lock:
                    self._keep(key, found)
            finally:
                with self._lock:
                    self._decoding.pop(key, None)
        return found

    def _at_hand(self, key: bytes) -> NDArray[Any] | None:
        found = self._tiles.get(key)
        if found is not None:
            self._tiles.move_to_end(key)
        return found

    def _room(self, size: int) -> NDArray[np.uint8] | None:
        fitting = [n for n, one in enumerate(self._spare) if one.size == size]
        return self._spare.pop(fitting[-1]) if fitting else None

    def _keep(self, key: bytes, found: NDArray[Any]) -> None:
        if key not in self._tiles:
            self._tiles[key] = found
            self._bytes += found.nbytes
        while self._bytes > KEPT and len(self._tiles) > 1:
            gone = self._tiles.popitem(last=False)[1]
            self._bytes -= gone.nbytes
            self._gone.append((self._begun, gone))
        while sum(one.nbytes for _, one in self._gone) > SPARE:
            self._gone.pop(0)  # its memory is freed when nobody looks at it any more

    def _free(self) -> None:
        """Take the memory of the tiles that went, and nobody looks at, for the next ones."""
        first = min(self._readers, default=self._begun + 1)
        free = [one for when, one in self._gone if when < first]
        self._gone = [(when, one) for when, one in self._gone if when >= first]
        self._spare += [one.reshape(-1).view(np.uint8) for one in free]
        while sum(one.nbytes for one in self._spare) > SPARE:
            self._spare.pop(0)
