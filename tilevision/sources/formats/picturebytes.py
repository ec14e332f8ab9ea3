"""What picture files store that Pillow does not hand on: Netpbm's values, the mask in a JPEG.

And what JPEG 2000 says of its components (ISO/IEC 15444-1, A.5.1 and I.5.3).

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

__all__ = ["BitMask", "Jp2Components", "NetpbmValues", "is_jpeg_ls", "mask_in_jpeg"]

_HEADER_BYTES = 4096  # with comments
_BANDS = {b"P2": 1, b"P3": 3, b"P5": 1, b"P6": 3}
_TOKEN = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])*([^\s#]+)")
_JPEG_LS = b"\xff\xf7"  # its frame (ITU-T T.87, C.1.1), which follows the first marker or tables
_JPEG_END = b"\xff\xd9"


_LONGEST_HEADER = 1 << 20  # of what comes before the codestream of JPEG 2000
_SIZES = b"\xff\x4f\xff\x51"
_CMYK, _SYCC = 12, 18  # colour spaces by number (ISO/IEC 15444-2, M.11.7.3)
_OTHERS = {1: "YCbCr", 3: "YCbCr", 4: "YCbCr", 14: "L*a*b*", 19: "CIEJab", 24: "e-sYCC"}
_OPACITY = (1, 2)  # types of a channel: not multiplied with the colours, and multiplied


@dataclass(frozen=True, slots=True)
class Jp2Components:
    """The components of a JPEG 2000 file, as its header describes them.

    Parameters
    ----------
    depths : tuple of int
        Bits of each.
    signed : bool
        Whether one of them is.
    even : bool
        Whether all are as fine as the picture.
    space : int or None
        The number of their colour space, where the file states one.
    clear : bool
        Whether the last one is said to be opacity.
    """

    depths: tuple[int, ...] = ()
    signed: bool = False
    even: bool = True
    space: int | None = None
    clear: bool = False

    @classmethod
    def of(cls, path: str) -> Jp2Components:
        """Read the header; nothing is known of a file that has none, or cannot be read."""
        try:
            with Path(path).open("rb") as file:
                start = file.read(_LONGEST_HEADER)
        except OSError:
            return cls()
        place = start.find(_SIZES)
        sizes = start[place + 4 :] if place >= 0 else b""
        count = int.from_bytes(sizes[36:38], "big")
        parts = sizes[38 : 38 + 3 * count]
        channels = _boxes(start[: max(place, 0)], b"jp2h", b"cdef")
        kinds = {
            int.from_bytes(one[:2], "big"): int.from_bytes(one[2:4], "big")
            for one in (channels[2:][n : n + 6] for n in range(0, len(channels) - 7, 6))
        }
        colours = _boxes(start[: max(place, 0)], b"jp2h", b"colr")
        return cls(
            tuple((kind & 0x7F) + 1 for kind in parts[::3]),
            any(kind & 0x80 for kind in parts[::3]),
            not set(parts[1::3] + parts[2::3]) - {1},
            int.from_bytes(colours[3:7], "big") if colours[:1] == b"\1" else None,
            kinds.get(count - 1) in _OPACITY,
        )

    @property
    def changed_by_pillow(self) -> bool:
        """Return True if values are other ones when Pillow decodes the file.

        It keeps 8 bits of each colour, spreads grey to 8 or 16, moves signed values, and takes the
        second of two and the fourth of four components for opacity (Pillow 13.0).
        """
        deep = any(depth != 8 for depth in self.depths) and self.depths != (16,)
        return self.signed or deep or self.adds_opacity or bool(self.unread)

    @property
    def adds_opacity(self) -> bool:
        """Return True if Pillow takes for opacity what the file does not call so."""
        return len(self.depths) in (2, 4) and not self.clear and self.space != _CMYK

    @property
    def mode(self) -> str:
        """What Pillow calls the colours that GDAL hands on as they are stored; else empty."""
        if set(self.depths) != {8} or self.signed or not self.even:
            return ""  # GDAL turns those back whose colours are coarser than their brightness
        if self.space == _CMYK and len(self.depths) > 3:
            return "CMYK"
        return "YCbCr" if self.space == _SYCC and len(self.depths) > 2 else ""

    @property
    def unread(self) -> str:
        """What the colours are called that nothing here turns into RGB; else empty."""
        if self.space in (_CMYK, _SYCC) and self.depths and set(self.depths) != {8}:
            return f"{'CMYK' if self.space == _CMYK else 'sYCC'} colours of {max(self.depths)} bits"
        return f"{_OTHERS[self.space]} colours" if self.space in _OTHERS else ""


def _boxes(data: bytes, *names: bytes) -> bytes:
    """Return what the first box of a name holds, within those before; nothing without one."""
    for name in names:
        place, found = 0, b""
        while place + 8 <= len(data) and not found:
            size, start = int.from_bytes(data[place : place + 4], "big"), place + 8
            if size == 1:
                size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
            end = len(data) if size == 0 else place + size
            if data[place + 4 : place + 8] == name:
                found = data[start:end]
            place = max(end, place + 8)
        data = found
    return data


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
