"""One-to-one matching of what two tiles saw in the zone they share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilevision.geometry import iou
from tilevision.seams.detections import Detections
from tilevision.seams.zones import EDGE_PIXELS, Zones, slack

__all__ = ["assign", "match"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

LIKENESS = 0.3


def match(found: Detections, zones: Zones) -> tuple[Index, Index, Floats]:
    """Match the detections of every two tiles one to one.

    Returns
    -------
    tuple
        Rows of one tile, rows of the other, and how much speaks for each match (0 to 1).
    """
    kept = []
    for left, right in zones.candidates(found):
        alike, evidence = likeness(found, zones.detection[left], zones.detection[right])
        good = alike >= LIKENESS
        kept.append((left[good], right[good], alike[good], evidence[good]))
    if not kept:
        none = np.empty(0, np.int64)
        return none, none, np.empty(0)
    left, right, alike, evidence = (np.concatenate(part) for part in zip(*kept, strict=True))
    order = np.lexsort((right, left))
    left, right, alike, evidence = left[order], right[order], alike[order], evidence[order]
    chosen = assign(left, right, alike)
    rows_a, rows_b = zones.detection[left[chosen]], zones.detection[right[chosen]]
    return rows_a, rows_b, alike[chosen] * (1 + evidence[chosen]) / 5


def likeness(found: Detections, a: Index, b: Index) -> tuple[Floats, Floats]:
    """Return how well rows `a` and `b` agree on what both their tiles could see, 0 to 1.

    IoU within the zone both tiles saw. An edge where a tile cut the object tells only
    how far the object reaches at least, so it agrees with any edge further out. Second,
    on how many of the four sides both tiles saw the object end: none, and any two things
    that cover the zone are equally alike.
    """
    reach = found.reach
    reach_a, reach_b = reach[found.tile[a]], reach[found.tile[b]]
    margin = np.tile(np.maximum(slack(found, a), slack(found, b)), 2)
    sign = np.array([-1.0, -1.0, 1.0, 1.0])
    # Outward is positive on every side, so that one rule serves all four.
    out_a, out_b = found.boxes[a] * sign, found.boxes[b] * sign
    edge_a, edge_b = reach_a * sign, reach_b * sign
    room = np.minimum(edge_a, edge_b) + margin
    seen_a, seen_b = np.minimum(out_a, room), np.minimum(out_b, room)
    near_a = (EDGE_PIXELS / found.scales)[found.tile[a], None]
    near_b = (EDGE_PIXELS / found.scales)[found.tile[b], None]
    cut_a, cut_b = out_a >= edge_a - near_a, out_b >= edge_b - near_b
    grown_a = np.where(cut_a, np.maximum(seen_a, seen_b), seen_a)
    grown_b = np.where(cut_b, np.maximum(seen_a, seen_b), seen_b)
    ends = ~cut_a & ~cut_b & (np.maximum(out_a, out_b) < room)
    alike = np.asarray(iou(grown_a * sign, grown_b * sign), dtype=np.float64)
    return alike, ends.sum(axis=1).astype(np.float64)


def assign(left: Index, right: Index, weight: Floats) -> Index:
    """Choose edges so that no vertex has two and their weights sum to the most.

    Parameters
    ----------
    left, right : array (e,) of int
        The two vertices of each edge; a vertex number stands on one side only.
    weight : array (e,)
        Positive.

    Returns
    -------
    array of int
        The chosen edges, ascending.
    """
    alive = np.arange(len(left))
    chosen = []
    while len(alive):
        sure = _sure(left[alive], right[alive], weight[alive])
        if not sure.any():
            break
        take = alive[sure]
        chosen.append(take)
        gone = np.concatenate([left[take], right[take]])
        used = np.zeros(int(max(left[alive].max(), right[alive].max())) + 1, dtype=bool)
        used[gone] = True
        alive = alive[~(used[left[alive]] | used[right[alive]])]
    if len(alive):
        chosen.append(alive[_optimal(left[alive], right[alive], weight[alive])])
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


def _sure(left: Index, right: Index, weight: Floats) -> NDArray[np.bool_]:
    """Mark edges that outweigh the best other edge at both ends together.

    Some best assignment has them: exchanging what it has at the two ends loses nothing.
    """
    rival_left, rival_right = _rival(left, weight), _rival(right, weight)
    first = (weight >= rival_left + rival_right) & (weight > 0)
    # Exact ties (both rivals 0 apart) can mark two edges of one vertex: leave those.
    counts_left, counts_right = np.bincount(left[first]), np.bincount(right[first])
    alone = np.zeros(len(weight), dtype=bool)
    index = np.flatnonzero(first)
    alone[index] = (counts_left[left[index]] == 1) & (counts_right[right[index]] == 1)
    return alone


def _rival(vertex: Index, weight: Floats) -> Floats:
    """Return for each edge the best weight among the other edges of its vertex, or 0."""
    order = np.lexsort((-weight, vertex))
    name, value = vertex[order], weight[order]
    first = np.ones(len(name), dtype=bool)
    first[1:] = name[1:] != name[:-1]
    start = np.maximum.accumulate(np.where(first, np.arange(len(name)), 0))
    best = value[start]
    after = np.minimum(start + 1, len(name) - 1)
    second = np.where(name[after] == name, value[after], 0.0)
    second = np.where(after > start, second, 0.0)
    rival = np.empty(len(name))
    rival[order] = np.where(first, second, best)
    return rival


def _optimal(left: Index, right: Index, weight: Floats) -> Index:
    """Solve what is left, one connected knot of edges after the other."""
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names, ends = np.unique(np.concatenate([left, right]), return_inverse=True)
    n, e = len(names), len(left)
    graph = coo_array((np.ones(e), (ends[:e], ends[e:])), shape=(n, n))
    knot = connected_components(graph, directed=False)[1][ends[:e]]
    order = np.argsort(knot, kind="stable")
    chosen = []
    for edges in np.split(order, np.flatnonzero(np.diff(knot[order])) + 1):
        rows, r = np.unique(left[edges], return_inverse=True)
        cols, c = np.unique(right[edges], return_inverse=True)
        table = np.zeros((len(rows), len(cols)))
        where = np.full(table.shape, -1)
        table[r, c], where[r, c] = weight[edges], edges
        best = where[linear_sum_assignment(table, maximize=True)]
        chosen.append(best[best >= 0])
    return np.sort(np.concatenate(chosen))
