"""How much detections overlap, measured on the shapes there are.

An outline before a rotated box before the box. A point has no extent: it stands for a square of
`POINT_SIDE` pixels around it, so that two points are alike if they are close.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    "bodies",
    "diagonals",
    "geometries",
    "keepers",
    "rectangles",
]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]
Geometries = NDArray[np.object_]

METRICS = {"iou": iou, "ios": ios}
POINT_SIDE = 12.0  # pixels of what the model saw


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
        one, bare_one = self._geometries(a[pairs])
        two, bare_two = other._geometries(b[pairs])
        shaped = ~(bare_one | bare_two) if both else ~(bare_one & bare_two)
        pairs, one, two = pairs[shaped], one[shaped], two[shaped]
        shared = shapely.area(shapely.intersection(one, two))
        area_one, area_two = shapely.area(one), shapely.area(two)
        whole = area_one + area_two - shared if metric == "iou" else np.minimum(area_one, area_two)
        out[pairs] = np.divide(shared, whole, out=np.zeros(len(pairs)), where=whole > 0)
        return out

    def share_within(self, a: Index, other: Bodies, b: Index) -> Floats:
        """Return the share of rows `a` that lies in rows `b` of `other`, pair by pair."""
        one, two = self._geometries(a)[0], other._geometries(b)[0]
        whole = shapely.area(one)
        shared = shapely.area(shapely.intersection(one, two))
        return np.asarray(np.divide(shared, whole, out=np.zeros(len(a)), where=whole > 0))

    def _geometries(self, rows: Index) -> tuple[Geometries, Mask]:
        """Return the geometries of `rows`, rectangles where there is only a box, and where."""
        used, at = np.unique(rows, return_inverse=True)
        found = np.full(len(used), None, dtype=object)
        if self.shapes is not None:
            found = self.shapes(used)
        bare = np.asarray(shapely.is_missing(found))
        found[bare] = rectangles(self.boxes[used[bare]])
        return found[at], bare[at]


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


def diagonals(boxes: Floats) -> Geometries:
    """Return boxes ``(n, 4)`` as lines from corner to corner, for a search by extent.

    A tree looks at extents only, and a line is made and freed in half the time of a box.
    """
    return np.asarray(shapely.linestrings(boxes.reshape(-1, 2, 2)))


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
