"""JPEG pictures decoded a band of rows at a time, by pyvips where it is installed (`huge`)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["JpegRows", "has_decoder", "in_one_pass"]

_BANDS = {"L": 1, "RGB": 3, "CMYK": 4}
_ROWS_TO_TRIM = 256
_MARKERS_ALONE = (0x01, *range(0xD0, 0xD9))
_START_OF_SCAN = 0xDA
_ONE_PASS = (0xC0, 0xC1)  # frames whose rows follow each other; 0xC2 is progressive
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))


@dataclass(frozen=True, slots=True)
class JpegRows:
    """Decodes a JPEG file by rows: the same pixels as Pillow, from the same kind of library.

    Parameters
    ----------
    width, height : int
    mode : str
        That Pillow gives it.
    """

    width: int
    height: int
    mode: str

    def rows(self, path: str, step: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the stored pixels ``(rows, width, bands)``, `step` rows at a time.

        Raises
        ------
        ValueError, pyvips.Error
            If the file is damaged or incomplete.
        """
        import pyvips

        image = pyvips.Image.jpegload(path, access="sequential", fail_on="truncated")
        if (image.width, image.height, image.bands) != self._expected:
            raise ValueError(f"its header says {self._expected}, its pixels say otherwise")
        region = pyvips.Region.new(image)
        for start in range(0, self.height, step):
            if start // _ROWS_TO_TRIM != (start - step) // _ROWS_TO_TRIM:
                _give_memory_back()
            count = min(step, self.height - start)
            data = region.fetch(0, start, self.width, count)
            yield np.frombuffer(data, np.uint8).reshape(count, self.width, -1)
        del image, region, data
        _give_memory_back()

    def picture(self, rows: NDArray[np.uint8]) -> Image:
        """Return stored rows as a Pillow image."""
        from PIL import Image as Pillow

        size = self.width, len(rows)
        return Pillow.frombuffer(self.mode, size, rows, "raw", self.mode, 0, 1)

    @property
    def _expected(self) -> tuple[int, int, int]:
        return self.width, self.height, _BANDS[self.mode]


def has_decoder() -> bool:
    """Return True if pyvips and its library are there."""
    try:
        import pyvips  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def in_one_pass(path: str) -> bool:
    """Return True if the rows of a JPEG file follow each other.

    In a progressive one, or one with its colours apart, they do not: every decoder keeps the
    whole picture.
    """
    frame, colours = 0, 0
    with Path(path).open("rb") as file:
        file.seek(2)
        while (marker := _marker(file.read)) >= 0:
            if marker in _MARKERS_ALONE:
                continue
            size = int.from_bytes(file.read(2), "big")
            if marker == _START_OF_SCAN:
                return frame in _ONE_PASS and file.read(1) == bytes([colours])
            content = file.read(max(0, size - 2))
            if marker in _FRAMES and len(content) > 5:
                frame, colours = marker, content[5]
    return False


def _give_memory_back() -> None:
    """Have glibc return what libvips has freed: the process kept 200 MB of it, and growing."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _marker(read: Callable[[int], bytes]) -> int:
    """Return the next marker, or -1 at the end of the file."""
    byte = read(1)
    while byte and byte != b"\xff":
        byte = read(1)
    while byte == b"\xff":
        byte = read(1)
    return byte[0] if byte else -1
