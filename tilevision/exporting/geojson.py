"""GeoJSON: on the map where the image knows its place on Earth, else in pixels.

RFC 7946 knows one frame: longitude and latitude in degrees (WGS84). That is what an image
with CRS and transform is written in; any other has only pixels, written as QuPath reads
them (`tilevision.exporting.qupath`). ``coordinates_in`` says which.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import RunError
from tilevision.exporting import qupath
from tilevision.exporting.detectionrows import Detection
from tilevision.exporting.geometries import shaped
from tilevision.exporting.georeference import Georeference
from tilevision.exporting.statement import statement, stream_json

if TYPE_CHECKING:
    from tilevision.result import Result
    from tilevision.sources import ImageMetadata

__all__ = ["DEGREES", "check_place", "write"]

DEGREES = "degrees of longitude and latitude, WGS84"
DIGITS = 9  # 0.1 mm


def write(
    result: Result,
    stream: TextIO,
    *,
    origin: tuple[float, float] | None = None,
    object_type: str = "detection",
    ids: bool = False,
) -> None:
    """Write a FeatureCollection, one feature a line.

    On the map: exterior rings counterclockwise, objects across the antimeridian cut in
    two; ``label``, ``class_id``, ``score``, ``area_px2`` and ``area_m2`` (geodesic) among the
    properties. In pixels, and for the options, see `tilevision.exporting.qupath.write`.

    Raises
    ------
    RunError
        If an option makes no sense here, rasterio is missing, or the CRS is not understood.
    """
    place = Georeference.of(result.source.metadata)
    if place is None:
        qupath.write(result, stream, origin=origin, object_type=object_type, ids=ids)
        return
    if origin is not None or object_type != "detection" or ids:
        raise RunError(
            f"origin=, object_type= and ids= are for QuPath, and {result.name} is written in "
            "degrees, since it has a CRS; give format='qupath'"
        )
    head = {"type": "FeatureCollection", "coordinates_in": DEGREES, **statement(result)}
    stream_json(stream, head, _features(result, place), "features")


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


def _features(result: Result, place: Georeference) -> Iterator[dict[str, Any]]:
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
    return properties
