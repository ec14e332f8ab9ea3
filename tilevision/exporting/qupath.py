"""GeoJSON as QuPath reads it: objects in pixels of the full-resolution image.

Coordinates count from the top left corner of what QuPath shows. That is the image's
corner, except for slides with OpenSlide bounds, which QuPath crops to them (its server
adds bounds-x and bounds-y to each position it reads). Members besides those of GeoJSON
name the image, the frame (``coordinates_in``, ``origin``) and what was not analysed;
readers ignore what they do not know.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from itertools import chain
from numbers import Real
from typing import TYPE_CHECKING, Any, TextIO
from uuid import UUID, uuid5
from zlib import crc32

from tilevision.errors import RunError
from tilevision.exporting.detectionrows import Detection, detections
from tilevision.exporting.geometries import geometry
from tilevision.exporting.statement import statement, stream_json

if TYPE_CHECKING:
    from tilevision.result import Result

__all__ = ["write"]

FRAME = "pixels of the full-resolution image, x right, y down, from "
_KINDS = ("detection", "annotation")
_NAMESPACE = UUID("6f0f7d0c-5d0e-4f61-9f0b-7c1e8a3d2b54")  # ours, drawn once


def write(
    result: Result,
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
        Whether objects get an id that depends on what and where they are alone, so that a
        second import replaces them; else QuPath draws its own.

    Raises
    ------
    RunError
        If an option makes no sense.
    """
    if object_type not in _KINDS:
        raise RunError(f"object_type {object_type!r} is not known; give {' or '.join(_KINDS)}")
    corner = _corner(result) if origin is None else _checked(origin)
    named = "the top left corner" if corner == (0, 0) else f"{corner[0]:g}, {corner[1]:g}"
    head = {
        "type": "FeatureCollection",
        "coordinates_in": FRAME + named,
        "origin": list(corner),
        **statement(result),
    }
    rows = _features(result, corner, object_type)
    rows = chain(rows, _tiles(result, corner))
    stream_json(stream, head, map(_identified, rows) if ids else rows, "features")


def _corner(result: Result) -> tuple[float, float]:
    bounds = result.source.metadata.bounds
    return (0, 0) if bounds is None else (bounds.x0, bounds.y0)


def _checked(origin: Any) -> tuple[float, float]:
    try:
        x, y = (float(value) for value in origin)
    except (TypeError, ValueError):
        raise RunError(f"origin {origin!r} is not understood; give x, y in pixels") from None
    return x, y


def _features(
    result: Result, corner: tuple[float, float], object_type: str
) -> Iterator[dict[str, Any]]:
    unit = result.units.area.replace("²", "^2")
    for detection in detections(result, corner):
        properties = {"objectType": object_type} | _properties(detection, unit)
        yield {"type": "Feature", "geometry": geometry(detection), "properties": properties}


def _tiles(result: Result, corner: tuple[float, float]) -> Iterator[dict[str, Any]]:
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


def _properties(detection: Detection, unit: str) -> dict[str, Any]:
    named = _plain_attributes(detection)
    measurements = {k: v for k, v in named.items() if not isinstance(v, str)}
    measurements["Area px^2"] = detection.area
    if detection.ground is not None:
        measurements[f"Area {unit}"] = detection.ground
    if detection.score is not None:
        measurements["Score"] = detection.score
    label = " ".join(detection.label.split()) or "object"  # QuPath refuses line breaks and ""
    properties: dict[str, Any] = {
        "classification": {"name": label, "color": _colour(label)},
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


def _colour(label: str) -> list[int]:
    """Return red, green, blue: a class has one colour in all images of a project."""
    hue = crc32(label.encode("utf-8", "replace")) % 360 / 360
    return [round(255 * value) for value in colorsys.hsv_to_rgb(hue, 0.85, 0.8)]


def _identified(feature: dict[str, Any]) -> dict[str, Any]:
    said = feature["properties"]
    name = said["classification"]["name"] if "classification" in said else said["name"]
    what = (name, feature["geometry"])
    return {"type": "Feature", "id": str(uuid5(_NAMESPACE, repr(what)))} | feature
