"""What people give as ``region=``, as one `Region` of the image."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from tilevision import checks
from tilevision.errors import GridError, SourceError
from tilevision.regions.geojsonregion import geojson_polygons, load_geojson, read_geojson
from tilevision.regions.maskregion import Mask, read_mask
from tilevision.regions.region import Region
from tilevision.regions.regionshapes import UNDERSTOOD, box_in, polygonal, ring_of, whole_polygons
from tilevision.regions.tissue import tissue_polygons
from tilevision.regions.vectorregion import VECTOR_FILES, vector_polygons
from tilevision.sources import ImageSource, open_source

__all__ = ["read_region"]

_NO_FILE = "GeoJSON"  # what regions are called that have no names and come from no file
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class _Given:
    """One thing that was given: its polygons, what it is, notes for the user, its parts' names."""

    polygons: list[Any]
    kind: str
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  # one for each polygon, where any has one


def read_region(value: Any, source: ImageSource) -> Region:
    """Return the part of the image that `value` describes.

    Parameters
    ----------
    value : Box, tuple, array, shapely polygon, mapping, path, str, Region, or a list of these
        ``(x0, y0, x1, y1)`` or a `Box`; points ``(k, 2)`` of a polygon; a shapely polygon; a
        GeoJSON object, its text or its file (compressed or not), whose features may have names; a
        GeoPackage, FlatGeobuf or Shapefile; a mask ``(h, w)`` over the whole image at any
        resolution or its file, wanted where it is not 0; ``"tissue"``.
        Pixels of the full-resolution image, half-open; GeoJSON on an image with map coordinates
        is longitude and latitude, the other files are in the system that they name.
    source : ImageSource

    Raises
    ------
    GridError
        If it is not understood, is empty, or misses the image.
    SourceError
        If a file cannot be read.
    """
    if isinstance(value, Region) and shapely.covers(_whole(source.size), value.geometry):
        return value  # as it was stored, to the last vertex
    given = _given(value, source)
    return _clipped(given, source.size)


def _given(value: Any, source: ImageSource) -> _Given:
    if isinstance(value, Region):
        parts = value.parts or (("", value.geometry),)
        names = tuple(name for name, _ in value.parts)
        return _Given([shape for _, shape in parts], value.name, value.notes, names)
    if isinstance(value, shapely.Geometry):
        return _Given([value], "polygon")
    if isinstance(value, Mapping):
        return _geojson(value, source, _NO_FILE)
    if isinstance(value, np.ndarray):
        return _array(value, source)
    if isinstance(value, (list, tuple)) and any(hasattr(item, "__len__") for item in value):
        if all(isinstance(point, (list, tuple)) and _is_point(point) for point in value):
            return _Given([ring_of(value)], "polygon")
        return _several([_given(item, source) for item in value])
    box = box_in(value)
    if box is not None:
        return _Given([box], "box")
    if isinstance(value, (str, os.PathLike)):
        return _named(value, source)
    raise GridError(f"Region {value!r:.80} is not understood; {UNDERSTOOD}.")


def _named(value: str | os.PathLike[str], source: ImageSource) -> _Given:
    if value == "tissue":
        return _Given([tissue_polygons(source)], "tissue")
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return _geojson(read_geojson(value), source, _NO_FILE)
    return _file(checks.path("region", value, GridError), source)


def _is_point(value: Any) -> bool:
    return len(value) == 2 and not any(hasattr(number, "__len__") for number in value)


def _several(parts: list[_Given]) -> _Given:
    if len(parts) == 1:
        return parts[0]
    polygons = [polygon for part in parts for polygon in part.polygons]
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    names: tuple[str, ...] = ()
    if any(part.names for part in parts):
        names = tuple(n for part in parts for n in part.names or (part.kind,) * len(part.polygons))
    return _Given(polygons, _listed(names) or f"{len(parts)} shapes", notes, names)


