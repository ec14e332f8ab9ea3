"""What is stored of a tile's findings: inside the tile, without duplicates, lean outlines."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.outlines import rounded_with_areas, with_areas
from tilevision.findings import Findings
from tilevision.geometry import MultiPolygon
from tilevision.overlaps import Bodies, keepers, meeting_chunks

__all__ = ["POLYGON_TOLERANCE", "compact", "suppress"]

_STRAY = 0.01  # share of its area by which a stored outline may be larger or smaller
_OVERHANG = 0.1  # pixels that outlines of masks go beyond the edges of a tile at most
POLYGON_TOLERANCE = 0.5  # pixels that a stored outline may stray; part of each tile's key


def compact(
    findings: Findings,
    size: tuple[int, int],
    nms: float | None = None,
    class_agnostic: bool = False,
) -> Findings:
    """Return a tile's findings as they are stored.

    Parameters
    ----------
    findings : Findings
        In pixels of the tile.
    size : tuple of int
        Width and height of the tile as the model saw it.
    nms : float, optional
        IoU above which two detections of one label are the same; None keeps all.
    class_agnostic : bool
        True if detections of two labels may be the same as well.

    Returns
    -------
    Findings
        Boxes and polygons clipped to the tile, and polygons simplified to 0.5 px. What lies
        wholly outside is dropped; boxes without extent (points) stay where they lie inside.
    """
    if not len(findings) and findings.embedding is None and findings.raster is None:
        return findings
    if nms is not None:
        findings = findings.take(suppress(findings, nms, class_agnostic))
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


def suppress(
    findings: Findings, threshold: float, class_agnostic: bool = False
) -> NDArray[np.bool_]:
    """Return which rows survive non-maximum suppression within each label: ``(n,)``.

    The best score wins, then the row that stands first; rows without a score come last. Overlap is
    that of the shapes where there are shapes (outline, else rotated box, else box; points are
    squares of 12 px). With `class_agnostic`, labels do not matter.
    """
    n = len(findings)
    if not n:
        return np.zeros(0, dtype=bool)
    bodies = Bodies.of(findings)
    kind = None
    if not class_agnostic:
        kind = np.unique(findings.labels.astype(str), return_inverse=True)[1]
    better, worse = [], []
    for one, two in meeting_chunks(bodies.boxes, bodies.boxes, kind, kind):
        once = two < one  # findings are sorted, best first
        here, there = one[once], two[once]
        enough = bodies.overlap(here, bodies, there) > threshold
        better.append(there[enough])
        worse.append(here[enough])
    standing = keepers(n, np.concatenate(better), np.concatenate(worse))
    return np.asarray(standing == np.arange(n))


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
        lean[out] = _clipped(whole[out], lean[out], size)
    return [None if shape is None else _parts(shape) for shape in lean]


def _clipped(whole: NDArray[Any], lean: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return the part of simplified shapes in the tile, with the area that the whole has there.

    Outlines of masks go a little beyond the edges of a tile that the mask reaches, as their corners
    are cut elsewhere: their area is that of the mask, all of which lies in the tile.
    """
    import shapely

    tile = shapely.box(0, 0, *size)
    cut = shapely.intersection(shapely.make_valid(lean), tile)
    x0, y0, x1, y1 = shapely.bounds(whole).T
    over = np.max([-x0, -y0, x1 - size[0], y1 - size[1]], axis=0)
    exact = shapely.intersection(shapely.make_valid(whole), tile)
    wanted = np.where(over <= _OVERHANG, shapely.area(whole), shapely.area(exact))
    plain = (shapely.get_type_id(cut) == 3) & ~shapely.is_empty(cut) & (wanted > 0)
    if plain.any():
        cut[plain] = _refilled(cut[plain], wanted[plain], size)
    astray = np.abs(shapely.area(cut) - wanted) > _STRAY * wanted
    return np.asarray(np.where(astray, exact, cut))


def _refilled(shapes: NDArray[Any], areas: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return polygons in the tile with the areas wanted, which what lies along its edges keeps."""
    import shapely

    rings = shapely.get_exterior_ring(shapes)
    counts = shapely.get_num_coordinates(rings) - 1
    ends = np.cumsum(counts + 1) - 1
    points = np.delete(shapely.get_coordinates(rings), ends, axis=0).clip(0, size)
    around = areas + shapely.area(shapely.polygons(rings)) - shapely.area(shapes)  # holes stay
    points = rounded_with_areas(with_areas(points, counts, around, size), counts, around, size)
    starts = np.cumsum(counts) - counts
    closed = np.insert(points, np.cumsum(counts), points[starts], axis=0)
    fresh = shapely.linearrings(closed, indices=np.repeat(np.arange(len(rings)), counts + 1))
    found = shapely.polygons(fresh)
    for number in np.flatnonzero(shapely.get_num_interior_rings(shapes)):
        found[number] = shapely.Polygon(fresh[number], shapes[number].interiors)
    return np.asarray(np.where(shapely.is_valid(found), found, shapes))


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
        return _not_astray(whole, lean)
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
    return _not_astray(whole, np.where(good, found, lean))


def _not_astray(whole: NDArray[Any], lean: NDArray[Any]) -> NDArray[Any]:
    """Return simplified shapes, and the whole of those that cannot be simplified as they are."""
    import shapely

    meant = shapely.area(whole)
    astray = (np.abs(shapely.area(lean) - meant) > _STRAY * meant) & shapely.is_valid(whole)
    return np.where(astray, whole, lean)


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
