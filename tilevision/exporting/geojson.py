"""GeoJSON as QuPath reads it: objects in pixels of the full-resolution image.

Members besides those of GeoJSON name the image and say what was not analysed; readers
ignore what they do not know.
"""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any, TextIO

from tilevision.exporting.detections import Detection, Ring, detections
from tilevision.exporting.statement import statement, stream_json

if TYPE_CHECKING:
    from tilevision.result import Result

__all__ = ["write"]

FRAME = "pixels of the full-resolution image, x right, y down, from the top left corner"


def write(result: Result, stream: TextIO) -> None:
    """Write a FeatureCollection, one feature a line."""
    head = {"type": "FeatureCollection", "coordinates_in": FRAME, **statement(result)}
    mpp = result.mpp
    unit_area = mpp[0] * mpp[1] if mpp else None
    rows = (_feature(detection, unit_area) for detection in detections(result))
    stream_json(stream, head, rows, "features")


def _feature(detection: Detection, unit_area: float | None) -> dict[str, Any]:
    named = _plain_attributes(detection)
    measurements = {k: v for k, v in named.items() if not isinstance(v, str)}
    measurements["Area px^2"] = detection.area
    if unit_area is not None:
        measurements["Area µm^2"] = round(detection.area * unit_area, 4)
    if detection.score is not None:
        measurements["Score"] = detection.score
    properties: dict[str, Any] = {
        "objectType": "detection",
        "classification": {"name": detection.label},
        "measurements": measurements,
    }
    if detection.text is not None:
        properties["name"] = detection.text
    texts = {k: v for k, v in named.items() if isinstance(v, str)}
    if texts:
        properties["metadata"] = texts
    return {"type": "Feature", "geometry": _geometry(detection), "properties": properties}


def _plain_attributes(detection: Detection) -> dict[str, Any]:
    """Return the numbers and texts among the attributes: QuPath knows no other."""
    return {
        name: value
        for name, value in (detection.attributes or {}).items()
        if isinstance(value, (Real, str)) and not isinstance(value, bool)
    }


def _geometry(detection: Detection) -> dict[str, Any]:
    """Return the outline, else the rotated box, else the point of an empty box, else the box."""
    if detection.polygon:
        parts = [[_closed(ring) for ring in part] for part in detection.polygon]
        if len(parts) == 1:
            return {"type": "Polygon", "coordinates": parts[0]}
        return {"type": "MultiPolygon", "coordinates": parts}
    if detection.oriented is not None:
        return {"type": "Polygon", "coordinates": [_closed(detection.oriented)]}
    x0, y0, x1, y1 = detection.box
    if detection.point is not None and (x0 == x1 or y0 == y1):
        return {"type": "Point", "coordinates": detection.point}
    corners = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
    return {"type": "Polygon", "coordinates": [_closed(corners)]}


def _closed(ring: Ring) -> Ring:
    return ring if ring[0] == ring[-1] else [*ring, ring[0]]
