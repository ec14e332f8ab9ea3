"""The YOLO families that Ultralytics and their kin export: one row of output for each anchor.

Boxes are centre and size in pixels of the input. Version 5 (and 7) has three anchors to a cell,
an objectness and a score for each class; from version 8 on there is one to a cell, the best
score counts, and the rows stand on end. End-to-end models (version 10, or exported with their
own suppression) give the best detections as corners, score and class.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.onnx.families.cells import stride_sets
from tilevision.adapters.onnx.families.layout import (
    Candidates,
    DecodeInfo,
    Family,
    Layout,
    Outputs,
    from_centres,
    single,
)

__all__ = ["FAMILIES", "anchor_rows", "best_class", "corners", "end_to_end", "upright"]

END_TO_END = 6  # columns: xmin, ymin, xmax, ymax, score, class
MOST_ROWS = 1000  # an end-to-end model returns no more


def anchor_rows(layout: Layout, shape: tuple[int, ...], extra: int = 0) -> bool:
    """Return True if ``(4 + classes + extra, anchors)`` is what the layout has, anchors last."""
    columns, anchors = shape
    told = layout.task is not None and layout.n_classes is not None
    usual = bool(stride_sets(layout.size, anchors)) or (told and anchors > columns)
    return usual and anchors != columns and layout.counts(columns - 4 - extra)


def upright(out: NDArray[Any], columns: int | None) -> NDArray[Any]:
    """Return ``(anchors, columns)`` however it lies: by its width if known, else the longer."""
    if columns is not None and columns in out.shape:
        return out if out.shape[1] == columns and out.shape[0] != columns else out.T
    return out if out.shape[0] > out.shape[1] else out.T


def best_class(
    scores: NDArray[Any], floor: float
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return which rows of ``(anchors, classes)`` reach the floor, their class and their score."""
    best = scores.max(axis=1)
    rows = np.flatnonzero(best >= floor)
    return rows, scores[rows].argmax(axis=1), best[rows]


def corners(boxes: NDArray[Any], angle: NDArray[Any]) -> NDArray[np.float64]:
    """Return the corners ``(n, 4, 2)`` of boxes of centre and size, rotated by an angle.

    Angles ``(n,)`` are in radians and turn x towards y.
    """
    cx, cy, w, h = boxes.T
    cos, sin = np.cos(angle), np.sin(angle)
    along = np.stack([w / 2 * cos, w / 2 * sin], axis=1)
    across = np.stack([-h / 2 * sin, h / 2 * cos], axis=1)
    centre = np.stack([cx, cy], axis=1)
    around = (along + across, along - across, -along - across, -along + across)
    return np.stack([centre + step for step in around], axis=1).astype(np.float64)


def end_to_end(rows: NDArray[Any], **columns: Any) -> Candidates:
    """Read rows of xmin, ymin, xmax, ymax, score, class."""
    return Candidates(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64), **columns)


def _v5(outputs: Outputs, info: DecodeInfo) -> Candidates:
    out = single(outputs, 2, "yolov5")
    out = out[out[:, 4] >= info.score_floor]  # no class can lift a row above its objectness
    rows, classes, scores = best_class(out[:, 5:] * out[:, 4:5], info.score_floor)
    return Candidates(from_centres(out[rows]), scores, classes)


def _v8(outputs: Outputs, info: DecodeInfo) -> Candidates:
    columns = None if info.n_classes is None else 4 + info.n_classes
    out = upright(single(outputs, 2, "yolov8"), columns)
    rows, classes, scores = best_class(out[:, 4:], info.score_floor)
    return Candidates(from_centres(out[rows]), scores, classes)


def _v10(outputs: Outputs, info: DecodeInfo) -> Candidates:  # noqa: ARG001 - as all decoders
    return end_to_end(single(outputs, 2, "yolov10"))


def _is_v5(layout: Layout) -> bool:
    shape = layout.alone(2)
    if shape is None or layout.task not in (None, "detect"):
        return False
    return bool(stride_sets(layout.size, shape[0], 3)) and layout.counts(shape[1] - 5)


def _is_v8(layout: Layout) -> bool:
    shape = layout.alone(2)
    if shape is None or layout.task not in (None, "detect") or layout.transformer:
        return False
    if anchor_rows(layout, shape):
        # Without a word from the exporter, the last rows might be angles or key points.
        return layout.task == "detect" or _are_scores(next(iter(layout.sample.values()))[:, 4:])
    rows, columns = shape
    lying = bool(stride_sets(layout.size, rows)) and layout.counts(columns - 4)
    return (
        lying
        and columns > 4
        and _in_pixels(layout, rows)
        and _are_scores(next(iter(layout.sample.values()))[..., 4:])
    )


def _is_v10(layout: Layout) -> bool:
    shape = layout.alone(2)
    if shape is None or layout.task not in (None, "detect") or layout.transformer:
        return False
    anchors = stride_sets(layout.size, shape[0]) or stride_sets(layout.size, shape[0], 3)
    return shape[1] == END_TO_END and shape[0] <= MOST_ROWS and not anchors


def _are_scores(values: NDArray[Any]) -> bool:
    return bool(values.size) and bool((values >= 0).all() and (values <= 1).all())


def _in_pixels(layout: Layout, rows: int) -> bool:
    """Return True if the first columns are centres in pixels, one near each cell."""
    from tilevision.adapters.onnx.families.yolox import follows_cells

    return follows_cells(layout, rows)


FAMILIES = (
    Family(
        "yolov5",
        "(n, 3·anchors, 5 + classes): YOLOv5, v7",
        _is_v5,
        _v5,
        suppresses=True,
        antialias=False,
    ),
    Family(
        "yolov8",
        "(n, 4 + classes, anchors): YOLOv8, v9, v11, v12",
        _is_v8,
        _v8,
        suppresses=True,
        antialias=False,
    ),
    Family(
        "yolov10",
        "(n, 300, 6): YOLOv10, v26, or exported with nms=True",
        _is_v10,
        _v10,
        finite=True,
        antialias=False,
    ),
)
