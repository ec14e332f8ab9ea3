"""Which detections of which two tiles may be views of one object.

Every two tiles that overlap (or touch) share a zone. A detection is entered once for
each zone it reaches into; entries of the two sides that lie on each other there are
candidates, whose likeness `matching` judges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.seams.detections import Detections

__all__ = ["Zones", "enter", "slack"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

# Detectors stop a pixel or two before the edge of what they see, and their boxes are off
# by a share of the object's side.
EDGE_PIXELS = 2.0
EDGE_SHARE = 0.1

# Tiles with more neighbours than this (a whole image over a fine grid) are looked up in a
# tree instead of one neighbour after the other.
_FEW = 32

_CHUNK = 200_000


@dataclass(frozen=True, slots=True, eq=False)
class Zones:
    """Detections entered by the zones they reach into, ``m`` entries.

    Attributes
    ----------
    detection : array (m,) of int
        Row in `Detections`.
    other : array (m,) of int
        The tile at the other side of the zone.
    zone : array (m,) of int
        Number of the zone; equal for both sides.
    """

    detection: Index
    other: Index
    zone: Index

    def candidates(self, found: Detections) -> Iterator[tuple[Index, Index]]:
        """Yield chunks of entries (side of the lower tile, of the higher) that meet in a zone."""
        if not len(self.detection):
            return
        geometry = self._apart(found)
        low = found.tile[self.detection] < self.other
        lower, higher = np.flatnonzero(low), np.flatnonzero(~low)
        tree = shapely.STRtree(geometry[lower])
        for start in range(0, len(higher), _CHUNK):
            part = higher[start : start + _CHUNK]
            there, here = tree.query(geometry[part])
            yield lower[here], part[there]

    def _apart(self, found: Detections) -> NDArray[np.object_]:
        """Return what each entry covers of its zone, with all zones and classes moved apart."""
        boxes = found.boxes[self.detection]
        margin = np.tile(slack(found, self.detection), 2) * (-1, -1, 1, 1)
        mine, theirs = found.tile_boxes[found.tile[self.detection]], found.tile_boxes[self.other]
        zone = np.hstack(
            [np.maximum(mine[:, :2], theirs[:, :2]), np.minimum(mine[:, 2:], theirs[:, 2:])]
        )
        grown, room = boxes + margin, zone + margin
        low = np.maximum(grown[:, :2], room[:, :2])
        high = np.maximum(np.minimum(grown[:, 2:], room[:, 2:]), low)
        low, high = low - zone[:, :2], high - zone[:, :2]
        pitch = (high.max(axis=0) - low.min(axis=0)) + 1
        move = np.column_stack([self.zone, found.classes[self.detection]]) * pitch
        return _rectangles(np.hstack([low + move, high + move]))


def slack(found: Detections, rows: Index) -> Floats:
    """Return how far ``(n, 2)`` the edges of `rows` may be off in x and y, image pixels."""
    sides = found.boxes[rows, 2:] - found.boxes[rows, :2]
    return np.maximum(EDGE_PIXELS / found.scales[found.tile[rows], None], EDGE_SHARE * sides)


def enter(found: Detections) -> Zones:
    """Enter every detection for each zone it reaches into."""
    start, neighbours = _neighbours(found)
    degree = np.diff(start)
    few = degree[found.tile] <= _FEW
    rows, others = _one_by_one(
        found, start, neighbours, np.flatnonzero(few & (degree[found.tile] > 0))
    )
    if not few.all():
        more_rows, more_others = _by_tree(found, np.flatnonzero(~few))
        rows, others = np.concatenate([rows, more_rows]), np.concatenate([others, more_others])
        order = np.lexsort((others, rows))
        rows, others = rows[order], others[order]
    mine = found.tile[rows]
    key = np.minimum(mine, others) * len(found.tile_boxes) + np.maximum(mine, others)
    zone = np.unique(key, return_inverse=True)[1].astype(np.int64)
    return Zones(rows, others, zone)


def _neighbours(found: Detections) -> tuple[Index, Index]:
    """Return for each tile where its neighbours start, and the neighbours."""
    grown = found.tile_boxes + EDGE_PIXELS * np.array([-1, -1, 1, 1])
    geometry = _rectangles(grown)
    mine, theirs = shapely.STRtree(geometry).query(geometry)
    mine, theirs = mine[mine != theirs], theirs[mine != theirs]
    order = np.lexsort((theirs, mine))
    start = np.searchsorted(mine[order], np.arange(len(geometry) + 1))
    return start.astype(np.int64), theirs[order].astype(np.int64)


def _one_by_one(
    found: Detections, start: Index, neighbours: Index, rows: Index
) -> tuple[Index, Index]:
    """Test `rows` against the first, the second, … neighbour of their tile."""
    margin = slack(found, rows)
    low, high = found.boxes[rows, :2] - margin, found.boxes[rows, 2:] + margin
    tile = found.tile[rows]
    hits, others = [], []
    for place in range(_FEW):
        here = np.flatnonzero(start[tile] + place < start[tile + 1])
        if not len(here):
            break
        other = neighbours[start[tile[here]] + place]
        box = found.tile_boxes[other]
        meets = ((low[here] < box[:, 2:]) & (high[here] > box[:, :2])).all(axis=1)
        hits.append(rows[here[meets]])
        others.append(other[meets])
    if not hits:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    row, other = np.concatenate(hits), np.concatenate(others)
    order = np.lexsort((other, row))
    return row[order], other[order]


def _by_tree(found: Detections, rows: Index) -> tuple[Index, Index]:
    margin = slack(found, rows)
    low, high = found.boxes[rows, :2] - margin, found.boxes[rows, 2:] + margin
    tree = shapely.STRtree(_rectangles(found.tile_boxes))
    at, other = tree.query(_rectangles(np.hstack([low, high])))
    apart = found.tile[rows[at]] != other
    return rows[at[apart]], other[apart].astype(np.int64)


def _rectangles(boxes: Floats) -> NDArray[np.object_]:
    x0, y0, x1, y1 = boxes.T
    return np.asarray(shapely.box(x0, y0, x1, y1))
