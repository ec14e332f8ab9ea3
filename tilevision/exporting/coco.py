"""COCO: a dataset of this one image, or the list of results that COCO's evaluation takes.

Pixels of the full-resolution image, from the top left corner; boxes as x, y, width,
height. Outlines are polygons without holes: a hole is joined to its exterior by a line
walked both ways (`bridged`), so that it encloses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from tilevision.analysis.account import categories
from tilevision.errors import RunError
from tilevision.exporting.detectionrows import Detection, Ring, detections
from tilevision.exporting.statement import statement
from tilevision.files import stream_json, stream_list
from tilevision.findings import Findings

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData

__all__ = ["annotation", "bridged", "listed", "write", "write_results"]

IMAGE_ID = 1


def write(result: ResultData, stream: TextIO) -> None:
    """Write a dataset, one annotation a line; ``info`` says what was not analysed.

    Parameters
    ----------
    result : Result
    stream : text stream
    """
    width, height = result.source.size
    numbers = categories(result.classes)
    head = {
        "info": {"description": result.coverage, "tilevision": statement(result)},
        "images": [{"id": IMAGE_ID, "file_name": result.name, "width": width, "height": height}],
        "categories": listed(numbers, [result.findings]),
    }
    rows = (
        annotation(i, IMAGE_ID, detection, numbers[detection.label])
        for i, detection in enumerate(detections(result), start=1)
    )
    stream_json(stream, head, rows, "annotations")


def write_results(
    result: ResultData,
    stream: TextIO,
    *,
    image_id: int = IMAGE_ID,
    category_ids: Mapping[str, int] | None = None,
    score: float | None = None,
) -> None:
    """Write the list that pycocotools' ``loadRes`` reads, beside a dataset of the truth.

    A list has no place for what was not analysed, so every row of a partial result says it
    under ``incomplete``.

    Parameters
    ----------
    result : Result
    stream : text stream
    image_id : int
        Number of this image in the dataset. Default 1, as in ``.coco.json``.
    category_ids : mapping of str to int, optional
        Numbers of the classes in the dataset. Default: those of ``.coco.json``.
    score : float, optional
        For detections without one.

    Raises
    ------
    RunError
        If a class has no number, or a detection no score.
    """
    numbers = categories(result.classes) if category_ids is None else category_ids
    unknown = sorted(set(map(str, result.findings.labels)) - set(numbers))
    if unknown:
        raise RunError(
            f"category_ids lacks the class {unknown[0]!r}; add its number, or leave the class "
            "out with result.with_(classes=...)."
        )
    unscored = int(np.isnan(result.findings.scores).sum())
    if unscored and score is None:
        raise RunError(
            f"{unscored} detections have no score, and COCO results need one; give score= for "
            "them, or save a dataset (.coco.json)."
        )
    missing = {} if result.complete else {"incomplete": result.coverage}
    rows = (
        _result_row(detection, image_id, numbers[detection.label], score) | missing
        for detection in detections(result)
    )
    stream_list(stream, rows)


def annotation(number: int, image_id: int, detection: Detection, category: int) -> dict[str, Any]:
    """Return `detection` as an annotation of a dataset."""
    row: dict[str, Any] = {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": _box(detection),
        "area": detection.area,
        "iscrowd": 0,
        "segmentation": _segmentation(detection),
    }
    if detection.score is not None:
        row["score"] = detection.score
    if detection.keypoints is not None:
        row["keypoints"] = [v for x, y, score in detection.keypoints for v in (x, y, _seen(score))]
        row["num_keypoints"] = sum(score > 0 for _, _, score in detection.keypoints)
    said = dict(detection.attributes or {})
    if detection.text is not None:
        said["text"] = detection.text
    if said:
        row["attributes"] = said
    return row


def bridged(part: list[Ring]) -> Ring:
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


def _result_row(
    detection: Detection, image_id: int, category: int, score: float | None
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "image_id": image_id,
        "category_id": category,
        "bbox": _box(detection),
        "score": score if detection.score is None else detection.score,
    }
    if detection.outline:
        row["segmentation"] = _segmentation(detection)
    if detection.keypoints is not None:
        row["keypoints"] = [v for point in detection.keypoints for v in point]
    return row


def _seen(score: float) -> int:
    """Return COCO's visibility of a key point: 2 where there is one, 0 where there is none."""
    return 2 if score > 0 else 0


def listed(numbers: Mapping[str, int], findings: Iterable[Findings]) -> list[dict[str, Any]]:
    """Return the categories of a dataset; where there are poses, with their key points."""
    poses = [found.keypoints.shape[1] for found in findings if found.keypoints is not None]
    pose = {}
    if poses:
        names = [f"keypoint{i}" for i in range(max(poses))]
        pose = {"keypoints": names, "skeleton": []}
    return [{"id": number, "name": label} | pose for label, number in numbers.items()]


def _box(detection: Detection) -> list[float]:
    x0, y0, x1, y1 = detection.box
    return [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]


def _segmentation(detection: Detection) -> list[list[float]]:
    """Return one list of x, y, x, y, … for each part; empty where there is only a box."""
    parts = detection.outline or []
    return [[value for point in bridged(part) for value in point] for part in parts]


def _signed_area(ring: Ring) -> float:
    x, y = np.array(ring).T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)
