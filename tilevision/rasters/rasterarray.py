"""The pixels of a map as an array that is blended as it is read; it travels to other processes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.rasters.blending import Blender
from tilevision.rasters.regionmask import Window
from tilevision.rasterspec import NODATA, STEPS

__all__ = ["BLOCK", "RasterArray"]

BLOCK = 1024  # pixels of the map along a side that are blended together
_ROWS = 32  # that are written together
_TILE_ROWS = 3.0  # at hand where each tile stays until others were read: areas add up in this order
_EXPECTED_ROWS = 2.0  # the same where those stay that are needed next


class RasterArray:
    """The pixels of a map: class numbers, shares of classes, or values.

    Parameters
    ----------
    blender : Blender
    layer : str
        ``"classes"``, ``"probabilities"`` or ``"values"``.
    band : int, optional
        Of probabilities: of one class.

    Attributes
    ----------
    shape : tuple of int
        ``(h, w)``, or ``(h, w, k)`` for several planes.
    dtype : numpy.dtype
    nodata : float
        255 or NaN.
    """

    def __init__(self, blender: Blender, layer: str, band: int | None = None) -> None:
        self._blender = blender
        self._layer = layer
        self._band = band
        planes = 1 if layer == "classes" or band is not None else blender.layout.planes
        self.bands = planes
        width, height = blender.layout.size
        flat = layer == "classes" or band is not None or (planes == 1 and layer == "values")
        self.shape: tuple[int, ...] = (height, width) if flat else (height, width, planes)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8 if layer == "classes" else np.float32)
        self.nodata = float(NODATA) if layer == "classes" else math.nan

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the map, pixels."""
        return self._blender.layout.size

    def __len__(self) -> int:
        return self.shape[0]

    def window(self, x0: int, y0: int, x1: int, y1: int, step: int = 1) -> NDArray[Any]:
        """Return planes ``(k, h, w)`` of a window, in pixels of the map; each `step`-th pixel."""
        blender = self._blender
        if self._layer == "classes":
            return blender.classes(x0, y0, x1, y1, step)[None]
        if self._layer == "values":
            return blender.values(x0, y0, x1, y1, step)
        kept = blender.probabilities(x0, y0, x1, y1, step)
        kept = kept if self._band is None else kept[self._band : self._band + 1]
        return _shares()[kept]

    def put(self, window: Window, out: NDArray[Any]) -> None:
        """Write a window ``x0, y0, x1, y1`` into `out` ``(h, w)`` or ``(h, w, k)``."""
        if self._layer != "probabilities":
            planes = self.window(*window)
            out[:] = planes[0] if self.ndim == 2 else np.moveaxis(planes, 0, -1)
            return
        kept, shares = self.steps(*window), _shares()
        for top in range(0, len(out), _ROWS):
            # Steps change places before they become shares, which are four times as large.
            few = np.ascontiguousarray(np.moveaxis(kept[:, top : top + _ROWS], 0, -1))
            out[top : top + _ROWS] = shares[few[..., 0] if self.ndim == 2 else few]

    def steps(self, x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
        """Return the shares ``(k, h, w)`` of a window in 253 steps, 255 where no data are."""
        kept = self._blender.probabilities(x0, y0, x1, y1)
        return kept if self._band is None else kept[self._band : self._band + 1]

    def steps_and_classes(
        self, x0: int, y0: int, x1: int, y1: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return `steps` and the class numbers ``(h, w)`` of a window, blended once."""
        kept, classes = self._blender.shares_and_classes(x0, y0, x1, y1)
        return kept if self._band is None else kept[self._band : self._band + 1], classes

    def windows(self, side: int = BLOCK, rows: float = _TILE_ROWS) -> Iterator[Window]:
        """Yield windows ``x0, y0, x1, y1`` that cover the map.

        Row by row in columns so wide that tiles which reach into the next row are still at hand:
        so many rows of them.
        """
        width, height = self.size
        wide = max(1, self._blender.wide(rows) // side) * side
        for left in range(0, width, wide):
            for y in range(0, height, side):
                for x in range(left, min(left + wide, width), side):
                    yield x, y, min(x + side, width), min(y + side, height)

    def path(self, side: int = BLOCK, rows: float = _EXPECTED_ROWS) -> Iterator[Window]:
        """Yield the same windows, in the order in which `expecting` decodes fewest tiles again.

        Where two are blended at a time more rows are needed than where one is.
        """
        yield from self.windows(side, rows)

    def expecting(self, windows: Iterable[Window]) -> AbstractContextManager[None]:
        """Return what has at hand, while it is entered, what the next of these windows need.

        They are blended in this order, and `passed` is to say of each that it was.
        """
        return self._blender.expecting(windows)

    def fetch(self, window: Window) -> None:
        """Decode the tiles of a window that is blended soon, as far as there is room.

        Raises
        ------
        CheckpointCorrupt
            If the map of one is damaged or missing.
        """
        self._blender.fetch(window)

    def passed(self, window: Window) -> None:
        """Note that a window needs its tiles no more."""
        self._blender.passed(window)

    def blocks(self, side: int = BLOCK) -> Iterator[tuple[Window, NDArray[Any]]]:
        """Yield windows, and their planes ``(k, h, w)``: the memory of a block at a time."""
        for window in self.windows(side):
            yield window, self.window(*window)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        keys = key if isinstance(key, tuple) else (key,)
        if any(k is Ellipsis for k in keys):
            place = next(i for i, k in enumerate(keys) if k is Ellipsis)
            filled = (slice(None),) * (self.ndim - len(keys) + 1)
            keys = (*keys[:place], *filled, *keys[place + 1 :])
        if len(keys) > self.ndim:
            raise IndexError(f"The map has {self.ndim} axes, and {len(keys)} were indexed.")
        keys = (*keys, *(slice(None),) * (self.ndim - len(keys)))
        (y0, y1, rows), (x0, x1, columns) = (
            _range(one, side) for one, side in zip(keys[:2], self.shape[:2], strict=True)
        )
        if y1 <= y0 or x1 <= x0:
            return np.broadcast_to(self.dtype.type(0), self.shape)[keys].copy()
        planes = self.window(x0, y0, x1, y1)
        found = planes[0] if self.ndim == 2 else np.moveaxis(planes, 0, -1)
        return np.asarray(found[(rows, columns, *keys[2:])])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("The map is blended as it is read, which makes a copy.")
        whole = np.empty(self.shape, self.dtype if dtype is None else dtype)
        for x0, y0, x1, y1 in self.windows():
            self.put((x0, y0, x1, y1), whole[y0:y1, x0:x1])
        return whole


@cache
def _shares() -> NDArray[np.float32]:
    """Return the share ``(256,)`` that each step is; NaN where no data are."""
    shares = np.arange(NODATA + 1, dtype=np.float32) / np.float32(STEPS)
    shares[NODATA] = np.nan
    shares.setflags(write=False)
    return shares


def _range(key: Any, side: int) -> tuple[int, int, Any]:
    """Return the pixels that a key needs, first and past the last, and the key among those."""
    if isinstance(key, slice):
        chosen = range(side)[key]
        if not chosen:
            return 0, 0, slice(0, 0)
        low, high = min(chosen), max(chosen)
        return low, high + 1, slice(None, None, key.step)
    at = np.arange(side)[key]  # raises as NumPy does
    if at.size == 0:
        return 0, 0, slice(0, 0)
    low = int(at.min())
    return low, int(at.max()) + 1, at - low
