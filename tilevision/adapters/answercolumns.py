"""Columns as libraries give them: poses, outlines of masks, and all of supervision's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.foreignvalues import as_attributes, is_missing
from tilevision.errors import ModelError

__all__ = [
    "are_poses",
    "left_out",
    "of_poses",
    "of_supervision",
    "outlines_of",
    "pose_of",
    "poses_of",
]

_MASK = 0.5  # probability from which a pixel belongs to a mask
_OURS = {"coverage", "complete"}  # metadata of `result.to_supervision`
# Further columns of `supervision.Detections` that are read as what they are.
_READ = {"class_name", "xyxyxyxy", "keypoints", "polygon", "text", "point"}

Columns = dict[str, Any]


def poses_of(rows: Sequence[Any]) -> NDArray[np.float64]:
    """Return key points ``(n, k, 3)``, of x, y and where it is given confidence; NaN for none."""
    read = [None if row is None else pose_of(row) for row in rows]
    most = max(len(pose) for pose in read if pose is not None)
    out = np.full((len(read), most, 3), np.nan)
    for place, pose in enumerate(read):
        if pose is not None:
            out[place, : len(pose)] = pose
    return out


def pose_of(given: Any) -> NDArray[np.float64]:
    """Return key points ``(k, 3)`` of pairs, triples, COCO's flat list, or dicts as Roboflow's."""
    if isinstance(given, (list, tuple)) and given and isinstance(given[0], Mapping):
        given = [[one["x"], one["y"], one.get("confidence", 1.0)] for one in given]
    pose = np.asarray(given, dtype=np.float64)
    if pose.ndim == 1 and len(pose) % 3 == 0:  # x, y, v, x, y, v, … as COCO has them
        pose = pose.reshape(-1, 3)
    if pose.ndim != 2 or pose.shape[1] not in (2, 3) or not len(pose):
        raise ModelError(f"Key points have shape {pose.shape}; give (k, 3): x, y, confidence.")
    return pose if pose.shape[1] == 3 else np.column_stack([pose, np.ones(len(pose))])


def are_poses(answer: Any) -> bool:
    """Return True for `supervision.KeyPoints`, which have no boxes."""
    return type(answer).__name__ == "KeyPoints" and hasattr(answer, "xy")


def of_poses(answer: Any) -> Columns:
    """Read poses without boxes: each box goes around the points that are there."""
    points = np.asarray(answer.xy, dtype=np.float64)
    sure = getattr(answer, "keypoint_confidence", None)
    sure = getattr(answer, "confidence", None) if sure is None else sure
    sure = np.ones(points.shape[:2]) if sure is None else np.asarray(sure, dtype=np.float64)
    if not len(points):
        return {}
    if getattr(answer, "visible", None) is not None:
        sure = np.where(np.asarray(answer.visible, dtype=bool), sure, 0)
    absent = ((points == 0).all(axis=2) | (sure <= 0))[..., None]
    low = np.where(absent, np.inf, points).min(axis=1)
    high = np.where(absent, -np.inf, points).max(axis=1)
    columns: Columns = {
        "boxes": np.concatenate([low, high], axis=1),
        "keypoints": np.concatenate([points, sure[..., None]], axis=2),
    }
    for name, column in (("class_ids", "class_id"), ("scores", "detection_confidence")):
        if getattr(answer, column, None) is not None:
            columns[name] = getattr(answer, column)
    data = dict(getattr(answer, "data", None) or {})
    if (labels := data.pop("class_name", None)) is not None:
        columns["labels"] = list(labels)
    further = _attributes(data, len(points))
    return columns if further is None else columns | {"attributes": further}


def outlines_of(masks: Any) -> list[Any]:
    """Return the outlines of masks ``(n, h, w)`` or ``(n, 1, h, w)``, bool or probabilities."""
    from tilevision.adapters.outlines import outline

    return [
        outline(np.reshape(mask, np.shape(mask)[-2:]) > _MASK)
        for mask in (np.asarray(one) for one in masks)
    ]


def of_supervision(answer: Any) -> Columns:
    """Read `supervision.Detections`, and what `result.to_supervision` gives as a whole."""
    data = dict(getattr(answer, "data", None) or {})
    labels = data.pop("class_name", None)
    corners = data.pop("xyxyxyxy", None)
    poses = data.pop("keypoints", None)
    shapes, texts, points = (data.pop(name, None) for name in ("polygon", "text", "point"))
    columns: Columns = {
        "boxes": answer.xyxy,
        "scores": answer.confidence,
        "class_ids": answer.class_id,
        "labels": None if labels is None else list(labels),
        "oriented": None if corners is None or not len(corners) else np.asarray(corners, float),
    }
    if poses is not None and len(poses):
        columns["keypoints"] = poses_of(list(poses))
    for name, column in (("polygons", shapes), ("texts", texts), ("points", points)):
        if column is not None and len(column):
            columns[name] = list(column)
    if getattr(answer, "mask", None) is not None:
        columns["polygons"] = outlines_of(answer.mask)
    if getattr(answer, "tracker_id", None) is not None:
        data["tracker_id"] = answer.tracker_id
    columns["attributes"] = _attributes(data, len(answer.xyxy))
    return {key: value for key, value in columns.items() if value is not None}


def _attributes(data: Mapping[str, Any], n: int) -> list[dict[str, Any]] | None:
    """Return further columns row by row, as far as JSON has them; None where there is nothing."""
    held = {str(name): column for name, column in data.items() if len(column) == n}
    rows = [{name: _held(column[i]) for name, column in held.items()} for i in range(n)]
    return [{k: v for k, v in row.items() if not is_missing(v)} for row in rows] if held else None


def _held(value: Any) -> Any:
    """Return a value as a record can hold it; None where it cannot."""
    try:
        return as_attributes({"value": value})["value"]
    except ModelError:
        return None


def left_out(answer: Any) -> str:
    """Return a note of what of an answer of supervision is not read, by name; else nothing."""
    if not (are_poses(answer) or (hasattr(answer, "xyxy") and hasattr(answer, "confidence"))):
        return ""
    data = dict(getattr(answer, "data", None) or {})
    lost = [
        str(name)
        for name, column in data.items()
        if name not in _READ and any(not is_missing(one) and _held(one) is None for one in column)
    ]
    beside = dict(getattr(answer, "metadata", None) or {})
    lost += [f"metadata {name}" for name in beside if name not in _OURS]
    return f"Not read of supervision's {type(answer).__name__}: {', '.join(lost)}." if lost else ""
