"""One resolution of a TIFF image as `Level`: pages put together, shown in their colours, turned."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import SourceError
from tilevision.sources.formats.pictures import upright
from tilevision.sources.formats.segments import SegmentedPage
from tilevision.sources.formats.tiffmetadata import Interpretation, interpretation
from tilevision.sources.levels import Axis, Level
from tilevision.sources.resampling import nearest, resample
from tilevision.sources.source import Pixels, check_image_shape
from tilevision.sources.staging.rows import OpenFile

if TYPE_CHECKING:
    from tifffile import TiffPage

__all__ = [
    "BandMask",
    "BandsMask",
    "FilledLevel",
    "FinerMask",
    "ShownLevel",
    "TableMask",
    "TiffLevel",
    "TurnedLevel",
    "ValueMask",
    "find_gaps",
]

_ALPHA = (1, 2)  # associated and unassociated, among what extra samples are


class TiffLevel:
    """Pages that together are the bands of one resolution, as they are stored.

    Parameters
    ----------
    file : OpenFile
    pages : sequence of TiffPage
        The bands, in order; several where each is a page of its own.
    planes : sequence of int, optional
        Which of the planes that follow one another under each page's directory; the first ones.

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`.
    bands : int
    dtype : numpy.dtype
    interpretation : Interpretation or None
        How the values are shown; None where as they are stored.
    alpha : int or None
        The band that says where the picture is transparent.
    revisions : set of str
        What earlier releases read wrongly in it: part of the fingerprint, so that what they
        stored is not taken for this.
    """

    def __init__(
        self, file: OpenFile, pages: Sequence[TiffPage], planes: Sequence[int] = ()
    ) -> None:
        numbered = zip(pages, planes or (0,) * len(pages), strict=True)
        self.pages = tuple(SegmentedPage(file, page, plane) for page, plane in numbered)
        first = self.pages[0]
        if any((page.size, page.dtype) != (first.size, first.dtype) for page in self.pages):
            raise SourceError(f"{file.path} has channels that differ in size or kind.")
        self.bands: int = sum(page.samples for page in self.pages)
        self.dtype: np.dtype[Any] = first.dtype
        check_image_shape((first.size[1], first.size[0], self.bands), first.dtype, file.path)
        self.size = first.size
        self.chunk = (1, 1) if first.free_rows else first.segment
        key = pages[0].keyframe
        self.interpretation = interpretation(
            key, first.photometric, first.dtype, self.bands, file.path
        )
        self.alpha = _alpha(key) if len(pages) == 1 else None
        self._places: list[tuple[SegmentedPage, int]] = []
        if all(page.separate for page in self.pages):
            self._places = [(page, n) for page in self.pages for n in range(page.samples)]
        self.revisions = {page.revision for page in self.pages} - {""}

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:
        """Return the pixels ``(y1 - y0, x1 - x0, bands)`` of a window inside the level."""
        if bands is not None and self._places:
            wanted = [self._places[band] for band in bands]
            parts = [page.window(x0, y0, x1, y1, [sample]) for page, sample in wanted]
            return np.concatenate(parts, axis=2)
        parts = [page.window(x0, y0, x1, y1) for page in self.pages]
        pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        return pixels if bands is None else np.take(pixels, bands, axis=2)


class ShownLevel:
    """A level as it is shown: classes in their colours, inverted greys turned round.

    Parameters
    ----------
    level : Level
        As stored.
    how : Interpretation
    like : TiffLevel
        Whose bands and kind of values `level` has.

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`.
    bands : int
    dtype : numpy.dtype
    """

    def __init__(self, level: Level, how: Interpretation, like: TiffLevel) -> None:
        self._level = level
        self._how = how
        self.size = level.size
        self.chunk = level.chunk
        try:
            probe = how.show(np.zeros((1, 1, like.bands), like.dtype))
        except SourceError:  # it is said where somebody wants to see it
            probe = np.zeros((1, 1, like.bands), like.dtype)
        self.bands: int = probe.shape[2]
        self.dtype: np.dtype[Any] = probe.dtype

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:
        """Return the pixels ``(y1 - y0, x1 - x0, bands)`` of a window inside the level."""
        if not self._how.mixed:
            return self._how.show(self._level.window(x0, y0, x1, y1, bands))
        pixels = self._how.show(self._level.window(x0, y0, x1, y1, None))
        return pixels if bands is None else np.take(pixels, bands, axis=2)


class BandMask:
    """A band of a level that says where the others have data: not where it is 0.

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`.
    """

    def __init__(self, level: Level, band: int) -> None:
        self._level = level
        self._band = band
        self.size = level.size
        self.chunk = level.chunk

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:  # noqa: ARG002 - a `Level`
        """Return the band ``(y1 - y0, x1 - x0, 1)``."""
        return self._level.window(x0, y0, x1, y1, [self._band])


class BandsMask:
    """A level each of whose bands says where one of the image has data: not where it is 0.

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`.
    """

    def __init__(self, level: Level) -> None:
        self._level = level
        self.size = level.size
        self.chunk = level.chunk

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:
        """Return the masks ``(y1 - y0, x1 - x0, bands)`` of these bands of the image."""
        return self._level.window(x0, y0, x1, y1, bands)


class ValueMask:
    """Where a level has in any band another value than the one for no data.

    Parameters
    ----------
    level : Level
    values : sequence of float
        Of each band, from the first.

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`.
    """

    def __init__(self, level: Level, values: Sequence[float]) -> None:
        self._level = level
        self._values = values
        self.size = level.size
        self.chunk = level.chunk

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:  # noqa: ARG002 - a `Level`
        """Return booleans ``(y1 - y0, x1 - x0, 1)``."""
        pixels = self._level.window(x0, y0, x1, y1, range(len(self._values)))
        return np.asarray(np.any(pixels != np.array(self._values), axis=2, keepdims=True))


class TableMask:
    """Where the classes of a level have data, by a table of their opacity: not where it is 0.

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`.
    """

    def __init__(self, level: Level, opacity: NDArray[np.uint8]) -> None:
        self._level = level
        self._opacity = opacity
        self.size = level.size
        self.chunk = level.chunk

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:  # noqa: ARG002 - a `Level`
        """Return the opacity ``(y1 - y0, x1 - x0, 1)``."""
        return self._opacity[self._level.window(x0, y0, x1, y1, [0])]


class FinerMask:
    """The mask of a level that has none of its own: that of the full resolution, at its middles.

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`.
    """

    def __init__(self, mask: Level, like: Level) -> None:
        self._mask = mask
        self.size = like.size
        self.chunk = like.chunk

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:
        """Return the mask ``(y1 - y0, x1 - x0, 1)`` of a window."""
        finer = self._mask
        fx, fy = finer.size[0] / self.size[0], finer.size[1] / self.size[1]
        x = Axis(x0 * fx, x1 * fx, x1 - x0, finer.size[0], finer.chunk[0])
        y = Axis(y0 * fy, y1 * fy, y1 - y0, finer.size[1], finer.chunk[1])

        def block(x0: int, y0: int, x1: int, y1: int) -> tuple[Pixels, None]:
            return finer.window(x0, y0, x1, y1, bands) != 0, None

        return nearest(block, x, y, 1, np.dtype(np.bool_))[0]


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


def _alpha(page: TiffPage) -> int | None:
    extra = [int(one) for one in page.extrasamples]
    first = int(page.samplesperpixel) - len(extra)
    return next((first + n for n, kind in enumerate(extra) if kind in _ALPHA), None)


Mask = NDArray[np.bool_]


def find_gaps(levels: Sequence[TiffLevel]) -> dict[int, Mask]:
    """Return which tiles of which levels have to be filled, as a mask ``(down, across)``.

    Parameters
    ----------
    levels : sequence of TiffLevel
        Finest first.
    """
    gaps: dict[int, Mask] = {}
    held = levels[0].pages[0].stored
    for number, (finer, level) in enumerate(pairwise(levels), start=1):
        stored = level.pages[0].stored
        if stored is None:
            held = None
            continue
        fillable = ~stored & _anything_held(level.pages[0], finer.pages[0], held)
        if fillable.any():
            gaps[number] = fillable
        held = stored | fillable
    return gaps


def _anything_held(page: SegmentedPage, finer: SegmentedPage, held: Mask | None) -> Mask:
    """Return for each tile of a page whether the finer one has a tile in its place."""
    if held is None:
        return np.ones((page.down, page.across), np.bool_)
    total = np.zeros((finer.down + 1, finer.across + 1), np.int64)
    total[1:, 1:] = held.cumsum(0).cumsum(1)
    (left, right), (top, bottom) = (
        _tiles_beneath(count, page.segment[axis], finer.segment[axis], page, finer, axis)
        for axis, count in enumerate((page.across, page.down))
    )
    inside = total[bottom][:, right] - total[top][:, right]
    inside += total[top][:, left] - total[bottom][:, left]
    return np.asarray(inside > 0)


def _tiles_beneath(
    count: int, side: int, finer_side: int, page: SegmentedPage, finer: SegmentedPage, axis: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the first and past-the-last tile of the finer page beneath each of `count` tiles."""
    ratio = finer.size[axis] / page.size[axis]
    starts = np.arange(count) * side
    stops = np.minimum(starts + side, page.size[axis])
    tiles = -(-finer.size[axis] // finer_side)
    first = np.floor(starts * ratio / finer_side).astype(int)
    last = np.ceil(stops * ratio / finer_side).astype(int)
    return np.clip(first, 0, tiles - 1), np.clip(last, 1, tiles)


class FilledLevel:
    """A level some of whose tiles are taken from the finer level.

    Parameters
    ----------
    level : TiffLevel
    gaps : ndarray of bool
        Which of its tiles.
    finer : Level

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`.
    """

    def __init__(self, level: TiffLevel, gaps: Mask, finer: Level) -> None:
        self._level = level
        self._gaps = gaps
        self._finer = finer
        self.size = level.size
        self.chunk = level.chunk

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:
        """Return the pixels ``(y1 - y0, x1 - x0, bands)`` of a window inside the level."""
        pixels = self._level.window(x0, y0, x1, y1, bands)
        wide, high = self._level.pages[0].segment
        rows, columns = slice(y0 // high, -(-y1 // high)), slice(x0 // wide, -(-x1 // wide))
        places = np.argwhere(self._gaps[rows, columns]) + np.array([rows.start, columns.start])
        if not len(places):
            return pixels
        pixels = pixels.copy()  # it may be a view of a decoded tile
        for row, column in places.tolist():
            left, top = max(x0, column * wide), max(y0, row * high)
            right, bottom = min(x1, (column + 1) * wide), min(y1, (row + 1) * high)
            pixels[top - y0 : bottom - y0, left - x0 : right - x0] = self._shrunk(
                (left, top, right, bottom), pixels, bands
            )
        return pixels

    def _shrunk(
        self, box: tuple[int, int, int, int], like: Pixels, bands: Sequence[int] | None
    ) -> Pixels:
        finer = self._finer
        x, y = (
            Axis(
                box[axis] * finer.size[axis] / self.size[axis],
                box[axis + 2] * finer.size[axis] / self.size[axis],
                box[axis + 2] - box[axis],
                finer.size[axis],
                finer.chunk[axis],
            )
            for axis in (0, 1)
        )

        def block(x0: int, y0: int, x1: int, y1: int) -> tuple[Pixels, None]:
            return finer.window(x0, y0, x1, y1, bands), None

        return resample(block, x, y, like.shape[2], like.dtype)[0]
