"""How far tiles disagree where they overlap: near their edges, and away from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tilevision.rasters.blending import Blender
from tilevision.rasters.placement import Placed, TileMaps
from tilevision.rasters.regionmask import Window
from tilevision.rasters.weights import Span
from tilevision.rasterspec import NODATA, STEPS

__all__ = ["Agreement", "TilePairs", "agreement_of"]

_PAIRS = 200  # of tiles that are looked at, about; spread evenly
_LEVEL = 1e-4  # by which the difference falls a pixel, at least, for an overlap to help
_STRIDE = 32  # pixels: the stride of most networks that pool, and a multiple of others
_NOTHING = 0.02  # of the disagreement at the edge: beyond, tiles say the same


@dataclass(frozen=True, slots=True)
class Agreement:
    """Disagreement of overlapping tiles before they are blended, by distance from the edge.

    Parameters
    ----------
    by_depth : array (d,)
        Mean difference of two tiles, where the nearer edge is so many pixels of the map away: of
        shares the mean over classes, of classes the share of pixels, of values in their unit.
    overlap : int
        Pixels that neighbours share, at the median.
    pairs : int
        How many pairs of tiles were compared.
    aligned : bool
        Whether tiles begin at multiples of 32 pixels, but for those moved inward at the border.
    """

    by_depth: NDArray[np.float64] = field(repr=False)
    overlap: int
    pairs: int
    aligned: bool = True

    @property
    def near(self) -> float:
        """Mean difference within an eighth of the overlap from an edge."""
        return float(self.by_depth[: max(1, self.overlap // 8)].mean())

    @property
    def far(self) -> float:
        """Mean difference in the middle of the overlap, where seams are."""
        middle = max(1, self.overlap // 2)
        return float(self.by_depth[max(0, middle - max(1, self.overlap // 8)) : middle].mean())

    @property
    def reach(self) -> int | None:
        """Pixels from an edge at which tiles begin to agree; None: not within what they share."""
        low = self.by_depth <= _NOTHING * self.by_depth[0]
        found = np.flatnonzero(np.logical_and.accumulate(low[::-1])[::-1])
        return int(found[0]) if len(found) else None

    @property
    def enough(self) -> bool:
        """Whether tiles agree from the middle of the overlap on."""
        return self.reach is not None and 2 * self.reach <= self.overlap

    @property
    def better_overlap(self) -> int | None:
        """The overlap that would halve `far`; None: it need not, or no overlap would.

        Where some tiles share more than others, as those do that were moved inward at the border,
        it is read off them, else off how the difference falls.
        """
        if self.enough or self.far <= 0:
            return None
        below = np.flatnonzero(self.by_depth <= self.far / 2)
        if len(below):
            return max(self.overlap + 1, 2 * (int(below[0]) + 1))
        depth = np.arange(len(self.by_depth)) + 0.5
        there = self.by_depth > 0
        if there.sum() < 2:
            return None
        slope = float(np.polyfit(depth[there], np.log(self.by_depth[there]), 1)[0])
        if slope >= -_LEVEL:
            return None
        return self.overlap + 2 * math.ceil(math.log(2) / -slope)

    def __str__(self) -> str:
        if self.near == 0:
            return "overlapping tiles say the same"
        told = f"overlapping tiles differ by {self.near:.2g} near their edges"
        if self.enough:
            return (
                f"{told} and not beyond {self.reach} px, so the overlap of {self.overlap} px is "
                "enough"
            )
        told = f"{told} and by {self.far:.2g} in the middle of the overlap ({self.overlap} px)"
        better = self.better_overlap
        if better is None:
            return f"{told}, and a larger overlap would not change that{self._pooling}"
        none = "" if self.reach is None else f", and one of {2 * self.reach} px would end it"
        return f"{told}; an overlap of {better} px would halve that{none or self._pooling}"

    @property
    def _pooling(self) -> str:
        """What else may be why tiles do not agree at any depth."""
        if self.aligned:
            return ""
        return (
            f" (of a network that pools, declare the stride first, as stride={_STRIDE}: its tiles "
            "agree where they begin at multiples of that)"
        )


def agreement_of(blender: Blender) -> Agreement | None:
    """Compare neighbouring tiles where they overlap; None where none do.

    Parameters
    ----------
    blender : Blender
    """
    return TilePairs(blender).result()


class TilePairs:
    """Compares neighbouring tiles where they overlap; also bit by bit, as windows are blended.

    Parameters
    ----------
    blender : Blender
    """

    def __init__(self, blender: Blender) -> None:
        self._blender = blender
        self._pairs = _spread(_pairs(blender.layout))
        self._found: dict[int, NDArray[np.float64]] = {}

    def look(self, window: Window) -> None:
        """Compare the pairs that begin to overlap in a window, which was just blended.

        So both tiles are at hand, and need not be decoded for it.
        """
        x0, y0, x1, y1 = window
        for number, (_, other, _) in enumerate(self._pairs):
            x, y = other.across.start, other.down.start
            if number not in self._found and x0 <= x < x1 and y0 <= y < y1:
                self._compare(number)

    def _compare(self, number: int) -> NDArray[np.float64]:
        if number not in self._found:
            with self._blender.tiles.reading():
                self._found[number] = _difference(self._blender, *self._pairs[number])
        return self._found[number]

    def result(self) -> Agreement | None:
        """Return what all pairs say; None where no tiles overlap."""
        if not self._pairs:
            return None
        widths = [_shared(*pair)[0] for pair in self._pairs]
        sums, counts = np.zeros(max(widths)), np.zeros(max(widths))
        for number in range(len(self._pairs)):  # in this order, whenever they were compared
            found = self._compare(number)
            depth = np.minimum(np.arange(len(found)), np.arange(len(found))[::-1])
            np.add.at(sums, depth, found)
            np.add.at(counts, depth, 1)
        known = counts > 0
        by_depth = sums[known] / counts[known]
        aligned = _aligned(self._blender.layout)
        return Agreement(by_depth, int(np.median(widths)), len(self._pairs), aligned)


def _aligned(layout: TileMaps) -> bool:
    spans = {span for one in layout.placed for span in (one.across, one.down)}
    return all(span.start % _STRIDE == 0 for span in spans if not span.last)


def _spread(pairs: list[tuple[Placed, Placed, int]]) -> list[tuple[Placed, Placed, int]]:
    """Return some of the pairs, those of a tile together: each tile is decoded for all of its."""
    by_tile: dict[tuple[int, int], list[tuple[Placed, Placed, int]]] = {}
    for pair in pairs:
        by_tile.setdefault((pair[0].down.start, pair[0].across.start), []).append(pair)
    every = max(1, -(-len(pairs) // _PAIRS))
    return [pair for place in sorted(by_tile)[::every] for pair in by_tile[place]]


def _pairs(layout: TileMaps) -> list[tuple[Placed, Placed, int]]:
    """Return neighbours in a row (axis 1) and in a column (axis 0) that overlap."""
    found = []
    for axis in (1, 0):
        lines: dict[Span, list[Placed]] = {}
        for placed in layout.placed:
            lines.setdefault(placed.down if axis else placed.across, []).append(placed)
        for line in lines.values():
            for one, other in pairwise(line):
                if _shared(one, other, axis)[0] > 0:
                    found.append((one, other, axis))
    return found


def _shared(one: Placed, other: Placed, axis: int) -> tuple[int, Span, Span]:
    """Return how many pixels two neighbours share, and their spans."""
    mine, theirs = (one.across, other.across) if axis else (one.down, other.down)
    return mine.stop - theirs.start, mine, theirs


def _difference(blender: Blender, one: Placed, other: Placed, axis: int) -> NDArray[np.float64]:
    """Return the mean difference of two neighbours ``(shared,)``, across what they share."""
    shared, mine, _ = _shared(one, other, axis)
    size = mine.stop - mine.start
    first, second = blender.tiles.get(one.array), blender.tiles.get(other.array)
    if axis:
        first, second = first[..., size - shared :], second[..., :shared]
    else:
        first, second = first[:, size - shared :], second[:, :shared]
    spec = blender.layout.spec
    rest = (0, 1) if axis else (0, 2)
    if spec.kind == "probabilities":
        most = np.maximum(first, second)
        if most.max() < NODATA:  # as it is: a model is to give a share for each pixel
            most -= np.minimum(first, second)
            counted = most.sum(axis=rest, dtype=np.uint32)
            return np.asarray(counted * (1 / STEPS) / (most.size // shared))
    both = spec.there(first) & spec.there(second)
    apart: NDArray[np.generic]
    step = 1.0
    if spec.kind == "classes":
        apart = first != second
    elif spec.kind == "probabilities":
        apart, step = np.maximum(first, second) - np.minimum(first, second), 1 / STEPS
    else:
        step = spec.precision or 1.0
        with np.errstate(invalid="ignore"):
            apart = np.abs(first.astype(np.float64) - second)
    counted = np.where(both, apart, apart.dtype.type(0)).sum(axis=rest)
    return np.asarray(counted * step / np.maximum(both.sum(axis=rest), 1))
