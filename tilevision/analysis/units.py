"""Where an image lies, and what a pixel is there: areas and densities in the units of the field.

On a slide a pixel has microns; on a map it has metres that differ from place to place,
since no projection keeps all areas. There the ground area of a pixel is the Jacobian of
the way from pixel to longitude and latitude, times the area element of the WGS84
ellipsoid (Snyder, *Map Projections: A Working Manual*, 1987, section 3), so that areas
are geodesic whatever the projection is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import RunError, SourceError
from tilevision.findings import Findings
from tilevision.geometry import MultiPolygon, area, flattened
from tilevision.sources import ImageMetadata

__all__ = [
    "AREA_COLUMNS",
    "Georeference",
    "Units",
    "areas",
    "data_share_of",
    "ground_units",
    "pixel_width",
    "sparse",
    "units_of",
]

WGS84 = "EPSG:4326"
FARTHEST_LATITUDE = 91.0
_MAJOR = 6_378_137.0  # WGS84, metres
_ECCENTRICITY2 = 0.00669437999014
_SQUARE_MICRONS = 1e6  # in a square millimetre
_MICRONS = 1e6  # in a metre
_HECTARE = 1e4
_HECTARES = 100.0  # in a square kilometre
_SCENE = 1e8  # m²: of a larger ground, areas are in square kilometres
_SPARSE = 0.1  # per hectare: what is rarer is counted per square kilometre
_CELLS = 1024  # along the longer side, to count where there is data
_CHUNK = 10_000  # outlines measured together
_MEGAPIXEL = 1e6
# Units of area to the names of table columns that hold it.
AREA_COLUMNS = {"µm²": "area_um2", "m²": "area_m2"}

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Georeference:
    """Where an image lies on Earth.

    Parameters
    ----------
    crs : str
        ``"EPSG:32617"`` or WKT.
    transform : tuple of float
        Affine ``(a, b, c, d, e, f)``: x = a·col + b·row + c, y = d·col + e·row + f.
    """

    crs: str
    transform: tuple[float, ...]

    @classmethod
    def of(cls, metadata: ImageMetadata) -> Georeference | None:
        """Return where the image lies; None unless it has both CRS and transform."""
        if metadata.crs is None or metadata.transform is None:
            return None
        return cls(metadata.crs, metadata.transform)

    def check(self) -> None:
        """Make sure that longitude and latitude can be computed.

        Raises
        ------
        RunError
            If rasterio is missing, or the CRS or the transform does not allow it.
        """
        self.to_degrees(np.zeros((1, 2)))

    def to_crs(self, points: Points) -> Points:
        """Map pixels ``(n, 2)`` of the full-resolution image to x, y of the CRS."""
        a, b, c, d, e, f = self.transform
        placed: Points = points @ np.array([[a, d], [b, e]]) + np.array([c, f])
        return placed

    def to_degrees(self, points: Points) -> Points:
        """Map pixels ``(n, 2)`` of the full-resolution image to longitude, latitude (WGS84).

        Raises
        ------
        RunError
            If rasterio is missing, or the CRS does not allow it.
        """
        found = _reprojected(self.to_crs(points), self.crs, WGS84)
        east = found[:, 0]
        # Some images count longitudes from 0 to 360, or on past the antimeridian.
        found[:, 0] = np.where(np.abs(east) > 180, (east + 180) % 360 - 180, east)
        return found

    def from_crs(self, points: Points, crs: str | None = None) -> Points:
        """Map x, y ``(n, 2)`` of a reference system to pixels of the full-resolution image.

        Parameters
        ----------
        points : array (n, 2)
        crs : str, optional
            Default: longitude, latitude (WGS84).

        Raises
        ------
        RunError
            If rasterio is missing, or the CRS does not allow it.
        """
        a, b, c, d, e, f = self.transform
        placed = _reprojected(points, crs or WGS84, self.crs) - np.array([c, f])
        return cast("Points", placed @ np.linalg.inv(np.array([[a, d], [b, e]])))


def _reprojected(points: Points, source: str, target: str) -> Points:
    try:
        from rasterio.warp import transform
    except ImportError:
        raise RunError(
            "Longitude and latitude need rasterio, which is not installed: "
            "pip install 'tilevision[geo]'; or save pixels with format='qupath'."
        ) from None
    try:
        x, y = transform(source, target, points[:, 0], points[:, 1])
    except Exception as error:  # GDAL's own errors come through, unnamed
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"The image's CRS {source[:60]} cannot be turned into {target[:60]}: {reason}; save "
            "pixels with format='qupath'."
        ) from error
    out = np.column_stack([x, y]).astype(np.float64).reshape(-1, 2)
    # Pixels around the poles may reach half a cell beyond them.
    degrees = out if target == WGS84 else points if source == WGS84 else None
    beyond = degrees is not None and bool((np.abs(degrees[:, 1]) > FARTHEST_LATITUDE).any())
    if beyond or not np.isfinite(out).all():
        raise RunError(
            f"Positions of the image have no place in {target[:60]}, so its CRS {source[:60]} or "
            "its transform is wrong; save pixels with format='qupath'."
        )
    return out


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
    pixel_areas: Callable[[Points], NDArray[np.float64]]
    note: str = ""

    @property
    def short(self) -> str:
        """`per` as it is written in tables and legends: ``"ha"``, ``"Mpx"``."""
        return {"hectare": "ha", "megapixel": "Mpx"}.get(self.per, self.per)

    def large(self, area: float) -> tuple[str, float]:
        """Return the unit for grounds as large as `area`, and how many of `self.area` it has."""
        if self.per == "hectare" and area >= _SCENE:
            return "km²", self.areas_per * _HECTARES
        return self.short, self.areas_per

    def in_words(self, area: float) -> str:
        """Return an area as a person reads it, in no powers of ten: ``"11,200 km²"``."""
        unit, size = self.large(area)
        value = area / size
        return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"

    def of(self, places: Points, areas: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return `areas` ``(n,)`` in square pixels, lying at `places` ``(n, 2)``, in `area`."""
        return areas * self.pixel_areas(np.asarray(places, np.float64).reshape(-1, 2))

    def mean_pixel(self, boxes: Sequence[tuple[float, ...]]) -> float:
        """Return the mean area of a pixel of `boxes`, from nine places in each."""
        if not boxes:
            return 1.0
        corners = np.array(boxes)
        sides = corners[:, 2:] - corners[:, :2]
        steps = np.array([(x, y) for y in (1, 3, 5) for x in (1, 3, 5)]) / 6
        places = corners[:, None, :2] + steps * sides[:, None]
        means = self.pixel_areas(places.reshape(-1, 2)).reshape(-1, 9).mean(axis=1)
        return float(np.average(means, weights=sides.prod(axis=1)))


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

    def pixel_areas(places: Points) -> NDArray[np.float64]:
        def lon_lat(dx: float, dy: float) -> tuple[Points, Points]:
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


