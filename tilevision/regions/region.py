"""The part of an image that is to be analysed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.errors import GridError
from tilevision.grid import Tile

__all__ = ["Region"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

# A tile and a region that share less than a strip this wide (pixels) only touch.
_STRIP = 1e-6


@dataclass(frozen=True, slots=True)
class Region:
    """Polygons in pixels of the full-resolution image, half-open like boxes.

    Parameters
    ----------
    geometry : shapely Polygon or MultiPolygon
        Valid and not empty; x right, y down. Holes are outside.
    name : str
        For people: ``"tissue"``, ``"box"``, the name of a file.
    notes : tuple of str
        Notes for the user, one line each.
    parts : tuple of (str, shapely geometry)
        What it is put together from, where that has names: polygons that may overlap.
    """

    geometry: Any
    name: str
    notes: tuple[str, ...] = field(default=(), compare=False)
    parts: tuple[tuple[str, Any], ...] = ()

    @property
    def area(self) -> float:
        """Square pixels."""
        return float(self.geometry.area)

    def touches(self, tiles: Sequence[Tile]) -> Mask:
        """Return a mask ``(n,)`` of which of `tiles` share area with the region."""
        boxes = _boxes(tiles) + np.array([_STRIP, _STRIP, -_STRIP, -_STRIP])
        shapely.prepare(self.geometry)
        return np.asarray(shapely.intersects(self.geometry, shapely.box(*boxes.T)))

    def holds(self, points: Floats) -> Mask:
        """Return a mask ``(n,)`` of which points ``(n, 2)`` lie in the region.

        Half-open: a point on the border of two regions lies in the right or lower one only.
        """
        # The next number to the right and below: what lies on a border is moved off it.
        x, y = np.nextafter(np.asarray(points, dtype=np.float64).T, np.inf)
        shapely.prepare(self.geometry)
        return np.asarray(shapely.contains_xy(self.geometry, x, y))

    def area_within(self, tiles: Sequence[Tile]) -> float:
        """Return the area, in square pixels, that the region and `tiles` together share."""
        if not tiles:
            return 0.0
        together = shapely.union_all(shapely.box(*_boxes(tiles).T))
        return float(shapely.intersection(self.geometry, together).area)

    def outline(self) -> tuple[Floats, ...]:
        """Return the rings ``(k, 2)`` of x, y, closed: exteriors and holes."""
        rings = shapely.get_rings(shapely.get_parts(self.geometry))
        return tuple(shapely.get_coordinates(ring) for ring in rings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, the geometry as GeoJSON in pixels; `from_dict` reads them.

        Parts are named only where there are any, as earlier versions knew none.
        """
        parts = [{"name": name, "geometry": plain_geometry(shape)} for name, shape in self.parts]
        whole = {"name": self.name, "geometry": plain_geometry(self.geometry)}
        return whole | ({"parts": parts} if parts else {})

    @property
    def each(self) -> tuple[Region, ...]:
        """Its named parts as regions; itself where it has none."""
        return tuple(Region(shape, name) for name, shape in self.parts) or (self,)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Region:
        """Read what `to_dict` wrote.

        Raises
        ------
        GridError
            If it is damaged.
        """
        name, geometry = _stored(raw)
        return cls(geometry, name, parts=tuple(_stored(part) for part in raw.get("parts", ())))

    def __repr__(self) -> str:
        return f"<Region {self.name}: {self.area:,.0f} px²>"


_DAMAGED = (
    *(KeyError, IndexError, TypeError, ValueError, AttributeError),
    *(shapely.GEOSException, shapely.errors.GeometryTypeError),
)


def _stored(raw: dict[str, Any]) -> tuple[str, Any]:
    try:
        geometry = shapely.geometry.shape(raw["geometry"])
        name = str(raw["name"])
    except _DAMAGED as error:
        raise GridError(f"The stored region is damaged ({error!r})") from None
    if geometry.is_empty or not geometry.is_valid or "Polygon" not in geometry.geom_type:
        raise GridError("The stored region is damaged: it is no polygon.")
    return name, geometry


def plain_geometry(geometry: Any) -> dict[str, Any]:
    """Return a polygon as a GeoJSON geometry; whole numbers without a fraction."""
    parts = [
        [_ring(part.exterior), *map(_ring, part.interiors)] for part in shapely.get_parts(geometry)
    ]
    if geometry.geom_type == "Polygon":
        return {"type": "Polygon", "coordinates": parts[0]}
    return {"type": "MultiPolygon", "coordinates": parts}


def _ring(ring: Any) -> list[list[float]]:
    return [
        [int(v) if v.is_integer() else v for v in pair]
        for pair in shapely.get_coordinates(ring).tolist()
    ]


def _boxes(tiles: Sequence[Tile]) -> Floats:
    return np.array([tile.box.as_tuple() for tile in tiles], dtype=np.float64).reshape(-1, 4)
