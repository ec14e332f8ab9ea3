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

KEPT = 96 * 2**20  # bytes of decoded tiles
SPARE = 11 * 2**20  # bytes of those that went, for the next ones: fresh memory is slow to fill


class TileCache:
    """Decodes maps of tiles, and has the last ones at hand. Safe to use from several threads.

    The memory of those that went is used again once nobody looks at it: a thread looks at what it
    got while it is within `reading`.
    """

    def __init__(self) -> None:
        self._tiles: OrderedDict[bytes, NDArray[Any]] = OrderedDict()
        self._bytes = 0
        self._readers = 0
        self._gone: list[NDArray[Any]] = []
        self._spare: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep what `get` returns as it is until the end of the block."""
        with self._lock:
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if not self._readers:
                    self._free()

    def get(self, array: StoredArray) -> NDArray[Any]:
        """Return the map ``(k, h, w)`` of a tile as it is kept.

        Raises
        ------
        CheckpointCorrupt
            If it is damaged or missing.
        """
        key, size = array.ref.digest, array.ref.size
        with self._lock:
            found = self._tiles.get(key)
            if found is not None:
                self._tiles.move_to_end(key)
                return found
            fitting = [n for n, one in enumerate(self._spare) if one.size == size]
            room = self._spare.pop(fitting[-1]) if fitting else None
        found = array.load(room)
        with self._lock:
            if key not in self._tiles:
                self._tiles[key] = found
                self._bytes += found.nbytes
            while self._bytes > KEPT and len(self._tiles) > 1:
                gone = self._tiles.popitem(last=False)[1]
                self._bytes -= gone.nbytes
                self._gone.append(gone)
            while sum(one.nbytes for one in self._gone) > SPARE:
                self._gone.pop(0)  # its memory is freed when nobody looks at it any more
        return found

    def _free(self) -> None:
        """Take the memory of the tiles that went for the next ones."""
        self._spare += [one.reshape(-1).view(np.uint8) for one in self._gone]
        self._gone.clear()
        while sum(one.nbytes for one in self._spare) > SPARE:
            self._spare.pop(0)
