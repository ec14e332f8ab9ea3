"""Small detectors for small machines: FastestDet, NanoDet and YuNet.

FastestDet (github.com/dog-qiuqiu/FastestDet): one box for each cell of one grid. NanoDet
(github.com/RangiLyu/nanodet): the distances from a cell to the four sides as distributions, as
in Li et al., Generalized Focal Loss (arXiv:2006.04388). YuNet: Wu, Peng, Yu: YuNet: A Tiny
Millisecond-level Face Detector (2023), with five landmarks of each face.
"""

from __future__ import annotations

import re

import numpy as np

from tilevision.adapters.onnx.families.cells import cells, stride_sets
from tilevision.adapters.onnx.families.layout import (
    Candidates,
    DecodeInfo,
    Family,
    Layout,
    Outputs,
    from_centres,
    single,
)
from tilevision.adapters.onnx.families.transformers import sigmoid, softmax

__all__ = ["FAMILIES"]

BINS = 8  # of a distance's distribution: 0 to 7 strides
_HEAD = re.compile(r"(cls|obj|bbox)_(\d+)")


def _fastestdet(outputs: Outputs, info: DecodeInfo) -> Candidates:
    out = single(outputs, 3, "fastestdet")
    columns, rows = out.shape[2], out.shape[1]
    y, x = np.mgrid[:rows, :columns]
    scores = out[0] ** 0.6 * out[5:].max(axis=0) ** 0.4
    keep = scores >= info.score_floor
    width, height = info.input_size
    boxes = np.stack(
        [
            (x + np.tanh(out[1])) / columns * width,
            (y + np.tanh(out[2])) / rows * height,
            sigmoid(out[3]) * width,
            sigmoid(out[4]) * height,
        ],
        axis=-1,
    )
    return Candidates(from_centres(boxes[keep]), scores[keep], out[5:].argmax(axis=0)[keep])


def _nanodet(outputs: Outputs, info: DecodeInfo) -> Candidates:
    out = single(outputs, 2, "nanodet")
    scores = out[:, : -4 * BINS]
    keep = np.flatnonzero(scores.max(axis=1) >= info.score_floor)
    where, stride = cells(info.input_size, len(out), "nanodet")
    # NanoDet-Plus, with its fourth level, measures from a cell's corner; the first from its centre.
    if stride.max() <= 32:
        where = where + 0.5
    spread = softmax(out[keep, -4 * BINS :].reshape(-1, 4, BINS))
    reach = spread @ np.arange(BINS) * stride[keep]
    at = where[keep] * stride[keep]
    boxes = np.concatenate([at - reach[:, :2], at + reach[:, 2:]], axis=1)
    boxes = boxes.clip(0, np.tile(info.input_size, 2))  # before they are compared, as its own tool
    return Candidates(boxes, scores[keep].max(axis=1), scores[keep].argmax(axis=1))


def _yunet(outputs: Outputs, info: DecodeInfo) -> Candidates:
    boxes, scores, points = [], [], []
    for stride in sorted({int(m[2]) for m in map(_HEAD.fullmatch, outputs) if m}):
        score = np.sqrt(
            np.clip(outputs[f"cls_{stride}"].reshape(-1), 0, 1)
            * np.clip(outputs[f"obj_{stride}"].reshape(-1), 0, 1)
        )
        keep = np.flatnonzero(score >= info.score_floor)
        row, column = np.divmod(keep, info.input_size[0] // stride)
        box = outputs[f"bbox_{stride}"].reshape(-1, 4)[keep]
        centre = (np.column_stack([column, row]) + box[:, :2]) * stride
        size = np.exp(np.minimum(box[:, 2:], 20.0)) * stride
        boxes.append(from_centres(np.concatenate([centre, size], axis=1)))
        scores.append(score[keep])
        if f"kps_{stride}" in outputs:
            steps = outputs[f"kps_{stride}"].reshape(-1, 5, 2)[keep]
            at = (np.column_stack([column, row])[:, None] + steps) * stride
            points.append(np.concatenate([at, np.ones((len(keep), 5, 1))], axis=2))
    found = np.concatenate(scores)
    return Candidates(
        np.concatenate(boxes),
        found,
        np.zeros(len(found), np.int64),
        keypoints=np.concatenate(points) if len(points) == len(boxes) else None,
    )


def _is_fastestdet(layout: Layout) -> bool:
    shape = layout.alone(3)
    if shape is None or shape[0] < 6 or not layout.counts(shape[0] - 5):
        return False
    step = (layout.size[0] / shape[2], layout.size[1] / shape[1])
    if step[0] != step[1] or step[0] < 8:
        return False
    out = next(iter(layout.sample.values()))[0]
    shares = np.abs(out[5:].sum(axis=0) - 1).max() < 0.01
    return bool(shares and (out[0] >= 0).all() and (out[0] <= 1).all())


def _is_nanodet(layout: Layout) -> bool:
    shape = layout.alone(2)
    if shape is None or layout.task is not None or not layout.counts(shape[1] - 4 * BINS):
        return False
    if not stride_sets(layout.size, shape[0]):
        return False
    out = next(iter(layout.sample.values()))[..., : -4 * BINS]
    return bool((out >= 0).all() and (out <= 1).all())


def _is_yunet(layout: Layout) -> bool:
    heads = [match for match in map(_HEAD.fullmatch, layout.names) if match]
    return len(heads) >= 3 and len(heads) == 3 * len({match[2] for match in heads})


FAMILIES = (
    Family(
        "fastestdet",
        "(n, 5 + classes, rows, columns)",
        _is_fastestdet,
        _fastestdet,
        *("bgr", "0..1", False),
        suppresses=True,
        antialias=False,
    ),
    Family(
        "nanodet",
        f"(n, anchors, classes + {4 * BINS})",
        _is_nanodet,
        _nanodet,
        *("bgr", "imagenet", False),
        suppresses=True,
        antialias=False,
    ),
    Family(
        "yunet",
        "cls_8, obj_8, bbox_8, …",
        _is_yunet,
        _yunet,
        *("bgr", "0..255", True),
        suppresses=True,
        antialias=False,
    ),
)
