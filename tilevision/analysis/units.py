"""What a pixel is on the ground: areas and densities in the units of the field.

On a slide a pixel has microns; on a map it has metres that differ from place to place,
since no projection keeps all areas. There the ground area of a pixel is the Jacobian of
the way from pixel to longitude and latitude, times the area element of the WGS84
ellipsoid (Snyder, *Map Projections: A Working Manual*, 1987, section 3), so that areas
are geodesic whatever the projection is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilevision.analysis.georeference import FARTHEST_LATITUDE
from tilevision.errors import SourceError
from tilevision.sources import ImageMetadata

__all__ = ["Units", "ground_units", "pixel_width", "units_of"]

_MAJOR = 6_378_137.0  # WGS84, metres
_ECCENTRICITY2 = 0.00669437999014
_WGS84 = "EPSG:4326"
_SQUARE_MICRONS = 1e6  # in a square millimetre
_MICRONS = 1e6  # in a metre
_HECTARE = 1e4
_MEGAPIXEL = 1e6

Place = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Units:
    """In which units areas and densities of one image are given.

    Parameters
    ----------
    area : str
        ``"µm²"``, ``"m²"`` or ``"px²"``.
    per : str
        What densities divide by: ``"mm²"``, ``"hectare"`` or ``"megapixel"``.
    areas_per : float
        How many of `area` one of `per` has.
    pixel_areas : callable
        ``pixel_areas(places (n, 2))`` returns the area ``(n,)`` of a square pixel at each
        x, y of the full-resolution image.
    note : str
        Why it is only pixels, where the file says more; else empty.
    """

    area: str
    per: str
    areas_per: float
    pixel_areas: Callable[[Place], NDArray[np.float64]]
    note: str = ""

    def of(self, places: Place, areas: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return `areas` ``(n,)`` in square pixels, lying at `places` ``(n, 2)``, in `area`."""
        return areas * self.pixel_areas(np.asarray(places, np.float64).reshape(-1, 2))


def units_of(metadata: ImageMetadata) -> Units:
    """Return the units of an image: microns before metres before pixels.

    Where the image has a coordinate reference system and rasterio is missing, or its place makes
    no sense, they are pixels, and the note says why.
    """
    if metadata.mpp is not None:
        return _even("µm²", "mm²", _SQUARE_MICRONS, metadata.mpp[0] * metadata.mpp[1])
    if metadata.crs is None or metadata.transform is None:
        return _even("px²", "megapixel", _MEGAPIXEL, 1.0)
    try:
        found = ground_units(metadata.crs, metadata.transform)
        width, height = metadata.levels[0] if metadata.levels else (1, 1)
        inside = np.array([(width * x, height * y) for x in (0.25, 0.75) for y in (0.25, 0.75)])
        areas = found.pixel_areas(inside)
    except SourceError as error:
        return _even("px²", "megapixel", _MEGAPIXEL, 1.0, str(error))
    if not (np.isfinite(areas).all() and (areas > 0).all()):
        note = (
            f"the image has no place on Earth by its reference system {metadata.crs:.60} and its "
            "transform, one of which is wrong; areas are in pixels"
        )
        return _even("px²", "megapixel", _MEGAPIXEL, 1.0, note)
    return found


def ground_units(crs: str, transform: tuple[float, ...]) -> Units:
    """Return square metres and hectares, by geodesic area.

    Parameters
    ----------
    crs : str
        ``"EPSG:32617"`` or WKT.
    transform : tuple of float
        Affine ``(a, b, c, d, e, f)``: x = a·col + b·row + c, y = d·col + e·row + f.

    Raises
    ------
    SourceError
        If rasterio is missing, or does not know the reference system.
    """
    to_degrees = _to_degrees(crs)
    a, b, c, d, e, f = transform

    def pixel_areas(places: Place) -> NDArray[np.float64]:
        def lon_lat(dx: float, dy: float) -> tuple[Place, Place]:
            x, y = places[:, 0] + dx, places[:, 1] + dy
            return to_degrees(a * x + b * y + c, d * x + e * y + f)

        by_x, by_y = (
            [
                np.radians(_turn(ahead - behind))
                for ahead, behind in zip(lon_lat(*step), lon_lat(-step[0], -step[1]), strict=True)
            ]
            for step in ((0.5, 0.0), (0.0, 0.5))
        )
        jacobian = np.abs(by_x[0] * by_y[1] - by_y[0] * by_x[1])
        latitude = np.radians(lon_lat(0.0, 0.0)[1])
        return np.asarray(jacobian * _area_element(latitude), np.float64)

    return Units("m²", "hectare", _HECTARE, pixel_areas)


