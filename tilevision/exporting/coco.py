"""COCO dataset of one image: categories, boxes as x, y, width, height, outlines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from tilevision.exporting.detections import Detection, Ring, detections
from tilevision.exporting.statement import statement, stream_json

if TYPE_CHECKING:
    from tilevision.result import Result

__all__ = ["write"]

IMAGE_ID = 1


def write(result: Result, stream: TextIO) -> None:
    """Write the dataset, one annotation a line."""
    width, height = result.source.size
    numbers = _categories(result)
    head = {
        "info": {"description": result.coverage, "tilevision": statement(result)},
        "images": [{"id": IMAGE_ID, "file_name": result.name, "width": width, "height": height}],
        "categories": [{"id": n, "name": label} for label, n in numbers.items()],
    }
    rows = (
        _annotation(i, detection, numbers[detection.label])
        for i, detection in enumerate(detections(result), start=1)
    )
    stream_json(stream, head, rows, "annotations")


def _categories(result: Result) -> dict[str, int]:
    """Return label to number: the model's, or the position where those are ambiguous."""
    pairs = sorted({(d.label, d.class_id) for d in detections(result)})
    labels = sorted({label for label, _ in pairs})
    if len(pairs) == len(labels) == len({number for _, number in pairs}):
        return dict(pairs)
    return {label: i for i, label in enumerate(labels)}


def _annotation(number: int, detection: Detection, category: int) -> dict[str, Any]:
    x0, y0, x1, y1 = detection.box
    parts = detection.polygon or ([[detection.oriented]] if detection.oriented else [])
    outline = [_bridged(part) for part in parts]
    annotation = {
        "id": number,
        "image_id": IMAGE_ID,
        "category_id": category,
        "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
        "area": detection.area,
        "iscrowd": 0,
        "segmentation": [[value for point in ring for value in point] for ring in outline],
    }
    if detection.score is not None:
        annotation["score"] = detection.score
    return annotation


def _bridged(part: list[Ring]) -> Ring:
    """Return one ring for an exterior and its holes: COCO outlines have no holes.

    Each hole is entered from the nearest corner, walked the other way round, and left
    again by the same line, so that it encloses nothing.
    """
    ring, *holes = part
    for hole in holes:
        inner = hole if _signed_area(hole) * _signed_area(ring) < 0 else hole[::-1]
        apart = np.array(ring)[:, None] - np.array(inner)[None]
        i, j = divmod(int((apart**2).sum(axis=2).argmin()), len(inner))
        ring = [*ring[: i + 1], *inner[j:], *inner[: j + 1], *ring[i:]]
    return ring


def _signed_area(ring: Ring) -> float:
    x, y = np.array(ring).T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)
