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

from tilevision.seams.detections import EDGE_PIXELS, Detections
from tilevision.seams.seamshapes import clipped_bounds, diagonals

__all__ = ["LIKENESS", "Zones", "enter"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

# Views less alike than this are of different objects (IoU within the zone).
LIKENESS = 0.3

# Boxes that overlap by LIKENESS or more still touch when each side of both moves in by
# this share: it keeps crowds from making every neighbour a candidate.
_SHRINK = LIKENESS / (1 + LIKENESS)

# Tiles with more neighbours than this (a whole image over a fine grid) are looked up in a
# tree instead of one neighbour after the other.
_FEW = 32

# Few enough for what is computed of their candidates to stay in the processor's cache.
_CHUNK = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Zones:
    """Detections entered by the zones they reach into, ``m`` entries.

    Coordinates are relative to the zone's low corner and counted outward (left and top
    edges negated), so that one rule serves all four sides.

    Attributes
    ----------
    detection : array (m,) of int
        Row in `Detections`.
    other : array (m,) of int
        The tile at the other side of the zone.
    zone : array (m,) of int
        Number of the zone; equal for both sides.
    boxes : array (m, 4)
        The zones in the image frame.
    least : array (m, 4)
        How far the object reaches at least, as seen in the zone and a margin around it.
    most : array (m, 4)
        How far it may reach: the same, or infinitely far where the tile cut it.
    ends : array (m, 4) of bool
        True if the tile saw the object end there, in the zone.
    """

    detection: Index
    other: Index
    zone: Index
    boxes: Floats
    least: Floats
    most: Floats
    ends: NDArray[np.bool_]

    def candidates(self, found: Detections) -> Iterator[tuple[Index, Index]]:
        """Yield chunks of entries (side of the lower tile, of the higher) that meet in a zone."""
        if not len(self.detection):
            return
        boxes = self._apart(found)
        low = found.tile[self.detection] < self.other
        lower, higher = np.flatnonzero(low), np.flatnonzero(~low)
        tree = shapely.STRtree(diagonals(boxes.take(lower, axis=0)))
        for start in range(0, len(higher), _CHUNK):
            part = higher[start : start + _CHUNK]
            there, here = tree.query(diagonals(boxes.take(part, axis=0)))
            yield lower[here], part[there]

    def _apart(self, found: Detections) -> Floats:
        """Return what each entry covers of its zone, with all zones and classes moved apart."""
        low, high = -self.least[:, :2], self.least[:, 2:]
        margin = found.margins.take(self.detection, axis=0)
        # An axis on which the object was seen to end twice can be searched tightly.
        free = self.ends[:, :2] & self.ends[:, 2:]
        inward = np.where(free, _SHRINK * (high - low), -margin)
        low, high = low + inward, high - inward
        pitch = (high.max(axis=0) - low.min(axis=0)) + 1
        move = np.column_stack([self.zone, found.classes[self.detection]]) * pitch
        return np.hstack([low + move, high + move])


def enter(found: Detections) -> Zones:
    """Enter every detection for each zone it reaches into."""
    rows, others = _meetings(found)
    mine = found.tile[rows]
    key = np.minimum(mine, others) * len(found.tile_boxes) + np.maximum(mine, others)
    zone = np.unique(key, return_inverse=True)[1].astype(np.int64)
    # Rows are gathered with take throughout: an index in brackets takes five times as long.
    a, b = found.tile_boxes.take(mine, axis=0), found.tile_boxes.take(others, axis=0)
    boxes = np.hstack([np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])])
    margin = np.tile(found.margins.take(rows, axis=0), 2)
    sign, origin = np.array([-1.0, -1.0, 1.0, 1.0]), np.tile(boxes[:, :2], 2)
    room = boxes + sign * margin
    seen = found.bodies.take(rows, axis=0)
    if found.has_shapes:
        seen = clipped_bounds(found, rows, seen, room)
    seen, room = (seen - origin) * sign, (room - origin) * sign
    near = (EDGE_PIXELS / found.scales)[mine, None]
    reach = found.reach.take(mine, axis=0)
    cut = found.boxes.take(rows, axis=0) * sign >= reach * sign - near
    least = np.minimum(seen, room)
    most = np.where(cut, np.inf, least)
    return Zones(rows, others, zone, boxes, least, most, ~cut & (seen < room))


def _meetings(found: Detections) -> tuple[Index, Index]:
    """Return detections and the other tiles they reach into, in canonical order."""
    start, neighbours = _neighbours(found)
    degree = np.diff(start)[found.tile]
    rows, others = _one_by_one(found, start, neighbours, np.flatnonzero(degree <= _FEW))
    if (degree > _FEW).any():
        more_rows, more_others = _by_tree(found, np.flatnonzero(degree > _FEW))
        rows, others = np.concatenate([rows, more_rows]), np.concatenate([others, more_others])
    order = np.argsort(rows * len(found.tile_boxes) + others)
    return rows[order], others[order]


def _neighbours(found: Detections) -> tuple[Index, Index]:
    """Return for each tile where its neighbours start, and the neighbours."""
    geometry = diagonals(found.tile_boxes + EDGE_PIXELS * np.array([-1, -1, 1, 1]))
    mine, theirs = shapely.STRtree(geometry).query(geometry)
    mine, theirs = mine[mine != theirs], theirs[mine != theirs]
    order = np.lexsort((theirs, mine))
    start = np.searchsorted(mine[order], np.arange(len(geometry) + 1))
    return start.astype(np.int64), theirs[order].astype(np.int64)


def _one_by_one(
    found: Detections, start: Index, neighbours: Index, rows: Index
) -> tuple[Index, Index]:
    """Test `rows` against the first, the second, … neighbour of their tile."""
    x0, y0, x1, y1 = np.ascontiguousarray(_grown(found, rows).T)
    tile = found.tile[rows]
    tile_x0, tile_y0, tile_x1, tile_y1 = np.ascontiguousarray(found.tile_boxes.T)
    hits, others = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    degree = np.diff(start)
    for place in range(min(_FEW, int(degree.max(initial=0)))):
        has = degree > place
        other = np.where(has, neighbours[np.minimum(start[:-1] + place, len(neighbours) - 1)], 0)
        right = np.where(has, tile_x1[other], -np.inf)
        here = np.flatnonzero((x0 < right[tile]) & (x1 > tile_x0[other][tile]))
        there = other[tile[here]]
        meets = (y0[here] < tile_y1[there]) & (y1[here] > tile_y0[there])
        hits.append(rows[here[meets]])
        others.append(there[meets])
    return np.concatenate(hits), np.concatenate(others)


def _by_tree(found: Detections, rows: Index) -> tuple[Index, Index]:
    tree = shapely.STRtree(diagonals(found.tile_boxes))
    at, other = tree.query(diagonals(_grown(found, rows)))
    apart = found.tile[rows[at]] != other
    return rows[at[apart]], other[apart].astype(np.int64)


def _grown(found: Detections, rows: Index) -> Floats:
    margin = found.margins.take(rows, axis=0)
    return found.bodies.take(rows, axis=0) + np.hstack([-margin, margin])
