"""What picture files store that Pillow does not hand on: Netpbm's values, the mask in a JPEG.

Netpbm: ``pgm(5)`` and ``ppm(5)``; Pillow spreads values to its own range, and cuts colours to 8
bits. The mask in a JPEG is GDAL's: compressed bits after the end of the picture, and in the last
four bytes where they begin (its driver JPEG, "Mask").
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tilevision.sources.identity import row_blocks
from tilevision.sources.source import Pixels

__all__ = ["BitMask", "NetpbmValues", "is_jpeg_ls", "mask_in_jpeg"]

_HEADER_BYTES = 4096  # with comments
_BANDS = {b"P2": 1, b"P3": 3, b"P5": 1, b"P6": 3}
_TOKEN = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])*([^\s#]+)")
_JPEG_LS = b"\xff\xf7"  # its frame (ITU-T T.87, C.1.1), which follows the first marker or tables
_JPEG_END = b"\xff\xd9"


@dataclass(frozen=True, slots=True)
class NetpbmValues:
    """The grey or RGB values of a PGM or PPM file, as its header describes them.

    Parameters
    ----------
    path : str
    shape : tuple of int
        Height, width and bands.
    highest : int
        Of a sample.
    start : int
        Where the samples begin, bytes.
    binary : bool
        Whether they are bytes; else decimal numbers.
    """

    path: str
    shape: tuple[int, int, int]
    highest: int
    start: int
    binary: bool

    @classmethod
    def of(cls, path: str) -> NetpbmValues | None:
        """Read the header; None where the file has another one."""
        with Path(path).open("rb") as file:
            header = file.read(_HEADER_BYTES)
        bands, place = _BANDS.get(header[:2]), 2
        numbers: list[int] = []
        while bands and len(numbers) < 3:
            found = _TOKEN.match(header, place)
            if found is None or not found[1].isdigit():
                return None
            numbers.append(int(found[1]))
            place = found.end()
        if not bands or not 0 < numbers[2] < 65536:
            return None
        width, height, highest = numbers
        binary = header[:2] in (b"P5", b"P6")
        return cls(path, (height, width, bands), highest, place + 1, binary)

    @property
    def dtype(self) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
        """That holds the values."""
        return np.dtype(np.uint8) if self.highest < 256 else np.dtype(np.uint16)

    @property
    def kept_by_pillow(self) -> bool:
        """Return True if Pillow hands the values on as they are stored."""
        return self.highest == 255

    def rows(self) -> Iterator[Pixels]:
        """Yield the values, some rows at a time.

        Raises
        ------
        ValueError
            If there are too few.
        """
        if self.binary:
            stored = self.dtype.newbyteorder(">")
            values: Pixels = np.memmap(self.path, stored, "r", self.start, self.shape)
        else:
            text = re.sub(rb"#[^\r\n]*", b"", Path(self.path).read_bytes()[self.start :])
            count = int(np.prod(self.shape))
            values = np.array(text.split()[:count], self.dtype).reshape(self.shape)
        for start, stop in row_blocks(self.shape[0], values.nbytes):
            yield values[start:stop].astype(self.dtype)


class BitMask:
    """A mask of one bit a pixel, lowest bit first, one row right after the other.

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`.
    """

    def __init__(self, bits: NDArray[np.uint8], size: tuple[int, int]) -> None:
        self._bits = bits
        self.size = size
        self.chunk = (1, 1)

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:  # noqa: ARG002 - a `Level`
        """Return the mask ``(y1 - y0, x1 - x0, 1)``: 0 where there is no data."""
        width = self.size[0]
        first, last = y0 * width, y1 * width
        bits = np.unpackbits(self._bits[first // 8 : -(-last // 8)], bitorder="little")
        rows = bits[first % 8 :][: last - first].reshape(y1 - y0, width)
        return rows[:, x0:x1, np.newaxis]


def mask_in_jpeg(path: str, size: tuple[int, int]) -> BitMask | None:
    """Return the mask that GDAL keeps at the end of a JPEG file; None where there is none.

    Parameters
    ----------
    path : str
    size : tuple of int
        Width and height of the picture as it is stored.
    """
    count = (size[0] * size[1] + 7) // 8
    with Path(path).open("rb") as file:
        end = file.seek(0, 2) - 4
        file.seek(max(0, end))
        start = int.from_bytes(file.read(4), "little")
        if not end // 2 <= start < end:
            return None
        file.seek(start - 2)
        if file.read(2) != _JPEG_END:
            return None
        packed = file.read(end - start)
    try:
        bits = zlib.decompressobj().decompress(packed, count)
    except zlib.error:
        return None
    return BitMask(np.frombuffer(bits, np.uint8), size) if len(bits) == count else None


def is_jpeg_ls(start: bytes) -> bool:
    """Return True if a file that begins so is JPEG-LS, which only begins as a JPEG does."""
    place = 2
    while start[place : place + 1] == b"\xff" and len(start) > place + 4:
        if start[place : place + 2] == _JPEG_LS:
            return True
        place += 2 + int.from_bytes(start[place + 2 : place + 4], "big")
    return False
