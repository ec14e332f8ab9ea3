"""Windows of one TIFF page: only the tiles or strips that a window touches are decoded."""

from __future__ import annotations

import itertools
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import SourceError
from tilevision.sources.formats.tiffmetadata import AperioColours
from tilevision.sources.readerfaults import unreadable
from tilevision.sources.source import Pixels
from tilevision.sources.staging.rows import OpenFile, RowFile

if TYPE_CHECKING:
    from tifffile import TiffPage

__all__ = ["SegmentCache", "SegmentedPage"]

_JPEG = (6, 7, 33007, 34892)
_GREY = 1
_LERC = 34887
_SGILOG = (34676, 34677)
_PARAMETERS = 50674
_DEFLATE, _ZSTD = 1, 2
_HEADER_BYTES = 30
_MOST_LOOKED_AT = 20_000
_MOST_THREADS = 4
_WORTH_SHARING = 4  # segments: fewer are decoded sooner than threads are woken
# What neighbouring windows of 1024 px share many times over, and most of what two rows of them
# share over 24,000 px RGB; one for all sources of a process.
_CAPACITY = 64 << 20
_LARGEST_SHARE = 16


class SegmentCache:
    """The segments used last, up to so many bytes; safe from several threads.

    Tiles of a grid overlap, so neighbours share stored segments: with 20 % overlap and segments
    of 256 px, every other one would be decoded twice or more.

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


_recent = SegmentCache(_CAPACITY)


class LercTiles:
    """Decodes the LERC-compressed tiles or strips of one page, with LERC's mask.

    As libtiff 4.6 has it (``tif_lerc.c``): holes of floats are NaN, and where the last sample is
    an alpha of 0 and 255 alone it is not stored, but is the mask.

    Parameters
    ----------
    packing : int
        What compresses the LERC data again: 0 nothing, 1 deflate, 2 zstd.
    hole : float
        Stands where integers have no data.
    dtype : numpy.dtype
        Of the page's samples.

    """

    def __init__(self, packing: int, hole: float, dtype: np.dtype[np.generic]) -> None:
        self._packing = packing
        self._hole = np.nan if dtype.kind == "f" else hole

    @classmethod
    def of(cls, page: TiffPage) -> LercTiles | None:
        """Return what decodes a page; None if it is not compressed so."""
        if int(page.compression) != _LERC or page.dtype is None:
            return None
        parameters = page.tags.valueof(_PARAMETERS)
        packing = int(parameters[1]) if isinstance(parameters, tuple) and len(parameters) > 1 else 0
        return cls(packing, float(page.nodata), np.dtype(page.dtype))

    def decoded(self, data: bytes, shape: tuple[int, int, int]) -> Pixels:
        """Return a tile or strip ``(h, w, samples)``.

        Parameters
        ----------
        data : bytes
            As stored.
        shape : tuple of int
            Of a whole tile; the last strip of a page may be lower.

        Raises
        ------
        ValueError, imagecodecs.LercError
            If the data are damaged.
        """
        import imagecodecs

        values, mask = imagecodecs.lerc_decode(self._unpacked(data), masks=True)
        height, width, samples = values.shape[0], values.shape[1], shape[2]
        values = values.reshape(height, width, -1)
        if mask is not None:
            mask = np.asarray(mask, np.bool_).reshape(height, width, -1)
        if values.shape[2] == samples - 1:  # the alpha is the mask
            alpha = np.full((height, width), 255, values.dtype)
            if mask is not None:
                alpha[~mask[..., 0]] = 0
            values = np.concatenate([values, alpha[..., np.newaxis]], axis=2)
        elif mask is not None and not mask.all():
            values = np.where(mask, values, np.asarray(self._hole, values.dtype))
        if width != shape[1] or height > shape[0] or values.shape[2] != samples:
            raise ValueError(f"its LERC data are of shape {values.shape}, not {shape}")
        if height == shape[0]:
            return np.ascontiguousarray(values)
        whole = np.full(shape, self._hole, values.dtype)
        whole[:height] = values
        return whole

    def has_holes(self, data: bytes) -> bool:
        """Return True unless the header of a tile says that all of its pixels are there."""
        header = self._unpacked(data)[:_HEADER_BYTES]
        if not header.startswith(b"Lerc2 ") or len(header) < _HEADER_BYTES:
            return True
        version = int.from_bytes(header[6:10], "little")
        # Then from version 3 on a checksum, rows, columns, from version 4 on the depth, how many.
        start = 14 if version >= 3 else 10
        rows, columns, *more = struct.unpack_from("<4i", header, start)
        return bool(more[version >= 4] < rows * columns)

    def _unpacked(self, data: bytes) -> bytes:
        import imagecodecs

        if self._packing == _DEFLATE:
            return bytes(imagecodecs.zlib_decode(data))
        return bytes(imagecodecs.zstd_decode(data)) if self._packing == _ZSTD else data


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
    photometric : int
        What its samples stand for, as the file says.
    revision : str
        Names what earlier releases read wrongly in it; empty if nothing.

    Raises
    ------
    SourceError
        If the page has no samples that can be read, or points past the end of the file.
    """

    def __init__(self, file: OpenFile, page: TiffPage, plane: int = 0) -> None:
        key = page.keyframe
        self._file = file
        self._plane = plane
        self._page = key
        self.size = (int(key.imagewidth), int(key.imagelength))
        self.samples = int(key.samplesperpixel)
        self._check_kind()
        self.dtype = np.dtype(key.dtype).newbyteorder("=")
        self._planes = self.samples if int(key.planarconfig) == 2 and self.samples > 1 else 1
        if key.is_tiled:
            self.segment = (int(key.tilewidth), int(key.tilelength))
        else:
            self.segment = (self.size[0], int(key.rowsperstrip) or self.size[1])
        self._offsets: NDArray[np.int64] = np.asarray(page.dataoffsets, np.int64)
        self._counts: NDArray[np.int64] = np.asarray(page.databytecounts, np.int64)
        self._rows = self._raw_planes()
        self._decode_options: dict[str, Any] = {}
        if key.compression in _JPEG:
            self._decode_options = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader}
        self._check_extent()
        self._colours = AperioColours.of(file, key)
        self.revision = self._colours.revision if self._colours else ""
        self.photometric = int(key.photometric)
        if key.compression in _JPEG and self._planes > 1:
            key.photometric = _GREY  # each band is a grey JPEG of its own
        self._lerc = LercTiles.of(key)
        if self._lerc is not None and self._has_holes(self._lerc):
            self.revision = "LERC mask"
        key.init_decode()
        self._number = _recent.new_page()
        self._exact = False  # whether the window before was one whole segment

    @property
    def separate(self) -> bool:
        """Return True if each sample is stored on its own, so that any can be read alone."""
        return self._planes == self.samples

    def window(
        self, x0: int, y0: int, x1: int, y1: int, samples: Sequence[int] | None = None
    ) -> Pixels:
        """Return the stored samples ``(y1 - y0, x1 - x0, samples)``.

        Parameters
        ----------
        x0, y0, x1, y1 : int
            Inside the page, pixels.
        samples : sequence of int, optional
            Only these, where they are stored separately. None is all.

        Raises
        ------
        SourceError
            If what is stored there is damaged.
        """
        planes = range(self._planes) if samples is None else samples
        if self._rows:
            parts = [self._rows[plane].window(x0, y0, x1, y1) for plane in planes]
            return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        if (whole := self._one_segment((x0, y0, x1, y1), len(planes))) is not None:
            return whole
        share = self.samples // self._planes
        out = np.empty((y1 - y0, x1 - x0, len(planes) * share), self.dtype)
        for place, plane in enumerate(planes):
            target = out[..., place * share : (place + 1) * share]
            self._copy_segments(target, plane, (x0, y0, x1, y1))
        return out

    def _one_segment(self, box: tuple[int, int, int, int], planes: int) -> Pixels | None:
        """Return a window that is one stored segment, as it was decoded; None if it is not.

        Where the window before was one too, tiles lie like segments and share none: then what was
        decoded is neither kept nor copied.
        """
        x0, y0, x1, y1 = box
        wide, high = self.segment
        exact = not (x0 % wide or y0 % high) and (x1 - x0, y1 - y0) == (wide, high)
        before, self._exact = self._exact, exact
        if not (exact and before) or planes != 1 or self._planes != 1 or self._file.expects:
            return None
        index = y0 // high * self.across + x0 // wide
        if self._file.closed or _recent.get(self._number, index) is not None:
            return None
        pixels = self._segment(index, keep=False)
        if pixels is None or pixels.shape != (high, wide, self.samples):
            return None
        owner = pixels if pixels.base is None else pixels.base  # of a view, workers take a copy
        flags = owner.flags if isinstance(owner, np.ndarray) else None
        if flags is None or not (flags.owndata and flags.writeable and flags.c_contiguous):
            return np.array(pixels, self.dtype, order="C")
        same = owner.shape == pixels.shape and owner.dtype == self.dtype
        return owner if same else np.array(pixels, self.dtype, order="C")

    @property
    def free_rows(self) -> bool:
        """Uncompressed rows one after the other: any part can be read on its own."""
        return bool(self._rows)

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

    @property
    def stored(self) -> NDArray[np.bool_] | None:
        """Which tiles ``(down, across)`` of the first plane are there; None if all are."""
        if self._rows:
            return None
        count = self.down * self.across
        there = (self._offsets[:count] > 0) & (self._counts[:count] > 0)
        return None if there.all() else there.reshape(self.down, self.across)

    def _copy_segments(self, out: Pixels, plane: int, box: tuple[int, int, int, int]) -> None:
        x0, y0, x1, y1 = box
        wide, high = self.segment
        places = [
            (column, row)
            for row in range(y0 // high, -(-y1 // high))
            for column in range(x0 // wide, -(-x1 // wide))
        ]
        if self._file.expects:
            self._expect(
                [(plane * self.down + row) * self.across + column for column, row in places]
            )

        def copy(part: Sequence[tuple[int, int]]) -> None:
            for column, row in part:
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

        # The codecs let go of the interpreter's lock; this thread takes a share itself.
        threads = min(_thread_count(), len(places) // _WORTH_SHARING)
        others = [_threads(os.getpid()).submit(copy, places[n::threads]) for n in range(1, threads)]
        copy(places[:: max(1, threads)])
        for other in others:
            other.result()

    def _expect(self, indices: Sequence[int]) -> None:
        fresh = [index for index in indices if _recent.get(self._number, index) is None]
        ranges = [(int(self._offsets[index]), int(self._counts[index])) for index in fresh]
        self._file.expect([(offset, count) for offset, count in ranges if offset and count])

    def _segment(self, index: int, *, keep: bool = True) -> Pixels | None:
        offset, count = int(self._offsets[index]), int(self._counts[index])
        if not offset or not count:
            return None  # sparse files leave empty tiles out
        kept = None if self._file.closed else _recent.get(self._number, index)
        if kept is not None:
            return kept
        data = self._file.read(offset, count)
        try:
            pixels = self._decoded(data, index)
        except MemoryError as error:
            raise SourceError(f"{self._file.path} does not fit in memory.") from error
        except Exception as error:
            kind = "tile" if self._page.is_tiled else "strip"
            what = f"{self._file.path}: {kind} {index}"
            raise unreadable(what, error, "imagecodecs", "tifffile") from error
        if pixels is None:
            return None
        segment: Pixels = pixels
        if self._colours is not None:
            segment = self._colours.rgb(segment, data)
        if keep:
            _recent.keep(self._number, index, segment)
        return segment

    def _has_holes(self, lerc: LercTiles) -> bool:
        """Return True if floats were read as 0 where LERC's mask says that there are none."""
        if self.dtype.kind != "f":
            return False
        if self._file.expects or len(self._offsets) > _MOST_LOOKED_AT:
            return True  # nobody knows without reading all of it
        tiles = zip(self._offsets.tolist(), self._counts.tolist(), strict=False)
        return any(lerc.has_holes(self._file.read(*tile)) for tile in tiles if all(tile))

    def _decoded(self, data: bytes, index: int) -> Pixels | None:
        if self._lerc is not None:
            share = self.samples // self._planes
            return self._lerc.decoded(data, (self.segment[1], self.segment[0], share))
        pixels = self._page.decode(data, index, _fullsize=True, **self._decode_options)[0]
        return None if pixels is None else pixels[0]

    def _raw_planes(self) -> list[RowFile]:
        key = self._page
        if not key.is_final or key.bitspersample != self.dtype.itemsize * 8 or key.dtype is None:
            return []
        stored = self.dtype.newbyteorder(key.parent.byteorder)
        share = self.samples // self._planes
        shape = (self.size[1], self.size[0], share)
        plane_bytes = self.size[0] * self.size[1] * share * stored.itemsize
        start = int(self._offsets[0]) + self._plane * plane_bytes * self._planes
        return [
            RowFile(self._file, start + plane * plane_bytes, shape, stored)
            for plane in range(self._planes)
        ]

    def _check_kind(self) -> None:
        key, path = self._page, self._file.path
        if min(self.size) < 1:
            raise SourceError(
                f"{path} says it is {self.size[0]}×{self.size[1]} px; get the file again."
            )
        if self.samples < 1:
            raise SourceError(f"{path} says its pixels have no samples; get the file again.")
        if key.dtype is None or np.dtype(key.dtype).kind not in "biuf":
            kind = f"{str(key.bitspersample)[:30]} bit, {str(key.sampleformat)[:30]}"
            raise SourceError(
                f"{path} stores samples of a kind tilevision does not read ({kind}); convert it "
                "to integers or floats."
            )
        if int(key.compression) in _SGILOG:
            raise SourceError(
                f"{path} stores LogLuv colours or LogL luminances in SGI's compression, which no "
                "library here decodes; convert it to RGB, for example with tiff2rgba, or to floats."
            )
        if key.imagedepth > 1:
            raise SourceError(
                f"{path} is a volume of {key.imagedepth} slices; save one as an image."
            )
        if key.is_tiled and min(key.tilewidth, key.tilelength) < 1:
            raise SourceError(f"{path} says its tiles are empty; get the file again.")

    def _check_extent(self) -> None:
        path, stored = self._file.path, len(self._offsets)
        needed = 1 if self._rows else self.across * self.down * self._planes
        if stored < needed or len(self._counts) < needed:
            raise SourceError(
                f"{path} lists {stored} of its {needed} tiles or strips; get the file again."
            )
        end = int((self._offsets[:needed] + self._counts[:needed]).max())
        if self._rows:
            end = self._rows[-1].end
        if end > self._file.size or int(self._offsets.min()) < 0:
            raise SourceError(
                f"{path} is incomplete: its pixels end at byte {end:,}, the file at "
                f"{self._file.size:,}; get the file again."
            )


@cache
def _thread_count() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        return min(_MOST_THREADS, int(given))  # 1 on Dask's workers, which share the cores
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(_MOST_THREADS, there or 1)


@cache
def _threads(process: int) -> ThreadPoolExecutor:  # noqa: ARG001 - threads do not survive a fork
    return ThreadPoolExecutor(_thread_count(), "tilevision-decode")
