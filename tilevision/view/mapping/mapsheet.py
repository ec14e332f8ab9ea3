"""The pixels of a map over one part of the picture, as far as they are final."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import CheckpointError
from tilevision.geometry import Box

if TYPE_CHECKING:
    from tilevision.rasters import Cells, RasterMap, SampledBlender, Samples
    from tilevision.view.mapping.mapchoice import MapChoice

__all__ = ["MapSheet"]

TOGETHER = 8  # cells of a row that are blended at once: one call costs as much as a small cell


class MapSheet:
    """Each `step`-th pixel of a map within a region of the image, cell by cell.

    A cell is painted once all tiles that reach into it have ended, and again only where a failed
    one was tried again with success.

    Parameters
    ----------
    choice : MapChoice
        What of the map is shown.
    cells : Cells
    raster : RasterMap
    view : Box
        In pixels of the image.
    step : int
    samples : Samples
        Of that step.
    """

    def __init__(
        self,
        choice: MapChoice,
        cells: Cells,
        raster: RasterMap,
        view: Box,
        step: int,
        samples: Samples,
    ) -> None:
        self._choice, self._cells, self._samples = choice, cells, samples
        self.step = step
        scale, (width, height) = raster.scale, raster.size
        x0, y0 = (max(0, math.floor(at * scale / step)) * step for at in (view.x0, view.y0))
        x1, y1 = min(width, math.ceil(view.x1 * scale)), min(height, math.ceil(view.y1 * scale))
        self.window = x0, y0, max(x1, x0), max(y1, y0)
        shape = -((y0 - self.window[3]) // step), -((x0 - self.window[2]) // step)
        self.values = np.full(shape, choice.nodata, choice.dtype)
        self.known = np.zeros(shape, bool)
        self._painted = np.full(cells.shape, -1, np.int64)  # from so many tiles
        self.ends: tuple[float, float] | None = choice.ends

    def paint(
        self,
        raster: RasterMap,
        there: NDArray[np.int64],
        open_: NDArray[np.int64],
        until: float,
        pause: Callable[[], object] = lambda: None,
    ) -> tuple[bool, bool]:
        """Paint what is final and new, until `until` (monotonic); say what was, and what is left.

        `pause` is called before each few cells.

        Raises
        ------
        CheckpointError
            If a tile's map cannot be read; its cell stays clear.
        """
        rows, columns = self._cells.within(self.window)
        fresh = (open_ == 0) & (self._painted != there)
        due = np.argwhere(fresh[rows, columns]) + np.array([rows.start, columns.start])
        if not len(due):
            return False, False
        blender = raster.sampled(self.step, self._samples)
        for number, (row, first, last) in enumerate(_runs(due.tolist())):
            if number and time.monotonic() > until:
                self._fit_ends()
                return True, True
            pause()
            side_by_side = slice(first, last + 1)
            self._painted[row, side_by_side] = there[row, side_by_side]
            filled = bool(there[row, side_by_side].any())
            try:
                self._paint_cells(blender, row, first, last, filled)
            except CheckpointError:
                self._paint_each(blender, row, range(first, last + 1))
                raise
        self._fit_ends()
        return True, False

    @property
    def whole(self) -> bool:
        """Return True if all of it is painted."""
        return bool(self.known.all())

    def _paint_each(self, blender: SampledBlender, row: int, columns: Iterable[int]) -> None:
        """Paint cells one by one: those whose tiles can be read."""
        for column in columns:
            with suppress(CheckpointError):
                self._paint_cells(blender, row, column, column, True)

    def _paint_cells(
        self, blender: SampledBlender, row: int, first: int, last: int, filled: bool
    ) -> None:
        (x0, y0, _, y1), x1 = self._cells.window(row, first), self._cells.window(row, last)[2]
        step, (left, top, right, bottom) = self.step, self.window
        x0, y0 = max(-(-x0 // step) * step, left), max(-(-y0 // step) * step, top)
        x1, y1 = min(x1, right), min(y1, bottom)
        if x1 <= x0 or y1 <= y0:
            return
        i, j = (y0 - top) // step, (x0 - left) // step
        high, wide = -((y0 - y1) // step), -((x0 - x1) // step)
        place = (slice(i, i + high), slice(j, j + wide))
        if filled:
            self.values[place] = self._choice.read(blender, (x0, y0, x1, y1), step)
        self.known[place] = True

    def _fit_ends(self) -> None:
        """Find the lowest and the highest value, where these are not given."""
        if self._choice.ends is None:
            there = self.values[np.isfinite(self.values)]
            self.ends = (float(there.min()), float(there.max())) if len(there) else None

    def over(
        self, view: Box, size: tuple[int, int], scale: float, ends: tuple[float, float] | None
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return the level of each pixel of a picture of `view`, and whether it is known.

        Parameters
        ----------
        view : Box
        size : tuple of int
            Width and height of the picture.
        scale : float
            Pixels of the map per pixel of the image.
        ends : (float, float), optional
            What the lowest and the highest level stand for, where the map has values.
        """
        across, inside_x = self._places(view.x0, view.width, size[0], scale, 0)
        down, inside_y = self._places(view.y0, view.height, size[1], scale, 1)
        levels = self._choice.levels(self.values, ends)
        return (
            levels[down][:, across],
            self.known[down][:, across] & inside_y[:, None] & inside_x,
        )

    def _places(
        self, start: float, length: float, pixels: int, scale: float, axis: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return which sample each pixel of a picture shows, and whether there is one."""
        at = (start + (np.arange(pixels) + 0.5) * length / pixels) * scale
        number = np.floor((at - self.window[axis]) / self.step).astype(np.int64)
        count = self.values.shape[1 - axis]
        inside = (number >= 0) & (number < count) & (at < self.window[axis + 2])
        return number.clip(0, max(count - 1, 0)), inside


def _runs(cells: list[list[int]]) -> Iterator[tuple[int, int, int]]:
    """Yield row, first and last column of cells that stand side by side, few at a time."""
    at = 0
    while at < len(cells):
        row, first = cells[at]
        n = 1
        while n < TOGETHER and at + n < len(cells) and cells[at + n] == [row, first + n]:
            n += 1
        yield row, first, first + n - 1
        at += n
