"""Blocks of the image's map, blended from the maps of all tiles that cover them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.rasters.mapsettings import MapSettings
from tilevision.rasters.placement import Placed, TileMaps
from tilevision.rasters.regionmask import Window, mask_within
from tilevision.rasters.summing import Sums, decided, in_steps, woven
from tilevision.rasters.tilecache import KEPT, TileCache
from tilevision.rasters.weights import MOST, Span, span_weights
from tilevision.rasterspec import NODATA, NONE, STEPS

if TYPE_CHECKING:
    from tilevision.regions import Region

__all__ = ["NONE", "Blender"]

_MOST_CELLS = 150  # of a window; with smaller tiles they would cost more than they save


@dataclass(frozen=True, slots=True)
class _Part:
    """What a tile gives to a window: its pixels there, and their weights."""

    values: NDArray[Any]  # (k, h, w)
    weights: NDArray[np.uint32]  # (h, w)
    rows: slice
    columns: slice


class Blender:
    """Blends windows of the map of an image. Safe to use from several threads.

    Parameters
    ----------
    layout : TileMaps
    settings : MapSettings
    region : Region, optional
        What lies outside has no data: tiles that reach out of it saw more than was asked for.
    """

    def __init__(
        self, layout: TileMaps, settings: MapSettings, region: Region | None = None
    ) -> None:
        self.layout = layout
        self.settings = settings
        self.region = region
        few = layout.deepest * MOST * MOST * (STEPS + 2) < 2**32
        self._sum: Any = np.uint32 if few else np.uint64
        self.tiles = TileCache()
        self._weights: dict[tuple[Span, str, int], NDArray[np.uint32]] = {}

    def __getstate__(self) -> tuple[TileMaps, MapSettings, Region | None]:
        return self.layout, self.settings, self.region

    def __setstate__(self, state: tuple[TileMaps, MapSettings, Region | None]) -> None:
        self.__init__(*state)  # type: ignore[misc]  # nothing that was cached travels

    def classes(self, x0: int, y0: int, x1: int, y1: int, step: int = 1) -> NDArray[np.uint8]:
        """Return the class numbers ``(h, w)`` of a window: 255 is no data, 254 none of them.

        Of probabilities the class with the largest sum, of equal ones that with the lower number;
        of classes the one that most weight votes for. `step` takes each so many-th pixel.
        """
        spec, how = self.layout.spec, self.settings
        best = np.full(_shape(x0, y0, x1, y1, step), NODATA, np.uint8)
        least = how.least(spec)
        for cell, near in self._cells(x0, y0, x1, y1, step):
            shape = _shape(*cell, step)
            with self.tiles.reading():
                if spec.kind == "classes":
                    found = self._votes(cell, step, near)
                else:
                    found = decided(self._sums(cell, step, near), shape, least, how.unsure)
                best[_within(cell, x0, y0, shape)] = found
        return self._cut_out(self._shown(best), (x0, y0, x1, y1), step, NODATA)

    def probabilities(self, x0: int, y0: int, x1: int, y1: int, step: int = 1) -> NDArray[np.uint8]:
        """Return the shares ``(k, h, w)`` of a window in 253 steps; 255 is no data."""
        out = np.full((self.layout.planes, *_shape(x0, y0, x1, y1, step)), NODATA, np.uint8)
        for cell, near in self._cells(x0, y0, x1, y1, step):
            here = out[(slice(None), *_within(cell, x0, y0, _shape(*cell, step)))]
            with self.tiles.reading():
                for _ in self._shares(cell, step, near, here).planes:
                    pass
        return self._cut_out(out, (x0, y0, x1, y1), step, NODATA)

    def shares_and_classes(
        self, x0: int, y0: int, x1: int, y1: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return what `probabilities` and `classes` do, blended once."""
        window, how = (x0, y0, x1, y1), self.settings
        out = np.full((self.layout.planes, *_shape(*window, 1)), NODATA, np.uint8)
        best = np.full(out.shape[1:], NODATA, np.uint8)
        least = how.least(self.layout.spec)
        for cell, near in self._cells(*window, 1):
            shape = _shape(*cell, 1)
            here = _within(cell, x0, y0, shape)
            with self.tiles.reading():
                sums = self._shares(cell, 1, near, out[(slice(None), *here)])
                best[here] = decided(sums, shape, least, how.unsure)
        best = self._cut_out(self._shown(best), window, 1, NODATA)
        return self._cut_out(out, window, 1, NODATA), best

    def _shares(
        self, window: Window, step: int, near: Sequence[Placed], out: NDArray[np.uint8]
    ) -> Sums:
        """Return the sums of a window, whose shares stand in `out` once all planes were seen."""
        if (alone := self._alone(window, step, near)) is None:
            return in_steps(self._sums(window, step, near), out)
        out[:] = alone
        return Sums(iter(alone), np.ones((1, 1), np.uint8))

    def _shown(self, best: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return class numbers of those classes that are shown; the others are none."""
        shown = self.settings.shown(self.layout.spec)
        if shown is not None:
            best[~np.isin(best, [*shown, NODATA])] = NONE
        return best

    def values(self, x0: int, y0: int, x1: int, y1: int, step: int = 1) -> NDArray[np.float32]:
        """Return the values ``(k, h, w)`` of a window; NaN is no data."""
        shape = (self.layout.planes, *_shape(x0, y0, x1, y1, step))
        out = np.full(shape, np.nan, np.float32)
        for cell, near in self._cells(x0, y0, x1, y1, step):
            here = _within(cell, x0, y0, _shape(*cell, step))
            with self.tiles.reading():
                out[(slice(None), *here)] = self._means(cell, step, near)
        return self._cut_out(out, (x0, y0, x1, y1), step, np.nan)

    def _means(self, window: Window, step: int, near: Sequence[Placed]) -> NDArray[np.float32]:
        """Return the weighted means ``(k, h, w)`` of values."""
        spec = self.layout.spec
        if (alone := self._alone(window, step, near)) is not None:
            if spec.precision is None:
                return np.asarray(alone)
            found = (alone * spec.precision).astype(np.float32)
            found[~spec.there(alone)] = np.nan
            return np.asarray(found)
        shape = (self.layout.planes, *_shape(*window, step))
        sums = np.zeros(shape, np.float64 if spec.precision is None else np.int64)
        total = np.zeros(shape, np.int64)
        for round_ in self._rounds():
            open_ = total == 0
            for part in self._parts(window, step, near, round_):
                there = spec.there(part.values) & open_[:, part.rows, part.columns]
                weights = np.where(there, part.weights, 0)
                values = np.where(there, part.values, 0)
                sums[:, part.rows, part.columns] += values * weights.astype(sums.dtype)
                total[:, part.rows, part.columns] += weights
            if (total > 0).all():
                break
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(sums / total * (spec.precision or 1.0), np.float32)

    def _cut_out(self, out: NDArray[Any], window: Window, step: int, nodata: float) -> NDArray[Any]:
        """Take away what lies outside the region; return what is left."""
        if self.region is not None:
            within = mask_within(self.region, window, self.layout.scale, step)
            out[..., slice(None) if within is None else ~within] = nodata
        return out

    # Sums ---------------------------------------------------------------------------------------

    def _sums(self, window: Window, step: int, near: Sequence[Placed]) -> Sums:
        """Return the weighted sums of probabilities.

        Where one tile is alone, its own shares, and weights of 1: the same in effect.
        """
        if (alone := self._alone(window, step, near)) is not None:
            return Sums(iter(alone), np.ones((1, 1), np.uint8))
        if (found := self._woven(window, step, near)) is not None:
            return found
        shape = _shape(*window, step)
        sums = np.zeros((self.layout.planes, *shape), self._sum)
        total = np.zeros(shape, self._sum)
        for part in self._weighted(window, step, near, total):
            for plane, values in zip(sums, part.values, strict=True):
                plane[part.rows, part.columns] += values * part.weights
        return Sums(iter(sums), total)

    def _weighted(
        self, window: Window, step: int, near: Sequence[Placed], total: NDArray[Any]
    ) -> Iterator[_Part]:
        """Yield what each tile gives to a window; enter the weights into `total`.

        Where the first weights leave pixels to nobody, others fill in.
        """
        for number, round_ in enumerate(self._rounds()):
            open_ = total == 0
            for part in self._parts(window, step, near, round_):
                weights = part.weights.astype(total.dtype, copy=False)
                if number:
                    weights = weights * open_[part.rows, part.columns]
                yield replace(part, weights=weights)
                total[part.rows, part.columns] += weights
            if (total > 0).all():
                break

    def _woven(self, window: Window, step: int, near: Sequence[Placed]) -> Sums | None:
        """Return the sums if all pixels of a window are covered by the same rows and columns."""
        x0, y0, x1, y1 = window
        down, across = ({p.down: None for p in near}, {p.across: None for p in near})
        if len(near) != len(down) * len(across):
            return None
        if any(s.start > x0 or s.stop < x1 for s in across):
            return None
        if any(s.start > y0 or s.stop < y1 for s in down):
            return None
        at = {(one.down, one.across): one for one in near}
        rows = {s: slice(y0 - s.start, y1 - s.start, step) for s in down}
        columns = {s: slice(x0 - s.start, x1 - s.start, step) for s in across}
        return woven(
            [[self._pixels(at[r, c], rows[r], columns[c]) for c in across] for r in down],
            [self._weigh(one, self.settings)[here] for one, here in rows.items()],
            [self._weigh(one, self.settings)[here] for one, here in columns.items()],
        )

    def _votes(self, window: Window, step: int, near: Sequence[Placed]) -> NDArray[np.uint8]:
        """Return the class that most weight votes for; of a tie the lower number."""
        shape = _shape(*window, step)
        if (alone := self._alone(window, step, near)) is not None:
            return np.asarray(alone[0])
        votes: dict[int, NDArray[Any]] = {}
        total = np.zeros(shape, self._sum)
        for number, round_ in enumerate(self._rounds()):
            open_ = total == 0
            for part in self._parts(window, step, near, round_):
                weights = part.weights.astype(self._sum, copy=False)
                if number:
                    weights = weights * open_[part.rows, part.columns]
                for one in np.unique(part.values).tolist():
                    if one == NODATA:
                        continue
                    mine = weights * (part.values[0] == one)
                    plane = votes.setdefault(one, np.zeros(shape, self._sum))
                    plane[part.rows, part.columns] += mine
                    total[part.rows, part.columns] += mine
            if (total > 0).all():
                break
        out = np.full(shape, NODATA, np.uint8)
        most = np.zeros(shape, self._sum)
        for one in sorted(votes):
            better = votes[one] > most
            out[better] = one
            most = np.maximum(most, votes[one])
        return out

    def _cells(
        self, x0: int, y0: int, x1: int, y1: int, step: int
    ) -> Iterator[tuple[Window, list[Placed]]]:
        """Yield parts of a window that the same tiles cover, and those tiles.

        Where tiles are small, or pixels are left out, it is the whole window; parts where no tile
        is are left out.
        """
        near = list(self.layout.within(x0, y0, x1, y1))
        if not near:
            return
        across = _cuts(x0, x1, (p.across for p in near))
        down = _cuts(y0, y1, (p.down for p in near))
        if step > 1 or (len(across) - 1) * (len(down) - 1) > _MOST_CELLS:
            yield (x0, y0, x1, y1), near
            return
        for top, bottom in pairwise(down):
            row = [p for p in near if p.down.start <= top and p.down.stop >= bottom]
            for left, right in pairwise(across):
                here = [p for p in row if p.across.start <= left and p.across.stop >= right]
                if here:
                    yield (left, top, right, bottom), here

    def _alone(self, window: Window, step: int, near: Sequence[Placed]) -> NDArray[Any] | None:
        """Return what one tile says of a window, if it covers all of it and no other does any."""
        if len(near) != 1:
            return None
        (one,), (x0, y0, x1, y1) = near, window
        across, down = one.across, one.down
        if across.start > x0 or across.stop < x1 or down.start > y0 or down.stop < y1:
            return None
        rows = slice(y0 - down.start, y1 - down.start, step)
        columns = slice(x0 - across.start, x1 - across.start, step)
        return self._pixels(one, rows, columns)

    def _rounds(self) -> tuple[MapSettings, ...]:
        """Return the weights to try: where the first leave pixels to nobody, soft ones fill in."""
        if self.settings.blend == "core" or self.settings.margin:
            return self.settings, MapSettings()
        return (self.settings,)

    def _parts(
        self, window: Window, step: int, near: Sequence[Placed], how: MapSettings
    ) -> Iterator[_Part]:
        x0, y0, x1, y1 = window
        for placed in near:
            columns, across = _cut(placed.across, x0, x1, step)
            rows, down = _cut(placed.down, y0, y1, step)
            if columns.stop <= columns.start or rows.stop <= rows.start:
                continue
            values = self._pixels(placed, down, across)
            by_x = self._weigh(placed.across, how)[across]
            by_y = self._weigh(placed.down, how)[down]
            yield _Part(values, by_y[:, None] * by_x, rows, columns)

    def _pixels(self, placed: Placed, rows: slice, columns: slice) -> NDArray[Any]:
        """Return pixels ``(k, h, w)`` of a tile's map; slices begin at 0 or after."""
        return np.asarray(self.tiles.get(placed.array)[:, rows, columns])

    def _weigh(self, span: Span, how: MapSettings) -> NDArray[np.uint32]:
        key = (span, how.blend, how.margin)
        found = self._weights.get(key)
        if found is None:
            found = self._weights[key] = span_weights(*key)
        return found

    def wide(self, rows: float) -> int:
        """Return how many columns of the map have tiles of which so many rows can be at hand."""
        largest = max(self.layout.placed, key=lambda one: one.array.ref.size)
        across = largest.across
        apart = max(1, across.stop - across.start - max(across.before, across.after))
        return (int(KEPT / (rows * largest.array.ref.size)) - 1) * apart

    # What is at hand ----------------------------------------------------------------------------

    @contextmanager
    def expecting(self, windows: Iterable[Window]) -> Iterator[None]:
        """Have at hand what the next of `windows` need, which are blended in this order.

        `passed` is to say of each that it was.
        """
        near = {window: self.layout.within(*window) for window in windows}
        needs = {window: [p.array.ref.digest for p in placed] for window, placed in near.items()}
        with self.tiles.expecting(needs):
            yield

    def fetch(self, window: Window) -> None:
        """Decode the tiles of a window that is blended soon, as far as there is room.

        Raises
        ------
        CheckpointCorrupt
            If the map of one is damaged or missing.
        """
        for placed in self.layout.within(*window):
            self.tiles.fetch(placed.array)

    def passed(self, window: Window) -> None:
        """Note that a window needs its tiles no more."""
        self.tiles.passed(window)


def _shape(x0: int, y0: int, x1: int, y1: int, step: int) -> tuple[int, int]:
    return -((y0 - y1) // step), -((x0 - x1) // step)


def _cuts(start: int, stop: int, spans: Iterable[Span]) -> list[int]:
    """Return where spans begin or end within a window, and its own ends, ascending."""
    edges = {edge for span in spans for edge in (span.start, span.stop) if start < edge < stop}
    return [start, *sorted(edges), stop]


def _within(cell: Window, x0: int, y0: int, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns of a part of a window; it is all of it, or at every pixel."""
    (left, top, _, _), (high, wide) = cell, shape
    return slice(top - y0, top - y0 + high), slice(left - x0, left - x0 + wide)


def _cut(span: Span, start: int, stop: int, step: int) -> tuple[slice, slice]:
    """Return which places of a window a span has, and which of its own pixels those are."""
    first = max(0, -((start - span.start) // step))
    last = -((start - min(stop, span.stop)) // step)
    own = start + first * step - span.start
    return slice(first, last), slice(own, own + max(0, last - first - 1) * step + 1, step)
