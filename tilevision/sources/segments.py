"""Windows of one TIFF page: only the tiles or strips that a window touches are decoded."""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import SourceError
from tilevision.sources.source import Pixels

if TYPE_CHECKING:
    from tifffile import TiffPage

__all__ = ["OpenFile", "SegmentedPage"]

_JPEG = (6, 7, 33007, 34892)


class OpenFile:
    """A file kept open for reading at any offset from any thread.

    Parameters
    ----------
    path : str

    Raises
    ------
    SourceError
        If it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
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
            if hasattr(os, "pread"):
                data = os.pread(self._file.fileno(), count, offset)
            else:
                with self._lock:
                    self._file.seek(offset)
                    data = self._file.read(count) or b""
        except ValueError as error:
            raise SourceError(f"{self.path} is closed; open it again to read it") from error
        except OSError as error:
            raise SourceError(f"{self.path} cannot be read: {error.strerror}") from error
        while 0 < len(data) < count:
            more = self.read(offset + len(data), count - len(data))
            data += more
        if len(data) != count:
            raise SourceError(
                f"{self.path} is incomplete: {count} bytes at {offset:,} lie past its end "
                f"({self.size:,} bytes); get the file again"
            )
        return data

    def close(self) -> None:
        """Close the file; reads after this are errors."""
        self._close()


class SegmentedPage:
    """The stored samples of one TIFF page, read by the window.

    Attributes
    ----------
    size : tuple of int
        Width and height, pixels.
    segment : tuple of int
        Width and height of a tile, or of a strip.
    samples : int
    dtype : numpy.dtype
        In native byte order.
    free_rows : bool
        Uncompressed rows one after the other: any part can be read on its own.

    Raises
    ------
    SourceError
        If the page has no samples that can be read, or points past the end of the file.
    """

    def __init__(self, file: OpenFile, page: TiffPage) -> None:
        key = page.keyframe
        self._file = file
        self._page = key
        self.size = (int(key.imagewidth), int(key.imagelength))
        self.samples = int(key.samplesperpixel)
        self._check_kind()
        self.dtype = np.dtype(key.dtype).newbyteorder("=")
        self._stored = np.dtype(f"{key.parent.byteorder}{np.dtype(key.dtype).char}")
        self._planes = self.samples if int(key.planarconfig) == 2 and self.samples > 1 else 1
        if key.is_tiled:
            self.segment = (int(key.tilewidth), int(key.tilelength))
        else:
            self.segment = (self.size[0], int(key.rowsperstrip) or self.size[1])
        self._offsets: NDArray[np.int64] = np.asarray(page.dataoffsets, np.int64)
        self._counts: NDArray[np.int64] = np.asarray(page.databytecounts, np.int64)
        self.free_rows = bool(key.is_final) and key.bitspersample == self.dtype.itemsize * 8
        self._decode_options: dict[str, Any] = {}
        if key.compression in _JPEG:
            self._decode_options = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader}
        self._check_extent()
        key.init_decode()

    def window(self, x0: int, y0: int, x1: int, y1: int) -> Pixels:
        """Return the stored samples ``(y1 - y0, x1 - x0, samples)``.

        Raises
        ------
        SourceError
            If what is stored there is damaged.
        """
        out = np.empty((y1 - y0, x1 - x0, self.samples), self.dtype)
        share = self.samples // self._planes
        for plane in range(self._planes):
            target = out[..., plane * share : (plane + 1) * share]
            if self.free_rows:
                self._copy_rows(target, plane, (x0, y0, x1, y1))
            else:
                self._copy_segments(target, plane, (x0, y0, x1, y1))
        return out

    @property
    def segment_bytes(self) -> int:
        """Bytes of one decoded tile or strip."""
        share = self.samples // self._planes
        return self.segment[0] * self.segment[1] * share * self.dtype.itemsize

    @property
    def across(self) -> int:
        """Tiles or strips side by side."""
        return -(-self.size[0] // self.segment[0])

    @property
    def down(self) -> int:
        """Tiles or strips one below the other."""
        return -(-self.size[1] // self.segment[1])

    def _copy_segments(self, out: Pixels, plane: int, box: tuple[int, int, int, int]) -> None:
        x0, y0, x1, y1 = box
        wide, high = self.segment
        for row in range(y0 // high, -(-y1 // high)):
            for column in range(x0 // wide, -(-x1 // wide)):
                left, top = max(x0, column * wide), max(y0, row * high)
                right, bottom = min(x1, (column + 1) * wide), min(y1, (row + 1) * high)
                pixels = self._segment((plane * self.down + row) * self.across + column)
                target = out[top - y0 : bottom - y0, left - x0 : right - x0]
                if pixels is None:
                    target[...] = self._page.nodata
                    continue
                top, bottom = top - row * high, bottom - row * high
                left, right = left - column * wide, right - column * wide
                target[...] = pixels[top:bottom, left:right]

    def _segment(self, index: int) -> Pixels | None:
        offset, count = int(self._offsets[index]), int(self._counts[index])
        if not offset or not count:
            return None  # sparse files leave empty tiles out
        data = self._file.read(offset, count)
        try:
            pixels, _, _ = self._page.decode(data, index, _fullsize=True, **self._decode_options)
        except MemoryError as error:
            raise SourceError(f"{self._file.path} does not fit in memory") from error
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            kind = "tile" if self._page.is_tiled else "strip"
            raise SourceError(
                f"{self._file.path}: {kind} {index} cannot be decoded ({reason}); "
                "the file is damaged or its compression is not supported"
            ) from error
        return None if pixels is None else pixels[0]

    def _copy_rows(self, out: Pixels, plane: int, box: tuple[int, int, int, int]) -> None:
        x0, y0, x1, y1 = box
        width, height = self.size
        pixel = out.shape[2] * self._stored.itemsize
        start = int(self._offsets[0]) + plane * width * height * pixel
        # Whole rows in one go where little of them is thrown away.
        if 2 * (x1 - x0) >= width:
            data = self._file.read(start + y0 * width * pixel, (y1 - y0) * width * pixel)
            rows = np.frombuffer(data, self._stored).reshape(y1 - y0, width, -1)
            out[...] = rows[:, x0:x1]
            return
        for y in range(y0, y1):
            data = self._file.read(start + (y * width + x0) * pixel, (x1 - x0) * pixel)
            out[y - y0] = np.frombuffer(data, self._stored).reshape(x1 - x0, -1)

    def _check_kind(self) -> None:
        key, path = self._page, self._file.path
        if min(self.size) < 1:
            raise SourceError(f"{path} says it is {self.size[0]}×{self.size[1]} px: it is damaged")
        if key.dtype is None or np.dtype(key.dtype).kind not in "biuf":
            raise SourceError(
                f"{path} stores samples of a kind tilevision does not read "
                f"({key.bitspersample} bit, {key.sampleformat!s}); convert it to integers or floats"
            )
        if key.imagedepth > 1:
            raise SourceError(
                f"{path} is a volume of {key.imagedepth} slices; save one as an image"
            )
        if key.is_tiled and min(key.tilewidth, key.tilelength) < 1:
            raise SourceError(f"{path} says its tiles are empty: it is damaged")

    def _check_extent(self) -> None:
        path, stored = self._file.path, len(self._offsets)
        needed = 1 if self.free_rows else self.across * self.down * self._planes
        if stored < needed or len(self._counts) < needed:
            raise SourceError(
                f"{path} lists {stored} of its {needed} tiles or strips: it is damaged"
            )
        end = int((self._offsets[:needed] + self._counts[:needed]).max())
        if self.free_rows:
            width, height = self.size
            end = int(self._offsets[0]) + width * height * self.samples * self.dtype.itemsize
        if end > self._file.size or int(self._offsets.min()) < 0:
            raise SourceError(
                f"{path} is incomplete: its pixels end at byte {end:,}, the file at "
                f"{self._file.size:,}; get the file again"
            )
