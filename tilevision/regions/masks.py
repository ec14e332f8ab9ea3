"""Masks: pictures of which part of an image is wanted, at any resolution, as polygons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.errors import GridError
from tilevision.geometry import Box
from tilevision.sources import ImageSource

__all__ = ["Mask", "read_mask"]

# A mask is taken at this resolution at most, and with this many runs of pixels: what is
# kept of it goes into the run's journal.
_LONGEST_SIDE = 4096
_MOST_RUNS = 50_000
_STRIP_PIXELS = 1 << 22
_LOSSY = ("JPEG", "WEBP")

Wanted = NDArray[np.bool_]
Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """Which pixels of a picture that covers the whole image are wanted.

    Parameters
    ----------
    wanted : array (h, w) of bool
        A pixel is wanted if any is that it stands for.
    stored : tuple of int
        Width and height of the picture as it was given.
    factor : int
        How many given pixels, across and down, a pixel stands for; fewer at the right and
        bottom edge.
    """

    wanted: Wanted
    stored: tuple[int, int]
    factor: int = 1

    @classmethod
    def of(cls, wanted: Wanted) -> Mask:
        """Return the mask of an array ``(h, w)``, at no more than 4096 px a side."""
        height, width = wanted.shape
        return cls(wanted, (width, height)).reduced(-(-max(wanted.shape) // _LONGEST_SIDE))

    def reduced(self, times: int) -> Mask:
        """Return the mask `times` times smaller."""
        if times == 1:
            return self
        return Mask(_reduced(self.wanted, times), self.stored, self.factor * times)

    def polygons(self, size: tuple[int, int]) -> tuple[Any, tuple[str, ...]]:
        """Return the outline on an image of `size`, and what the user should be told.

        Returns
        -------
        tuple
            Polygons along the edges of the mask's pixels, in pixels of the image, to
            0.01 px; and notes.

        Raises
        ------
        GridError
            If nothing is wanted.
        """
        if not self.wanted.any():
            raise GridError("region is a mask in which nothing is marked: all of it is 0")
        if _count_runs(self.wanted) > _MOST_RUNS:
            return self.reduced(2).polygons(size)
        x0, y0, x1, y1 = _blocks(self.wanted)
        xs = self._edges(self.wanted.shape[1], self.stored[0], size[0])
        ys = self._edges(self.wanted.shape[0], self.stored[1], size[1])
        outline = shapely.union_all(shapely.box(xs[x0], ys[y0], xs[x1], ys[y1]))
        return outline, self._notes(size)

    def _edges(self, count: int, stored: int, length: int) -> NDArray[np.float64]:
        """Return the edges of `count` pixels on an image `length` pixels long."""
        edges = np.minimum(np.arange(count + 1) * self.factor, stored)
        return np.round(edges * (length / stored), 2)

    def _notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        notes = []
        (width, height), (image_width, image_height) = self.stored, size
        # A mask of few pixels may be rounded to another proportion.
        if abs(width - height * image_width / image_height) > 1 + 0.02 * width:
            notes.append(
                f"the mask of {width:,} × {height:,} px is stretched over the image of "
                f"{image_width:,} × {image_height:,} px, which has other proportions"
            )
        if self.factor > 1:
            rows, cols = self.wanted.shape
            notes.append(
                f"the mask of {width:,} × {height:,} px is taken at {cols:,} × {rows:,} px"
            )
        return tuple(notes)


def read_mask(source: ImageSource) -> Mask:
    """Read a mask image: pixels that are not 0 are wanted.

    Of lossy formats those of half brightness and more, since their zeros are not exact; of
    pictures with an alpha channel the colours. Read strip by strip, whatever its size.
    """
    width, height = source.size
    least = 128 if source.metadata.format.upper() in _LOSSY else 1
    factor = -(-max(width, height) // _LONGEST_SIDE)
    colours = tuple(range(source.bands - 1 if source.bands in (2, 4) else source.bands))
    rows = max(1, _STRIP_PIXELS // width // factor) * factor
    strips = []
    for top in range(0, height, rows):
        pixels = source.read(Box(0, top, width, min(top + rows, height)), 1.0, colours)
        strips.append(_reduced(np.any(pixels >= least, axis=-1), factor))
    return Mask(np.concatenate(strips), (width, height), factor)


def _reduced(wanted: Wanted, times: int) -> Wanted:
    if times == 1:
        return wanted
    rows, cols = (np.arange(0, side, times) for side in wanted.shape)
    across = np.logical_or.reduceat(wanted, cols, axis=1)
    return np.asarray(np.logical_or.reduceat(across, rows, axis=0))


def _steps(wanted: Wanted) -> NDArray[np.int8]:
    """Return 1 where a run of pixels begins and -1 behind its end, row by row."""
    padded = np.pad(wanted, ((0, 0), (1, 1))).astype(np.int8)
    return padded[:, 1:] - padded[:, :-1]


def _count_runs(wanted: Wanted) -> int:
    return int((_steps(wanted) == 1).sum())


def _blocks(wanted: Wanted) -> tuple[Index, Index, Index, Index]:
    """Return x0, y0, x1, y1 of rectangles that make up the mask: equal runs of rows as one."""
    steps = _steps(wanted)
    y, x0 = np.nonzero(steps == 1)
    x1 = np.nonzero(steps == -1)[1]
    order = np.lexsort((y, x1, x0))
    y, x0, x1 = y[order], x0[order], x1[order]
    first = np.ones(len(y), dtype=bool)
    first[1:] = (np.diff(x0) != 0) | (np.diff(x1) != 0) | (np.diff(y) != 1)
    starts = np.flatnonzero(first)
    ends = np.append(starts[1:], len(y)) - 1
    return x0[starts], y[starts], x1[starts], y[ends] + 1
