"""Polygons and rotated boxes of detections as geometries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.geometry import MultiPolygon
from tilevision.seams.detections import Detections

__all__ = ["clipped_bounds", "diagonals", "geometries", "parts", "rectangles", "shape_iou"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Geometries = NDArray[np.object_]


def rectangles(boxes: Floats) -> Geometries:
    """Return boxes ``(n, 4)`` as geometries ``(n,)``."""
    x0, y0, x1, y1 = boxes.T
    return np.asarray(shapely.box(x0, y0, x1, y1))


def diagonals(boxes: Floats) -> Geometries:
    """Return boxes ``(n, 4)`` as lines from corner to corner, for a search by extent.

    A tree looks at extents only, and a line is made and freed in half the time of a box.
    """
    return np.asarray(shapely.linestrings(boxes.reshape(-1, 2, 2)))


def geometries(found: Detections, rows: Index) -> Geometries:
    """Return the polygon, else the rotated box of each of `rows`; None where it has neither."""
    out = np.full(len(rows), None, dtype=object)
    corners = found.in_image("oriented", rows)
    if corners is not None:
        there = np.isfinite(corners).all(axis=(1, 2))
        out[there] = shapely.polygons(corners[there])
    polygons = found.in_image("polygons", rows)
    if polygons is not None:
        given = [place for place, shape in enumerate(polygons) if shape is not None]
        out[given] = _polygons([polygons[place] for place in given])
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
            pieces = [shapely.Polygon(part[0], part[1:]) for part in shape]
            valid = shapely.make_valid(pieces, method="structure", keep_collapsed=False)
            out[place] = shapely.union_all(valid)
    return out


def parts(geometry: Any) -> MultiPolygon | None:
    """Return a geometry as parts of rings, or None where it has no area."""
    pieces = [
        piece
        for piece in shapely.get_parts(shapely.get_parts([geometry]))
        if piece.geom_type == "Polygon" and not piece.is_empty
    ]
    if not pieces:
        return None
    return tuple(
        tuple(
            np.asarray(ring.coords, dtype=np.float64)[:-1]
            for ring in (piece.exterior, *piece.interiors)
        )
        for piece in pieces
    )


def clipped_bounds(found: Detections, rows: Index, boxes: Floats, room: Floats) -> Floats:
    """Return `boxes`, those of shapes that reach out of `room` as their part inside spans.

    A slanting object covers little of its box; what two tiles saw of it agrees only where
    both looked.
    """
    out = boxes.copy()
    across = (boxes[:, :2] < room[:, :2]).any(axis=1) | (boxes[:, 2:] > room[:, 2:]).any(axis=1)
    place = np.flatnonzero(across)
    shapes = geometries(found, rows[place])
    shaped = ~shapely.is_missing(shapes)
    place, shapes = place[shaped], shapes[shaped]
    bounds = shapely.bounds(shapely.intersection(shapes, rectangles(room[place])))
    inside = np.isfinite(bounds).all(axis=1)
    out[place[inside]] = bounds[inside]
    return out


def shape_iou(found: Detections, a: Index, b: Index, zone: Floats, default: Floats) -> Floats:
    """Return IoU of the shapes of rows `a` and `b` within boxes `zone`, pair by pair.

    `default` stands where one of the two has no shape, or the zone is too thin to tell.
    """
    out = default.copy()
    thin = (zone[:, 2:] - zone[:, :2] <= 4 * np.minimum(found.margins[a], found.margins[b])).any(
        axis=1
    )
    pairs = np.flatnonzero(~thin)
    used, at = np.unique(np.concatenate([a[pairs], b[pairs]]), return_inverse=True)
    shapes = geometries(found, used)
    one, two = shapes[at[: len(pairs)]], shapes[at[len(pairs) :]]
    both = ~shapely.is_missing(one) & ~shapely.is_missing(two)
    pairs, one, two = pairs[both], one[both], two[both]
    frame = rectangles(zone[pairs])
    one, two = shapely.intersection(one, frame), shapely.intersection(two, frame)
    shared = shapely.area(shapely.intersection(one, two))
    whole = shapely.area(one) + shapely.area(two) - shared
    out[pairs] = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return out
