"""Geometries and masks as the findings that they are truth for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.analysis.units import Georeference
from tilevision.errors import RunError, SourceError
from tilevision.findings import Findings
from tilevision.regions.regionshapes import Longitudes

__all__ = [
    "findings_of_shapes",
    "mask_outline",
    "mask_shape",
    "moved",
    "outline_parts",
    "outlines_of",
    "placed",
    "unscored",
    "valid",
]

Floats = NDArray[np.float64]


def findings_of_shapes(shapes: NDArray[np.object_], labels: Sequence[str] | None) -> Findings:
    """Return shapes as findings: outlines where they are more than upright boxes."""
    boxes, outlines = np.reshape(shapely.bounds(shapes), (-1, 4)), outlines_of(shapes)
    points = [
        shapely.get_coordinates(shape)[0] if shape.geom_type == "Point" else (np.nan, np.nan)
        for shape in shapes
    ]
    return Findings(
        boxes,
        labels=labels,
        polygons=outlines if any(p is not None for p in outlines) else None,
        points=points if np.isfinite(np.array(points)).any() else None,
    )


def outlines_of(shapes: NDArray[np.object_]) -> list[list[list[Floats]] | None]:
    """Return the outline of each shape, in their order; None for upright boxes and points."""
    boxes = np.reshape(shapely.bounds(shapes), (-1, 4))
    area = np.reshape(shapely.area(shapes), -1)
    sides = boxes[:, 2:] - boxes[:, :2]
    upright = np.isclose(area, sides.prod(axis=1), rtol=1e-6, atol=1e-6)
    return [None if flat else outline_parts(s) for flat, s in zip(upright, shapes, strict=True)]


def outline_parts(shape: Any) -> list[list[Floats]] | None:
    """Return the parts of a geometry that have an area, as rings; None if there is none."""
    pieces = [p for p in shapely.get_parts(shapely.get_parts([shape])) if p.geom_type == "Polygon"]
    return [
        [shapely.get_coordinates(ring)[:-1] for ring in (piece.exterior, *piece.interiors)]
        for piece in pieces
        if not piece.is_empty
    ] or None


def unscored(findings: Findings) -> Findings:
    """Return findings without scores: those of truth only kept rows in their order."""
    columns = findings.columns | {"scores": np.full(len(findings), np.nan)}
    return Findings(**columns)


def valid(shape: Any) -> Any:
    """Return a geometry that does not cross itself."""
    return shape if shape.is_valid else shapely.make_valid(shape)


def mask_outline(wanted: NDArray[np.bool_], left: float, top: float) -> list[list[Floats]] | None:
    """Return the parts of the outline of a mask whose corner lies at `left`, `top`."""
    return outline_parts(mask_shape(wanted, left, top))


def mask_shape(wanted: NDArray[np.bool_], left: float, top: float) -> Any:
    """Return the outline of a mask along the edges of its pixels."""
    from tilevision.regions.maskregion import Mask

    height, width = wanted.shape
    shape, _ = Mask.of(wanted).polygons((width, height))
    return shapely.affinity.translate(shapely.union_all(shape), left, top)


def moved(shapes: NDArray[np.object_], move: Callable[[Floats], Floats]) -> NDArray[np.object_]:
    """Return shapes with every point ``(n, 2)`` moved."""
    return np.asarray(shapely.transform(shapes, move))


def placed(
    shapes: NDArray[np.object_],
    place: Georeference,
    crs: str | None,
    size: tuple[int, int] | None,
    where: str,
) -> NDArray[np.object_]:
    """Return shapes on Earth in pixels of an image that lies at `place`.

    Parameters
    ----------
    shapes : ndarray of shapely geometries
    place : Georeference
    crs : str, optional
        Theirs; None is longitude and latitude.
    size : tuple of int, optional
        Width and height of the image, where they are known.
    where : str
        The truth that they are of, for messages.

    Raises
    ------
    SourceError
        If a coordinate is no number, or one system cannot be turned into the other.
    """
    if not np.isfinite(shapely.get_coordinates(shapes)).all():
        raise SourceError(f"{where} holds a coordinate that is no number (NaN); correct it there.")
    try:
        there = moved(shapes, lambda points: place.from_crs(points, crs))
    except RunError as error:
        raise SourceError(
            f"{where} is in {crs or 'longitude and latitude'}, which cannot be turned into "
            f"{place.crs}, the image's; give the truth in that system, or in pixels."
        ) from error
    longitudes = Longitudes.of(place.crs, place.transform, None if size is None else size[0])
    there[:] = [longitudes.met(shape) for shape in there]
    return there
