"""Tiles that a coarser resolution of a TIFF file leaves out, filled from the finer one.

Scanners leave tiles out of a pyramid's levels; OpenSlide shrinks the finer level there. What the
finer one leaves out as well is empty, as in any sparse file.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.sources.formats.segments import SegmentedPage
from tilevision.sources.formats.tifflevels import TiffLevel
from tilevision.sources.levels import Level
from tilevision.sources.resample import Axis, resample
from tilevision.sources.source import Pixels

__all__ = ["FilledLevel", "find_gaps"]

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
