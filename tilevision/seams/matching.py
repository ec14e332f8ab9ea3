"""Which detections of two tiles may be views of one object, and the one-to-one matching of them.

Every two tiles that overlap (or touch) share a zone. A detection is entered once for each zone
it reaches into; entries of the two sides that lie on each other there are candidates, whose
likeness is judged by what both tiles saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilevision.overlaps import meeting_chunks, meetings
from tilevision.seams.detections import (
    EDGE_PIXELS,
    Detections,
    any_side,
    clipped_bounds,
    cut,
    shape_iou,
    share_of_pieces,
    share_within,
    touching,
)

__all__ = [
    "LIKENESS",
    "Zones",
    "assign",
    "components",
    "enter",
    "heaviest_first",
    "match",
    "parts_of",
]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Views less alike than this are of different objects (IoU within the zone).
LIKENESS = 0.3

# The share of a piece, where both tiles looked, that lies in the object it is part of.
_INSIDE = 0.7

_OUTWARD = np.array([-1.0, -1.0, 1.0, 1.0])

# Boxes that overlap by LIKENESS or more still touch when each side of both moves in by
# this share: it keeps crowds from making every neighbour a candidate.
_SHRINK = LIKENESS / (1 + LIKENESS)

# Tiles with more neighbours than this (a whole image over a fine grid) are searched for
# instead of tested one neighbour after the other.
_FEW = 32

# A knot of so many edges is solved by trying all, unless knots together have so many that SciPy's
# import is made up for; ways that differ by this share are equal.
_FEW_EDGES = 8
_MANY_EDGES = 2000
_TIE = 1e-9


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
        Whether the tile saw the object end there, in the zone.
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
        boxes, kind = self._searched(found), self._kinds(found)
        low = found.tile.take(self.detection) < self.other
        lower, higher = np.flatnonzero(low), np.flatnonzero(~low)
        a, b = (boxes.take(side, axis=0) for side in (lower, higher))
        for here, there in meeting_chunks(a, b, kind.take(lower), kind.take(higher)):
            yield lower.take(here), higher.take(there)

    def _kinds(self, found: Detections) -> Index:
        """Return one number for each zone and class."""
        classes = int(found.classes.max(initial=0)) + 1
        return self.zone * classes + found.classes.take(self.detection)

    def _searched(self, found: Detections) -> Floats:
        """Return what each entry covers of its zone."""
        low, high = -self.least[:, :2], self.least[:, 2:]
        margin = found.margins.take(self.detection, axis=0)
        # An axis on which the object was seen to end twice can be searched tightly.
        free = self.ends[:, :2] & self.ends[:, 2:]
        inward = np.where(free, _SHRINK * (high - low), -margin)
        return np.hstack([low + inward, high - inward])


def enter(found: Detections) -> Zones:
    """Enter every detection for each zone it reaches into."""
    start, neighbours = _neighbours(found)
    rows, others = _meetings(found, start, neighbours)
    mine = found.tile.take(rows)
    k = len(found.tile_boxes)
    first, second = np.minimum(mine, others), np.maximum(mine, others)
    zone = np.searchsorted(_beside(start, neighbours), first * k + second)
    # Rows are gathered with take throughout: an index in brackets takes five times as long.
    boxes = _shared(found, first, second)
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


def _shared(found: Detections, mine: Index, theirs: Index) -> Floats:
    """Return the boxes that tiles `mine` share with tiles `theirs`, pair by pair."""
    a, b = found.tile_boxes.take(mine, axis=0), found.tile_boxes.take(theirs, axis=0)
    return np.hstack([np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])])


def _meetings(found: Detections, start: Index, neighbours: Index) -> tuple[Index, Index]:
    """Return detections and the other tiles they reach into, in canonical order."""
    degree = np.diff(start)[found.tile]
    rows, others = _one_by_one(found, start, neighbours, np.flatnonzero(degree <= _FEW))
    if (degree > _FEW).any():
        rest = np.flatnonzero(degree > _FEW)
        more_rows, more_others = _by_search(found, _beside(start, neighbours), rest)
        rows, others = np.concatenate([rows, more_rows]), np.concatenate([others, more_others])
    order = np.argsort(rows * len(found.tile_boxes) + others)
    return rows[order], others[order]


def _neighbours(found: Detections) -> tuple[Index, Index]:
    """Return for each tile where its neighbours start, and the neighbours."""
    beside: tuple[Index, Index] = found.once("beside", lambda: _beside_each(found.tile_boxes))
    return beside


def _beside_each(tile_boxes: Floats) -> tuple[Index, Index]:
    boxes = tile_boxes + EDGE_PIXELS * np.array([-1, -1, 1, 1])
    mine, theirs = meetings(boxes, boxes)
    mine, theirs = mine[mine != theirs], theirs[mine != theirs]
    order = np.lexsort((theirs, mine))
    start = np.searchsorted(mine[order], np.arange(len(boxes) + 1))
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


def _beside(start: Index, neighbours: Index) -> Index:
    """Return one number for each tile and each of its neighbours, ascending."""
    k = len(start) - 1
    return np.repeat(np.arange(k), np.diff(start)) * k + neighbours


def _by_search(found: Detections, beside: Index, rows: Index) -> tuple[Index, Index]:
    """Look `rows` up among all tiles; of those, the neighbours of their own count."""
    at, other = meetings(_grown(found, rows), found.tile_boxes)
    known = np.isin(found.tile[rows[at]] * len(found.tile_boxes) + other, beside)
    return rows[at[known]], other[known]


def _grown(found: Detections, rows: Index) -> Floats:
    margin = found.margins.take(rows, axis=0)
    return found.bodies.take(rows, axis=0) + np.hstack([-margin, margin])


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
    enough = np.flatnonzero(alike >= LIKENESS)
    left, right, alike = left.take(enough), right.take(enough), alike.take(enough)
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


def parts_of(found: Detections, zones: Zones, number: Index) -> Index:
    """Return the numbers ``(n,)`` of the objects, with pieces joined to what they are part of.

    Parameters
    ----------
    found : Detections
    zones : Zones
    number : array (n,) of int
        The object that each detection shows, by one-to-one matches.

    Notes
    -----
    An object may gain several views of one tile: pieces of it. Objects that any tile saw whole
    stay as they are, and so does a piece that its own tile saw within the object: it is a thing in
    a thing, not a part.
    """
    edges = cut(found)
    entry, side = _asking(found, zones, number, edges)
    if not len(entry):
        return number
    piece, at, side = _answers(found, zones, number, edges, entry, side)
    if not len(piece):
        return number
    inside = share_of_pieces(found, zones.detection[piece], at, zones.boxes[piece], side)
    good = inside >= _INSIDE
    mine, theirs = zones.detection[piece[good]], at[good]
    order = np.lexsort((theirs, -inside[good], number[mine]))
    _, first = np.unique(number[mine[order]], return_index=True)
    mine, theirs = mine[order[first]], theirs[order[first]]
    alone = ~_nested(found, number, number[mine], number[theirs])
    a, b = number[mine[alone]], number[theirs[alone]]
    return components(int(number.max()) + 1, a, b)[number]


def _asking(found: Detections, zones: Zones, number: Index, edges: Mask) -> tuple[Index, Index]:
    """Return entries of unmatched pieces, with the side where the other tile looked further."""
    whole = np.zeros(int(number.max(initial=-1)) + 1, dtype=bool)
    whole[number[~edges]] = True
    rows = np.flatnonzero((edges & ~whole[number])[zones.detection])
    mine, other = zones.detection[rows], zones.other[rows]
    own, theirs = (found.tile_boxes.take(t, axis=0) for t in (found.tile[mine], other))
    further = (theirs - own) * _OUTWARD > EDGE_PIXELS / found.scales[other, None]
    sized = np.all(found.boxes[mine, 2:] > found.boxes[mine, :2], axis=1, keepdims=True)
    at, side = np.nonzero(touching(found, EDGE_PIXELS, mine) & further & sized)
    # A tile that only borders on this one tells nothing where another looked over the edge.
    room, edge = zones.boxes[rows[at]], mine[at] * 4 + side
    over = (room[:, 2:] > room[:, :2])[np.arange(len(at)), side % 2]
    told = over | ~np.isin(edge, edge[over])
    rows, side = rows[at[told]], side[told]
    asked = ~_seen_there(found, number, zones.detection[rows], zones.other[rows])
    return rows[asked], side[asked].astype(np.int64)


def _seen_there(found: Detections, number: Index, rows: Index, other: Index) -> Mask:
    """Return True where tile `other` has a view of the object of `rows` that meets its box."""
    if not len(rows):
        return np.zeros(0, dtype=bool)
    tiles = len(found.tile_boxes)
    concerned = np.zeros(int(number.max()) + 1, dtype=bool)
    concerned[number[rows]] = True
    views = np.flatnonzero(concerned.take(number))
    key = number[views] * tiles + found.tile[views]
    order = np.argsort(key, kind="stable")
    views, key = views[order], key[order]
    asked = number[rows] * tiles + other
    place = np.minimum(np.searchsorted(key, asked), len(key) - 1)
    mine, theirs = found.boxes[rows], found.boxes[views[place]]
    near = (EDGE_PIXELS / found.scales)[other, None]
    meets = (theirs[:, :2] <= mine[:, 2:] + near) & (theirs[:, 2:] >= mine[:, :2] - near)
    return np.asarray((key[place] == asked) & meets.all(axis=1))


def _answers(
    found: Detections,
    zones: Zones,
    number: Index,
    edges: Mask,
    entry: Index,
    side: Index,
) -> tuple[Index, Index, Index]:
    """Return pieces (as entries), rows of the other tile that may be their object, and the side.

    What the other tile saw of it reaches over the edge. Boxes without outlines cover their
    surroundings as well, so there only what was seen whole counts.
    """
    asked = np.zeros(int(zones.zone.max()) + 1, dtype=bool)
    asked[zones.zone[entry]] = True
    other = np.flatnonzero(asked.take(zones.zone))
    boxes = found.boxes.take(zones.detection.take(other), axis=0)
    over = (boxes - found.reach.take(zones.other.take(other), axis=0)) * _OUTWARD > 0
    other = other[any_side(over)]
    classes = int(found.classes.max(initial=0)) + 1
    one, two = zones.detection[entry], zones.detection[other]
    kinds = (zones.zone[at] * classes + found.classes[zones.detection[at]] for at in (entry, other))
    here, there = meetings(_grown_by_edge(found, one), _grown_by_edge(found, two), *kinds)
    piece, at, side = entry[here], zones.detection[other[there]], side[here]
    mine = zones.detection[piece]
    good = (found.tile[at] == zones.other[piece]) & (number[at] != number[mine])
    sign = _OUTWARD[side]
    good &= found.boxes[at, side] * sign > found.reach[found.tile[mine], side] * sign
    if not found.has_shapes:
        good &= ~edges[at]
    return piece[good], at[good], side[good]


def _grown_by_edge(found: Detections, rows: Index) -> Floats:
    near = EDGE_PIXELS / found.scales[found.tile[rows]]
    return np.asarray(found.boxes[rows] + _OUTWARD * near[:, None])


def _nested(found: Detections, number: Index, mine: Index, theirs: Index) -> Mask:
    """Mark pairs of objects that some tile saw both of, the first within the second."""
    concerned = np.zeros(int(number.max()) + 1, dtype=bool)
    concerned[mine] = concerned[theirs] = True
    order = np.flatnonzero(concerned.take(number))
    order = order[np.argsort(number[order], kind="stable")]
    ranked = number[order]

    def views(one: int) -> list[int]:
        low, high = np.searchsorted(ranked, [one, one + 1])
        rows: list[int] = order[low:high].tolist()
        return rows

    pairs = [
        (place, one, two)
        for place, (a, b) in enumerate(zip(mine.tolist(), theirs.tolist(), strict=True))
        for one in views(a)
        for two in views(b)
        if found.tile[one] == found.tile[two]
    ]
    place, one, two = np.array(pairs, dtype=np.int64).reshape(-1, 3).T
    out = np.zeros(len(mine), dtype=bool)
    out[place[share_within(found, one, two) >= _INSIDE]] = True
    return out


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
    alive = heaviest_first(weight)
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


def heaviest_first(weight: Floats) -> Index:
    """Return the order by weight, of equal ones as they stand.

    In a third of the time of NumPy's stable order: two quick ones, the second of which puts
    equals in place.
    """
    order = np.argsort(-weight)
    ranked = weight.take(order)
    rank = np.cumsum(np.diff(ranked, prepend=ranked[:1]) != 0) * len(order)
    return np.asarray(np.sort(rank + order) - rank)


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
    chosen = []
    for part, rows, cols in _knots(left, right):
        few = len(part) <= _FEW_EDGES and len(edges) <= _MANY_EDGES
        best = _enumerated(rows, cols, weight[part]) if few else None
        if best is None:
            best = _by_table(rows, cols, weight[part])
        chosen.append(edges[part[best]])
    return np.concatenate(chosen)


def _by_table(rows: Index, cols: Index, weight: Floats) -> Index:
    """Return the best edges of a knot, as SciPy finds them."""
    from scipy.optimize import linear_sum_assignment

    table = np.zeros((rows.max() + 1, cols.max() + 1))
    where = np.full(table.shape, -1)
    table[rows, cols], where[rows, cols] = weight, np.arange(len(rows))
    best: Index = where[linear_sum_assignment(table, maximize=True)]
    return best[best >= 0]


def _enumerated(rows: Index, cols: Index, weight: Floats) -> Index | None:
    """Return the best edges of a small knot by trying all; None where two ways are as good.

    Most runs have small knots alone, and to import SciPy's optimizers takes longer than the rest of
    their merge. Which of two equal ways is taken is left to SciPy, so that it is the same in
    any knot.
    """
    edges = list(zip(rows.tolist(), cols.tolist(), weight.tolist(), strict=True))
    ways: list[tuple[float, tuple[int, ...]]] = []

    def extend(start: int, total: float, taken: tuple[int, ...]) -> None:
        ways.append((total, taken))
        for n in range(start, len(edges)):
            row, col, more = edges[n]
            if all(edges[one][0] != row and edges[one][1] != col for one in taken):
                extend(n + 1, total + more, (*taken, n))

    extend(0, 0.0, ())
    ways.sort(reverse=True)
    best, second = ways[0], ways[1]
    if best[0] - second[0] <= _TIE * best[0]:
        return None
    # In the order of their rows, as SciPy gives them.
    return np.array(sorted(best[1], key=lambda n: edges[n][0]), dtype=np.int64)


def components(n: int, a: Index, b: Index) -> Index:
    """Number the connected components of `n` vertices by their edges, in order of their first.

    Parameters
    ----------
    n : int
    a, b : array (e,) of int
        The two vertices of each edge.

    Returns
    -------
    array (n,) of int
        From 0.

    Notes
    -----
    Every vertex points to a lower one of its component, at last to the lowest. (SciPy has this as
    well; its import takes longer than most merges.)
    """
    lowest = np.arange(n, dtype=np.int64)
    while True:
        low, high = lowest.take(a), lowest.take(b)
        apart = low != high
        if not apart.any():
            break
        a, b, low, high = a[apart], b[apart], low[apart], high[apart]
        np.minimum.at(lowest, np.maximum(low, high), np.minimum(low, high))
        while not np.array_equal(further := lowest.take(lowest), lowest):
            lowest = further
    heads = lowest == np.arange(n)
    return np.asarray(np.cumsum(heads).take(lowest) - 1)


def _knots(left: Index, right: Index) -> Iterator[tuple[Index, Index, Index]]:
    """Yield the edges of each connected knot, with their ends numbered within it from 0."""
    rows, r = np.unique(left, return_inverse=True)
    cols, c = np.unique(right, return_inverse=True)
    knots = components(len(rows) + len(cols), r, c + len(rows))
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