def _array(value: np.ndarray[Any, Any], source: ImageSource) -> _Given:
    """Take an array for what its shape and type say: a box, a polygon or a mask."""
    whole = value.dtype.kind in "biu"
    small = value.dtype in (np.bool_, np.uint8)
    if value.ndim == 2 and value.size and (small or (whole and value.shape[1] != 2)):
        polygons, notes = Mask.of(value != 0).polygons(source.size)
        return _Given([polygons], "mask", notes)
    box = box_in(value) if value.dtype.kind in "iuf" else None
    if box is not None:
        return _Given([box], "box")
    if value.dtype.kind in "iuf":
        return _Given([ring_of(value)], "polygon")
    raise GridError(f"Region is an array of {value.dtype}, which is not understood; {UNDERSTOOD}.")


def _file(path: Path, source: ImageSource) -> _Given:
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no file"
        raise SourceError(f"Region {str(path)!r:.200} is {what}; {UNDERSTOOD}.")
    if path.suffix.lower() in VECTOR_FILES:
        polygons, notes = vector_polygons(path, source.metadata)
        return _Given(polygons, path.name, notes)
    value = load_geojson(path)
    if value is not None:
        return _geojson(value, source, path.name)
    try:
        mask = open_source(path)
    except SourceError as error:
        why = str(error).rstrip(".")
        raise SourceError(f"Region {path} is neither GeoJSON nor a mask image: {why}.") from None
    try:
        shape, notes = read_mask(mask).polygons(source.size)
    finally:
        mask.close()
    return _Given([shape], path.name, notes)


def _geojson(value: Mapping[str, Any], source: ImageSource, name: str) -> _Given:
    polygons, notes, names = geojson_polygons(value, source.metadata)
    if len(names) == 1 or (names and name == _NO_FILE):
        name = _listed(names)
    return _Given(polygons, name, notes, names)


def _listed(names: tuple[str, ...]) -> str:
    """Return the names of several regions as that of all of them."""
    each = list(dict.fromkeys(names))
    more = len(each) - _MOST_NAMED
    return ", ".join(each[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _clipped(given: _Given, size: tuple[int, int]) -> Region:
    """Return what of the polygons lies on the image, made valid where they cross themselves."""
    name, notes = given.kind, given.notes
    made = [whole_polygons(polygon) for polygon in given.polygons]
    mended = sum(was_mended for _, was_mended in made)
    if mended:
        which = "the polygon" if len(made) == 1 else f"{mended} of {len(made)} polygons"
        cross = "crosses itself and was" if mended == 1 else "cross themselves and were"
        notes = (*notes, f"region: {which} {cross} made valid; look at the outline")
    whole = shapely.union_all([polygon for polygon, _ in made])
    if whole.is_empty:
        raise GridError(f"Region ({name}) has no area; give a polygon of 3 points or more.")
    inside = polygonal(shapely.intersection(whole, _whole(size)))
    if inside.is_empty:
        (x0, y0, x1, y1), (width, height) = whole.bounds, size
        raise GridError(
            f"Region ({name}) reaches from {x0:,.0f}, {y0:,.0f} to {x1:,.0f}, {y1:,.0f} and misses "
            f"the image of {width:,} × {height:,} px."
        )
    return Region(inside, name, notes, _parts(given.names, [shape for shape, _ in made], size))


def _parts(
    names: tuple[str, ...], shapes: list[Any], size: tuple[int, int]
) -> tuple[tuple[str, Any], ...]:
    """Return what of each named shape lies on the image; shapes of one name are one part."""
    together: dict[str, list[Any]] = {}
    for name, shape in zip(names, shapes, strict=False):  # without names there are no parts
        together.setdefault(name, []).append(shape)
    cut = {
        name: polygonal(shapely.intersection(shapely.union_all(these), _whole(size)))
        for name, these in together.items()
    }
    return tuple((name, shape) for name, shape in cut.items() if not shape.is_empty)


def _whole(size: tuple[int, int]) -> Any:
    return shapely.box(0, 0, *size)
