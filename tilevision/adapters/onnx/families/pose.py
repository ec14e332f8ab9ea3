"""YOLO models that give key points: of people's joints, of anything with a fixed set of points.

Ultralytics notes the shape of the points in the file: ``kpt_shape`` is [17, 3], or [k, 2] where
they have no confidence. Their coordinates are pixels of the input.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.onnx.families.layout import (
    Candidates,
    DecodeInfo,
    Family,
    Layout,
    Outputs,
    from_centres,
    single,
)
from tilevision.adapters.onnx.families.yolo import END_TO_END, best_class, end_to_end, upright
from tilevision.errors import ModelError

__all__ = ["FAMILIES", "points_of"]


def points_of(columns: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Return key points ``(n, k, 3)`` of their columns; without a confidence it is 1."""
    count, each = shape
    points = columns.reshape(len(columns), count, each)
    if each == 3:
        return points
    return np.concatenate([points, np.ones((*points.shape[:2], 1), points.dtype)], axis=2)


def _shape(info: DecodeInfo, family: str) -> tuple[int, int]:
    if info.keypoints is None:
        raise ModelError(
            f"The file does not say how many key points family {family!r} has (kpt_shape); pass "
            "decode=."
        )
    return info.keypoints


def _raw(outputs: Outputs, info: DecodeInfo) -> Candidates:
    shape = _shape(info, "yolo-pose")
    extra = shape[0] * shape[1]
    columns = None if info.n_classes is None else 4 + info.n_classes + extra
    out = upright(single(outputs, 2, "yolo-pose"), columns)
    rows, classes, scores = best_class(out[:, 4:-extra], info.score_floor)
    points = points_of(out[rows, -extra:], shape)
    return Candidates(from_centres(out[rows]), scores, classes, keypoints=points)


def _ended(outputs: Outputs, info: DecodeInfo) -> Candidates:
    shape = _shape(info, "yolo-pose-end2end")
    out = single(outputs, 2, "yolo-pose-end2end")
    out = out[out[:, 4] >= info.score_floor]
    return end_to_end(out, keypoints=points_of(out[:, END_TO_END:], shape))


def _extra(layout: Layout) -> int | None:
    """Return how many columns the key points of a pose model take."""
    shape = layout.facts.keypoints
    return shape[0] * shape[1] if layout.task == "pose" and shape is not None else None


def _is_raw(layout: Layout) -> bool:
    shape, extra = layout.alone(2), _extra(layout)
    if shape is None or extra is None or _is_ended(layout):
        return False
    return any(layout.counts(columns - 4 - extra) for columns in shape)


def _is_ended(layout: Layout) -> bool:
    shape, extra = layout.alone(2), _extra(layout)
    return shape is not None and extra is not None and shape[1] == END_TO_END + extra


FAMILIES = (
    Family(
        "yolo-pose",
        "(n, 4 + classes + key points, anchors)",
        _is_raw,
        _raw,
        suppresses=True,
        antialias=False,
    ),
    Family(
        "yolo-pose-end2end",
        "(n, 300, 6 + key points)",
        _is_ended,
        _ended,
        finite=True,
        antialias=False,
    ),
)
