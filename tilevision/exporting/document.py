"""JSON: everything about a result that does not depend on when it was computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO

from tilevision.exporting.detectionrows import Detection, detections
from tilevision.exporting.recipefile import recipe
from tilevision.exporting.statement import statement
from tilevision.files import stream_json

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData

__all__ = ["write"]

FORMAT_VERSION = 1
_ALWAYS = ("box", "label", "class_id", "score", "area")
_WHERE_PRESENT = ("polygon", "oriented", "point", "text", "attributes", "keypoints")


def write(result: ResultData, stream: TextIO) -> None:
    """Write the statement and one object a line for each detection, full-resolution pixels."""
    head = {"format": "tilevision", "version": FORMAT_VERSION, **statement(result)}
    head["recipe"] = recipe(result)
    head["counts"] = _counts(result)
    stream_json(stream, head, map(_row, detections(result)), "detections")


def _row(detection: Detection) -> dict[str, Any]:
    optional = {name: getattr(detection, name) for name in _WHERE_PRESENT}
    return {name: getattr(detection, name) for name in _ALWAYS} | {
        name: value for name, value in optional.items() if value is not None
    }


def _counts(result: ResultData) -> dict[str, int]:
    """Count every class, in the order of the labels."""
    counts: dict[str, int] = {}
    for label in result.findings.labels:
        counts[str(label)] = counts.get(str(label), 0) + 1
    return dict(sorted(counts.items()))
