"""The tile of each pixel of a picture, and the picture coloured by status."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.plot.palette import PERIOD, STATUSES, STYLES, hatch_pattern, rgb
from tilevision.status import TileStatus

__all__ = ["TileMap", "status_codes"]

SMALLEST_EDGED = 7  # px: in smaller tiles, edges would hide the tile
_CELLS = PERIOD * PERIOD
FRAME_WIDTH = 2  # px of the frame of a tile, at most
FRAMED_SIDE = 12  # px of a tile's side to each px of its frame
_EDGE = _CELLS  # the column of the colour table after those of the hatch


class TileMap:
    """The tiles as a picture of `shape` over the region `view` of the image.

    Where tiles overlap, each gets half of the overlap. Built once per view; `paint` costs
    one table look-up per pixel, for any number of tiles.

    Parameters
    ----------
    tiles : sequence of Tile
    view : Box
        Region of the image that the picture shows, full-resolution pixels.
    shape : tuple of int
        Height and width of the picture, pixels.
    """

    def __init__(self, tiles: Sequence[Tile], view: Box, shape: tuple[int, int]) -> None:
        height, width = shape
        boxes = np.array([tile.box.as_tuple() for tile in tiles], dtype=np.float64).reshape(-1, 4)
        xs = view.x0 + (np.arange(width) + 0.5) * view.width / width
        ys = view.y0 + (np.arange(height) + 0.5) * view.height / height
        index = _lattice(boxes, xs, ys)
        self.index = _painted(boxes, xs, ys) if index is None else index
        size = np.median(boxes[:, 2:] - boxes[:, :2], axis=0) if len(boxes) else np.zeros(2)
        self._side = float((size / (view.width, view.height) * (width, height)).min())
        # Whether the picture's edges are the tiles': left and top, right and bottom.
        first, last = (boxes[:, :2].min(0), boxes[:, 2:].max(0)) if len(boxes) else ((0, 0), (0, 0))
        self._ends = (
            (int(view.x0 <= first[0] + 1), int(view.y0 <= first[1] + 1)),
            (int(view.x1 >= last[0] - 1), int(view.y1 >= last[1] - 1)),
        )
        cell = (np.arange(height) % PERIOD)[:, None] * PERIOD + np.arange(width) % PERIOD
        self._cell = np.where(_edges(self.index, boxes, view, shape), _EDGE, cell)

    def paint(self, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return RGBA (h, w, 4), not premultiplied, for the status codes of the tiles.

        Parameters
        ----------
        codes : array (n,)
            Position in `STATUSES` of each tile's status.
        """
        # The last row is for pixels outside all tiles, whose index is -1.
        rows = np.append(codes, len(STATUSES)).astype(np.int32) * (_CELLS + 1)
        packed: NDArray[np.uint32] = _TABLE.take(rows[self.index] + self._cell)
        return packed.view(np.uint8).reshape(*packed.shape, 4)

    def frames(self, which: NDArray[np.bool_], colour: str) -> NDArray[np.uint8]:
        """Return RGBA (h, w, 4) with a line along the inside of some tiles.

        It has a light edge on either side in large tiles, and light gaps in small ones: a dark
        line is seen so on a dark image, too.

        Parameters
        ----------
        which : array (n,) of bool
            Which of the tiles.
        colour : str
            ``#rrggbb``.
        """
        marked = np.append(which, False)[self.index]
        width = int(np.clip(self._side / FRAMED_SIDE, 1, FRAME_WIDTH))
        out = np.zeros((*self.index.shape, 4), dtype=np.uint8)
        light, dark = (255, 255, 255, 255), (*rgb(colour), 255)
        if width > 1:
            out[marked & ~self._inner(width + 2)] = light
            out[marked & ~self._inner(width + 1)] = dark
            out[marked & ~self._inner(1)] = light
        else:
            height, across = self.index.shape
            gaps = (np.arange(height)[:, None] + np.arange(across)) % 4 < 2
            line = marked & ~self._inner(1)
            out[line] = dark
            out[line & gaps] = light
        return out

    def _inner(self, width: int) -> NDArray[np.bool_]:
        """Mark the pixels that have no other tile, and no end of all tiles, so near."""
        (left, top), (right, bottom) = self._ends
        padded = np.pad(self.index, width, mode="edge")
        padded[: width * top] = padded[len(padded) - width * bottom :] = -1
        padded[:, : width * left] = padded[:, padded.shape[1] - width * right :] = -1
        inner = np.ones(self.index.shape, dtype=bool)
        height, across = self.index.shape
        for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            for step in range(1, width + 1):
                y, x = width + step * dy, width + step * dx
                inner &= padded[y : y + height, x : x + across] == self.index
        return inner


