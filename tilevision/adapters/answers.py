"""What a user's model may return, and how it becomes findings."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.classnames import class_name
from tilevision.errors import ModelError
from tilevision.findings import Findings

__all__ = ["KEYS", "findings_of"]

# Key of a detection given as a dict, to what it means; several spellings are in use.
KEYS = {
    "box": "box",
    "bbox": "box",
    "xmin": "xmin",
    "ymin": "ymin",
    "xmax": "xmax",
    "ymax": "ymax",
    "score": "score",
    "confidence": "score",
    "label": "label",
    "class": "label",
    "class_name": "label",
    "name": "label",
    "class_id": "class_id",
    "polygon": "polygon",
    "oriented": "oriented",
    "point": "point",
    "points": "point",
    "text": "text",
    "attributes": "attributes",
}
_ACCEPTED = (
    "Return Findings, None, an (n, 4) to (n, 6) array of xmin, ymin, xmax, ymax, score, class, a "
    "list of dicts with box, score, label, polygon, …, a DataFrame of such columns, or "
    "supervision.Detections."
)
_EDGES = ("xmin", "ymin", "xmax", "ymax")


def findings_of(answer: Any, name: str, names: Any = None) -> Findings:
    """Read what a model returned for one tile.

    Parameters
    ----------
    answer : Findings, None, array (n, 4..6), list of dict, DataFrame or supervision.Detections
        Boxes in pixels of the tile, half-open: xmin, ymin, xmax, ymax. A dict has ``box`` (or
        ``bbox``, or ``xmin`` … ``ymax``), and may have ``score``, ``label``, ``class_id``,
        ``polygon``, ``oriented``, ``point``, ``text`` and ``attributes``; a polygon or point
        may stand without a box.
    name : str
        The model, for errors.
    names : sequence or mapping, optional
        Class names by class number; without, ``class_0``.

    Raises
    ------
    ModelError
        If it is anything else, or makes no sense: says what came and what is accepted.
    """
    try:
        return _read(answer, names)
    except (ModelError, TypeError, ValueError) as error:
        raise ModelError(
            f"Model {name} returned {_shown(answer)}: {str(error).rstrip('.')}."
        ) from None


def _read(answer: Any, names: Any) -> Findings:
    if answer is None:
        return Findings()
    if isinstance(answer, Findings):
        return answer
    if type(answer).__module__.startswith("ultralytics"):
        raise ModelError(
            "Return result.boxes.data.cpu().numpy(), and hand the model pixels[..., ::-1], since "
            "it expects BGR and tiles are RGB."
        )
    if hasattr(answer, "xyxy") and hasattr(answer, "confidence"):
        return _of_supervision(answer, names)
    if hasattr(answer, "columns") and hasattr(answer, "to_dict"):
        return _of_dicts(answer.to_dict("records"), names)
    if hasattr(answer, "detach"):
        answer = answer.detach().cpu().numpy()
    if isinstance(answer, Mapping):
        return _of_mapping(answer, names)
    if isinstance(answer, np.ndarray):
        return _of_array(answer, names)
    if isinstance(answer, (list, tuple)):
        return _of_list(answer, names)
    raise ModelError(_ACCEPTED)


def _of_list(answer: Sequence[Any], names: Any) -> Findings:
    if not answer:
        return Findings()
    if all(isinstance(item, Mapping) for item in answer):
        return _of_dicts(answer, names)
    try:
        array = np.array([np.asarray(item, dtype=np.float64) for item in answer])
    except (TypeError, ValueError):
        raise ModelError(_ACCEPTED) from None
    return _of_array(array, names)


def _of_array(array: NDArray[Any], names: Any) -> Findings:
    if array.size == 0:
        return Findings()
    if array.ndim != 2 or array.shape[1] not in (4, 5, 6) or array.dtype.kind not in "iufb":
        raise ModelError(_ACCEPTED)
    array = array.astype(np.float64)
    scores = array[:, 4] if array.shape[1] > 4 else None
    ids = array[:, 5] if array.shape[1] > 5 else None
    return _assemble(array[:, :4], scores, ids, names)


def _assemble(
    boxes: Any, scores: Any, ids: Any, names: Any, labels: Any = None, **columns: Any
) -> Findings:
    """Build findings; class numbers give labels where there are none."""
    if ids is not None:
        ids = np.asarray(ids, dtype=np.float64)
        wrong = ids[(ids != np.floor(ids)) | ~np.isfinite(ids)]
        if len(wrong):
            raise ModelError(
                f"Class {wrong[0]:g} is no whole number; the last column is the class."
            )
        ids = ids.astype(np.int64)
        labels = [class_name(int(i), names) for i in ids] if labels is None else labels
    return Findings(boxes, scores, labels, ids, **columns)


def _of_mapping(answer: Mapping[str, Any], names: Any) -> Findings:
    """Read columns as torchvision gives them, or a single detection."""
    if "boxes" not in answer:
        return _of_dicts([answer], names)
    extra = set(answer) - {"boxes", "scores", "labels"}
    if extra:
        raise ModelError(f"Key {sorted(map(str, extra))[0]!r} is not known. {_ACCEPTED}")
    columns = {
        k: v.detach().cpu().numpy() if hasattr(v, "detach") else v for k, v in answer.items()
    }
    labels = columns.get("labels")
    if labels is not None and np.asarray(labels).dtype.kind in "iu":
        return _assemble(columns["boxes"], columns.get("scores"), labels, names)
    return _assemble(columns["boxes"], columns.get("scores"), None, names, labels)


def _of_supervision(answer: Any, names: Any) -> Findings:
    data = getattr(answer, "data", None) or {}
    labels = data.get("class_name")
    labels = None if labels is None else [str(label) for label in labels]
    polygons = None
    if getattr(answer, "mask", None) is not None:
        from tilevision.adapters.outlines import outline

        polygons = [outline(np.asarray(mask, dtype=bool)) for mask in answer.mask]
    return _assemble(
        answer.xyxy, answer.confidence, answer.class_id, names, labels, polygons=polygons
    )


def _of_dicts(rows: Sequence[Mapping[str, Any]], names: Any) -> Findings:
    read = [_row({str(k): v for k, v in row.items()}) for row in rows]
    columns: dict[str, Any] = {
        name: [row.get(name) for row in read] if any(name in row for row in read) else None
        for name in ("score", "label", "class_id", "polygon", "oriented", "point", "text")
    }
    columns = {k: v for k, v in columns.items() if v is not None}
    ids = [-1 if i is None else i for i in columns.get("class_id", [])] or None
    labels = columns.get("label")
    if labels is not None:
        known = ids or [-1] * len(read)
        labels = [
            class_name(i, names) if v is None else v for v, i in zip(labels, known, strict=True)
        ]
    attributes = [row.get("attributes") for row in read]
    return _assemble(
        [row["box"] for row in read],
        [math.nan if s is None else s for s in columns["score"]] if "score" in columns else None,
        ids,
        names,
        labels,
        polygons=columns.get("polygon"),
        oriented=_filled(columns.get("oriented"), (4, 2)),
        points=_filled(columns.get("point"), (2,)),
        texts=columns.get("text"),
        attributes=attributes if any(a is not None for a in attributes) else None,
    )


def _filled(column: list[Any] | None, shape: tuple[int, ...]) -> list[Any] | None:
    """Put NaN in rows that have none."""
    if column is None:
        return None
    return [np.full(shape, np.nan) if value is None else value for value in column]


def _row(given: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in given.items():
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, 1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Known are {', '.join(KEYS)}."
            raise ModelError(
                f"Key {key!r} is not known. {hint} Further values go into 'attributes'."
            )
        if value is not None:
            row[KEYS[key]] = value
    if all(edge in row for edge in _EDGES):
        row["box"] = [row.pop(edge) for edge in _EDGES]
    if "box" not in row:
        row["box"] = _around(row)
    return row


def _around(row: Mapping[str, Any]) -> list[float]:
    """Return the box around a detection given by its shape or point alone."""
    from tilevision.geometry import polygon

    if "polygon" in row:
        parts = polygon(row["polygon"]) or ()
        corners = np.concatenate([part[0] for part in parts]) if parts else np.empty((0, 2))
    else:
        value = row.get("oriented", row.get("point"))
        corners = (
            np.empty((0, 2)) if value is None else np.reshape(np.asarray(value, float), (-1, 2))
        )
    if not len(corners):
        raise ModelError("A detection has no box; give box: (xmin, ymin, xmax, ymax).")
    return [*corners.min(axis=0), *corners.max(axis=0)]


def _shown(answer: Any) -> str:
    kind = type(answer).__name__
    if isinstance(answer, np.ndarray):
        return f"an array of shape {answer.shape}, {answer.dtype}"
    if isinstance(answer, (list, tuple)):
        inner = f" of {type(answer[0]).__name__}" if len(answer) else ""
        return f"a {kind}{inner}, length {len(answer)}"
    return f"a value of type {kind}"
