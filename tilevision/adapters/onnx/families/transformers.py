"""DETR and its descendants: a fixed number of queries, each a box and scores, none twice.

Carion et al., End-to-End Object Detection with Transformers (arXiv:2005.12872): softmax, with
"nothing" as the last class. Zhao et al., DETRs Beat YOLOs on Real-time Object Detection
(arXiv:2304.08069), RF-DETR and D-FINE: a sigmoid for each class, and the best pairs of query and
class count, as many as there are queries, so that one box may stand for two classes.
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
from tilevision.errors import ModelError

__all__ = ["FAMILIES", "sigmoid", "softmax"]

_PAIRS = (("pred_boxes", "logits"), ("pred_boxes", "pred_logits"), ("dets", "labels"))
SIZES = "orig_target_sizes"
_NEARLY_ALL = 0.9  # share of queries
MASKS = ("masks", "pred_masks")  # of RF-DETR-Seg, and of DETR for panoptic segmentation


def softmax(logits: NDArray[Any], axis: int = -1) -> NDArray[Any]:
    """Return probabilities over an axis."""
    powers = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


def sigmoid(logits: NDArray[Any]) -> NDArray[Any]:
    """Return the probability of each logit by itself."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))  # never overflows


def _pair(outputs: Outputs) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return boxes ``(q, 4)`` and logits ``(q, classes)`` of one tile."""
    for boxes, logits in _PAIRS:
        if boxes in outputs and logits in outputs:
            return outputs[boxes].reshape(-1, 4), outputs[logits].reshape(
                -1, outputs[logits].shape[-1]
            )
    raise ModelError(
        f"Outputs {', '.join(outputs)} hold no pair of "
        + ", ".join("+".join(pair) for pair in _PAIRS)
        + "; leave family out, or pass decode=."
    )


def _by_query(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    info: DecodeInfo,
    masks: NDArray[Any] | None = None,
) -> Candidates:
    """Return each query's best class; boxes are centre and size as shares of the input.

    Masks are logits, one for each query, over the whole input.
    """
    inside = from_centres(boxes) * np.tile(info.input_size, 2)
    best = scores.argmax(axis=1)
    return Candidates(inside, scores.max(axis=1), best, masks=masks, mask_level=0.0)


def _by_pair(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    info: DecodeInfo,
    masks: NDArray[Any] | None = None,
) -> Candidates:
    """Return the best pairs of query and class, as many as there are queries."""
    flat = scores.ravel()
    best = np.argsort(-flat, kind="stable")[: len(boxes)]
    best = best[flat[best] >= info.score_floor]
    query, number = np.divmod(best, scores.shape[1])
    inside = from_centres(boxes[query]) * np.tile(info.input_size, 2)
    shapes = None if masks is None else masks[query]
    return Candidates(inside, flat[best], number, masks=shapes, mask_level=0.0)


def _masks(outputs: Outputs, queries: int) -> NDArray[Any] | None:
    """Return the masks ``(queries, h, w)`` of one tile, where the model gives them."""
    for name in MASKS:
        if name in outputs and outputs[name].ndim == 4 and outputs[name].shape[1] == queries:
            return np.asarray(outputs[name][0])
    return None


def _detr(outputs: Outputs, info: DecodeInfo) -> Candidates:
    boxes, logits = _pair(outputs)
    return _by_query(boxes, softmax(logits)[:, :-1], info, _masks(outputs, len(boxes)))


def _rtdetr(outputs: Outputs, info: DecodeInfo) -> Candidates:
    if {"labels", "boxes", "scores"} <= outputs.keys():
        return Candidates(  # decoded in the graph, for the size that it was told
            outputs["boxes"].reshape(-1, 4),
            outputs["scores"].reshape(-1),
            outputs["labels"].reshape(-1),
        )
    boxes, logits = _pair(outputs)
    return _by_pair(boxes, sigmoid(logits), info, _masks(outputs, len(boxes)))


def _rfdetr(outputs: Outputs, info: DecodeInfo) -> Candidates:
    boxes, logits = _pair(outputs)
    if info.n_classes is not None and logits.shape[1] == info.n_classes + 1:
        logits = logits[:, :-1]  # the last means "nothing"
    return _by_pair(boxes, sigmoid(logits), info, _masks(outputs, len(boxes)))


def _ultralytics(outputs: Outputs, info: DecodeInfo) -> Candidates:
    out = single(outputs, 2, "rtdetr-ultralytics")
    if out.shape[1] == 6 and info.n_classes != 2:
        return _chosen(outputs, info)
    return _by_query(out[:, :4], out[:, 4:], info)


def _chosen(outputs: Outputs, info: DecodeInfo) -> Candidates:
    """Read what was chosen in the graph: box, score, class."""
    out = single(outputs, 2, "rtdetr-ultralytics-end2end")
    boxes = from_centres(out) * np.tile(info.input_size, 2)
    return Candidates(boxes, out[:, 4], out[:, 5].astype(np.int64))


def _logits(layout: Layout, pairs: tuple[tuple[str, str], ...]) -> int | None:
    """Return the number of columns of the logits, where the outputs are such a pair."""
    shapes = {port.name: port.shape for port in layout.outputs}
    for boxes, logits in pairs:
        if shapes.keys() >= {boxes, logits} and shapes[boxes][-1] == 4:
            columns = shapes[logits][-1]
            return columns if len(shapes[logits]) == 3 else None
    return None


def _has_nothing(layout: Layout) -> bool | None:
    """Return True if the last column of logits means "nothing", by what the file shows.

    None where nothing speaks for either. Asked where no names tell how many classes there are.
    Deformable attention, which samples a grid, is trained with a sigmoid for each class (Zhu et
    al., arXiv:2010.04159, and all that build on it); a softmax without much to see says "nothing"
    almost everywhere, as noise has no objects.
    """
    if any(node.operator == "GridSample" for node in layout.nodes):
        return False
    logits = next((layout.sample[name] for name in layout.sample if "logits" in name), None)
    if logits is None or not logits.size:
        return None
    rows = logits.reshape(-1, logits.shape[-1])
    if (softmax(rows)[:, -1] > 0.5).mean() > _NEARLY_ALL:
        return True
    return False if (rows.max(axis=1) < 0).mean() > _NEARLY_ALL else None


def _is_detr(layout: Layout) -> bool:
    columns = _logits(layout, _PAIRS[:2])
    if columns is None or not layout.counts(columns - 1):
        return False
    return layout.n_classes is not None or _has_nothing(layout) is not False


def _is_rtdetr(layout: Layout) -> bool:
    told = any(port.name == SIZES for port in layout.facts.inputs)
    if told and {"labels", "boxes", "scores"} <= layout.names:
        return True
    columns = _logits(layout, _PAIRS[:2])
    if columns is None or not layout.counts(columns):
        return False
    return layout.n_classes is not None or columns == 1 or not _has_nothing(layout)


def _is_rfdetr(layout: Layout) -> bool:
    return _logits(layout, _PAIRS[2:]) is not None


def _is_ultralytics(layout: Layout) -> bool:
    shape = layout.alone(2)
    if shape is None or layout.task not in (None, "detect") or layout.n_classes is None:
        return False
    ended = layout.transformer and shape[1] == 6 and not _is_chosen(layout)
    queries = shape[1] == 4 + layout.n_classes and not stride_sets(layout.size, shape[0])
    return ended or (queries and layout.transformer and not _is_chosen(layout))


def _is_chosen(layout: Layout) -> bool:
    """Return True if six columns are box, score and class of a model of two classes.

    By their number alone they may be the scores of both: but scores are no whole numbers.
    """
    shape = layout.alone(2)
    if shape is None or shape[1] != 6 or layout.n_classes != 2 or not layout.transformer:
        return False
    last = next(iter(layout.sample.values()))[..., 5]
    return bool((last == np.floor(last)).all())


FAMILIES = (
    Family(
        "detr",
        "logits (n, queries, classes + 1) and pred_boxes (n, queries, 4): softmax",
        _is_detr,
        _detr,
        *("rgb", "imagenet", False),
        finite=True,
        queries=True,
        multiple=1,
        reads=("logits", "pred_logits", "pred_boxes", *MASKS),
    ),
    Family(
        "rtdetr",
        "logits (n, queries, classes) and pred_boxes (n, queries, 4): sigmoid; or labels, boxes "
        "and scores for orig_target_sizes",
        _is_rtdetr,
        _rtdetr,
        *("rgb", "0..1", False),
        finite=True,
        queries=True,
        reads=("logits", "pred_logits", "pred_boxes", "labels", "boxes", "scores", *MASKS),
    ),
    Family(
        "rfdetr",
        "dets (n, queries, 4) and labels (n, queries, classes), with or without masks",
        _is_rfdetr,
        _rfdetr,
        *("rgb", "imagenet", False),
        finite=True,
        queries=True,
        antialias=False,  # as its training, and rfdetr since July 2026 (#1206)
        reads=("dets", "labels", *MASKS),
    ),
    Family(
        "rtdetr-ultralytics",
        "(n, queries, 4 + classes), or (n, queries, 6)",
        _is_ultralytics,
        _ultralytics,
        *("rgb", "0..1", False),
        finite=True,
        queries=True,
        antialias=False,
    ),
    Family(
        "rtdetr-ultralytics-end2end",
        "(n, queries, 6) of two classes: box, score, class",
        _is_chosen,
        _chosen,
        *("rgb", "0..1", False),
        finite=True,
        queries=True,
        antialias=False,
    ),
)
