"""GeoJSON: on the map where the image knows its place on Earth, else in pixels, as for QuPath.

RFC 7946 knows one frame: longitude and latitude in degrees (WGS84). That is what an image
with CRS and transform is written in; any other has only pixels, written as QuPath reads
them. ``coordinates_in`` says which.

For QuPath, coordinates count from the top left corner of what it shows. That is the image's
corner, except for slides with OpenSlide bounds, which QuPath crops to them (its server
adds bounds-x and bounds-y to each position it reads). Members besides those of GeoJSON
name the image, the frame (``coordinates_in``, ``origin``) and what was not analysed;
readers ignore what they do not know.
"""

from __future__ import annotations

import colorsys
import gzip
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from uuid import UUID, uuid5
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from tilevision.analysis.units import Georeference
from tilevision.colouring import CHOSEN, FILE, load_colours
from tilevision.errors import RunArgumentError
from tilevision.exporting.detectionrows import Detection, detections, geometry, shaped
from tilevision.exporting.statement import statement
from tilevision.files import stream_json

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData
    from tilevision.sources import ImageMetadata

__all__ = [
    "DEGREES",
    "check_place",
    "qupath_corner",
    "qupath_features",
    "write",
    "write_qupath",
    "write_qupath_zipped",
    "write_zipped",
]

DEGREES = "degrees of longitude and latitude, WGS84"
DIGITS = 9  # 0.1 mm
PIXELS = "pixels of the full-resolution image, x right, y down, from "
_KINDS = ("detection", "annotation")
_POSE = ("x", "y", "score")
_NAMESPACE = UUID("6f0f7d0c-5d0e-4f61-9f0b-7c1e8a3d2b54")  # ours, drawn once


def write(
    result: ResultData,
    stream: TextIO,
    *,
    origin: tuple[float, float] | None = None,
    object_type: str = "detection",
    ids: bool = False,
) -> None:
    """Write a FeatureCollection, one feature a line.

    On the map: exterior rings counterclockwise, objects across the antimeridian cut in
    two; ``label``, ``class_id``, ``score``, ``area_px2`` and ``area_m2`` (geodesic) among the
    properties. In pixels, and for the options, see `write_qupath`.

    Raises
    ------
    RunError
        If an option makes no sense here, rasterio is missing, or the CRS is not understood.
    """
    place = Georeference.of(result.source.metadata)
    if place is None:
        write_qupath(result, stream, origin=origin, object_type=object_type, ids=ids)
        return
    if origin is not None or object_type != "detection" or ids:
        raise RunArgumentError(
            f"origin=, object_type= and ids= are for QuPath, and {result.name} is written in "
            "degrees, since it has a CRS; give format='qupath'."
        )
    head = {"type": "FeatureCollection", "coordinates_in": DEGREES, **statement(result)}
    stream_json(stream, head, _features(result, place), "features")


def write_zipped(
    result: ResultData,
    path: Path,
    *,
    origin: tuple[float, float] | None = None,
    object_type: str = "detection",
    ids: bool = False,
) -> None:
    """Write to `path` what `write` writes, compressed by gzip. Raises as it does."""
    with _zipped(path) as stream:
        write(result, stream, origin=origin, object_type=object_type, ids=ids)


def write_qupath_zipped(
    result: ResultData,
    path: Path,
    *,
    origin: tuple[float, float] | None = None,
    object_type: str = "detection",
    ids: bool = False,
) -> None:
    """Write to `path` what `write_qupath` writes, compressed by gzip. Raises as it does."""
    with _zipped(path) as stream:
        write_qupath(result, stream, origin=origin, object_type=object_type, ids=ids)


