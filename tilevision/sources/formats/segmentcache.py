"""Decoded tiles and strips that the next window is likely to touch again.

Tiles of a grid overlap, so neighbours share stored segments: with 20 % overlap and segments
of 256 px, every other one would be decoded twice or more.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict

from tilevision.sources.source import Pixels

__all__ = ["SegmentCache", "recent"]

# What neighbouring windows of 1024 px share many times over, and most of what two rows of them
# share over 24,000 px RGB; one for all sources of a process.
_CAPACITY = 64 << 20
_LARGEST_SHARE = 16


class SegmentCache:
    """The segments used last, up to so many bytes; safe from several threads.

    Parameters
    ----------
    capacity : int
        Bytes.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._segments: OrderedDict[tuple[int, int], Pixels] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._pages = itertools.count()

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return self._bytes

    def new_page(self) -> int:
        """Return a number that no other page has."""
        return next(self._pages)

    def get(self, page: int, index: int) -> Pixels | None:
        """Return a segment ``(h, w, c)``, not to be written to, or None."""
        with self._lock:
            pixels = self._segments.get((page, index))
            if pixels is not None:
                self._segments.move_to_end((page, index))
            return pixels

    def keep(self, page: int, index: int, pixels: Pixels) -> None:
        """Keep a segment, and let go of those not used for longest; large ones are not kept."""
        if pixels.nbytes > self._capacity // _LARGEST_SHARE:
            return
        with self._lock:
            old = self._segments.pop((page, index), None)
            self._bytes += pixels.nbytes - (0 if old is None else old.nbytes)
            self._segments[page, index] = pixels
            while self._bytes > self._capacity:
                self._bytes -= self._segments.popitem(last=False)[1].nbytes


recent = SegmentCache(_CAPACITY)