def status_codes(statuses: Sequence[str]) -> NDArray[np.uint8]:
    """Return the position in `STATUSES` of each status."""
    position = {status: code for code, status in enumerate(STATUSES)}
    return np.array([position[TileStatus(status)] for status in statuses], dtype=np.uint8)


def _lattice(
    boxes: NDArray[np.float64], xs: NDArray[np.float64], ys: NDArray[np.float64]
) -> NDArray[np.int32] | None:
    """Return the tile of each pixel if the tiles form rows and columns, else None."""
    columns, rows = _spans(boxes[:, [0, 2]]), _spans(boxes[:, [1, 3]])
    if columns is None or rows is None or len(columns[0]) * len(rows[0]) > 4 * len(boxes) + 64:
        return None
    table = np.full((len(rows[0]) + 1, len(columns[0]) + 1), -1, dtype=np.int32)
    table[rows[1], columns[1]] = np.arange(len(boxes))
    return table[_which(rows[0], ys)[:, None], _which(columns[0], xs)]


def _spans(
    spans: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.intp]] | None:
    """Return the distinct spans in order and each tile's number; None if one contains another."""
    unique, number = np.unique(spans, axis=0, return_inverse=True)
    ordered = (np.diff(unique, axis=0) > 0).all()
    return (unique, number.reshape(-1)) if ordered else None


def _which(spans: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the number of the span each position is in; -1 for none."""
    if not len(spans):
        return np.full(len(at), -1)
    cuts = (spans[:-1, 1] + spans[1:, 0]) / 2
    number = np.searchsorted(cuts, at, side="right")
    inside = (at >= spans[number, 0]) & (at < spans[number, 1])
    return np.where(inside, number, -1)


def _painted(
    boxes: NDArray[np.float64], xs: NDArray[np.float64], ys: NDArray[np.float64]
) -> NDArray[np.int32]:
    """Return the tile of each pixel, smaller tiles above larger ones."""
    index = np.full((len(ys), len(xs)), -1, dtype=np.int32)
    left, right = np.searchsorted(xs, boxes[:, 0]), np.searchsorted(xs, boxes[:, 2])
    top, bottom = np.searchsorted(ys, boxes[:, 1]), np.searchsorted(ys, boxes[:, 3])
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i in np.argsort(-area, kind="stable"):
        index[top[i] : bottom[i], left[i] : right[i]] = i
    return index


def _edges(
    index: NDArray[np.int32], boxes: NDArray[np.float64], view: Box, shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Mark the first row and column of pixels of each tile, where tiles are large enough."""
    edge = np.zeros(index.shape, dtype=bool)
    if not len(boxes):
        return edge
    size = np.median(boxes[:, 2:] - boxes[:, :2], axis=0) / (view.width, view.height)
    if (size * (shape[1], shape[0])).min() < SMALLEST_EDGED:
        return edge
    edge[1:] |= index[1:] != index[:-1]
    edge[:, 1:] |= index[:, 1:] != index[:, :-1]
    return edge


def _table() -> NDArray[np.uint32]:
    """Return the colour of every status, for each pixel of its hatch and for its edge."""
    table = np.zeros((len(STATUSES) + 1, _CELLS + 1, 4), dtype=np.uint8)
    for row, style in enumerate(STYLES.values()):
        table[row, :, :3] = rgb(style.colour)
        opacity = np.where(hatch_pattern(style.hatch), style.stroke, style.fill)
        table[row, :_CELLS, 3] = np.round(255 * opacity).reshape(-1)
        table[row, _EDGE, 3] = round(255 * style.edge)
    return table.view(np.uint32).reshape(-1)


_TABLE = _table()
