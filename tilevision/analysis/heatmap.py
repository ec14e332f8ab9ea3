"""What a classifier said of the tiles, as one map of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import RunArgumentError, RunError
from tilevision.findings import TileFindings

__all__ = ["Heatmap", "heatmap"]

_CELLS_A_TILE = 8
_LARGEST = 1 << 26  # cells times classes


@dataclass(frozen=True, slots=True, eq=False)
class Heatmap:
    """Probability by class, averaged where tiles overlap.

    Parameters
    ----------
    labels : tuple of str
        Classes, in alphabetical order.
    values : ndarray, ``(classes, rows, columns)`` float32
        From 0 to 1; NaN where no tile with probabilities lies.
    cell : float
        Side of a cell in full-resolution pixels. Row 0 and column 0 begin in the image's top
        left corner; the last ones may reach beyond its edge.
    size : tuple of int
        Width and height of the image, pixels.
    """

    labels: tuple[str, ...]
    values: NDArray[np.float32]
    cell: float
    size: tuple[int, int]

    @property
    def most_varied(self) -> str:
        """The class whose probability differs most over the image."""
        spread = np.nanstd(self.values.reshape(len(self.labels), -1), axis=1)
        return self.labels[int(np.argmax(spread))]

    def of(self, label: str) -> NDArray[np.float32]:
        """Return the map ``(rows, columns)`` of one class.

        Raises
        ------
        RunError
            If there is no such class.
        """
        if label not in self.labels:
            raise RunArgumentError(
                f"There is no class {label!r:.60}; there are {', '.join(self.labels[:20])}."
            )
        chosen: NDArray[np.float32] = self.values[self.labels.index(label)]
        return chosen


def heatmap(
    tile_findings: Sequence[TileFindings], size: tuple[int, int], cell: float | None = None
) -> Heatmap:
    """Average the tiles' `tile_scores` over the image.

    Each tile spreads its probabilities evenly over its box; a cell takes the mean of the
    tiles over it, weighted by how much of the cell each covers. A class that a tile does
    not name counts as 0 there.

    Parameters
    ----------
    tile_findings : sequence of TileFindings
        Those without `tile_scores` are left out.
    size : tuple of int
        Width and height of the image, pixels.
    cell : float, optional
        Side of a cell in image pixels. Default: an eighth of the smallest tile.

    Raises
    ------
    RunError
        If no tile has probabilities, or the cells are too small or too many.
    """
    seen = [found for found in tile_findings if found.findings.tile_scores]
    if not seen:
        raise RunError(
            "there is no heatmap: the model gives no probabilities for whole tiles (tile_scores)."
        )
    boxes = np.array([found.tile.box.as_tuple() for found in seen], np.float64)
    if cell is None:
        cell = max(1.0, float((boxes[:, 2:] - boxes[:, :2]).min()) / _CELLS_A_TILE)
    if not 0 < cell < np.inf:
        raise RunError(f"The cell of a heatmap is {cell!r}; give its side in image pixels.")
    labels = tuple(sorted({name for found in seen for name in found.findings.tile_scores}))
    columns, rows = (max(1, int(np.ceil(side))) for side in _in_cells(np.array(size), cell))
    if columns * rows * len(labels) > _LARGEST:
        raise RunError(
            f"A heatmap of {columns:,} × {rows:,} cells and {len(labels)} classes is too large; "
            "give a larger cell."
        )
    across = _coverage(_in_cells(boxes[:, [0, 2]], cell), columns)
    down = _coverage(_in_cells(boxes[:, [1, 3]], cell), rows)
    weight = (down.T @ across).toarray()
    values = np.full((len(labels), rows, columns), np.nan, np.float32)
    for number, label in enumerate(labels):
        scores = np.array([found.findings.tile_scores.get(label, 0.0) for found in seen])
        total = (down.multiply(scores[:, None]).T @ across).toarray()
        np.divide(total, weight, out=values[number], where=weight > 0, casting="unsafe")
    return Heatmap(labels, values.clip(0, 1), float(cell), size)


def _in_cells(pixels: NDArray[Any], cell: float) -> NDArray[np.float64]:
    """Return positions in cells; what rounding alone keeps off an edge is on it.

    21 px over cells of 0.7 px are 30 cells, not 30.000000000000004: a cell more would lie
    beyond the image.
    """
    cells = np.asarray(pixels / cell, np.float64)
    nearest = np.round(cells)
    return np.where(np.abs(cells - nearest) <= 4 * np.spacing(nearest), nearest, cells)


def _coverage(intervals: NDArray[np.float64], n: int) -> Any:
    """Return how much of each of `n` unit cells each interval ``(m, 2)`` covers, ``(m, n)``."""
    from scipy.sparse import csr_array

    first = np.floor(intervals[:, 0]).astype(int)
    last = np.minimum(np.ceil(intervals[:, 1]).astype(int), n)
    counts = last - first
    rows = np.repeat(np.arange(len(intervals)), counts)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    cells = np.arange(counts.sum()) - starts + np.repeat(first, counts)
    low, high = intervals[rows].T
    covered = np.minimum(cells + 1, high) - np.maximum(cells, low)
    return csr_array((covered, (rows, cells)), shape=(len(intervals), n))