@contextmanager
def _zipped(path: Path) -> Iterator[TextIO]:
    """Open a text that is compressed; the file holds no date and no name."""
    with (
        path.open("xb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as zipped,
        io.TextIOWrapper(zipped, encoding="utf-8", errors="replace", newline="") as stream,
    ):
        yield stream


def check_place(metadata: ImageMetadata) -> None:
    """Make sure that an image with a place on Earth can be written in degrees.

    Raises
    ------
    RunError
        If rasterio is missing, or the CRS or the transform does not allow it.
    """
    place = Georeference.of(metadata)
    if place is not None:
        place.check()


def _features(result: ResultData, place: Georeference) -> Iterator[dict[str, Any]]:
    import shapely

    def degrees(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.round(place.to_degrees(points), DIGITS) + 0.0

    for chunk, shapes in shaped(result):
        placed = _by_the_book(shapely.transform(shapes, degrees))
        for detection, text in zip(chunk, shapely.to_geojson(placed), strict=True):
            properties = _properties(detection)
            yield {"type": "Feature", "geometry": json.loads(text), "properties": properties}


def _by_the_book(shapes: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return `shapes` ``(n,)`` as RFC 7946 wants them: wound by the right hand, in -180 to 180."""
    import shapely

    west, _, east, _ = shapely.bounds(shapes).T
    across = np.flatnonzero(east - west > 180)
    shapes[across] = [_cut(shape) for shape in shapes[across]]
    # The normal form winds exteriors by the left hand.
    wound: NDArray[np.object_] = shapely.reverse(shapely.normalize(shapes))
    return wound


def _cut(shape: Any) -> Any:
    """Return a shape across the antimeridian as its parts on either side."""
    import shapely

    def eastward(points: NDArray[np.float64]) -> NDArray[np.float64]:
        moved: NDArray[np.float64] = points + np.array([360.0, 0.0]) * (points[:, :1] < 0)
        return moved

    whole = shapely.make_valid(shapely.transform(shape, eastward))
    east, west = (whole.intersection(shapely.box(x, -90, x + 180, 90)) for x in (0, 180))
    west = shapely.transform(west, lambda points: points - np.array([360.0, 0.0]))
    return shapely.union(east, west)


def _properties(detection: Detection) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "label": detection.label,
        "class_id": detection.class_id,
        "score": detection.score,
        "area_px2": detection.area,
    }
    if detection.ground is not None:
        properties["area_m2"] = detection.ground
    if detection.text is not None:
        properties["text"] = detection.text
    if detection.attributes:
        properties["attributes"] = detection.attributes
    if detection.keypoints is not None:
        properties["keypoints_px"] = detection.keypoints
    return properties


def write_qupath(
    result: ResultData,
    stream: TextIO,
    *,
    origin: tuple[float, float] | None = None,
    object_type: str = "detection",
    ids: bool = False,
) -> None:
    """Write a FeatureCollection, one feature a line.

    Parameters
    ----------
    result : Result
    stream : text stream
    origin : tuple of float, optional
        x, y of the full-resolution pixel that becomes 0, 0. Default: the corner of the
        slide's bounds, else (0, 0). Give (0, 0) where the slide is opened uncropped
        (``--no-crop``, Bio-Formats).
    object_type : str
        ``"detection"`` (QuPath draws a million) or ``"annotation"`` (can be edited).
    ids : bool
        True if objects get an id that depends on what and where they are alone, so that a
        second import replaces them; else QuPath draws its own.

    Raises
    ------
    RunError
        If an option makes no sense.
    """
    corner = qupath_corner(result) if origin is None else _checked(origin)
    rows = qupath_features(result, corner, object_type)
    named = "the top left corner" if corner == (0, 0) else f"{corner[0]:g}, {corner[1]:g}"
    head = {
        "type": "FeatureCollection",
        "coordinates_in": PIXELS + named,
        "origin": list(corner),
        **statement(result),
    }
    stream_json(stream, head, map(_identified, rows) if ids else rows, "features")


def qupath_features(
    result: ResultData, corner: tuple[float, float], object_type: str
) -> Iterator[dict[str, Any]]:
    """Return the objects that QuPath reads, without an id: detections, then classified tiles.

    Parameters
    ----------
    result : Result
    corner : tuple of float
        x, y of the full-resolution pixel that becomes 0, 0.
    object_type : str
        ``"detection"`` or ``"annotation"``.

    Raises
    ------
    RunError
        If `object_type` is neither.
    """
    if object_type not in _KINDS:
        raise RunArgumentError(f"object_type is {object_type!r}; give {' or '.join(_KINDS)}.")
    folder = result.facts.checkpoint
    if folder is not None and (CHOSEN or Path(folder, FILE).is_file()):
        load_colours(folder)
    return chain(_pixel_features(result, corner, object_type), _tiles(result, corner))


def qupath_corner(result: ResultData) -> tuple[float, float]:
    """Return the full-resolution pixel that is 0, 0 in QuPath: the corner of slide bounds."""
    bounds = result.source.metadata.bounds
    return (0, 0) if bounds is None else (bounds.x0, bounds.y0)


def _checked(origin: Any) -> tuple[float, float]:
    try:
        x, y = (float(value) for value in origin)
    except (TypeError, ValueError):
        raise RunArgumentError(f"origin is {origin!r}; give x, y in pixels.") from None
    return x, y


def _pixel_features(
    result: ResultData, corner: tuple[float, float], object_type: str
) -> Iterator[dict[str, Any]]:
    unit = result.units.area.replace("²", "^2")
    for detection in detections(result, corner):
        properties = {"objectType": object_type} | _measured(detection, unit)
        yield {"type": "Feature", "geometry": geometry(detection), "properties": properties}


def _tiles(result: ResultData, corner: tuple[float, float]) -> Iterator[dict[str, Any]]:
    """Yield each classified tile as QuPath's own tiles are: its probabilities as measurements."""
    x, y = corner
    for seen in result.tile_findings:
        scores = seen.findings.tile_scores
        if scores:
            box = seen.tile.box
            x0, y0, x1, y1 = box.x0 - x, box.y0 - y, box.x1 - x, box.y1 - y
            ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
            properties = {
                "objectType": "tile",
                "name": seen.tile.id,
                "measurements": {f"Probability {name}": p for name, p in scores.items()},
            }
            where = {"type": "Polygon", "coordinates": [ring]}
            yield {"type": "Feature", "geometry": where, "properties": properties}


def _measured(detection: Detection, unit: str) -> dict[str, Any]:
    named = _plain_attributes(detection)
    measurements = {k: v for k, v in named.items() if not isinstance(v, str)}
    measurements["Area px^2"] = detection.area
    if detection.ground is not None:
        measurements[f"Area {unit}"] = detection.ground
    if detection.score is not None:
        measurements["Score"] = detection.score
    for i, values in enumerate(detection.keypoints or ()):
        measurements |= {
            f"Key point {i} {name}": value for name, value in zip(_POSE, values, strict=True)
        }
    label = " ".join(detection.label.split()) or "object"  # QuPath refuses line breaks and ""
    properties: dict[str, Any] = {
        "classification": {"name": label, "color": _colour(detection.label, label)},
        "measurements": measurements,
    }
    if detection.text is not None:
        properties["name"] = detection.text
    texts = {k: v for k, v in named.items() if isinstance(v, str)}
    if texts:
        properties["metadata"] = texts
    return properties


def _plain_attributes(detection: Detection) -> dict[str, Any]:
    """Return the numbers and texts among the attributes: QuPath knows no other."""
    return {
        name: value
        for name, value in (detection.attributes or {}).items()
        if isinstance(value, (Real, str)) and not isinstance(value, bool)
    }


def _colour(label: str, named: str) -> list[int]:
    """Return red, green, blue: those that somebody chose for a class, else those of its name."""
    chosen = CHOSEN.get(label)
    return _own_colour(named) if chosen is None else list(bytes.fromhex(chosen[1:]))


@lru_cache(4096)
def _own_colour(label: str) -> list[int]:
    """Return red, green, blue: a class has one colour in all images of a project."""
    hue = crc32(label.encode("utf-8", "replace")) % 360 / 360
    return [round(255 * value) for value in colorsys.hsv_to_rgb(hue, 0.85, 0.8)]


def _identified(feature: dict[str, Any]) -> dict[str, Any]:
    said = feature["properties"]
    name = said["classification"]["name"] if "classification" in said else said["name"]
    what = (name, feature["geometry"])
    return {"type": "Feature", "id": str(uuid5(_NAMESPACE, repr(what)))} | feature
