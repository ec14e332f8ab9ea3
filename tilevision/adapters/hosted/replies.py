"""From a model's words to findings: tolerant of wrapping, strict about what is in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.hosted.imageencoding import EncodedPicture
from tilevision.adapters.hosted.jsonanswers import Malformed, last_answer, mended
from tilevision.adapters.hosted.parameters import Parameters
from tilevision.findings import Findings

__all__ = ["Malformed", "read_tile", "read_verdict"]

_BOX_KEYS = ("box", "bbox", "box_2d", "bbox_2d")
_LABEL_KEYS = ("label", "class", "name")
_LISTS = ("detections", "objects", "results")
_SLACK = 0.5  # pixels a box may reach outside without a remark: rounding


def read_tile(text: str, parameters: Parameters, picture: EncodedPicture) -> Findings:
    """Return the findings that an answer tells of, in pixels of the tile.

    Boxes outside the tile are clipped or dropped, repeated rows are dropped, and the note counts
    them.

    Raises
    ------
    Malformed
        If it is not JSON, or not of the form that was asked for.
    """
    numbered = list(enumerate(_rows(last_answer(text, _is_detections)), 1))
    if not numbered:
        return Findings()
    written = np.array([_box(row, parameters, number) for number, row in numbered])
    boxes = parameters.boxes.to_pixels(written, picture.sent, picture.tile)
    clipped, inside, note = _clip(boxes, picture.tile)
    labels = [_label(row, parameters.labels or [], number) for number, row in numbered]
    kept = _once(labels, boxes, inside)
    labels, numbered = [labels[index] for index in kept], [numbered[index] for index in kept]
    columns: dict[str, Any] = {}
    if "score" in parameters.fields:
        columns["scores"] = [_score(row, number) for number, row in numbered]
    if "text" in parameters.fields:
        columns["texts"] = [_text(row) for _, row in numbered]
    notes = [note] if note else []
    if len(kept) < inside.sum():
        notes.append(f"{inside.sum() - len(kept)} repeated detections dropped.")
    odd = sorted(set(labels) - set(parameters.labels or labels))
    if odd:
        notes.append(f"Labels not asked for: {', '.join(odd)[:200]}.")
    return Findings(clipped[kept], labels=labels, note=" ".join(notes), **columns)


def _once(
    labels: Sequence[str], boxes: NDArray[np.float64], inside: NDArray[np.bool_]
) -> list[int]:
    """Return the rows inside, each label and box once: models that lose the thread repeat rows."""
    first: dict[tuple[Any, ...], int] = {}
    for index in np.flatnonzero(inside).tolist():
        first.setdefault((labels[index], *boxes[index]), index)
    return list(first.values())


def read_verdict(text: str) -> dict[str, Any]:
    """Return ``{"allowed": …, "reason": …}``.

    Raises
    ------
    Malformed
        If the answer is anything else: no verdict is no permission.
    """
    answer = last_answer(text, _is_verdict)
    if not isinstance(answer, Mapping) or not isinstance(answer.get("allowed"), bool):
        raise Malformed('it has no "allowed" that is true or false')
    return {"allowed": answer["allowed"], "reason": _line(answer.get("reason") or "")}


def _is_detections(value: Any) -> bool:
    """Return True if a value has the form of an answer about a tile."""
    if isinstance(value, Mapping):
        return any(key in value for key in _LISTS)
    # An empty list in a sentence is no statement that nothing is there.
    return isinstance(value, list) and bool(value) and all(isinstance(r, Mapping) for r in value)


def _is_verdict(value: Any) -> bool:
    return isinstance(value, Mapping) and "allowed" in value


def _rows(answer: Any) -> list[Any]:
    if isinstance(answer, Mapping):
        found = [answer[key] for key in _LISTS if key in answer]
        if not found:
            raise Malformed('it has no "detections"')
        answer = found[0]
    if not isinstance(answer, list):
        raise Malformed('"detections" is no list')
    for number, row in enumerate(answer, 1):
        if not isinstance(row, Mapping):
            raise Malformed(f"detection {number} is no object")
    return answer


def _box(row: Mapping[str, Any], parameters: Parameters, number: int) -> list[float]:
    keys = [key for key in (parameters.boxes.key, *_BOX_KEYS) if key in row]
    given = row[keys[0]] if keys else None
    sides = [_number(side) for side in given] if isinstance(given, list) else []
    box = [side for side in sides if side is not None]
    if len(sides) != 4 or len(box) != 4:
        raise Malformed(f'"{parameters.boxes.key}" of detection {number} is not four numbers')
    if parameters.boxes.order in ("xywh", "cxcywh") and (box[2] < 0 or box[3] < 0):
        raise Malformed(f"width or height of detection {number} is negative")
    return box


def _label(row: Mapping[str, Any], asked: Sequence[str], number: int) -> str:
    """Return the label as it was asked for; another one stays what it is, for people to see."""
    label = next((row[key] for key in _LABEL_KEYS if key in row), None)
    if label is None and len(asked) == 1:
        return asked[0]
    if not isinstance(label, str) or not label.strip():
        raise Malformed(f'"label" of detection {number} is no text')
    label = _line(label)
    return next((one for one in asked if one.casefold() == label.casefold()), label)


def _score(row: Mapping[str, Any], number: int) -> float:
    score = row.get("score", row.get("confidence"))
    if score is None:
        return math.nan
    share = _number(score)
    if share is None or not 0 <= share <= 1:
        raise Malformed(f'"score" of detection {number} is no number from 0 to 1')
    return share


def _text(row: Mapping[str, Any]) -> str | None:
    text = row.get("text")
    return mended(str(text)) if text else None


def _number(value: Any) -> float | None:
    """Return a number, also one that was written as a text; None where it is none."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and abs(value) < 1e9 else None


def _line(text: Any) -> str:
    return " ".join(mended(str(text)).split())[:200]


def _clip(
    boxes: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], str]:
    """Return the boxes cut at the tile's edges, which of them are in it at all, and a remark."""
    edge = np.array([*size, *size], dtype=np.float64)
    clipped = np.clip(boxes, 0, edge)
    out = ((boxes < -_SLACK) | (boxes > edge + _SLACK)).any(axis=1)
    beside = ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= edge[:2])).any(axis=1)
    inside = np.asarray(~(out & beside))
    if not out.any():
        return clipped, inside, ""
    note = f"{out.sum()} of {len(boxes)} boxes reached outside the tile ({(~inside).sum()} wholly)."
    return clipped, inside, note + (" Is box_format right?" if out.all() else "")
