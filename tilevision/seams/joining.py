"""What a group of views says the object is: the best whole view, else all together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilevision.findings import Findings
from tilevision.geometry import area
from tilevision.seams.detections import Detections
from tilevision.seams.zones import EDGE_PIXELS, slack

__all__ = ["cut", "join"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


def cut(found: Detections) -> NDArray[np.bool_]:
    """Mark detections ``(n,)`` that touch an inner edge of their tile."""
    reach = found.reach[found.tile]
    near = (EDGE_PIXELS / found.scales)[found.tile, None]
    low = found.boxes[:, :2] - reach[:, :2] <= near
    high = reach[:, 2:] - found.boxes[:, 2:] <= near
    return np.asarray((low | high).any(axis=1))


def join(found: Detections, number: Index) -> Findings:
    """Return one detection for each of the objects that `number` ``(n,)`` tells apart."""
    if not len(found):
        return found.findings(np.empty(0, np.int64))
    span = _span(found.boxes, number)
    partial = cut(found) | _outgrown(found, span[number])
    # The best view: whole before cut, then score, then the finer tile, then the larger box.
    order = np.lexsort(
        (-area(found.boxes), -found.scales[found.tile], -found.ranks, partial, number)
    )
    first = np.ones(len(order), dtype=bool)
    first[1:] = np.diff(number[order]) > 0
    best = order[first]
    pieces = partial[best] & (np.bincount(number) > 1)
    return found.findings(best, boxes=np.where(pieces[:, None], span, found.boxes[best]))


def _span(boxes: Floats, number: Index) -> Floats:
    """Return the bounding box of each object's views."""
    order = np.argsort(number, kind="stable")
    start = np.searchsorted(number[order], np.arange(number.max() + 1))
    low = np.minimum.reduceat(boxes[order, :2], start)
    high = np.maximum.reduceat(boxes[order, 2:], start)
    return np.hstack([low, high])


def _outgrown(found: Detections, span: Floats) -> NDArray[np.bool_]:
    """Mark views whose object other views saw reach out of the tile: it cannot be whole."""
    reach = found.reach[found.tile]
    room = slack(found, np.arange(len(found)))
    low, high = span[:, :2] < reach[:, :2] - room, span[:, 2:] > reach[:, 2:] + room
    return np.asarray((low | high).any(axis=1))
