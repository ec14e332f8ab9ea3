"""Tiles that are small where a picture is detailed and large where it is not."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.checks import whole
from tilevision.errors import GridArgumentError
from tilevision.geometry import Box
from tilevision.grid.detail import Detail, DetailMap, Picture
from tilevision.grid.tile import Overlap, Size, Tile, check_count, overlap_pixels

__all__ = ["Quadtree"]

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Quadtree:
    """Cells of an image, halved both ways wherever it is detailed.

    Parameters
    ----------
    min_tile, max_tile : int
        Sides of the smallest and largest tile, overlap included, pixels as the model sees
        them. An image is cut evenly, so tiles lie between.
    detail : float or callable, optional
        How detail is found in a picture; see `DetailMap.seen`.
    found : DetailMap, optional
        Where the image is detailed; None until a picture was seen.
    """

    min_tile: int
    max_tile: int
    detail: Detail | None = None
    found: DetailMap | None = None

    def __post_init__(self) -> None:
        whole("min_tile", self.min_tile, GridArgumentError)
        whole("max_tile", self.max_tile, GridArgumentError)
        if self.min_tile > self.max_tile:
            raise GridArgumentError(
                f"min_tile ({self.min_tile} px) is larger than max_tile ({self.max_tile} px)."
            )
        number = isinstance(self.detail, (int, float)) and not isinstance(self.detail, bool)
        if self.detail is None or callable(self.detail):
            return
        if not number or not 0 <= float(self.detail) < math.inf:
            raise GridArgumentError(
                f"Detail is {self.detail!r:.60}; give the edge strength from which a place counts "
                "as detailed (0 to 1), an array (h, w), or a function of a thumbnail."
            )

    def check_overlap(self, overlap: Overlap) -> None:
        """Refuse an overlap that leaves nothing of the smallest tile."""
        if overlap_pixels(overlap, self.min_tile) >= self.min_tile:
            raise GridArgumentError(
                f"overlap {overlap} is not smaller than min_tile ({self.min_tile} px); lower the "
                "overlap or raise min_tile."
            )

    def fitted(self, picture: Picture) -> Quadtree:
        """Return the tree that follows `picture`; itself where it follows one already."""
        if self.found is not None:
            return self
        return replace(self, detail=None, found=DetailMap.seen(picture, self.detail))

    def tiles(self, size: Size, scale: float, overlap: Overlap) -> tuple[Tile, ...]:
        """Cut an image of `size`; see `Grid.tiles`.

        Raises
        ------
        GridArgumentError
            If no picture was seen yet, or the tiles are more than a machine could hold.
        """
        if self.found is None:
            raise GridArgumentError(
                "An adaptive grid follows a picture and has seen none; call grid.fitted(source) "
                "first, or give it detail as an array."
            )
        cells = self._cells(size, scale, overlap, self.found.marked())
        order = np.lexsort((cells[:, 0], cells[:, 1]))
        cells = cells[order]
        rows = np.unique(cells[:, 1], return_inverse=True)[1]
        cols = np.unique(cells[:, 0], return_inverse=True)[1]
        boxes = _grown(cells, size, scale, overlap)
        # With a large overlap, several small cells may grow to the whole image.
        first = np.sort(np.unique(boxes, axis=0, return_index=True)[1])
        return tuple(
            Tile(int(rows[i]), int(cols[i]), Box(*boxes[i].tolist()), scale, f"a{number:06d}")
            for number, i in enumerate(first)
        )

    def _cells(self, size: Size, scale: float, overlap: Overlap, marked: Mask) -> Index:
        """Return cells ``(n, 4)`` that cover the image without overlap, in image pixels."""
        (xs, x_starts), (ys, y_starts) = (self._axis(side, scale, overlap) for side in size)
        check_count((len(x_starts) - 1) * (len(y_starts) - 1))
        x, y = (
            axis.ravel()
            for axis in np.meshgrid(np.arange(len(x_starts) - 1), np.arange(len(y_starts) - 1))
        )
        # Cells are first counted in smallest ones: all whole numbers, the same everywhere.
        cells = np.column_stack([x_starts[x], y_starts[y], x_starts[x + 1], y_starts[y + 1]])
        total = np.pad(marked.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        done = []
        while len(cells):
            check_count(len(cells))
            pixels = np.column_stack(
                [xs[cells[:, 0]], ys[cells[:, 1]], xs[cells[:, 2]], ys[cells[:, 3]]]
            )
            ways = cells[:, 2:] - cells[:, :2] > 1
            split = ways.any(axis=1) & _any_marked(pixels, size, total)
            done.append(pixels[~split])
            cells = _halved(cells[split], ways[split])
        return np.concatenate(done)

    def _axis(self, length: int, scale: float, overlap: Overlap) -> tuple[Index, Index]:
        """Return the edges of the smallest cells, pixels, and at which of them large ones start."""
        least = (self.min_tile - _exact(overlap, self.min_tile)) / scale
        # Growing rounds up to whole pixels on both sides.
        most = max(1, (self.max_tile - _exact(overlap, self.max_tile)) / scale - 2)
        count = min(length, max(1, math.floor(length / least), math.ceil(length / most)))
        check_count(count)
        together = max(1, math.floor(most * count / length))
        starts = math.ceil(count / together)
        edges = np.arange(count + 1, dtype=np.int64) * length // count
        return edges, np.arange(starts + 1, dtype=np.int64) * count // starts

    def __str__(self) -> str:
        return f"adaptive tiles of {self.min_tile} to {self.max_tile} px"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; `from_dict` reads them back."""
        if callable(self.detail):
            raise GridArgumentError("A function cannot be stored; call grid.fitted(source) first.")
        return {
            "min_tile": self.min_tile,
            "max_tile": self.max_tile,
            "detail": self.detail,
            "found": None if self.found is None else self.found.to_dict(),
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Quadtree:
        """Read what `to_dict` wrote."""
        found = None if raw["found"] is None else DetailMap.from_dict(raw["found"])
        return cls(raw["min_tile"], raw["max_tile"], raw["detail"], found)


def _exact(overlap: Overlap, side: int) -> float:
    return float(overlap_pixels(overlap, side)) if isinstance(overlap, str) else overlap * side


def _any_marked(cells: Index, size: Size, total: Index) -> Mask:
    """Return a mask ``(n,)`` of cells with a marked place; `total` is the summed map."""
    shape = np.array([total.shape[1] - 1, total.shape[0] - 1])
    c0, r0 = (cells[:, :2] * shape // size).T
    c1, r1 = (-(-cells[:, 2:] * shape // size)).T
    return np.asarray(total[r1, c1] - total[r0, c1] - total[r1, c0] + total[r0, c0] > 0)


def _halved(cells: Index, ways: Mask) -> Index:
    """Return the halves of cells; `ways` ``(n, 2)`` says whether across, down or both."""
    for axis in (0, 1):
        these = ways[:, axis]
        middle = (cells[these, axis] + cells[these, axis + 2]) // 2
        second = cells[these].copy()
        second[:, axis] = middle
        cells = cells.copy()
        cells[these, axis + 2] = middle
        cells, ways = np.concatenate([cells, second]), np.concatenate([ways, ways[these]])
    return cells


def _grown(cells: Index, size: Size, scale: float, overlap: Overlap) -> Index:
    """Return the boxes of tiles: each side gives half the overlap, at the border the other all.

    Two neighbours share the mean of their overlaps, so never less than the smaller's.
    """
    if isinstance(overlap, str):
        half = np.full((len(cells), 2), math.ceil(overlap_pixels(overlap, 0) / scale / 2))
    else:
        share = overlap / (1 - overlap) / 2
        half = np.ceil((cells[:, 2:] - cells[:, :2]) * share).astype(np.int64)
    low, high = cells[:, :2] - half, cells[:, 2:] + half
    before, behind = np.maximum(-low, 0), np.maximum(high - size, 0)
    return np.hstack([np.maximum(low - behind, 0), np.minimum(high + before, size)])
