"""YOLOX: rows relative to their cell, with objectness, before or after decoding in the graph.

Ge, Liu, Wang, Li, Sun: YOLOX: Exceeding YOLO Series in 2021 (arXiv:2107.08430).
"""

from __future__ import annotations

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

__all__ = ["FAMILIES", "follows_cells"]

_LIKE = 0.9  # correlation of centres with their cells from which they are in pixels


def follows_cells(layout: Layout, rows: int) -> bool:
    """Return True if the centres of a trial lie where their cells do, which is so once decoded."""
    where, stride = cells(layout.size, rows, "yolox")
    expected = (where + 0.5) * stride
    out = next(iter(layout.sample.values()))
    out = out.reshape(-1, out.shape[-1])[:rows, :2]
    if not (np.ptp(out, axis=0) > 0).all():
        return False
    return all(np.corrcoef(out[:, i], expected[:, i])[0, 1] > _LIKE for i in (0, 1))


def _raw(outputs: Outputs, info: DecodeInfo) -> Candidates:
    out = single(outputs, 2, "yolox")
    where, stride = cells(info.input_size, len(out), "yolox")
    centre = (out[:, :2] + where) * stride
    # A width beyond any picture is noise in a row that no object has; it must not overflow.
    size = np.exp(np.minimum(out[:, 2:4], 20.0)) * stride
    return _scored(np.concatenate([centre, size, out[:, 4:]], axis=1), info)


def _decoded(outputs: Outputs, info: DecodeInfo) -> Candidates:
    return _scored(single(outputs, 2, "yolox-decoded"), info)


def _scored(
    rows: np.ndarray[tuple[int, ...], np.dtype[np.float64]], info: DecodeInfo
) -> Candidates:
    scores = rows[:, 5:] * rows[:, 4:5]
    best = scores.max(axis=1)
    keep = np.flatnonzero(best >= info.score_floor)
    return Candidates(from_centres(rows[keep]), best[keep], scores[keep].argmax(axis=1))


def _matches(layout: Layout, *, decoded: bool) -> bool:
    shape = layout.alone(2)
    if shape is None or layout.task is not None or shape[1] < 6:
        return False
    if not stride_sets(layout.size, shape[0]) or not layout.counts(shape[1] - 5):
        return False
    scores = next(iter(layout.sample.values()))[..., 4:]
    if not ((scores >= 0).all() and (scores <= 1).all()):
        return False
    return follows_cells(layout, shape[0]) is decoded


FAMILIES = (
    Family(
        "yolox",
        "(n, anchors, 5 + classes), relative to cells",
        lambda layout: _matches(layout, decoded=False),
        _raw,
        *("bgr", "0..255", "corner"),
        suppresses=True,
        antialias=False,
        rounds=False,
    ),
    Family(
        "yolox-decoded",
        "(n, anchors, 5 + classes), in pixels",
        lambda layout: _matches(layout, decoded=True),
        _decoded,
        *("bgr", "0..255", "corner"),
        suppresses=True,
        antialias=False,
        rounds=False,
    ),
)
