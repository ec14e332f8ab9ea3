"""PNG pictures decoded a band of rows at a time: memory for the band, not for the picture.

Neither Pillow nor libpng's bindings stop half way. But PNG is one zlib stream of rows, each
predicted at most from the one above: so a few rows, led by the last one before them, make a
small PNG of their own, which those libraries decode exactly as they would the whole.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SAMPLES", "PngRows"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIECE = 1 << 16
_HEADER = struct.Struct(">IIBBBBB")
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_PLAIN_MODES = {0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}
# What predicts a byte is so many bytes before it: a colour type and depth for each distance.
_NEUTRAL = {1: (0, 8), 2: (4, 8), 3: (2, 8), 4: (6, 8), 6: (2, 16), 8: (6, 16)}
_DECIDES_COLOUR = (b"PLTE", b"tRNS")
_LONGEST_ROW = 1_000_000  # pixels, where libpng gives up


@dataclass(frozen=True, slots=True)
class PngRows:
    """Decodes a PNG file by rows, knowing what it says before its pixels.

    Parameters
    ----------
    width, height : int
    depth : int
        Bits of a sample.
    colour : int
        Colour type, as PNG numbers them.
    palette : bytes
        The chunks that decide what samples mean, as stored.
    """

    width: int
    height: int
    depth: int
    colour: int
    palette: bytes

    @classmethod
    def of(cls, path: str) -> PngRows | None:
        """Read the header of a file; None where its rows do not simply follow each other."""
        with Path(path).open("rb") as file:
            try:
                found = cls._read(file)
            except (ValueError, KeyError, struct.error):
                return None  # damaged: whoever decodes it whole says how
        return found

    @classmethod
    def _read(cls, file: BinaryIO) -> PngRows | None:
        """Read the header, leaving `file` at the first chunk of pixels."""
        file.seek(len(_SIGNATURE))
        width, height, depth, colour, _, _, interlaced = _HEADER.unpack(_chunk(file)[1])
        palette, animated = b"", False
        while True:
            kind, data = _chunk(file, skip=b"IDAT")
            if kind == b"IDAT":
                break
            animated |= kind == b"acTL"
            if kind in _DECIDES_COLOUR:
                palette += _packed(kind, data)
        if interlaced or animated or width * _distance(depth, colour) > _LONGEST_ROW:
            return None
        return cls(width, height, depth, colour, palette)

    @property
    def bands(self) -> int:
        """Samples of a pixel as stored, alpha included."""
        return SAMPLES[self.colour]

    @property
    def row_bytes(self) -> int:
        """Of a row as stored, without the byte that names its filter."""
        return -(-self.width * self.bands * self.depth // 8)

    def rows(self, path: str, step: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the stored bytes ``(rows, row_bytes)``, `step` rows at a time.

        Raises
        ------
        ValueError, zlib.error
            If they are damaged or incomplete.
        """
        distance = _distance(self.depth, self.colour)
        above = bytes(self.row_bytes)
        with Path(path).open("rb") as file:
            self._read(file)
            stream = _Inflated(file)
            for start in range(0, self.height, step):
                count = min(step, self.height - start)
                filtered = stream.take(count * (1 + self.row_bytes))
                band = self._unfiltered(b"\0" + above + filtered, count + 1, distance)
                above = band[-1].tobytes()
                yield band[1:]
            stream.finish()

    def picture(self, rows: NDArray[np.uint8]) -> Image:
        """Return stored rows as the Pillow image that the whole file would be there."""
        from PIL import Image as Pillow

        mode = _PLAIN_MODES.get(self.colour)
        if self.depth == 8 and mode is not None and not self.palette:
            return Pillow.frombuffer(mode, (self.width, len(rows)), rows, "raw", mode, 0, 1)
        small = Pillow.open(io.BytesIO(self._png(rows)))
        small.load()
        return small

    def deep(self, rows: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Return stored rows of 16-bit samples as ``(rows, width, bands)``, alpha included."""
        import imagecodecs

        if not self.palette:
            return rows.reshape(len(rows), self.width, -1).view(">u2").astype(np.uint16)
        found: NDArray[np.uint16] = imagecodecs.png_decode(self._png(rows))
        return found.reshape(len(rows), self.width, -1)

    def _png(self, rows: NDArray[np.uint8]) -> bytes:
        filtered = np.zeros((len(rows), 1 + self.row_bytes), np.uint8)
        filtered[:, 1:] = rows
        header = self.width, len(rows), self.depth, self.colour, 0, 0, 0
        return _small_png(header, filtered.tobytes(), self.palette)

    def _unfiltered(self, filtered: bytes, count: int, distance: int) -> NDArray[np.uint8]:
        import imagecodecs

        colour, depth = _NEUTRAL[distance]
        header = self.row_bytes // distance, count, depth, colour, 0, 0, 0
        found = imagecodecs.png_decode(_small_png(header, filtered))
        if depth == 16:
            found = found.astype(">u2")
        return found.reshape(count, -1).view(np.uint8)


class _Inflated:
    """The inflated pixels of a PNG whose file stands at its first chunk of them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stream = zlib.decompressobj()
        self._left = 0  # of the chunk

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        out = bytearray()
        while len(out) < count:
            data = self._stream.unconsumed_tail or self._piece()
            if not data or self._stream.eof:
                raise ValueError("its pixels end early")
            out += self._stream.decompress(data, count - len(out))
        return bytes(out)

    def finish(self) -> None:
        """Read on to the checksum of the pixels, where it is there."""
        while not self._stream.eof:
            data = self._stream.unconsumed_tail or self._piece()
            if not data:
                return
            self._stream.decompress(data, _PIECE)

    def _piece(self) -> bytes:
        while not self._left:
            start = self._file.read(8)
            if len(start) < 8 or start[4:] != b"IDAT":
                return b""
            self._left = int.from_bytes(start[:4], "big")
            if not self._left:
                self._file.read(4)
        data = self._file.read(min(_PIECE, self._left))
        self._left -= len(data)
        if not data:
            return b""
        if not self._left:
            self._file.read(4)
        return data


def _chunk(file: BinaryIO, skip: bytes = b"") -> tuple[bytes, bytes]:
    """Return kind and content of the next chunk; stay before one of kind `skip`."""
    start = file.read(8)
    if len(start) < 8:
        raise ValueError("it ends before its pixels")
    if start[4:] == skip:
        file.seek(-8, io.SEEK_CUR)
        return skip, b""
    size = int.from_bytes(start[:4], "big")
    if start[4:] in (*_DECIDES_COLOUR, b"IHDR"):
        data = file.read(min(size, _PIECE))
    else:
        data = b""
        file.seek(size, io.SEEK_CUR)
    file.read(4)
    return start[4:], data


def _packed(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(data, zlib.crc32(kind))
    return b"".join([len(data).to_bytes(4, "big"), kind, data, checksum.to_bytes(4, "big")])


def _small_png(header: tuple[int, ...], filtered: bytes, palette: bytes = b"") -> bytes:
    pixels = _packed(b"IDAT", zlib.compress(filtered, 0))
    start = _SIGNATURE + _packed(b"IHDR", _HEADER.pack(*header)) + palette
    return b"".join([start, pixels, _packed(b"IEND", b"")])


def _distance(depth: int, colour: int) -> int:
    """Return how many bytes before a byte the one lies that predicts it."""
    return max(1, SAMPLES[colour] * depth // 8)
