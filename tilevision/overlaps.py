"""How much detections overlap, measured on the shapes there are.

An outline before a rotated box before the box. A point has no extent: it stands for a square of
`POINT_SIDE` pixels around it, so that two points are alike if they are close.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.findings import Findings
from tilevision.geometry import MultiPolygon, ios, iou

__all__ = [
    "METRICS",
    "POINT_SIDE",
    "Bodies",
    "Outlines",
    "bodies",
    "geometries",
    "keepers",
    "meeting_chunks",
    "meetings",
    "rectangles",
]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]
Geometries = NDArray[np.object_]

METRICS = {"iou": iou, "ios": ios}
POINT_SIDE = 12.0  # pixels of what the model saw

_MOST_TERMS = 10_000  # two outlines of a hundred points: from there on GEOS is faster
_TERMS = 60_000  # edges with edges that are computed together
_TINY = 1e-300
_POLYGON, _COLLECTION = 3, 7  # GEOS's numbers of types
_PAIRS = 100_000  # looked at together: few enough to stay in the processor's cache
_POSITION_BITS = 24  # of a sort key, at most; what is equal in them is compared exactly


@dataclass(frozen=True, slots=True, eq=False)
class Bodies:
    """What detections cover, ``n`` rows.

    Parameters
    ----------
    boxes : array (n, 4)
        Boxes, with a square around points, which have no extent.
    shapes : callable, optional
        ``shapes(rows)`` returns the geometries of some rows, None where there is only a box. None:
        there are only boxes.
    """

    boxes: Floats
    shapes: Callable[[Index], Geometries] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, findings: Findings, pixel: float = 1.0) -> Bodies:
        """Return the bodies of `findings`; `pixel` is the side of a pixel that the model saw."""
        boxes = bodies(findings.boxes, pixel)
        oriented, polygons = findings.oriented, findings.polygons
        if oriented is None and polygons is None:
            return cls(boxes)

        def shapes(rows: Index) -> Geometries:
            corners = None if oriented is None else oriented[rows]
            outlines = None if polygons is None else [polygons[row] for row in rows.tolist()]
            return geometries(len(rows), corners, outlines)

        return cls(boxes, shapes)

    def __len__(self) -> int:
        return len(self.boxes)

    def overlap(
        self, a: Index, other: Bodies, b: Index, metric: str = "iou", *, both: bool = False
    ) -> Floats:
        """Return the overlap of rows `a` with rows `b` of `other`, pair by pair.

        A shape is compared with a box as a rectangle; with `both`, shapes count only where both
        rows have one, and boxes are compared elsewhere.
        """
        out = np.array(METRICS[metric](self.boxes[a], other.boxes[b]), dtype=np.float64)
        if self.shapes is None and other.shapes is None:
            return out
        pairs = np.flatnonzero(_touch(self.boxes[a], other.boxes[b]))
        one, here, bare_one = self._geometries(a[pairs])
        two, there, bare_two = other._geometries(b[pairs])
        bare = bare_one[here] | bare_two[there] if both else bare_one[here] & bare_two[there]
        pairs, here, there = pairs[~bare], here[~bare], there[~bare] + len(one)
        area_one, area_two, shared = Outlines(np.concatenate([one, two])).shared(here, there)
        whole = area_one + area_two - shared if metric == "iou" else np.minimum(area_one, area_two)
        out[pairs] = np.divide(shared, whole, out=np.zeros(len(pairs)), where=whole > 0)
        return out

    def share_within(self, a: Index, other: Bodies, b: Index) -> Floats:
        """Return the share of rows `a` that lies in rows `b` of `other`, pair by pair."""
        one, here, _ = self._geometries(a)
        two, there, _ = other._geometries(b)
        outlines = Outlines(np.concatenate([one, two]))
        whole, _, shared = outlines.shared(here, there + len(one))
        return np.asarray(np.divide(shared, whole, out=np.zeros(len(a)), where=whole > 0))

    def _geometries(self, rows: Index) -> tuple[Geometries, Index, Mask]:
        """Return geometries, the one of each of `rows`, and which are rectangles for a box."""
        used, at = np.unique(rows, return_inverse=True)
        found = np.full(len(used), None, dtype=object)
        if self.shapes is not None:
            found = self.shapes(used)
        bare = np.asarray(shapely.is_missing(found))
        found[bare] = rectangles(self.boxes[used[bare]])
        return found, at, bare


def meetings(
    a: Floats, b: Floats, kind_a: Index | None = None, kind_b: Index | None = None
) -> tuple[Index, Index]:
    """Return all rows of `a` and of `b` that touch; see `meeting_chunks`."""
    chunks = list(meeting_chunks(a, b, kind_a, kind_b))
    if not chunks:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    here, there = zip(*chunks, strict=True)
    return np.concatenate(here), np.concatenate(there)


def meeting_chunks(
    a: Floats, b: Floats, kind_a: Index | None = None, kind_b: Index | None = None
) -> Iterator[tuple[Index, Index]]:
    """Yield rows of `a` and of `b` that touch, edges included: each pair once, in chunks.

    Boxes are entered in each of the horizontal strips that they reach into, as high as boxes are
    on average, so there are at most three entries a box. In a strip, those meet that begin within
    the other from left to right. A pair is reported in the strip where it begins. In a fifth to a
    third of the time of a tree, which has to make a geometry of each box first.

    Parameters
    ----------
    a, b : array (n, 4), array (m, 4)
    kind_a, kind_b : array (n,) of int, array (m,) of int, optional
        Only boxes of equal kinds, from 0, can meet. Default: all can.
    """
    if not len(a) or not len(b):
        return
    one, two = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
    low = np.minimum(one[:2].min(axis=1), two[:2].min(axis=1))
    high = np.maximum(one[2:].max(axis=1), two[2:].max(axis=1))
    tall = float((one[3] - one[1]).sum() + (two[3] - two[1]).sum())
    kinds = max(1 if kind is None else int(kind.max()) + 1 for kind in (kind_a, kind_b))
    raster = _Raster(low, high, tall / (len(a) + len(b)) or 1.0, kinds)
    mine = raster.entries(one, kind_a)
    theirs = mine if b is a and kind_b is kind_a else raster.entries(two, kind_b)
    yield from _begin_within(mine, theirs, np.greater_equal)
    for there, here in _begin_within(theirs, mine, np.greater):
        yield here, there


@dataclass(frozen=True, slots=True, eq=False)
class _Entries:
    """Boxes by strip and left edge, ``k`` entries: see `meeting_chunks`."""

    boxes: Floats  # (4, k)
    row: Index
    starts: Mask  # whether the box begins in this strip
    begin: Index  # strip and left edge as one sorted number
    end: Index  # strip and right edge


@dataclass(frozen=True, slots=True, eq=False)
class _Raster:
    """Strips over all boxes from `low` to `high`, and the steps that positions are sorted by."""

    low: Floats
    high: Floats
    strip: float
    kinds: int

    def entries(self, boxes: Floats, kind: Index | None) -> _Entries:
        first, last = (self._strip(boxes[side]) for side in (1, 3))
        count = np.maximum(last - first, 0) + 1
        row = np.repeat(np.arange(boxes.shape[1]), count)
        place = _within(count)
        strip = place + first.take(row)
        strips = int(self._strip(self.high[1])) + 1
        bits = min(_POSITION_BITS, 62 - (self.kinds * strips).bit_length())
        key = (strip if kind is None else kind.take(row) * strips + strip) << bits
        begin = key + self._position(boxes[0], bits).take(row)
        end = key + self._position(boxes[2], bits).take(row)
        order = np.argsort(begin)
        row, begin, end = (values.take(order) for values in (row, begin, end))
        return _Entries(boxes.take(row, axis=1), row, (place == 0).take(order), begin, end)

    def _strip(self, y: Any) -> Any:
        return ((y - self.low[1]) / self.strip).astype(np.int64)

    def _position(self, x: Floats, bits: int) -> Index:
        step = float(self.high[0] - self.low[0]) / (2**bits - 1) or 1.0
        return np.asarray(((x - self.low[0]) / step).astype(np.int64))


def _begin_within(
    a: _Entries, b: _Entries, after: Callable[[Floats, Floats], Mask]
) -> Iterator[tuple[Index, Index]]:
    """Yield rows of `a` and of `b` that touch, where those of `b` begin `after` those of `a`."""
    start = np.searchsorted(b.begin, a.begin)
    count = np.searchsorted(b.begin, a.end, side="right") - start
    total = np.cumsum(count)
    cuts = np.searchsorted(total, np.arange(_PAIRS, total[-1], _PAIRS), side="right")
    (x0, y0, x1, y1), (left, top, _, bottom) = a.boxes, b.boxes
    for low, high in pairwise([0, *cuts.tolist(), len(count)]):
        some = count[low:high]
        at = np.repeat(np.arange(low, high), some)
        there = _within(some) + np.repeat(start[low:high], some)
        # Half of the pairs end here, so that only the rest is looked at from left to right.
        good = a.starts.take(at) | b.starts.take(there)
        good &= (top.take(there) <= y1.take(at)) & (y0.take(at) <= bottom.take(there))
        left_over = np.flatnonzero(good)
        at, there = at.take(left_over), there.take(left_over)
        begins = left.take(there)
        good = after(begins, x0.take(at)) & (begins <= x1.take(at))
        pairs = np.flatnonzero(good)
        yield a.row.take(at.take(pairs)), b.row.take(there.take(pairs))


def _within(count: Index) -> Index:
    """Return 0, 1, … for each of `count` entries, one group after the other."""
    return np.asarray(np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count))


class Outlines:
    """Shapes whose shared areas are asked for, pair by pair.

    What two shapes share is the sum, over each edge of the one and each of the other, of the area
    between the two where the one lies beyond the other, signed by their directions: all else
    cancels out. For outlines of some dozen points that takes half the time, or less, of making the
    geometry that they share; those of many points go to GEOS.

    Parameters
    ----------
    shapes : array (n,) of geometry
        Valid polygons and multipolygons.
    """

    def __init__(self, shapes: Geometries) -> None:
        self._shapes = shapes
        self._bounds = np.reshape(shapely.bounds(shapes), (-1, 4))
        self._tables: dict[int, _Edges] = {}

    def shared(
        self, a: Index, b: Index, room: Floats | None = None
    ) -> tuple[Floats, Floats, Floats]:
        """Return the areas of shapes `a`, of shapes `b`, and what both share, pair by pair.

        Of what lies in the boxes `room` ``(p, 4)``, where given.
        """
        across = np.zeros((len(a), 2), dtype=bool)
        if room is not None:
            low = np.minimum(self._bounds[a, :2], self._bounds[b, :2])
            high = np.maximum(self._bounds[a, 2:], self._bounds[b, 2:])
            across = (low < room[:, :2]) | (high > room[:, 2:])
        count = self._edges(0).count
        hard = across.all(axis=1) | (count[a] * count[b] > _MOST_TERMS)
        out = np.empty((3, len(a)))
        for axis in (0, 1):
            rows = np.flatnonzero((across[:, 1] == axis) & ~hard)
            if len(rows):
                limits = None if room is None else room[rows][:, [axis, axis + 2]]
                out[:, rows] = self._edges(axis).shared(a[rows], b[rows], limits)
        rows = np.flatnonzero(hard)
        if len(rows):
            out[:, rows] = self._by_geometry(a[rows], b[rows], None if room is None else room[rows])
        out = np.maximum(out, 0)  # -1e-17 of what only touches
        return out[0], out[1], out[2]

    def _edges(self, axis: int) -> _Edges:
        if axis not in self._tables:
            self._tables[axis] = _Edges.of(self._shapes, self._bounds, axis)
        return self._tables[axis]

    def _by_geometry(self, a: Index, b: Index, room: Floats | None) -> Floats:
        one, two = self._shapes[a], self._shapes[b]
        if room is not None:
            frame = rectangles(room)
            one, two = _clipped(one, frame), _clipped(two, frame)
        return np.array([shapely.area(s) for s in (one, two, shapely.intersection(one, two))])


def _clipped(shapes: Geometries, frame: Geometries) -> Geometries:
    """Return the areas of `shapes` in `frame`, without the lines and points where they touch it.

    GEOS has no answer for two collections of areas and lines.
    """
    out = np.asarray(shapely.intersection(shapes, frame), dtype=object)
    for place in np.flatnonzero(shapely.get_type_id(out) == _COLLECTION).tolist():
        pieces = shapely.get_parts(shapely.get_parts([out[place]]))
        out[place] = shapely.multipolygons(pieces[shapely.get_type_id(pieces) == _POLYGON])
    return out


@dataclass(frozen=True, slots=True, eq=False)
class _Edges:
    """The edges of ``n`` shapes that are not upright, those of each one after the other.

    Attributes
    ----------
    start, count : array (n,)
        Where the edges of each shape begin, and how many there are.
    table : array (5, e)
        Lower and higher end along the axis, slope, height at the lower end, and direction: +1 where
        the shape lies above.
    corner : array (n, 2)
        A point near each shape that positions are counted from.
    """

    start: Index
    count: Index
    table: Floats
    corner: Floats

    @classmethod
    def of(cls, shapes: Geometries, bounds: Floats, axis: int) -> _Edges:
        """Return the edges of `shapes`; with `axis` 1, x and y are exchanged."""
        points, ring, owner, hole = _rings(shapes)
        corner = bounds[:, [axis, 1 - axis]]
        points = points[:, [axis, 1 - axis]] - corner[owner[ring]]
        first = np.flatnonzero(ring[1:] == ring[:-1])
        (x0, y0), (x1, y1), ring = points[first].T, points[first + 1].T, ring[first]
        turn = np.sign(np.bincount(ring, x0 * y1 - x1 * y0, minlength=len(owner)))
        sign = np.sign(x1 - x0) * np.where(hole, -turn, turn)[ring]
        forth = x0 < x1
        slanting = x0 != x1
        slope = np.divide(y1 - y0, x1 - x0, out=np.zeros(len(x0)), where=slanting)
        ends = np.where(forth, x0, x1), np.where(forth, x1, x0), slope, np.where(forth, y0, y1)
        count = np.bincount(owner[ring[slanting]], minlength=len(shapes))
        table = np.ascontiguousarray(np.array([*ends, sign])[:, slanting])
        return cls(np.cumsum(count) - count, count, table, corner)

    def shared(self, a: Index, b: Index, limits: Floats | None) -> Floats:
        """Return the areas ``(3, p)`` of `a`, `b` and of both, within `limits` along the axis."""
        out = np.empty((3, len(a)))
        order = np.lexsort((self.count[b], self.count[a]))
        place = 0
        while place < len(order):
            # Pairs stand by size, so what is filled up to the largest of some is little.
            some = order[place : place + _TERMS // 16]
            terms = np.maximum.accumulate(self.count[b[some]]) * self.count[a[some]]
            fit = np.searchsorted(terms * np.arange(1, len(terms) + 1), _TERMS, side="right")
            some = some[: max(int(fit), 1)]
            out[:, some] = self._chunk(a[some], b[some], None if limits is None else limits[some])
            place += len(some)
        return out

    def _chunk(self, a: Index, b: Index, limits: Floats | None) -> Floats:
        origin = self.corner[a]
        one, two = self._filled(a, origin, limits), self._filled(b, origin, limits)
        areas = [
            -(sign * (high - low) * (height + slope * (high - low) / 2)).sum(axis=1)
            for low, high, slope, height, sign in (one, two)
        ]
        # Lines as height at 0 and slope: what is between two is the difference of both.
        base = (one[3] - one[2] * one[0])[:, :, None] - (two[3] - two[2] * two[0])[:, None, :]
        slope = one[2][:, :, None] - two[2][:, None, :]
        low = np.maximum(one[0][:, :, None], two[0][:, None, :])
        high = np.maximum(np.minimum(one[1][:, :, None], two[1][:, None, :]), low)
        begin, end = base + slope * low, base + slope * high
        most, least = np.maximum(begin, end), np.minimum(begin, end)
        over, under = np.maximum(most, 0), np.maximum(least, 0)
        # Between edges that cross, only the part beyond the crossing counts.
        share = (over - under + _TINY) / (most - least + _TINY)
        beyond = (high - low) * (over + under) * share
        both = np.einsum("pab,pa,pb->p", beyond, one[4], two[4]) / -2
        return np.array([*areas, both])

    def _filled(self, rows: Index, origin: Floats, limits: Floats | None) -> Floats:
        """Return the edges of `rows` ``(5, p, most)``, from `origin`, cut at `limits`."""
        count = self.count[rows]
        at = np.arange(int(count.max(initial=0)))
        there = at < count[:, None]
        filled = self.table.take(np.where(there, self.start[rows, None] + at, 0), axis=1)
        filled *= there
        moved = self.corner[rows] - origin
        filled[:2] += moved[:, 0, None]
        filled[3] += moved[:, 1, None]
        if limits is not None:
            low, high = (limits - origin[:, :1]).T[:, :, None]
            left = np.clip(filled[0], low, high)
            filled[3] += filled[2] * (left - filled[0])
            filled[0], filled[1] = left, np.clip(filled[1], low, high)
        return filled


def _rings(shapes: Geometries) -> tuple[Floats, Index, Index, Mask]:
    """Return all points, the ring of each; the shape of each ring, and whether it is a hole."""
    simple = shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON
    if simple.all() and not shapely.get_num_interior_rings(shapes).any():
        points, ring = shapely.get_coordinates(shapes, return_index=True)
        return points, ring, np.arange(len(shapes)), np.zeros(len(shapes), dtype=bool)
    parts, owner = shapely.get_parts(shapes, return_index=True)
    areal = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON
    rings, part = shapely.get_rings(parts[areal], return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    return points, ring, owner[areal][part], np.diff(part, prepend=-1) == 0


def keepers(n: int, better: Index, worse: Index) -> Index:
    """Return for each of `n` ranked rows the one that stands for it: itself if it stays.

    Greedy non-maximum suppression: the first row stays and takes all that overlap it, then the
    first of the rest, and so on.

    Parameters
    ----------
    n : int
        Number of rows, the best first.
    better, worse : array (e,)
        Rows that overlap enough; `better` is the smaller number.
    """
    by_worse = np.lexsort((better, worse))
    better, worse = better[by_worse], worse[by_worse]
    keeper = np.full(n, -1, dtype=np.int64)
    undecided = np.ones(n, dtype=bool)
    while undecided.any():
        blocked = np.zeros(n, dtype=bool)
        blocked[worse] = True
        stay = undecided & ~blocked
        keeper[stay] = np.flatnonzero(stay)
        undecided &= ~stay
        taken = stay[better]
        # Edges stand by `better`, so written backwards the best keeper is written last.
        keeper[worse[taken][::-1]] = better[taken][::-1]
        undecided[worse[taken]] = False
        left = undecided[better] & undecided[worse]
        better, worse = better[left], worse[left]
    return keeper


def bodies(boxes: Floats, pixel: float | Floats = 1.0) -> Floats:
    """Return `boxes` ``(n, 4)``, those without extent (points) as squares around them.

    Parameters
    ----------
    boxes : array (n, 4)
    pixel : float or array (n, 1)
        Side of a pixel that the model saw, in the units of the boxes.
    """
    half = np.where(boxes[:, 2:] == boxes[:, :2], POINT_SIDE / 2 * pixel, 0)
    return np.asarray(boxes + np.hstack([-half, half]))


def rectangles(boxes: Floats) -> Geometries:
    """Return boxes ``(n, 4)`` as geometries ``(n,)``."""
    x0, y0, x1, y1 = boxes.T
    return np.asarray(shapely.box(x0, y0, x1, y1))


def geometries(
    n: int, corners: Floats | None, polygons: Sequence[MultiPolygon | None] | None
) -> Geometries:
    """Return the polygon, else the rotated box of each of `n` rows; None where it has neither."""
    out = np.full(n, None, dtype=object)
    if corners is not None:
        there = np.isfinite(corners).all(axis=(1, 2))
        out[there] = shapely.polygons(corners[there])
    if polygons is not None:
        given = [place for place, shape in enumerate(polygons) if shape is not None]
        out[given] = _polygons([shape for shape in polygons if shape is not None])
    bad = ~shapely.is_missing(out) & ~shapely.is_valid(out)
    out[bad] = shapely.make_valid(out[bad], method="structure", keep_collapsed=False)
    return out


def _polygons(shapes: Sequence[MultiPolygon]) -> Geometries:
    """Return shapes as geometries; the simple ones, which are most, all at once."""
    out = np.full(len(shapes), None, dtype=object)
    simple = [place for place, shape in enumerate(shapes) if len(shape) == 1 == len(shape[0])]
    rings = [shapes[place][0][0] for place in simple]
    if rings:
        index = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
        out[simple] = shapely.polygons(shapely.linearrings(np.concatenate(rings), indices=index))
    for place, shape in enumerate(shapes):
        if out[place] is None:
            pieces: list[Any] = [shapely.Polygon(part[0], part[1:]) for part in shape]
            valid = shapely.make_valid(pieces, method="structure", keep_collapsed=False)
            out[place] = shapely.union_all(valid)
    return out


def _touch(a: Floats, b: Floats) -> Mask:
    """Return a mask of pairs of boxes that share area."""
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    return np.asarray((high > low).all(axis=1))
