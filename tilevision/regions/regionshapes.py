"""Shapes as people give them: boxes, points, polygons of other libraries."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from tilevision.errors import GridError
from tilevision.geometry import Box

__all__ = ["UNDERSTOOD", "Longitudes", "box_in", "polygonal", "ring_of", "whole_polygons"]

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


@dataclass(frozen=True, slots=True)
class Longitudes:
    """The longitudes of an image, which may count from 0 to 360 where others are negative.

    Parameters
    ----------
    turn : float
        Pixels of a whole turn; 0 where the image's x is no longitude.
    width : float
        Of the image, pixels.
    """

    turn: float
    width: float

    @classmethod
    def of(cls, crs: str, transform: Sequence[float], width: float | None) -> Longitudes:
        """Read them from where an image lies; its width, or None where that is not known."""
        from rasterio.crs import CRS

        system = CRS.from_user_input(crs)
        step, slant = transform[0], transform[1] or transform[3]
        if not system.is_geographic or slant or not step:
            return cls(0.0, 0.0)
        turn = abs(2 * math.pi / float(system.units_factor[1]) / step)
        return cls(turn, turn if width is None else width)

    def met(self, shape: Any) -> Any:
        """Return a shape in pixels, each part turned so far that it lies on the image, if it can.

        Parts that meet then are one: GeoJSON cuts what lies across the antimeridian.
        """
        if not self.turn:
            return shape
        stored = list(shapely.get_parts(shape))
        parts = [self._turned(part) for part in stored]
        if all(new is old for new, old in zip(parts, stored, strict=True)):
            return shape
        return shapely.union_all(parts)

    def _turned(self, part: Any) -> Any:
        left, _, right, _ = shapely.bounds(part)
        turns = (0.0, self.turn, -self.turn)
        shared = [min(right + by, self.width) - max(left + by, 0.0) for by in turns]
        by = turns[shared.index(max(shared))]
        return shapely.transform(part, lambda points: points + np.array([by, 0.0])) if by else part
