"""Uncompressed pixels in a file, row after row: any window is read on its own.

Read with plain reads and not through a memory map: mapped pages count as a process's
memory (a worker that walks a large image would look as if it leaked), and a file that is
cut short under a map kills the process.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tilevision.errors import SourceError
from tilevision.sources.source import Pixels

__all__ = ["OpenFile", "RowFile"]


class OpenFile:
    """A file kept open for reading at any offset from any thread.

    Parameters
    ----------
    path : str or Path

    Attributes
    ----------
    path : str
    size : int
        Bytes.
    expects : bool
        Whether reads are the sooner for being told of in advance, by `expect`.

    Raises
    ------
    SourceError
        If it cannot be opened.
    """

    expects = False

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        try:
            self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115  kept for reads to come
        except OSError as error:
            raise SourceError(f"{path} cannot be opened: {error.strerror}") from error
        self.size = os.fstat(self._file.fileno()).st_size
        self._lock = threading.Lock()
        self._close = weakref.finalize(self, self._file.close)

    def read(self, offset: int, count: int) -> bytes:
        """Return exactly `count` bytes from `offset`.

        Raises
        ------
        SourceError
            If the file is closed, cannot be read, or ends before.
        """
        try:
            data = self._read(offset, count)
            while 0 < len(data) < count:
                more = self._read(offset + len(data), count - len(data))
                if not more:
                    break
                data += more
        except ValueError as error:
            raise SourceError(f"{self.path} is closed; open it again to read it.") from error
        except OSError as error:
            raise SourceError(f"{self.path} cannot be read: {error.strerror}") from error
        if len(data) != count:
            raise SourceError(
                f"{self.path} is incomplete: {count} bytes at {offset:,} lie past its end; "
                "get the file again."
            )
        return data

    def expect(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Do nothing: what is on a disk need not be fetched before it is read."""

    @property
    def closed(self) -> bool:
        """Return True if `close` was called."""
        return not self._close.alive

    def close(self) -> None:
        """Close the file; reads after this are errors."""
        self._close()

    def _read(self, offset: int, count: int) -> bytes:
        if sys.platform != "win32":
            return os.pread(self._file.fileno(), count, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count) or b""


class RowFile:
    """An uncompressed ``(h, w, c)`` array somewhere in a file.

    Parameters
    ----------
    file : OpenFile
    offset : int
        Byte of the first value.
    shape : tuple of int
        Height, width, bands.
    dtype : numpy.dtype
        As stored.
    """

    def __init__(
        self, file: OpenFile, offset: int, shape: tuple[int, int, int], dtype: np.dtype[Any]
    ) -> None:
        self._file = file
        self._offset = offset
        self.shape = shape
        self.dtype = dtype

    @property
    def end(self) -> int:
        """The byte after the last value."""
        height, width, bands = self.shape
        return self._offset + height * width * bands * self.dtype.itemsize

    def window(self, x0: int, y0: int, x1: int, y1: int) -> Pixels:
        """Return the values ``(y1 - y0, x1 - x0, c)`` of a window, in native byte order.

        Raises
        ------
        SourceError
            If the file is closed or ends before.
        """
        _, width, bands = self.shape
        pixel = bands * self.dtype.itemsize
        out = np.empty((y1 - y0, x1 - x0, bands), self.dtype.newbyteorder("="))
        # Whole rows in one go where little of them is thrown away.
        if 2 * (x1 - x0) >= width:
            data = self._file.read(self._offset + y0 * width * pixel, (y1 - y0) * width * pixel)
            out[...] = np.frombuffer(data, self.dtype).reshape(y1 - y0, width, bands)[:, x0:x1]
            return out
        for y in range(y0, y1):
            data = self._file.read(self._offset + (y * width + x0) * pixel, (x1 - x0) * pixel)
            out[y - y0] = np.frombuffer(data, self.dtype).reshape(x1 - x0, bands)
        return out
