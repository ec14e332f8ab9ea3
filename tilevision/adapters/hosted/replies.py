"""From a model's words to findings: tolerant of wrapping, strict about what is in it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.hosted.imageencoding import Picture
from tilevision.adapters.hosted.parameters import Parameters
from tilevision.findings import Findings

__all__ = ["Malformed", "read_tile", "read_verdict"]

_THOUGHTS = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)
_BOX_KEYS = ("box", "bbox", "box_2d", "bbox_2d")
_LABEL_KEYS = ("label", "class", "name")
_LISTS = ("detections", "objects", "results")
_SLACK = 0.5  # pixels a box may reach outside without a remark: rounding


class Malformed(Exception):
    """An answer that cannot be read; says why in words that the model can act on."""


def read_tile(text: str, parameters: Parameters, picture: Picture) -> Findings:
    """Return the findings that an answer tells of, in pixels of the tile.

    Boxes outside the tile are clipped or dropped, repeated rows are dropped, and the note counts
    them.

    Raises
    ------
    Malformed
        If it is not JSON, or not of the form that was asked for.
    """
    numbered = list(enumerate(_rows(_json(text)), 1))
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
        notes.append(f"{inside.sum() - len(kept)} repeated detections dropped")
    odd = sorted(set(labels) - set(parameters.labels or labels))
    if odd:
        notes.append(f"labels not asked for: {', '.join(odd)[:200]}")
    return Findings(clipped[kept], labels=labels, note="; ".join(notes), **columns)


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
    answer = _json(text)
    if not isinstance(answer, Mapping) or not isinstance(answer.get("allowed"), bool):
        raise Malformed('it has no "allowed" that is true or false')
    return {"allowed": answer["allowed"], "reason": _line(answer.get("reason") or "")}


def _json(text: str) -> Any:
    """Return the JSON in an answer, be it fenced, or with words before and after it."""
    text = _THOUGHTS.sub("", text).strip()
    if not text:
        raise Malformed("it is empty")
    fenced = _FENCE.search(text)
    candidates = [text, *([fenced[1].strip()] if fenced else [])]
    spans = sorted((text.find(a), text.rfind(b) + 1) for a, b in ("{}", "[]"))
    candidates += [text[start:end] for start, end in spans if 0 <= start < end]
    complaint = "it is no JSON"
    for candidate in candidates:
        try:
            return json.loads(candidate, parse_constant=_no_number)
        except json.JSONDecodeError as error:
            complaint = f"it is no JSON ({error.msg} at character {error.pos})"
        except RecursionError:
            complaint = "it is nested too deeply"
    raise Malformed(complaint)


def _no_number(name: str) -> float:
    raise Malformed(f"{name} is no number")


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
    box = row[keys[0]] if keys else None
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(side) for side in box):
        raise Malformed(f'"{parameters.boxes.key}" of detection {number} is not four numbers')
    if parameters.boxes.order in ("xywh", "cxcywh") and (box[2] < 0 or box[3] < 0):
        raise Malformed(f"width or height of detection {number} is negative")
    return [float(side) for side in box]


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
    if not _is_number(score) or not 0 <= score <= 1:
        raise Malformed(f'"score" of detection {number} is no number from 0 to 1')
    return float(score)


def _text(row: Mapping[str, Any]) -> str | None:
    text = row.get("text")
    return str(text) if text else None


def _is_number(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) < 1e9


def _line(text: Any) -> str:
    return " ".join(str(text).split())[:200]


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
    note = f"{out.sum()} of {len(boxes)} boxes reached outside the tile ({(~inside).sum()} wholly)"
    return clipped, inside, note + ("; is box_format right?" if out.all() else "")
