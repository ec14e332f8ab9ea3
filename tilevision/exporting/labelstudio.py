"""Label Studio: one task with the detections as predictions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from tilevision.exporting.coco import bridged
from tilevision.exporting.detectionrows import Detection, Ring, detections, turned_box
from tilevision.exporting.statement import statement
from tilevision.files import dumps, stream_list

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData

__all__ = ["write"]

DIGITS = 8  # per cent of a side: 0.01 px of 100 million


def write(
    result: ResultData,
    stream: TextIO,
    *,
    image: str | None = None,
    from_name: str = "label",
    to_name: str = "image",
) -> None:
    """Write a list of one task, positions in per cent of the image's width and height.

    Boxes and rotated boxes are ``rectanglelabels``, outlines ``polygonlabels`` (parts apart;
    a hole is joined to its exterior by a line walked both ways), points ``keypointlabels``. The key
    points of a pose are ``keypointlabels`` that name its region as their parent; those without
    confidence are left out.
    ``meta`` says what was not analysed. Label Studio shows what a browser can: for a large
    TIFF, give tiles (`Result.export_tiles`).

    Parameters
    ----------
    result : Result
    stream : text stream
    image : str, optional
        Where Label Studio finds the image. Default: its file name.
    from_name, to_name : str
        Names of the labelling control and of the image in the project's configuration.
        Rectangles come from `from_name`, polygons from it with ``-polygon`` behind, points
        with ``-point``.
    """
    task = {"data": {"image": result.name if image is None else image}, "meta": statement(result)}
    stream.write("[\n" + dumps(task)[:-1] + ', "predictions": [\n')
    version = dumps(result.facts.model or "tilevision")
    stream.write('{"model_version": ' + version + ', "result": ')
    stream_list(stream, _results(result, from_name, to_name))
    stream.write("}]}\n]\n")


def _results(result: ResultData, from_name: str, to_name: str) -> Iterator[dict[str, Any]]:
    width, height = result.source.size
    common: dict[str, Any] = {
        "to_name": to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
    }
    for i, detection in enumerate(detections(result), start=1):
        for part, (kind, value) in enumerate(_values(detection, width, height)):
            behind = {"rectangle": "", "polygon": "-polygon", "keypoint": "-point"}[kind]
            row: dict[str, Any] = common | {
                "id": f"d{i}" if part == 0 else f"d{i}-{part}",
                "type": f"{kind}labels",
                "from_name": from_name + behind,
                "value": value | {f"{kind}labels": [detection.label]},
            }
            if detection.score is not None:
                row["score"] = detection.score
            if detection.text is not None:
                row["meta"] = {"text": [detection.text]}
            yield row
        for number, (x, y, score) in enumerate(detection.keypoints or ()):
            if score > 0:
                left, top = round(100 * x / width, DIGITS), round(100 * y / height, DIGITS)
                value = {"x": left, "y": top, "width": 0.5}
                yield common | {
                    "id": f"d{i}-k{number}",
                    "parentID": f"d{i}",
                    "type": "keypointlabels",
                    "from_name": f"{from_name}-point",
                    "value": value | {"keypointlabels": [f"keypoint{number}"]},
                    "score": score,
                }


def _values(detection: Detection, width: int, height: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield kind and value of each region that a detection becomes."""

    def share(x: float, y: float) -> tuple[float, float]:
        return round(100 * x / width, DIGITS), round(100 * y / height, DIGITS)

    def spot(ring: Ring) -> list[tuple[float, float]]:
        return [share(x, y) for x, y in ring]

    if detection.polygon:
        for part in detection.polygon:
            yield "polygon", {"points": spot(bridged(part)), "closed": True}
        return
    if detection.only_point:
        assert detection.point is not None
        x, y = share(*detection.point)
        yield "keypoint", {"x": x, "y": y, "width": 0.5}
        return
    (x, y), (w, h), angle = _rectangle(detection)
    (left, top), (wide, high) = share(x, y), share(w, h)
    yield "rectangle", {"x": left, "y": top, "width": wide, "height": high, "rotation": angle}


def _rectangle(
    detection: Detection,
) -> tuple[tuple[float, float], tuple[float, float], float]:
    """Return the corner that a box is turned about, its sides, and its angle in degrees."""
    x0, y0, x1, y1 = detection.box
    if detection.oriented is None:
        return (x0, y0), (x1 - x0, y1 - y0), 0
    _, _, width, height, angle = turned_box(detection.oriented)
    x, y = detection.oriented[0]
    return (x, y), (width, height), round(angle, 6)
