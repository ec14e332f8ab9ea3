"""One resolution of a TIFF image as `Level`: pages put together, colours made plain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tilevision.errors import SourceError
from tilevision.sources.formats.pictures import to_rgb, upright
from tilevision.sources.formats.segments import SegmentedPage
from tilevision.sources.levels import Level
from tilevision.sources.source import Pixels
from tilevision.sources.staging.rows import OpenFile
from tilevision.sources.staging.staged import check_image_shape

if TYPE_CHECKING:
    from tifffile import TiffPage

__all__ = ["TiffLevel", "TurnedLevel"]

_MIN_IS_WHITE, _PALETTE, _CMYK, _YCBCR = 0, 3, 5, 6
_JPEG = (6, 7, 33007, 34892)


class TiffLevel:
    """Pages that together are the bands of one resolution.

    Palettes become RGB, inverted greys are turned round, CMYK and YCbCr (8 bit) become RGB;
    other samples are as stored.

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`.
    bands : int
    dtype : numpy.dtype
    revisions : set of str
        What earlier releases read wrongly in it: part of the fingerprint, so that what they
        stored is not taken for this.
    """

    def __init__(self, file: OpenFile, pages: Sequence[TiffPage]) -> None:
        self.pages = tuple(SegmentedPage(file, page) for page in pages)
        first = self.pages[0]
        if any((page.size, page.dtype) != (first.size, first.dtype) for page in self.pages):
            raise SourceError(f"{file.path} is damaged: its channels differ in size or kind")
        samples = sum(page.samples for page in self.pages)
        check_image_shape((first.size[1], first.size[0], samples), first.dtype, file.path)
        self.size = first.size
        self.chunk = (1, 1) if first.free_rows else first.segment
        self._plain = _interpretation(pages[0].keyframe, first)
        self._places = self._separate_bands(int(pages[0].keyframe.photometric))
        probe = self._plain(np.zeros((1, 1, samples), first.dtype))
        self.bands: int = probe.shape[2]
        self.dtype: np.dtype[Any] = probe.dtype
        self.revisions = {page.revision for page in self.pages} - {""}

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:
        """Return the pixels ``(y1 - y0, x1 - x0, bands)`` of a window inside the level."""
        if bands is not None and self._places:
            wanted = [self._places[band] for band in bands]
            parts = [page.window(x0, y0, x1, y1, [sample]) for page, sample in wanted]
            return self._plain(np.concatenate(parts, axis=2))
        parts = [page.window(x0, y0, x1, y1) for page in self.pages]
        pixels = self._plain(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2))
        return pixels if bands is None else np.take(pixels, bands, axis=2)

    def _separate_bands(self, photometric: int) -> list[tuple[SegmentedPage, int]]:
        """Return where each band lies, where any can be read without the others."""
        mixed = photometric in (_PALETTE, _CMYK, _YCBCR)
        if mixed or not all(page.separate for page in self.pages):
            return []
        return [(page, sample) for page in self.pages for sample in range(page.samples)]


class TurnedLevel:
    """A level that is stored turned or mirrored, shown upright.

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`; upright.
    """

    def __init__(self, level: Level, orientation: int) -> None:
        self._level = level
        self._orientation = orientation
        turned = orientation >= 5
        self.size = level.size[::-1] if turned else level.size
        self.chunk = level.chunk[::-1] if turned else level.chunk

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:
        """Return the upright pixels ``(y1 - y0, x1 - x0, bands)`` of a window."""
        width, height = self.size
        stored_x = (width - x1, width - x0) if self._orientation in (2, 3, 6, 7) else (x0, x1)
        stored_y = (height - y1, height - y0) if self._orientation in (3, 4, 7, 8) else (y0, y1)
        if self._orientation >= 5:
            stored_x, stored_y = stored_y, stored_x
        stored = self._level.window(stored_x[0], stored_y[0], stored_x[1], stored_y[1], bands)
        out = np.empty((y1 - y0, x1 - x0, stored.shape[2]), stored.dtype)
        upright(out, self._orientation)[...] = stored
        return out


def _interpretation(page: TiffPage, stored: SegmentedPage) -> Callable[[Pixels], Pixels]:
    photometric, dtype, samples = int(page.photometric), stored.dtype, stored.samples
    if photometric == _PALETTE and samples == 1 and page.colormap is not None:
        colours = np.asarray(page.colormap)
        table = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8).T.copy()
        return lambda pixels: table[np.minimum(pixels[..., 0], len(table) - 1)]
    if dtype == np.uint8 and photometric == _CMYK and samples == 4:
        return lambda pixels: to_rgb(pixels, "CMYK")
    if (
        dtype == np.uint8
        and photometric == _YCBCR
        and samples == 3
        and page.compression not in _JPEG
    ):
        return lambda pixels: to_rgb(pixels, "YCbCr")
    return _grey(photometric, dtype, page.bitspersample)


def _grey(photometric: int, dtype: np.dtype[Any], bits: int) -> Callable[[Pixels], Pixels]:
    invert = photometric == _MIN_IS_WHITE and dtype.kind in "bu"
    if dtype.kind == "b":
        return np.logical_not if invert else lambda pixels: pixels
    highest = 2**bits - 1
    # 2 and 4 bits are spread to 8, as every viewer does; other odd depths are stretched for
    # display like all that is not 8-bit.
    spread = 255 // highest if dtype == np.uint8 and bits in (2, 4) else 1
    if invert:
        top = dtype.type(highest)
        return lambda pixels: (top - pixels) * dtype.type(spread)
    if spread > 1:
        return lambda pixels: pixels * dtype.type(spread)
    return lambda pixels: pixels
