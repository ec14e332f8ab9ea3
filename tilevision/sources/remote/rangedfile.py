"""A file elsewhere, read by ranges of bytes as `OpenFile` reads one on disk."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

from tilevision.errors import SourceError, TilevisionError
from tilevision.sources.remote.remotefile import FIRST_BYTES, Look, Remote
from tilevision.sources.staging.rows import OpenFile

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["Cursor", "RangedFile", "runs_of"]

_CACHE_BYTES = 16 << 20
_GAP_BYTES = 1 << 14  # so many bytes that nobody wants come sooner than one request more
_RUN_BYTES = 1 << 23
_AT_ONCE = 8

Range = tuple[int, int]


class RangedFile(OpenFile):
    """A file elsewhere.

    What lies together is fetched by one request, several requests at a time. What was fetched
    is kept, up to 16 MiB.

    Parameters
    ----------
    remote : Remote
    look : Look
        What `remote` said of the file; it serves ranges.

    Attributes
    ----------
    path : str
        The address, without its secrets.
    size : int
        Bytes.
    """

    expects = True

    def __init__(self, remote: Remote, look: Look) -> None:  # no file is opened
        self.path = remote.address.shown
        self.size = look.size
        self.remote = remote
        self.look = look
        self._kept: OrderedDict[Range, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._room = _CACHE_BYTES
        self._lock = threading.Lock()
        self._closed = False
        if len(look.start) == min(FIRST_BYTES, look.size):
            self._keep((0, len(look.start)), look.start)

    @property
    def closed(self) -> bool:
        """Return True if `close` was called."""
        return self._closed

    def close(self) -> None:
        """Let go of what was fetched; reads after this are errors."""
        with self._lock:
            self._closed = True
            self._kept.clear()
            self._kept_bytes = 0

    def expect(self, ranges: Sequence[Range]) -> None:
        """Fetch at once what will be read next.

        Parameters
        ----------
        ranges : sequence of (int, int)
            Offset and count, as they will be read.
        """
        self._fetch([one for one in ranges if self._found(one) is None])

    def read(self, offset: int, count: int) -> bytes:
        """Return exactly `count` bytes from `offset`.

        What was not expected is fetched in blocks, for more of it is wanted soon: a header.

        Raises
        ------
        SourceError
            If the file is closed, changed, gone, denied, or ends before.
        TransientError, Throttled
            If it may work on the next attempt.
        """
        if self._closed:
            raise SourceError(f"{self.path} is closed; open it again to read it.")
        if offset + count > self.size:
            raise SourceError(
                f"{self.path} is incomplete: {count} bytes at {offset:,} lie past its end; "
                "get the file again."
            )
        whole = self._found((offset, count))
        if whole is not None:
            return whole
        starts = range(offset // FIRST_BYTES * FIRST_BYTES, offset + count, FIRST_BYTES)
        blocks = [(start, min(FIRST_BYTES, self.size - start)) for start in starts]
        found = {one: self._found(one) for one in blocks}
        fresh = self._fetch([one for one, data in found.items() if data is None])
        data = b"".join(found[one] or fresh[one] for one in blocks)
        skipped = offset - starts.start
        return data[skipped : skipped + count]

    def _fetch(self, ranges: Iterable[Range]) -> dict[Range, bytes]:
        runs = runs_of(ranges)
        if not runs:
            return {}
        # What one window needs has room, however much it is.
        self._room = max(_CACHE_BYTES, sum(count for _, count in runs))

        def fetch(run: Range) -> bytes:
            return self.remote.read(*run, self.look)

        if len(runs) == 1:
            parts = [fetch(next(iter(runs)))]
        else:
            parts = list(_threads(os.getpid()).map(fetch, runs))
        self.remote.check(self.look)
        fetched = {}
        for (start, _), members, part in zip(runs, runs.values(), parts, strict=True):
            for offset, count in members:
                fetched[offset, count] = part[offset - start : offset - start + count]
        for one, data in fetched.items():
            self._keep(one, data)
        return fetched

    def _found(self, one: Range) -> bytes | None:
        offset, count = one
        start = offset // FIRST_BYTES * FIRST_BYTES
        block = (start, min(FIRST_BYTES, self.size - start))
        with self._lock:
            if one in self._kept:
                self._kept.move_to_end(one)
                return self._kept[one]
            if block in self._kept and offset + count <= sum(block):
                return self._kept[block][offset - start : offset - start + count]
            return None

    def _keep(self, one: Range, data: bytes) -> None:
        with self._lock:
            if self._closed or one in self._kept:
                return
            self._kept[one] = data
            self._kept_bytes += len(data)
            while self._kept_bytes > self._room:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])


class Cursor(io.RawIOBase):
    """A `RangedFile` as libraries read files: from a place that moves on.

    Attributes
    ----------
    trouble : TilevisionError or None
        The first error of a read. Libraries take it for a damaged file, and some go on.
    """

    def __init__(self, file: RangedFile) -> None:
        self._file = file
        self._place = 0
        self.trouble: TilevisionError | None = None

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; return where to."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._file.size}[whence]
        self._place = max(0, origin + offset)
        return self._place

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer` with what comes next; return the number of bytes."""
        view = memoryview(buffer).cast("B")
        count = min(len(view), max(0, self._file.size - self._place))
        if count:
            try:
                view[:count] = self._file.read(self._place, count)
            except TilevisionError as error:
                self.trouble = self.trouble or error
                raise
        self._place += count
        return count


def runs_of(ranges: Iterable[Range]) -> dict[Range, list[Range]]:
    """Return what to ask for, so that all `ranges` come in few requests, and which lie in each.

    Ranges with little between them become one, which stays bounded where one range is.
    """
    runs: dict[Range, list[Range]] = {}
    start = stop = 0
    members: list[Range] = []
    for offset, count in sorted(set(ranges)):
        far = offset - stop > _GAP_BYTES or offset + count - start > _RUN_BYTES
        if members and far:
            runs[start, stop - start] = members
            members = []
        if not members:
            start = stop = offset
        members.append((offset, count))
        stop = max(stop, offset + count)
    if members:
        runs[start, stop - start] = members
    return runs


@cache
def _threads(process: int) -> ThreadPoolExecutor:  # noqa: ARG001 - threads do not survive a fork
    return ThreadPoolExecutor(_AT_ONCE, "tilevision-fetch")
