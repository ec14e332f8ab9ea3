"""Shapes as people give them: boxes, points, polygons of other libraries."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import shapely

from tilevision.errors import GridError
from tilevision.geometry import Box

__all__ = ["UNDERSTOOD", "box_in", "polygonal", "ring_of", "whole_polygons"]

UNDERSTOOD = (
    "give (x0, y0, x1, y1), points of a polygon, GeoJSON or its file, a GeoPackage, a mask or its "
    "file, 'tissue', or a list of these"
)
_NUMBER = r"\s*-?\d+\.?\d*\s*"
_FOUR = re.compile(",".join([f"({_NUMBER})"] * 4))


def box_in(value: Any) -> Any | None:
    """Return the polygon of a `Box`, of four numbers or of their text; None for all else.

    Raises
    ------
    GridError
        If right is not right of left, or bottom not below top.
    """
    if isinstance(value, Box):
        corners = list(value.as_tuple())
    elif isinstance(value, str):
        match = _FOUR.fullmatch(value)
        if match is None:
            return None
        corners = [float(text) for text in match.groups()]
    else:
        if np.ndim(value) != 1 or len(value) != 4:
            return None
        corners = list(value)
    x0, y0, x1, y1 = _finite(corners, value).tolist()
    if not (x0 < x1 and y0 < y1):
        raise GridError(
            f"region {value!r:.80} is empty; give x0, y0, x1, y1 with x0 < x1 and y0 < y1, pixels."
        )
    return shapely.box(x0, y0, x1, y1)


def ring_of(points: Any) -> Any:
    """Return the polygon of three points ``(k, 2)`` or more; it may cross itself.

    Raises
    ------
    GridError
        If a coordinate is no finite number, or there are too few.
    """
    ring = _finite(points, points)
    if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3:
        raise GridError(
            f"region has points of shape {ring.shape}; a polygon is (k, 2) x, y, at least 3 points."
        )
    return shapely.Polygon(ring)


def whole_polygons(geometry: Any) -> tuple[Any, bool]:
    """Return `geometry` as valid polygons, and whether it had to be made valid.

    Lines and points have no area and are left out; what is left may be empty.
    """
    valid = bool(shapely.is_valid(geometry))
    return polygonal(geometry if valid else shapely.make_valid(geometry)), not valid


def polygonal(geometry: Any) -> Any:
    """Return the polygons in `geometry` as one geometry; an empty polygon if there is none."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    flat = [part for part in parts if part.geom_type == "Polygon" and part.area > 0]
    if len(flat) == 1:
        return flat[0]
    return shapely.MultiPolygon(flat) if flat else shapely.Polygon()


def _finite(values: Any, shown: Any) -> Any:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise GridError(f"Region {shown!r:.80} is not understood; {UNDERSTOOD}.") from None
    if not np.isfinite(numbers).all():
        raise GridError(f"region {shown!r:.80} holds a number that is not finite.")
    return numbers
