"""How much of a map each class has, and what its values are: of regions, each by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tilevision.rasters.blending import NONE
from tilevision.rasters.regionmask import Window, mask_within
from tilevision.rasterspec import NODATA

if TYPE_CHECKING:
    import pandas as pd

    from tilevision.regions import Region

__all__ = ["ClassCounts", "PixelUnits", "area_table", "class_pixels", "counted", "value_table"]

_COLUMNS = {"µm²": ("area_mm2", 1e-6), "m²": ("area_ha", 1e-4)}
_PLAIN = {"µm²": "area_um2", "m²": "area_m2"}
NO_DATA, NO_CLASS = "(no data)", "(none)"
_ROWS = 32
_FEW = 12  # classes, which are counted one by one in less time than all at once
_AT_ONCE, _MOST_SUM = 8, 255  # bytes of a number, and what one of them can hold


class PixelUnits(Protocol):
    """In which units areas of one image are given: `tilevision.analysis.units.Units`."""

    @property
    def per(self) -> str:
        """Return the unit of large areas."""
        ...

    @property
    def short(self) -> str:
        """Return it as it is written in tables and legends."""
        ...

    @property
    def areas_per(self) -> float:
        """Return how many of the unit of areas one of large areas has."""
        ...

    @property
    def area(self) -> str:
        """Return the unit."""
        ...

    def in_words(self, area: float) -> str:
        """Return an area as a person reads it."""
        ...

    @property
    def pixel_areas(self) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
        """Return what gives the area of a pixel of the image at places ``(n, 2)``."""
        ...


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """How many pixels of a window each class has.

    Parameters
    ----------
    window : tuple of int
    numbers : array (n,)
        Of the classes that it has, ascending.
    rows : array (h, n)
        How many pixels of each row they have: rows differ in what a pixel is on the ground.
    """

    window: Window
    numbers: NDArray[np.intp]
    rows: NDArray[np.int32]

    @property
    def pixels(self) -> NDArray[np.int64]:
        """Return how many pixels each class has: ``(256,)``."""
        found = np.zeros(NODATA + 1, np.int64)
        found[self.numbers] = self.rows.sum(axis=0, dtype=np.int64)
        return found

    def ground(self, units: PixelUnits, scale: float) -> NDArray[np.float64]:
        """Return the same on the ground ``(256,)``, in the unit of areas."""
        rows = np.zeros((len(self.rows), NODATA + 1), np.int64)
        rows[:, self.numbers] = self.rows
        return np.asarray(_row_areas(self.window, units, scale) @ rows)


def counted(
    window: Window, block: NDArray[np.uint8], zone: Region | None, scale: float
) -> ClassCounts | None:
    """Count the classes of a window in a zone; None where it has no pixel of it."""
    within = mask_within(zone, window, scale)
    if within is None:
        return None
    rows = _by_row(block, within)
    numbers = np.flatnonzero(rows.any(axis=0))
    return ClassCounts(window, numbers, rows[:, numbers].astype(np.int32))


def class_pixels(
    parts: Iterable[Sequence[ClassCounts | None]], names: Sequence[str | None]
) -> dict[str, int]:
    """Return how many pixels each class has that a table of the same parts has a share of."""
    found = np.zeros(NODATA + 1, np.int64)
    for part in parts:
        for one in part:
            if one is not None:
                found += one.pixels
    listed = [(n, name) for n, name in enumerate(names) if name is not None]
    others = [(NONE, NO_CLASS)] if found[NONE] else []
    return {name: int(found[n]) for n, name in (*listed, *others)}


def area_table(
    parts: Iterable[Sequence[ClassCounts | None]],
    names: Sequence[str | None],
    zones: Sequence[Region | None],
    units: PixelUnits,
    scale: float,
) -> pd.DataFrame:
    """Return a row for each class of each zone. See `RasterMap.areas`.

    Parameters
    ----------
    parts : iterable of sequence of ClassCounts or None
        Of each window what each zone has of it, in the order of `RasterArray.windows`: areas are
        floats, and added up in another order they would be others.
    names, zones, units, scale
    """
    import pandas as pd

    pixels = np.zeros((len(zones), NODATA + 1), np.int64)
    ground = np.zeros((len(zones), NODATA + 1))
    for part in parts:
        for number, found in enumerate(part):
            if found is not None:
                pixels[number] += found.pixels
                ground[number] += found.ground(units, scale)
    listed = [(n, name) for n, name in enumerate(names) if name is not None]
    rows: list[dict[str, Any]] = []
    for zone, count, area in zip(zones, pixels, ground, strict=True):
        others = [(n, name) for n, name in ((NONE, NO_CLASS), (NODATA, NO_DATA)) if count[n]]
        known, all_ = int(count[:NODATA].sum()), int(count.sum())
        analysed = known / all_ if all_ else np.nan
        for n, name in (*listed, *others):
            row: dict[str, Any] = {"region": "image" if zone is None else zone.name, "class": name}
            row |= {"pixels": int(count[n])} | _areas(float(area[n]), units.area)
            share = np.nan if n == NODATA else count[n] / max(known, 1)
            rows.append(row | {"share": share, "analysed": analysed})
    return pd.DataFrame(rows)


def value_table(
    blocks: Iterator[tuple[Window, NDArray[np.float32]]],
    zones: Sequence[Region | None],
    scale: float,
) -> pd.DataFrame:
    """Return a row for each zone and plane of a map of values. See `RasterMap.stats`."""
    import pandas as pd

    found: dict[tuple[int, int], list[float]] = {}
    for window, block in blocks:
        for number, zone in enumerate(zones):
            within = mask_within(zone, window, scale)
            if within is None:
                continue
            for plane, values in enumerate(block):
                here = values[within & np.isfinite(values)].astype(np.float64)
                one = found.setdefault((number, plane), [0, 0.0, 0.0, np.inf, -np.inf])
                if len(here):
                    one[:3] = one[0] + len(here), one[1] + here.sum(), one[2] + (here**2).sum()
                    one[3:] = min(one[3], here.min()), max(one[4], here.max())
    rows = []
    for (number, plane), (n, total, squares, low, high) in sorted(found.items()):
        zone = zones[number]
        mean = total / n if n else np.nan
        row: dict[str, Any] = {
            "region": "image" if zone is None else zone.name,
            "band": plane,
            "pixels": int(n),
        }
        spread = max(squares / n - mean**2, 0) ** 0.5 if n else np.nan
        rows.append(row | {"mean": mean, "std": spread, "min": low, "max": high})
    return pd.DataFrame(rows)


def _areas(area: float, unit: str) -> dict[str, float]:
    if unit not in _COLUMNS:
        return {}
    name, factor = _COLUMNS[unit]
    return {_PLAIN[unit]: area, name: area * factor}


def _row_areas(window: Window, units: PixelUnits, scale: float) -> NDArray[np.float64]:
    """Return the area of a pixel of the map in each row of a window: ``(h,)``."""
    x0, y0, x1, y1 = window
    y = (np.arange(y0, y1) + 0.5) / scale
    places = np.column_stack([np.full(len(y), (x0 + x1) / 2 / scale), y])
    return units.pixel_areas(places) / scale**2


def _by_row(block: NDArray[np.uint8], within: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many pixels of each value each row has: ``(h, 256)``."""
    if within.all():
        if (found := _of_few(block)) is not None:
            return found
        within = within[:0]
    counts = np.empty((len(block), NODATA + 1), np.int64)
    for top in range(0, len(block), _ROWS):  # so few that they stay in the processor's cache
        rows = block[top : top + _ROWS]
        places = rows + np.arange(len(rows), dtype=np.int64)[:, None] * (NODATA + 1)
        chosen = places[within[top : top + _ROWS]] if len(within) else places.ravel()
        found = np.bincount(chosen, minlength=len(rows) * (NODATA + 1))
        counts[top : top + _ROWS] = found.reshape(len(rows), NODATA + 1)
    return counts


def _of_few(block: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    """Return the same of a whole block, one value after the other; None where it has too many.

    Eight pixels are added up at once, as the bytes of a number.
    """
    high, wide = block.shape
    if wide % _AT_ONCE or wide // _AT_ONCE > _MOST_SUM:
        return None
    counts = np.zeros((high, NODATA + 1), np.int64)
    equal = np.empty(block.shape, np.bool_)
    left = block.size
    for value in (*range(_FEW), NODATA, NONE):
        np.equal(block, value, out=equal)
        summed = equal.view(np.uint64).sum(axis=1)
        counts[:, value] = summed[:, None].view(np.uint8).sum(axis=1)
        left -= int(counts[:, value].sum())
        if not left:
            return counts
    return None
