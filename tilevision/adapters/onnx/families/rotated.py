"""YOLO-OBB: rotated boxes, as centre, size and angle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.onnx.families.layout import (
    Candidates,
    DecodeInfo,
    Family,
    Layout,
    Outputs,
    single,
)
from tilevision.adapters.onnx.families.yolo import anchor_rows, best_class, corners, upright

__all__ = ["FAMILIES"]

END_TO_END = 7  # columns: centre x, centre y, width, height, score, class, angle


def _raw(outputs: Outputs, info: DecodeInfo) -> Candidates:
    columns = None if info.n_classes is None else 5 + info.n_classes
    out = upright(single(outputs, 2, "yolo-obb"), columns)
    rows, classes, scores = best_class(out[:, 4:-1], info.score_floor)
    found = out[rows]
    return _around(corners(found[:, :4], found[:, -1]), scores, classes)


def _ended(outputs: Outputs, info: DecodeInfo) -> Candidates:  # noqa: ARG001 - as all decoders
    out = single(outputs, 2, "yolo-obb-end2end")
    return _around(corners(out[:, :4], out[:, 6]), out[:, 4], out[:, 5].astype(np.int64))


def _around(
    oriented: NDArray[np.float64], scores: NDArray[np.float64], classes: NDArray[np.int64]
) -> Candidates:
    boxes = np.concatenate([oriented.min(axis=1), oriented.max(axis=1)], axis=1)
    return Candidates(boxes, scores, classes, oriented=oriented)


def _is_raw(layout: Layout) -> bool:
    shape = layout.alone(2)
    if shape is None or layout.task not in (None, "obb"):
        return False
    # Without names, an angle cannot be told from one class more.
    told = layout.task == "obb" or layout.n_classes is not None
    return told and anchor_rows(layout, shape, extra=1)


def _is_ended(layout: Layout) -> bool:
    shape = layout.alone(2)
    return layout.task == "obb" and shape is not None and shape[1] == END_TO_END


FAMILIES = (
    Family(
        "yolo-obb", "(n, 4 + classes + 1, anchors)", _is_raw, _raw, suppresses=True, antialias=False
    ),
    Family("yolo-obb-end2end", "(n, 300, 7)", _is_ended, _ended, finite=True, antialias=False),
)
