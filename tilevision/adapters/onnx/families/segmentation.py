"""YOLO models that outline what they find: boxes with coefficients, and prototypes of masks."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from tilevision.adapters.onnx.families.cells import stride_sets
from tilevision.adapters.onnx.families.layout import (
    Candidates,
    DecodeInfo,
    Family,
    Layout,
    Outputs,
    from_centres,
)
from tilevision.adapters.onnx.families.yolo import END_TO_END, best_class, end_to_end, upright
from tilevision.errors import ModelError

__all__ = ["FAMILIES"]


def _parts(outputs: Outputs) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the rows and the prototypes ``(k, h, w)`` of one tile."""
    rows = [out[0] for out in outputs.values() if out.ndim == 3]
    prototypes = [out[0] for out in outputs.values() if out.ndim == 4]
    if len(rows) != 1 or len(prototypes) != 1:
        shapes = ", ".join(f"{name} {out.shape}" for name, out in outputs.items())
        raise ModelError(
            f"Outputs {shapes} are not boxes with mask prototypes; leave family out, or pass "
            "decode=."
        )
    return rows[0], prototypes[0]


def _v8(outputs: Outputs, info: DecodeInfo) -> Candidates:
    rows, prototypes = _parts(outputs)
    k = len(prototypes)
    rows = upright(rows, None if info.n_classes is None else 4 + info.n_classes + k)
    found, classes, scores = best_class(rows[:, 4:-k], info.score_floor)
    return Candidates(
        from_centres(rows[found]),
        scores,
        classes,
        coefficients=rows[found, -k:],
        prototypes=prototypes,
    )


def _v5(outputs: Outputs, info: DecodeInfo) -> Candidates:
    rows, prototypes = _parts(outputs)
    k = len(prototypes)
    found, classes, scores = best_class(rows[:, 5:-k] * rows[:, 4:5], info.score_floor)
    return Candidates(
        from_centres(rows[found]),
        scores,
        classes,
        coefficients=rows[found, -k:],
        prototypes=prototypes,
    )


def _ended(outputs: Outputs, info: DecodeInfo) -> Candidates:
    rows, prototypes = _parts(outputs)
    rows = rows[rows[:, 4] >= info.score_floor]
    return end_to_end(rows, coefficients=rows[:, END_TO_END:], prototypes=prototypes)


def _shapes(layout: Layout) -> tuple[tuple[int, int], int] | None:
    """Return the shape of the rows and the number of prototypes, where there are both."""
    if layout.task not in (None, "segment") or len(layout.outputs) != 2:
        return None
    rows = [port.shape[1:] for port in layout.outputs if len(port.shape) == 3]
    prototypes = [port.shape[1:] for port in layout.outputs if len(port.shape) == 4]
    if len(rows) != 1 or len(prototypes) != 1:
        return None
    return (int(rows[0][0] or 0), int(rows[0][1] or 0)), int(prototypes[0][0] or 0)


def _is_v8(layout: Layout) -> bool:
    found = _shapes(layout)
    if found is None:
        return False
    (columns, anchors), k = found
    return bool(stride_sets(layout.size, anchors)) and layout.counts(columns - 4 - k)


def _is_v5(layout: Layout) -> bool:
    found = _shapes(layout)
    if found is None:
        return False
    (anchors, columns), k = found
    return bool(stride_sets(layout.size, anchors, 3)) and layout.counts(columns - 5 - k)


def _is_ended(layout: Layout) -> bool:
    found = _shapes(layout)
    if found is None:
        return False
    (rows, columns), k = found
    return columns == END_TO_END + k and not stride_sets(layout.size, rows)


FAMILIES = (
    Family(
        "yolo-seg",
        "(n, 4 + classes + k, anchors) and (n, k, h, w): YOLOv8-seg, v9, v11, v12",
        _is_v8,
        _v8,
        suppresses=True,
        antialias=False,
    ),
    Family(
        "yolov5-seg",
        "(n, 3·anchors, 5 + classes + k) and (n, k, h, w)",
        _is_v5,
        _v5,
        suppresses=True,
        antialias=False,
    ),
    Family(
        "yolo-seg-end2end",
        "(n, 300, 6 + k) and (n, k, h, w)",
        _is_ended,
        _ended,
        finite=True,
        antialias=False,
    ),
)