def pixel_width(metadata: ImageMetadata) -> Callable[[float, float], float] | None:
    """Return a function that gives the width of a pixel at x, y in µm along the image's rows.

    On a map, metres on the ground at that place: no projection keeps all lengths. None where
    the image does not say, or rasterio is missing.
    """
    if metadata.mpp is not None:
        width = float(metadata.mpp[0])
        return lambda x, y: width  # noqa: ARG005 - the same everywhere
    if metadata.crs is None or metadata.transform is None:
        return None
    try:
        to_degrees = _to_degrees(metadata.crs)
    except SourceError:
        return None
    a, b, c, d, e, f = metadata.transform

    def on_ground(x: float, y: float) -> float:
        columns = x + np.array([-0.5, 0.0, 0.5])
        lon, lat = to_degrees(a * columns + b * y + c, d * columns + e * y + f)
        flat = 1 - _ECCENTRICITY2 * np.sin(np.radians(lat[1])) ** 2
        east = np.radians(_turn(lon[2] - lon[0])) * np.cos(np.radians(lat[1])) / flat**0.5
        north = np.radians(lat[2] - lat[0]) * (1 - _ECCENTRICITY2) / flat**1.5
        return float(_MAJOR * np.hypot(east, north) * _MICRONS)

    return on_ground


def _even(area: str, per: str, areas_per: float, pixel_area: float, note: str = "") -> Units:
    def pixel_areas(places: Place) -> NDArray[np.float64]:
        return np.full(len(places), pixel_area)

    return Units(area, per, areas_per, pixel_areas, note)


def _area_element(latitude: Place) -> NDArray[np.float64]:
    """Return m² per square radian of longitude and latitude (radians)."""
    flat = 1 - _ECCENTRICITY2 * np.sin(latitude) ** 2
    return np.asarray(_MAJOR**2 * (1 - _ECCENTRICITY2) * np.cos(latitude) / flat**2, np.float64)


def _turn(degrees: Place) -> Place:
    """Return differences of longitude as if the antimeridian were not there."""
    return np.asarray((degrees + 180) % 360 - 180, np.float64)


def _to_degrees(crs: str) -> Callable[[Place, Place], tuple[Place, Place]]:
    try:
        import rasterio.crs
        import rasterio.errors
        import rasterio.warp
    except ImportError:
        raise SourceError(
            "Areas in m² need rasterio: pip install 'tilevision[geo]'; they are in pixels."
        ) from None
    try:
        origin = rasterio.crs.CRS.from_user_input(crs)
        rasterio.warp.transform(origin, _WGS84, [0.0], [0.0])
    except rasterio.errors.RasterioError as error:
        reason = " ".join(str(error).split())[:200]
        raise SourceError(
            f"The image's reference system {crs:.60} is not known here ({reason}); areas are in "
            "pixels."
        ) from error
    except Exception as error:  # GDAL's own errors come through, unnamed
        reason = " ".join(str(error).split())[:200]
        raise SourceError(
            f"The image's reference system {crs:.60} has no place on Earth ({reason}); areas "
            "are in pixels."
        ) from error

    def to_degrees(x: Place, y: Place) -> tuple[Place, Place]:
        found = rasterio.warp.transform(origin, _WGS84, x, y)
        longitude, latitude = (np.asarray(one, np.float64) for one in found)
        return longitude, np.where(np.abs(latitude) > FARTHEST_LATITUDE, np.nan, latitude)

    return to_degrees
