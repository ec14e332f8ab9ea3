"""Groups of detections that are views of one object, and what a group says the object is.

No group has two detections of one tile. The object is the best whole view, else all together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tilevision.findings import Findings
from tilevision.geometry import area
from tilevision.seams.detections import EDGE_PIXELS, Detections
from tilevision.seams.matching import Zones
from tilevision.seams.seamshapes import united
from tilevision.seams.testimony import Objects, doubtful

__all__ = ["cut", "group", "join", "views"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


def group(n: int, tile: Index, a: Index, b: Index, alike: Floats) -> Index:
    """Return the number ``(n,)`` of the object that each of the matched detections shows.

    Where matches would chain two detections of one tile into one object, the matches
    that are most alike are kept and those that would close the chain dropped.

    Parameters
    ----------
    n : int
        Number of detections.
    tile : array (n,) of int
        The tile each comes from.
    a, b, alike : array (e,)
        Matched detections and how alike they are.

    Returns
    -------
    array (n,) of int
        Numbers from 0, in the order of each object's first detection.
    """
    number = _components(n, a, b)
    tiles = int(tile.max(initial=0)) + 1
    seen = np.sort(number * tiles + tile)
    twice = seen[1:][seen[1:] == seen[:-1]]
    if not len(twice):
        return _by_first(number)
    torn = np.zeros(n, dtype=bool)
    torn[twice // tiles] = True
    inside = torn[number[a]]
    fine = ~inside
    kept = _without_conflict(tile, a[inside], b[inside], alike[inside])
    keep = np.concatenate([np.flatnonzero(fine), np.flatnonzero(inside)[kept]])
    return _by_first(_components(n, a[keep], b[keep]))


def _components(n: int, a: Index, b: Index) -> Index:
    graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _by_first(number: Index) -> Index:
    first = np.empty(number.max(initial=-1) + 1, dtype=np.int64)
    first[number[::-1]] = np.arange(len(number))[::-1]  # the last one written stays
    place = np.empty(len(first), dtype=np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    return place[number]


def _without_conflict(tile: Index, a: Index, b: Index, alike: Floats) -> Index:
    """Return the matches kept, the most alike first, as far as no tile is in a group twice."""
    parent: dict[int, int] = {}
    tiles: dict[int, set[int]] = {}

    def root(row: int) -> int:
        while parent.setdefault(row, row) != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    kept = []
    for edge in np.lexsort((b, a, -alike)).tolist():
        one, two = root(int(a[edge])), root(int(b[edge]))
        if one == two:
            kept.append(edge)
            continue
        mine = tiles.setdefault(one, {int(tile[one])})
        theirs = tiles.setdefault(two, {int(tile[two])})
        if mine.isdisjoint(theirs):
            parent[two] = one
            mine |= theirs
            kept.append(edge)
    return np.array(sorted(kept), dtype=np.int64)


Mask = NDArray[np.bool_]


def join(found: Detections, zones: Zones, number: Index) -> Findings:
    """Return one detection for each of the objects that `number` ``(n,)`` tells apart.

    Lone detections that the other tiles' testimony makes doubtful are left out.
    """
    if not len(found):
        return found.findings(np.empty(0, np.int64))
    best, boxes, pieces, partial = views(found, number)
    objects = Objects(number, boxes, found.ranks[best], found.classes[best])
    kept = ~doubtful(found, zones, objects, partial)
    shapes = _shapes(found, number, best, pieces) if found.has_shapes else {}
    shapes = {
        name: shape[kept]
        if isinstance(shape, np.ndarray)
        else [shape[i] for i in np.flatnonzero(kept)]
        for name, shape in shapes.items()
    }
    return found.findings(best[kept], boxes=boxes[kept], **shapes)


def views(found: Detections, number: Index) -> tuple[Index, Floats, Mask, Mask]:
    """Choose what stands for each object.

    Returns
    -------
    tuple
        The row of each object's best view; its box; whether that is a union of views,
        since none saw it whole; and for each detection, whether it is a partial view.
    """
    size = np.bincount(number)
    lone = (size == 1)[number]
    best = np.empty(len(size), dtype=np.int64)
    best[number] = np.arange(len(found))
    shared = np.flatnonzero(~lone)
    span = found.boxes.take(best, axis=0)
    _widen(span, found.boxes.take(shared, axis=0), number[shared])
    partial = _partial(found, span.take(number, axis=0), lone)
    # The best view: whole and clear of the edges, whole, partial; then by score, then the
    # finer tile, then the larger box.
    grade = np.where(partial, 2, _touching(found, 1.0).any(axis=1))[shared]
    scales, ranks = found.scales[found.tile[shared]], found.ranks[shared]
    keys = (-area(found.boxes.take(shared, axis=0)), -scales, -ranks, grade, number[shared])
    order = shared[np.lexsort(keys)]
    best[number[order[::-1]]] = order[::-1]  # of equal indices, the last one written stays
    pieces = partial[best] & (size > 1)
    return best, np.where(pieces[:, None], span, found.boxes.take(best, axis=0)), pieces, partial


def cut(found: Detections) -> Mask:
    """Mark detections that touch an inner edge of their tile."""
    return np.asarray(_touching(found, EDGE_PIXELS).any(axis=1))


def _touching(found: Detections, pixels: float) -> Mask:
    """Mark the sides ``(n, 4)`` within `pixels` (of the model) of an inner tile edge."""
    near = (pixels / found.scales)[found.tile, None]
    return np.asarray(np.abs(found.boxes - found.reach.take(found.tile, axis=0)) <= near)


def _partial(found: Detections, span: Floats, lone: Mask) -> Mask:
    """Mark views that show only a part of what all views together span.

    A view that ends at an inner edge is whole if no other saw the object go on there. One
    is partial, wherever it ends, if others saw the object reach out of its tile.
    """
    sign = np.array([-1.0, -1.0, 1.0, 1.0])
    further = span * sign > found.boxes * sign
    margin = np.tile(found.margins, 2)
    outside = span * sign > found.reach.take(found.tile, axis=0) * sign + margin
    ended = _touching(found, EDGE_PIXELS) & (further | lone[:, None])
    return np.asarray((ended | outside).any(axis=1))


def _widen(span: Floats, boxes: Floats, number: Index) -> None:
    """Make the boxes `span` of the objects `number` bound all their views' `boxes`."""
    if not len(number):
        return
    order = np.argsort(number, kind="stable")
    ordered, boxes = number[order], boxes.take(order, axis=0)
    start = np.flatnonzero(np.diff(ordered, prepend=-1))
    span[ordered[start], :2] = np.minimum.reduceat(boxes[:, :2], start)
    span[ordered[start], 2:] = np.maximum.reduceat(boxes[:, 2:], start)


def _shapes(found: Detections, number: Index, best: Index, pieces: Mask) -> dict[str, Any]:
    """Return the shape columns, with the union of all views where `pieces` says so."""
    order = np.argsort(number, kind="stable")
    start = np.searchsorted(number[order], np.arange(len(best) + 1))
    groups = (
        (place, order[start[place] : start[place + 1]]) for place in np.flatnonzero(pieces).tolist()
    )
    return united(found, best, groups)
