"""What is stored of a tile's findings: inside the tile, without duplicates, lean outlines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.findings import Findings
from tilevision.geometry import MultiPolygon, iou

__all__ = ["POLYGON_TOLERANCE", "compact", "suppress"]

POLYGON_TOLERANCE = 0.5  # pixels that a stored outline may stray; part of each tile's key


def compact(findings: Findings, size: tuple[int, int], nms: float | None = None) -> Findings:
    """Return a tile's findings as they are stored.

    Parameters
    ----------
    findings : Findings
        In pixels of the tile.
    size : tuple of int
        Width and height of the tile as the model saw it.
    nms : float, optional
        IoU above which two detections of one label are the same; None keeps all.

    Returns
    -------
    Findings
        Boxes and polygons clipped to the tile, and polygons simplified to 0.5 px. What lies
        wholly outside is dropped; boxes without extent (points) stay where they lie inside.
    """
    if nms is not None:
        findings = findings.take(suppress(findings, nms))
    edge = np.array([*size, *size], dtype=np.float64)
    boxes = np.clip(findings.boxes, 0, edge)
    inside = _inside(findings.boxes, boxes)
    if not inside.all():
        findings, boxes = findings.take(inside), boxes[inside]
    columns = findings.columns
    columns["boxes"] = boxes
    if findings.polygons is not None:
        columns["polygons"] = _lean(findings.polygons, size)
    return Findings(**columns, tile_scores=findings.tile_scores, note=findings.note)


def suppress(findings: Findings, threshold: float) -> NDArray[np.bool_]:
    """Return which rows survive non-maximum suppression within each label: ``(n,)``.

    The best score wins, then the row that stands first; rows without a score come last.
    Rotated boxes overlap as they lie, not as the upright boxes around them do.
    """
    overlap = _overlap(findings)
    keep = np.zeros(len(findings), dtype=bool)
    for label in set(findings.labels):
        left = np.flatnonzero(findings.labels == label)  # findings are sorted, best first
        while len(left):
            best, left = left[0], left[1:]
            keep[best] = True
            left = left[overlap(best, left) <= threshold]
    return keep


def _overlap(
    findings: Findings,
) -> Callable[[np.int64, NDArray[np.int64]], NDArray[np.float64]]:
    """Return a function of a row and others that gives their IoU."""
    boxes, oriented = findings.boxes, findings.oriented
    if oriented is None:
        return lambda one, others: np.asarray(iou(boxes[one], boxes[others]), dtype=np.float64)
    import shapely

    upright = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    bare: Any = np.isnan(oriented).any(axis=(1, 2))
    shapes: Any = shapely.polygons(np.where(bare[:, None, None], upright, oriented))
    areas: NDArray[np.float64] = np.asarray(shapely.area(shapes))

    def turned(one: np.int64, others: NDArray[np.int64]) -> NDArray[np.float64]:
        shared = shapely.area(shapely.intersection(shapes[one], shapes[others]))
        union = areas[one] + areas[others] - shared
        return np.asarray(shared / np.maximum(union, np.finfo(np.float64).tiny))

    return turned


def _inside(boxes: NDArray[np.float64], clipped: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say which boxes keep extent wherever they had some, and lie within the edges otherwise."""
    had, has = boxes[:, 2:] - boxes[:, :2], clipped[:, 2:] - clipped[:, :2]
    unmoved = boxes[:, :2] == clipped[:, :2]
    return np.asarray(np.where(had > 0, has > 0, unmoved).all(axis=1), dtype=np.bool_)


def _lean(
    polygons: tuple[MultiPolygon | None, ...], size: tuple[int, int]
) -> list[MultiPolygon | None]:
    """Simplify outlines, and clip those that leave the tile."""
    import shapely

    shapes = [None if p is None else _shape(p) for p in polygons]
    lean = shapely.simplify(np.array(shapes, dtype=object), POLYGON_TOLERANCE)
    x0, y0, x1, y1 = shapely.bounds(lean).T
    out = (x0 < 0) | (y0 < 0) | (x1 > size[0]) | (y1 > size[1])
    if out.any():
        sound = shapely.make_valid(lean[out])
        lean[out] = shapely.intersection(sound, shapely.box(0, 0, *size))
    return [None if shape is None else _parts(shape) for shape in lean]


def _shape(polygon: MultiPolygon) -> Any:
    import shapely

    parts = [shapely.Polygon(part[0], part[1:]) for part in polygon if part]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _parts(shape: Any) -> MultiPolygon | None:
    """Return the areas of a shape; clipping may leave lines and points beside them."""
    import shapely

    areas = [s for s in shapely.get_parts(shape, return_index=False) if not s.is_empty]
    flat = [p for s in areas for p in shapely.get_parts(s) if p.geom_type == "Polygon"]
    parts = tuple(
        tuple(shapely.get_coordinates(ring)[:-1] for ring in (p.exterior, *p.interiors))
        for p in flat
    )
    return parts or None
