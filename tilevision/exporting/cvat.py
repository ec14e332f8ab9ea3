"""CVAT for images 1.1: boxes, rotated boxes, polygons and points as XML."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO

from tilevision.exporting.coco import bridged
from tilevision.exporting.detectionrows import Detection, Ring, detections, turned_box
from tilevision.files import as_text, element, opening

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData

__all__ = ["write"]

_ATTRIBUTES = ("score", "text", "keypoints")


def write(result: ResultData, stream: TextIO) -> None:
    """Write the annotations of one image, in pixels of the full-resolution image.

    Outlines in parts are polygons of one group; a hole is joined to its exterior by a line
    walked both ways, since CVAT's polygons have none. Score, text and key points (JSON: x, y and
    confidence of each) are attributes.
    ``meta/task/name`` says what was not analysed.

    Parameters
    ----------
    result : Result
    stream : text stream
    """
    width, height = result.source.size
    stream.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n')
    stream.write(element("version", "1.1") + "\n")
    stream.write(f"<meta><task>{element('name', result.coverage)}<labels>\n")
    stream.writelines(_label(name) + "\n" for name in result.classes)
    stream.write("</labels></task></meta>\n")
    image = {"id": 0, "name": result.name, "width": width, "height": height}
    stream.write(opening("image", image) + "\n")
    for group, detection in enumerate(detections(result), start=1):
        stream.writelines(line + "\n" for line in _shapes(detection, group))
    stream.write("</image>\n</annotations>\n")


def _label(name: str) -> str:
    described = "".join(
        "<attribute>"
        + element("name", attribute)
        + element("mutable", "False")
        + element("input_type", "text")
        + element("default_value")
        + element("values")
        + "</attribute>"
        for attribute in _ATTRIBUTES
    )
    return f"<label>{element('name', name)}<attributes>{described}</attributes></label>"


def _shapes(detection: Detection, group: int) -> list[str]:
    """Return the elements of one detection."""
    said = "".join(
        element("attribute", as_text(value) if name == "keypoints" else value, name=name)
        for name in _ATTRIBUTES
        if (value := getattr(detection, name)) is not None
    )
    common: dict[str, Any] = {"label": detection.label, "occluded": 0, "source": "auto"}
    if detection.polygon:
        if len(detection.polygon) > 1:
            common["group_id"] = group
        points = [_points(bridged(part)) for part in detection.polygon]
        return [_shape("polygon", common | {"points": p, "z_order": 0}, said) for p in points]
    if detection.only_point:
        assert detection.point is not None
        points = [_points([detection.point])]
        return [_shape("points", common | {"points": points[0], "z_order": 0}, said)]
    return [_shape("box", common | _box(detection) | {"z_order": 0}, said)]


def _box(detection: Detection) -> dict[str, str]:
    """Return the corners; of a rotated box those before it is turned about its centre."""
    if detection.oriented is None:
        return {
            name: f"{value:.2f}"
            for name, value in zip(("xtl", "ytl", "xbr", "ybr"), detection.box, strict=True)
        }
    x, y, width, height, angle = turned_box(detection.oriented)
    return {
        "xtl": f"{x - width / 2:.4f}",
        "ytl": f"{y - height / 2:.4f}",
        "xbr": f"{x + width / 2:.4f}",
        "ybr": f"{y + height / 2:.4f}",
        "rotation": f"{angle:.6f}",
    }


def _points(ring: Ring) -> str:
    return ";".join(f"{x:.2f},{y:.2f}" for x, y in ring)


def _shape(tag: str, attributes: dict[str, Any], said: str) -> str:
    return f"{opening(tag, attributes)}{said}</{tag}>"
