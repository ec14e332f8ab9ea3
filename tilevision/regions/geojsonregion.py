"""Regions drawn elsewhere: GeoJSON, in pixels or on the ground."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.errors import GridError, SourceError
from tilevision.files import unzipped
from tilevision.regions.regionshapes import Longitudes, polygonal
from tilevision.sources import ImageMetadata

__all__ = ["geojson_polygons", "load_geojson", "polygons_in_pixels", "read_geojson"]

_LARGEST = 256 << 20
_MOST_NESTED = 20
_LONGEST_NAME = 200
_GEOMETRIES = ("Polygon", "MultiPolygon")
_WITHOUT_AREA = ("Point", "MultiPoint", "LineString", "MultiLineString")
_LONG_LAT = "OGC:CRS84"
# Straight lines in degrees are bent in other systems: they are followed this closely.
_STEP_DEGREES, _STEPS = 0.01, 256


def load_geojson(path: Path) -> Mapping[str, Any] | None:
    """Return the object in a file, compressed or not; None if the file is not JSON at all.

    Raises
    ------
    SourceError
        If the file cannot be read, or holds JSON of another kind.
    """
    try:
        head = unzipped(path, 64)
        if not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"{", b"[")):
            return None
        text = unzipped(path, _LARGEST)
    except OSError as error:
        raise SourceError(f"Region {path}: {error.strerror}.") from None
    except ValueError as error:
        raise SourceError(f"Region {path} cannot be read: {error}.") from None
    if len(text) > _LARGEST:
        raise SourceError(f"region {path} is larger than {_LARGEST >> 20} MB; give a mask instead.")
    return read_geojson(text, f" {path}")


def read_geojson(text: str | bytes, name: str = "") -> Mapping[str, Any]:
    """Return the object in a text; `name` is what errors call it.

    Raises
    ------
    SourceError
        If it holds something else.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"Region{name} is not whole JSON: {error}.") from None
    if not isinstance(value, dict):
        raise SourceError(f"Region{name} holds a {type(value).__name__}, not a GeoJSON object.")
    return value


def geojson_polygons(
    value: Mapping[str, Any], metadata: ImageMetadata
) -> tuple[list[Any], tuple[str, ...], tuple[str, ...]]:
    """Return the polygons of a GeoJSON object in pixels of the image, notes, and their names.

    A feature's name is its property ``name``, else that of its ``classification``, as QuPath
    writes it. Where none has a name, there are no names; where some have, the others are
    ``"region 2"`` after their place.

    On an image with a coordinate reference system they are longitude and latitude (WGS 84,
    RFC 7946) unless the object names another ``crs`` or says ``"coordinates_in": "pixels"``,
    as exports of tilevision do, which may count from an ``origin``; on any other image they
    are pixels. Points and lines have no area and are left out.

    Parameters
    ----------
    value : mapping
        Geometry, Feature or FeatureCollection.
    metadata : ImageMetadata
        Of the image.

    Raises
    ------
    GridError
        If the object is malformed, holds no polygon, or lies outside the image's system.
    SourceError
        If rasterio is needed and absent.
    """
    found, names, dropped = [], [], 0
    for geometry, name in _geometries(value, 0):
        if geometry["type"] in _WITHOUT_AREA:
            dropped += 1
        else:
            found.append(_shape(geometry))
            names.append(name)
    if not found:
        raise GridError("region is GeoJSON without a polygon; draw one around what to analyse.")
    note = (f"region: {dropped:,} points and lines were left out; they have no area",)
    frame = str(value.get("coordinates_in", ""))
    placed = metadata.crs is not None and metadata.transform is not None
    if placed and not frame.startswith("pixels"):
        found = polygons_in_pixels(found, _named_crs(value), metadata)
    elif frame.startswith("degrees"):
        raise GridError(
            "region is GeoJSON in degrees, and the image does not say where on Earth it is; give "
            "the region in pixels."
        )
    elif "origin" in value:
        found = _moved(found, value["origin"])
    told = [name or f"region {i + 1}" for i, name in enumerate(names)] if any(names) else []
    return found, note if dropped else (), tuple(told)


def _geometries(value: Any, depth: int, name: str = "") -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield the geometries in an object, however it nests them, and the name of each."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    if depth > _MOST_NESTED:
        raise GridError("region is GeoJSON that is nested too deeply.")
    if kind == "Feature":
        if value.get("geometry") is not None:
            yield from _geometries(value["geometry"], depth + 1, _name(value))
    elif kind in ("FeatureCollection", "GeometryCollection"):
        parts = value.get("features" if kind == "FeatureCollection" else "geometries")
        if not isinstance(parts, (list, tuple)):
            raise GridError(f"region is a GeoJSON {kind} without its list.")
        for part in parts:
            yield from _geometries(part, depth + 1, name)
    elif kind in (*_GEOMETRIES, *_WITHOUT_AREA):
        yield value, name
    else:
        raise GridError(f"region is GeoJSON of type {kind!r:.40}; give polygons or features.")


