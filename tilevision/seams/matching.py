"""One-to-one matching of what two tiles saw in the zone they share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tilevision.seams.detections import Detections
from tilevision.seams.seamshapes import shape_iou
from tilevision.seams.zones import LIKENESS, Zones

__all__ = ["assign", "match"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


def match(found: Detections, zones: Zones) -> tuple[Index, Index, Floats]:
    """Match the detections of every two tiles one to one.

    Returns
    -------
    tuple
        Rows of one tile, rows of the other, and how much speaks for each match (0 to 1).
    """
    kept = [_alike(found, zones, *pairs) for pairs in zones.candidates(found)]
    if not kept:
        none = np.empty(0, np.int64)
        return none, none, np.empty(0)
    left, right, alike = (np.concatenate(part) for part in zip(*kept, strict=True))
    # Cubed, one good match outweighs two poor ones, and most are decided at a glance.
    chosen = assign(left, right, alike**3)
    left, right, alike = left[chosen], right[chosen], alike[chosen]
    # Where neither saw an end, any two things that cover the zone are alike.
    ends = (zones.ends[left] & zones.ends[right]).sum(axis=1)
    proof = alike * (1 + ends) / 5
    return zones.detection[left], zones.detection[right], proof


def _alike(
    found: Detections, zones: Zones, left: Index, right: Index
) -> tuple[Index, Index, Floats]:
    """Return the pairs of entries that are alike enough, and how alike."""
    alike = likeness(zones, left, right)
    good = alike >= LIKENESS
    left, right, alike = left[good], right[good], alike[good]
    if not found.has_shapes:
        return left, right, alike
    a, b = zones.detection[left], zones.detection[right]
    alike = np.sqrt(alike * shape_iou(found, a, b, zones.boxes[left], alike))
    good = alike >= LIKENESS
    return left[good], right[good], alike[good]


def likeness(zones: Zones, a: Index, b: Index) -> Floats:
    """Return how well entries `a` and `b` agree on what both their tiles could see, 0 to 1.

    IoU within the zone both tiles saw. An edge where a tile cut the object tells only
    how far the object reaches at least, so it agrees with any edge further out.
    """
    shared, whole_a, whole_b = np.ones(len(a)), np.ones(len(a)), np.ones(len(a))
    for low, high in ((0, 2), (1, 3)):
        low_a, low_b = _outer(zones, a, b, low)
        high_a, high_b = _outer(zones, a, b, high)
        shared *= np.maximum(np.minimum(low_a, low_b) + np.minimum(high_a, high_b), 0)
        whole_a *= low_a + high_a
        whole_b *= low_b + high_b
    union = whole_a + whole_b - shared
    return np.asarray(np.divide(shared, union, out=np.zeros(len(a)), where=union > 0))


def _outer(zones: Zones, a: Index, b: Index, side: int) -> tuple[Floats, Floats]:
    """Return how far `a` and `b` reach on `side`, as like each other as they can be."""
    least, most = zones.least[:, side], zones.most[:, side]
    least_a, least_b = least[a], least[b]
    return (
        np.maximum(least_a, np.minimum(least_b, most[a])),
        np.maximum(least_b, np.minimum(least_a, most[b])),
    )


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
    alive = np.argsort(-weight, kind="stable")
    chosen = []
    used = np.zeros(int(max(left.max(initial=0), right.max(initial=0))) + 1, dtype=bool)
    while len(alive):
        take = alive[_sure(left[alive], right[alive], weight[alive])]
        if not len(take):
            break
        chosen.append(take)
        used[left[take]] = used[right[take]] = True
        alive = alive[~(used[left[alive]] | used[right[alive]])]
    if len(alive):
        chosen.append(_optimal(alive, left[alive], right[alive], weight[alive]))
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


def _sure(left: Index, right: Index, weight: Floats) -> NDArray[np.bool_]:
    """Mark edges that outweigh the best other edge at both ends together.

    Some best assignment has them: exchanging what it has at the two ends loses nothing.
    Edges stand with the heaviest first.
    """
    first_left, rival_left = _rival(left, weight)
    first_right, rival_right = _rival(right, weight)
    return first_left & first_right & (weight >= rival_left + rival_right)


def _rival(vertex: Index, weight: Floats) -> tuple[NDArray[np.bool_], Floats]:
    """Mark the heaviest edge of each vertex; and its next best weight, or 0."""
    size, place = int(vertex.max()) + 1, np.arange(len(vertex))
    best = np.empty(size, dtype=np.int64)
    best[vertex[::-1]] = place[::-1]  # of equal indices, the last one written stays
    first = best[vertex] == place
    others = np.flatnonzero(~first)[::-1]
    second = np.zeros(size)
    second[vertex[others]] = weight[others]
    return first, second[vertex]


def _optimal(edges: Index, left: Index, right: Index, weight: Floats) -> Index:
    """Solve what is left of `edges`, one connected knot after the other."""
    from scipy.optimize import linear_sum_assignment

    chosen = []
    for part, rows, cols in _knots(left, right):
        table = np.zeros((rows.max() + 1, cols.max() + 1))
        where = np.full(table.shape, -1)
        table[rows, cols], where[rows, cols] = weight[part], edges[part]
        best = where[linear_sum_assignment(table, maximize=True)]
        chosen.append(best[best >= 0])
    return np.concatenate(chosen)


def _knots(left: Index, right: Index) -> Iterator[tuple[Index, Index, Index]]:
    """Yield the edges of each connected knot, with their ends numbered within it from 0."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, r = np.unique(left, return_inverse=True)
    cols, c = np.unique(right, return_inverse=True)
    n = len(rows) + len(cols)
    graph = coo_array((np.ones(len(left)), (r, c + len(rows))), shape=(n, n))
    knots = connected_components(graph, directed=False)[1]
    row, col = _within(knots[: len(rows)])[r], _within(knots[len(rows) :])[c]
    knot = knots[r]
    order = np.argsort(knot, kind="stable")
    ends = np.flatnonzero(np.diff(knot[order])) + 1
    for part in np.split(order, ends):
        yield part, row[part], col[part]


def _within(knot: Index) -> Index:
    """Number members of each knot from 0, in the order they stand."""
    order = np.argsort(knot, kind="stable")
    start = np.searchsorted(knot[order], knot[order])
    place = np.empty(len(knot), dtype=np.int64)
    place[order] = np.arange(len(knot)) - start
    return place
