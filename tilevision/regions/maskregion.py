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

# A mask is taken at this resolution at most, and with this many straight pieces of outline:
# what is kept of it goes into the run's journal.
_LONGEST_SIDE = 4096
_MOST_PIECES = 100_000
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
        """Return the outline on an image of `size`, and notes for the user.

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
            raise GridError("region is a mask in which nothing is marked: all of it is 0.")
        pieces = _pieces(self.wanted)
        if len(pieces) > _MOST_PIECES:
            return self.reduced(2).polygons(size)
        faces = shapely.get_parts(shapely.polygonize(np.asarray(shapely.linestrings(pieces))))
        x, y = shapely.get_coordinates(shapely.point_on_surface(faces)).astype(np.int64).T
        outline = shapely.multipolygons(faces[self.wanted[y, x]])
        xs = self._edges(self.wanted.shape[1], self.stored[0], size[0])
        ys = self._edges(self.wanted.shape[0], self.stored[1], size[1])
        return shapely.transform(outline, lambda at: _looked_up(at, xs, ys)), self._notes(size)

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
                f"The mask of {width:,} × {height:,} px is stretched over the image of "
                f"{image_width:,} × {image_height:,} px, which has other proportions."
            )
        if self.factor > 1:
            rows, cols = self.wanted.shape
            notes.append(
                f"The mask of {width:,} × {height:,} px is taken at {cols:,} × {rows:,} px."
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


def _pieces(wanted: Wanted) -> NDArray[np.int64]:
    """Return the straight pieces ``(n, 2, 2)`` of the outline, x, y in pixels of the mask.

    They end where the outline turns, and where two parts of it meet.
    """
    padded = np.pad(wanted, 1)
    level = padded[:-1, 1:-1] != padded[1:, 1:-1]
    upright = padded[1:-1, :-1] != padded[1:-1, 1:]
    y, x0, x1 = _runs(level, np.pad(upright, ((1, 1), (0, 0))))
    x, y0, y1 = _runs(upright.T, np.pad(level.T, ((1, 1), (0, 0))))
    across = np.stack([x0, y, x1, y], axis=1)
    down = np.stack([x, y0, x, y1], axis=1)
    return np.concatenate([across, down]).reshape(-1, 2, 2)


def _runs(edges: Wanted, crossing: Wanted) -> tuple[Index, Index, Index]:
    """Return line, start and end of the runs of `edges` in each line, cut by `crossing` ones."""
    met = crossing[:-1] | crossing[1:]
    beside = np.pad(edges, ((0, 0), (1, 1)))
    line, start = np.nonzero(edges & (~beside[:, :-2] | met[:, :-1]))
    end = np.nonzero(edges & (~beside[:, 2:] | met[:, 1:]))[1] + 1
    return line, start, end


def _looked_up(
    at: NDArray[np.float64], xs: NDArray[np.float64], ys: NDArray[np.float64]
) -> NDArray[np.float64]:
    x, y = at.astype(np.int64).T
    return np.column_stack([xs[x], ys[y]])