def sparse(density: float, per: str) -> tuple[float, str]:
    """Return a density and what it divides by: square kilometres where hectares have next to none.

    Parameters
    ----------
    density : float
    per : str
        As `Units.per` has it.
    """
    if per == "hectare" and 0 < density < _SPARSE:
        return density * _HECTARES, "km²"
    return density, per


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
    def pixel_areas(places: Points) -> NDArray[np.float64]:
        return np.full(len(places), pixel_area)

    return Units(area, per, areas_per, pixel_areas, note)


def _area_element(latitude: Points) -> NDArray[np.float64]:
    """Return m² per square radian of longitude and latitude (radians)."""
    flat = 1 - _ECCENTRICITY2 * np.sin(latitude) ** 2
    return np.asarray(_MAJOR**2 * (1 - _ECCENTRICITY2) * np.cos(latitude) / flat**2, np.float64)


def _turn(degrees: Points) -> Points:
    """Return differences of longitude as if the antimeridian were not there."""
    return np.asarray((degrees + 180) % 360 - 180, np.float64)


def _to_degrees(crs: str) -> Callable[[Points, Points], tuple[Points, Points]]:
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
        rasterio.warp.transform(origin, WGS84, [0.0], [0.0])
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

    def to_degrees(x: Points, y: Points) -> tuple[Points, Points]:
        found = rasterio.warp.transform(origin, WGS84, x, y)
        longitude, latitude = (np.asarray(one, np.float64) for one in found)
        return longitude, np.where(np.abs(latitude) > FARTHEST_LATITUDE, np.nan, latitude)

    return to_degrees


def areas(findings: Findings) -> NDArray[np.float64]:
    """Return the area ``(n,)`` in square pixels: of the polygon, the rotated box, else the box."""
    out = cast("NDArray[np.float64]", area(findings.boxes))
    if findings.oriented is not None:
        turned = ~np.isnan(findings.oriented).any(axis=(1, 2))
        out[turned] = _ring_areas(findings.oriented[turned])
    polygons = findings.polygons or ()
    for start in range(0, len(polygons), _CHUNK):
        some = polygons[start : start + _CHUNK]
        shaped = [place for place, shape in enumerate(some) if shape is not None]
        out[[start + place for place in shaped]] = _polygon_areas([some[i] for i in shaped])
    return out


def _ring_areas(rings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the areas of rings ``(n, k, 2)``."""
    x, y = rings[..., 0], rings[..., 1]
    twice = x * np.roll(y, -1, axis=-1) - y * np.roll(x, -1, axis=-1)
    out: NDArray[np.float64] = np.abs(twice.sum(axis=-1)) / 2
    return out


def _polygon_areas(shapes: Sequence[MultiPolygon | None]) -> NDArray[np.float64]:
    """Return the areas of polygons: of exteriors, less those of holes."""
    points, sizes, owner = flattened(shapes)
    if not len(sizes):
        return np.zeros(len(shapes))
    start = np.cumsum(sizes) - sizes
    points -= np.repeat(points[start], sizes, axis=0)  # small numbers keep their digits
    after = np.arange(1, len(points) + 1)
    after[np.cumsum(sizes) - 1] = start
    (x, y), (u, v) = points.T, points[after].T
    rings = np.abs(np.add.reduceat(x * v - u * y, start)) / 2
    hole = [place > 0 for shape in shapes for part in shape or () for place in range(len(part))]
    signed = np.where(hole, -rings, rings)
    return np.asarray(np.bincount(owner, signed, minlength=len(shapes)))


def data_share_of(source: Any) -> NDArray[np.float32] | None:
    """Return the share of each cell of an image that has data; None if all has, or none says."""
    ask = getattr(source, "data_share", None)
    try:
        found: NDArray[np.float32] | None = None if ask is None else ask(_CELLS)
    except SourceError:  # closed, or gone: then no area is known to be without
        return None
    return None if found is None or (found == 1).all() else found