def _name(feature: Mapping[str, Any]) -> str:
    properties = feature.get("properties")
    if not isinstance(properties, Mapping):
        return ""
    kind = properties.get("classification")
    named = properties.get("name") or (kind.get("name") if isinstance(kind, Mapping) else "")
    return str(named)[:_LONGEST_NAME] if isinstance(named, (str, int, float)) else ""


def _shape(geometry: Mapping[str, Any]) -> Any:
    try:
        shape = shapely.geometry.shape(dict(geometry))
        # Heights are allowed and mean nothing here.
        shape = shapely.force_2d(shape)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, shapely.GEOSException):
        raise GridError(
            f"region is GeoJSON whose {geometry['type']} has no proper rings of x, y."
        ) from None
    if not np.isfinite(shapely.get_coordinates(shape)).all():
        raise GridError("region is GeoJSON with a coordinate that is not finite.")
    return shape


def _moved(found: list[Any], origin: Any) -> list[Any]:
    """Return polygons that count from pixel `origin` as they lie on the image."""
    try:
        move = np.array([float(number) for number in origin]).reshape(2)
    except (TypeError, ValueError):
        raise GridError(f"region is GeoJSON with origin {origin!r:.40}; it is x, y.") from None
    return [shapely.transform(shape, lambda points: points + move) for shape in found]


def _named_crs(value: Mapping[str, Any]) -> str:
    """Return the system an object names as GeoJSON of 2008 did, else that of RFC 7946."""
    crs = value.get("crs")
    properties = crs.get("properties") if isinstance(crs, Mapping) else None
    name = properties.get("name") if isinstance(properties, Mapping) else None
    return name if isinstance(name, str) else _LONG_LAT


def polygons_in_pixels(found: list[Any], crs: str, metadata: ImageMetadata) -> list[Any]:
    """Return polygons of a reference system in pixels of an image that lies on Earth.

    Parameters
    ----------
    found : list of shapely geometries
    crs : str
        Theirs.
    metadata : ImageMetadata
        Of the image.

    Raises
    ------
    GridError
        If they cannot be brought to the image's system.
    SourceError
        If rasterio is not installed.
    """
    assert metadata.crs is not None and metadata.transform is not None  # the caller has looked
    try:
        from rasterio.crs import CRS
        from rasterio.warp import transform
    except ImportError:
        raise SourceError(
            "A region in map coordinates needs rasterio: pip install 'tilevision[geo]'"
        ) from None
    a, b, c, d, e, f = metadata.transform

    def warp(points: NDArray[np.float64]) -> NDArray[np.float64]:
        ground = np.column_stack(transform(source, target, points[:, 0], points[:, 1]))
        return np.asarray(np.linalg.solve([[a, b], [d, e]], (ground - (c, f)).T).T, np.float64)

    try:
        source, target = CRS.from_user_input(crs), CRS.from_user_input(metadata.crs)
        if source.is_geographic:
            found = [_along_degrees(shape) for shape in found]
        width = metadata.levels[0][0] if metadata.levels else None
        longitudes = Longitudes.of(metadata.crs, metadata.transform, width)
        warped = [longitudes.met(shapely.transform(shape, warp)) for shape in found]
    except Exception as error:  # noqa: BLE001 - GDAL's own errors have no public base
        raise GridError(
            f"Region cannot be brought from {crs} to {metadata.crs} of the image: "
            f"{' '.join(str(error).split())}"
        ) from None
    if not all(np.isfinite(shapely.get_coordinates(shape)).all() for shape in warped):
        raise GridError(f"Region reaches outside what {metadata.crs} of the image can describe.")
    return warped


def _along_degrees(shape: Any) -> Any:
    x0, y0, x1, y1 = shapely.bounds(shape)
    if x0 < -540 or x1 > 540 or y0 < -90 or y1 > 90:
        raise GridError(
            f"Region reaches from {x0:g}, {y0:g} to {x1:g}, {y1:g}, which is not longitude and "
            'latitude; if it is in pixels, give it the member "coordinates_in": "pixels".'
        )
    step = max(_STEP_DEGREES, max(x1 - x0, y1 - y0) / _STEPS)
    return polygonal(shape) if not shape.is_valid else shapely.segmentize(shape, step)
