"""A map on the screen: every so many-th pixel of it, cell by cell as its tiles arrive."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.grid import Tile
from tilevision.rasters.blending import Blender
from tilevision.rasters.mapsettings import MapSettings
from tilevision.rasters.placement import Placed, TileMaps, place_of
from tilevision.rasters.regionmask import Window
from tilevision.regions import Region

__all__ = ["Cells", "SampledBlender", "Samples"]

_KEPT = 64 * 2**20  # bytes of samples


class Samples:
    """What is kept of tiles that were decoded for one distance of pixels; the oldest go first."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[bytes, int, int], NDArray[Any]] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[bytes, int, int]) -> NDArray[Any] | None:
        """Return what is kept of a tile."""
        found = self._found.get(key)
        if found is not None:
            self._found.move_to_end(key)
        return found

    def put(self, key: tuple[bytes, int, int], values: NDArray[Any]) -> None:
        """Keep the samples of a tile."""
        self._found[key] = values
        self._bytes += values.nbytes
        while self._bytes > _KEPT and len(self._found) > 1:
            self._bytes -= self._found.popitem(last=False)[1].nbytes


class SampledBlender(Blender):
    """Blends each `step`-th pixel of a map: the same as `Blender` with that step.

    A tile is decoded once, and only its samples are kept: of a map on the screen, those of all
    its tiles fit into memory.

    Parameters
    ----------
    layout : TileMaps
    settings : MapSettings
    region : Region or None
    step : int
        Windows that begin at multiples of it share what is kept.
    samples : Samples
        Of this step; they outlive the blender, for tiles that come later make a new one.
    """

    def __init__(
        self,
        layout: TileMaps,
        settings: MapSettings,
        region: Region | None,
        step: int,
        samples: Samples,
    ) -> None:
        super().__init__(layout, settings, region)
        self.step = step
        self._samples = samples

    def _pixels(self, placed: Placed, rows: slice, columns: slice) -> NDArray[Any]:
        step = self.step
        if (rows.step, columns.step) != (step, step):
            return super()._pixels(placed, rows, columns)
        x, y = columns.start % step, rows.start % step
        found = self._sampled(placed, x, y)
        top, left = rows.start // step, columns.start // step
        high, wide = (len(range(one.start, one.stop, step)) for one in (rows, columns))
        return found[:, top : top + high, left : left + wide]

    def _sampled(self, placed: Placed, x: int, y: int) -> NDArray[Any]:
        key = placed.array.ref.digest, x, y
        found = self._samples.get(key)
        if found is None:
            whole = placed.array.load()
            found = np.ascontiguousarray(whole[:, y :: self.step, x :: self.step])
            self._samples.put(key, found)
        return found


class Cells:
    """The map of an image, cut where tiles overlap: one cell for each tile of the grid.

    A cell depends on the tiles that reach into it, and on no other.

    Parameters
    ----------
    tiles : sequence of Tile
        All of a grid of rows and columns, at one scale.
    size : tuple of int
        Width and height of the map.
    """

    def __init__(self, tiles: Sequence[Tile], size: tuple[int, int]) -> None:
        places = np.array([place_of(tile, size) for tile in tiles], dtype=np.int64)
        self._across = _Axis(places[:, [0, 2]], size[0])
        self._down = _Axis(places[:, [1, 3]], size[1])
        self.shape = len(self._down.starts), len(self._across.starts)
        self._at = self._down.numbers, self._across.numbers

    def counted(self, marked: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return how many of the `marked` tiles ``(n,)`` reach into each cell ``(rows, columns)``.

        Parameters
        ----------
        marked : array (n,) of bool
            In the order of the tiles.
        """
        table = np.zeros((self.shape[0] + 1, self.shape[1] + 1), np.int64)
        np.add.at(table[1:, 1:], self._at, marked)
        table = table.cumsum(axis=0).cumsum(axis=1)
        (top, bottom), (left, right) = self._down.reach, self._across.reach
        rows = table[bottom] - table[top]
        found: NDArray[np.int64] = rows[:, right] - rows[:, left]
        return found

    def window(self, row: int, column: int) -> Window:
        """Return where a cell lies: ``x0, y0, x1, y1`` in pixels of the map."""
        x, y = self._across.edges, self._down.edges
        return int(x[column]), int(y[row]), int(x[column + 1]), int(y[row + 1])

    def within(self, window: Window) -> tuple[slice, slice]:
        """Return the rows and columns of the cells that share pixels with a window."""
        x0, y0, x1, y1 = window
        return self._down.within(y0, y1), self._across.within(x0, x1)


class _Axis:
    """The rows, or the columns, of a grid."""

    def __init__(self, spans: NDArray[np.int64], length: int) -> None:
        distinct, numbers = np.unique(spans, axis=0, return_inverse=True)
        self.numbers = numbers.reshape(-1)
        self.starts, stops = distinct.T
        middles = (self.starts[1:] + stops[:-1]) // 2
        self.edges = np.concatenate([[0], middles, [length]])
        # Both ascend: who reaches into a cell stands side by side.
        first = np.searchsorted(stops, self.edges[:-1], "right")
        last = np.searchsorted(self.starts, self.edges[1:], "left")
        self.reach = first, np.maximum(last, first)

    def within(self, start: int, stop: int) -> slice:
        """Return the numbers of the cells that share pixels with a span."""
        first = int(np.searchsorted(self.edges, start, "right")) - 1
        return slice(max(first, 0), int(np.searchsorted(self.edges[:-1], stop, "left")))
