"""Polygons and rotated boxes of detections as geometries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.geometry import MultiPolygon
from tilevision.overlaps import geometries, rectangles
from tilevision.seams.detections import Detections

__all__ = [
    "clipped_bounds",
    "mean_corners",
    "parts",
    "shape_iou",
    "shapes_of",
    "tightest",
    "united",
]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Geometries = NDArray[np.object_]


def shapes_of(found: Detections, rows: Index) -> Geometries:
    """Return the polygon, else the rotated box of each of `rows`; None where it has neither."""
    corners, polygons = found.in_image("oriented", rows), found.in_image("polygons", rows)
    return geometries(len(rows), corners, polygons)


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
    shapes = shapes_of(found, rows[place])
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
    shapes = shapes_of(found, used)
    one, two = shapes[at[: len(pairs)]], shapes[at[len(pairs) :]]
    both = ~shapely.is_missing(one) & ~shapely.is_missing(two)
    pairs, one, two = pairs[both], one[both], two[both]
    frame = rectangles(zone[pairs])
    one, two = shapely.intersection(one, frame), shapely.intersection(two, frame)
    shared = shapely.area(shapely.intersection(one, two))
    whole = shapely.area(one) + shapely.area(two) - shared
    out[pairs] = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return out


def united(found: Detections, best: Index, groups: Iterable[tuple[int, Index]]) -> dict[str, Any]:
    """Return the shape columns of rows `best`; those of `groups` (place, rows) are unions.

    What has a shape in any view has one in the union, which holds the boxes of views without:
    so it reaches as far as the box around all views.
    """
    columns: dict[str, Any] = {
        name: found.in_image(name, best)
        for name in ("polygons", "oriented")
        if name in found.columns
    }
    if not columns:
        return columns
    for place, rows in groups:
        shapes = shapes_of(found, rows)
        bare = shapely.is_missing(shapes)
        if bare.all():
            continue
        shapes[bare] = rectangles(found.boxes[rows[bare]])
        union = shapely.union_all(shapes)
        if union.is_empty:
            continue
        if "polygons" in columns and any(p is not None for p in found.in_image("polygons", rows)):
            columns["polygons"][place] = parts(union)
        if "oriented" in columns and np.isfinite(found.in_image("oriented", rows)).any():
            columns["oriented"][place] = tightest(union)
    return columns


def tightest(shape: Any) -> Floats:
    """Return the corners ``(4, 2)`` of the smallest rotated box around a geometry."""
    around = shapely.minimum_rotated_rectangle(shape)
    return np.asarray(around.exterior.coords, dtype=np.float64)[:4]


def mean_corners(best: Floats, corners: Floats, weight: Floats) -> Floats:
    """Return the mean ``(4, 2)`` of rotated boxes ``(k, 4, 2)``, NaN if `best` is none.

    Corners are first named alike: box by box as they lie closest to those of `best`, whichever
    corner a box begins with and whichever way it runs.
    """
    there = np.isfinite(corners).all(axis=(1, 2))
    if not np.isfinite(best).all() or not there.any():
        return np.full((4, 2), np.nan)
    corners, weight = corners[there], weight[there]
    turns = np.array([np.roll(way, -i) for way in ([0, 1, 2, 3], [3, 2, 1, 0]) for i in range(4)])
    named = corners[:, turns]  # (k, 8, 4, 2)
    apart = ((named - best) ** 2).sum(axis=(2, 3))
    chosen = named[np.arange(len(named)), apart.argmin(axis=1)]
    mean = np.average(chosen, axis=0, weights=weight)
    return tightest(shapely.Polygon(mean))
