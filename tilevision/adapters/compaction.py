"""What is stored of a tile's findings: inside the tile, without duplicates, lean outlines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.outlines import rounded_with_areas, with_areas
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
    """Simplify outlines without a change of their area, and clip those that leave the tile."""
    import shapely

    shapes = [None if p is None else _shape(p) for p in polygons]
    whole = np.array(shapes, dtype=object)
    lean = _with_its_area(whole, shapely.simplify(whole, POLYGON_TOLERANCE))
    x0, y0, x1, y1 = shapely.bounds(lean).T
    out = (x0 < 0) | (y0 < 0) | (x1 > size[0]) | (y1 > size[1])
    if out.any():
        sound = shapely.make_valid(lean[out])
        lean[out] = shapely.intersection(sound, shapely.box(0, 0, *size))
    return [None if shape is None else _parts(shape) for shape in lean]


def _with_its_area(whole: NDArray[Any], lean: NDArray[Any]) -> NDArray[Any]:
    """Return simplified shapes with the area that each ring had before.

    Leaving points out takes most from the outside of what is round: a square of 8 px would be a
    ninth too small. Sides are moved by a fraction of a pixel, points to a tenth of one, which
    needs no more room than before. A ring that lost no point stays as it is, and so does a shape
    that would cross itself.
    """
    import shapely

    parts, owner = shapely.get_parts(lean, return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    before = shapely.get_rings(shapely.get_parts(whole))
    counts = shapely.get_num_coordinates(rings) - 1
    changed = shapely.get_num_coordinates(before) - 1 != counts if len(before) == len(rings) else ()
    if not np.any(changed):
        return lean
    points = np.delete(shapely.get_coordinates(rings), np.cumsum(counts + 1) - 1, axis=0)
    rows = np.repeat(changed, counts)
    areas = shapely.area(shapely.polygons(before[changed]))
    moved = points.copy()
    moved[rows] = rounded_with_areas(
        with_areas(points[rows], counts[changed], areas), counts[changed], areas
    )
    starts = np.cumsum(counts) - counts
    closed = np.insert(moved, np.cumsum(counts), moved[starts], axis=0)
    fresh = shapely.linearrings(closed, indices=np.repeat(np.arange(len(rings)), counts + 1))
    exterior = np.append(True, part[1:] != part[:-1])
    polygons = shapely.polygons(fresh[exterior])
    for number in np.flatnonzero(np.bincount(part) > 1):  # with holes
        mine = fresh[part == number]
        polygons[number] = shapely.polygons(mine[0], holes=mine[1:])
    found = lean.copy()
    several = np.bincount(owner, minlength=len(lean))
    single = several[owner] == 1
    found[owner[single]] = polygons[single]
    for number in np.flatnonzero(several > 1):
        found[number] = shapely.multipolygons(polygons[owner == number])
    good = shapely.is_valid(found) | ~shapely.is_valid(lean)
    return np.where(good, found, lean)


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
