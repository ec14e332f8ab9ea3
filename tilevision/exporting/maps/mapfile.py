"""What all files of maps have in common: which layer, in which steps, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.analysis.tables import lacking
from tilevision.errors import RunArgumentError
from tilevision.exporting.maps.inorder import in_order
from tilevision.exporting.statement import statement
from tilevision.rasters import MapFacts, RasterMap, hexadecimal
from tilevision.rasters.rastermap import BLOCK
from tilevision.rasters.regionmask import Window
from tilevision.rasterspec import NODATA, STEPS

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData

__all__ = ["MapFile"]

SMALLEST = 256  # pixels of the longer side of the last level of a pyramid
_BLENDING = 2  # blocks at once: each takes the memory of its sums
_LARGE = 8 * 2**20  # bytes of a block from which it is blended alone
_AT_ONCE = 64 * 2**10  # pixels that are averaged together


class MapFile:
    """The map of a result as it is written: classes as uint8, shares in 253 steps, values.

    Parameters
    ----------
    result : Result
    layer : str or None
        ``"classes"``, ``"probabilities"`` or ``"values"``; None: classes, or values.

    Attributes
    ----------
    raster : RasterMap
    dtype : numpy.dtype
    nodata : float
        255 or NaN.
    palette : array (256, 4) of uint8
        Red, green, blue and opacity by class number, as people chose them.
    names : list of str
        Of the planes.

    Raises
    ------
    RunError
        If there is no map, it has no such layer, or colours of classes cannot be read.
    """

    def __init__(self, result: ResultData, layer: str | None) -> None:
        whole = result.raster
        if whole is None:
            raise lacking(
                result.rows,
                f"The result of {result.name} has no map; use "
                "tv.model(f, returns='probabilities', classes=…), or save detections as .json.",
            )
        self.raster = _layer(whole, layer)
        self._result = result
        self._facts = MapFacts(whole)
        self.palette = self.raster.colours
        shares = self.raster.layer == "probabilities"
        self.dtype = np.dtype(np.uint8 if shares else self.raster.dtype)
        self.nodata = float(NODATA) if shares else self.raster.nodata
        self.scale = 1 / STEPS if shares else 1.0

    @property
    def names(self) -> list[str]:
        """Return the name of each plane."""
        raster = self.raster
        if raster.layer == "probabilities":
            return [str(name) for name in raster.spec.classes]
        what = "class" if raster.layer == "classes" else raster.unit or "value"
        return [what if raster.bands == 1 else f"{what} {n}" for n in range(raster.bands)]

    @property
    def colours(self) -> dict[str, str]:
        """Return the colour ``#rrggbb`` of each class; empty where there are none."""
        classes = self.raster.classes
        return {name: hexadecimal(self.palette[number]) for name, number in classes.items()}

    def planes(self, x0: int, y0: int, x1: int, y1: int) -> NDArray[Any]:
        """Return the planes ``(k, h, w)`` of a window as they are written."""
        window, raster, classes = (x0, y0, x1, y1), self.raster, None
        if raster.layer == "probabilities" and self._facts.wanted:
            planes, classes = raster.steps_and_classes(*window)
        elif raster.layer == "probabilities":
            planes = raster.steps(*window)
        else:
            planes = raster.window(*window)
            classes = planes[0] if raster.layer == "classes" else None
        self._facts.see(window, classes)
        raster.passed(window)
        return planes

    def blocks(self, side: int = BLOCK) -> Iterator[tuple[Window, NDArray[Any]]]:
        """Yield windows of the map, in its order, and their planes: several blended at once."""
        size = side * side * self.raster.bands * self.dtype.itemsize
        threads = _BLENDING if size <= _LARGE else 1
        windows = list(self.raster.path(side))
        with self.raster.expecting(windows):
            yield from in_order(self._block, windows, threads)

    def _block(self, window: Window) -> tuple[Window, NDArray[Any]]:
        return window, self.planes(*window)

    def halved(self, planes: NDArray[Any]) -> NDArray[Any]:
        """Return planes at half their height and width: classes by place, others averaged."""
        if self.raster.layer == "classes":
            return planes[:, ::2, ::2]
        count, height, width = planes.shape
        made = np.empty((count, (height + 1) // 2, (width + 1) // 2), self.dtype)
        mean = _mean_steps if self.dtype == np.uint8 else _mean_values
        rows = max(1, _AT_ONCE // width)
        for plane, half in zip(planes, made, strict=True):
            for y in range(0, len(half), rows):  # so few that they stay in the processor's cache
                half[y : y + rows] = mean(_even(plane[2 * y : 2 * (y + rows)]))
        return made

    def levels(self) -> Iterator[tuple[int, int]]:
        """Yield width and height of each level of a pyramid, the whole map first."""
        width, height = self.raster.size
        yield width, height
        while max(width, height) > SMALLEST:
            width, height = (width + 1) // 2, (height + 1) // 2
            yield width, height

    @cached_property
    def said(self) -> dict[str, Any]:
        """What the file says beside its pixels: plain JSON types.

        Asked for once all planes were, it need not blend the map again to describe it.
        """
        raster = self.raster
        self._facts.end()
        told: dict[str, Any] = {"layer": raster.layer, "blend": raster.settings.blend}
        told |= statement(self._result)
        if raster.layer == "classes":
            told["classes"] = {str(number): name for name, number in raster.classes.items()}
        if raster.layer == "probabilities":
            told |= {"classes": self.names, "scale": self.scale}
        if self.colours:
            told["colours"] = self.colours
        if raster.unit:
            told["unit"] = raster.unit
        if raster.missing:
            told["tiles_without_map"] = raster.missing
        return told


def _layer(whole: RasterMap, layer: str | None) -> RasterMap:
    if layer in (None, whole.layer):
        return whole
    if layer == "probabilities":
        return whole.probabilities
    if layer not in ("classes", "values"):
        raise RunArgumentError(
            f"layer is {layer!r:.40}; give 'classes', 'probabilities' or 'values'."
        )
    raise RunArgumentError(f"layer is {layer!r}, and the map has {whole.layer}; leave layer out.")


def _even(plane: NDArray[Any]) -> NDArray[Any]:
    """Return a plane whose height and width are even: the last row or column counts twice."""
    high, wide = (side % 2 for side in plane.shape)
    return np.pad(plane, ((0, high), (0, wide)), mode="edge") if high or wide else plane


def _mean_steps(plane: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return the rounded mean of each four pixels, of those that have data."""
    if plane.max() < NODATA:
        sums = _fours(plane, np.uint16)
        sums += 2
        sums >>= 2
        return sums
    there = plane != NODATA
    count, sums = _fours(there, np.uint16), _fours(plane * there, np.uint16)
    return np.where(count > 0, (sums + count // 2) // np.maximum(count, 1), np.uint16(NODATA))


def _mean_values(plane: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean of each four pixels, of those that have data; NaN where none has."""
    there = np.isfinite(plane)
    sums = _fours(np.where(there, plane, np.float32(0)), np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums / _fours(there, np.int64))


def _fours(plane: NDArray[Any], kind: Any) -> NDArray[Any]:
    """Return the sum of each four pixels: those of a row first, in which floats are rounded."""
    beside = np.add(plane[:, ::2], plane[:, 1::2], dtype=kind)
    return np.asarray(beside[::2] + beside[1::2])
