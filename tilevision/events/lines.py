"""The journal's lines: one event, one line of JSON."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, fields
from typing import Any

from tilevision.events.facts import Event, RunChanged, StageDone, TileChanged
from tilevision.events.secrets import redact
from tilevision.grid import Tile

__all__ = ["from_line", "to_line"]

_KINDS: dict[str, type[RunChanged] | type[StageDone] | type[TileChanged]] = {
    "run": RunChanged,
    "stage": StageDone,
    "tile": TileChanged,
}
_NAMES = {cls: kind for kind, cls in _KINDS.items()}
_TYPES: dict[str, Any] = {
    "str": str,
    "int": int,
    "bool": bool,
    "float": (int, float),
    "float | None": (int, float, type(None)),
}
_FIELDS = {
    cls: tuple(
        (field.name, field.default, _TYPES.get(str(field.type), object)) for field in fields(cls)
    )
    for cls in _NAMES
}
_TEXTS = {"reason", "message", "error", "link", "details"}


def to_line(event: Event) -> bytes:
    """Return `event` as one line of UTF-8 JSON with its newline; secrets are replaced.

    Status and tile id come first, so that a reader can count without parsing the rest.
    Fields that hold their default are left out.
    """
    raw: dict[str, Any] = {"kind": _NAMES[type(event)]}
    if isinstance(event, TileChanged):
        raw |= {"status": event.status, "id": event.tile.id}
    for name, default, _ in _FIELDS[type(event)]:
        value = getattr(event, name)
        if default is not MISSING and value == default:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            value = None
        if name in _TEXTS:
            value = redact(value)
        if isinstance(value, Tile):
            value = value.to_dict()
            del value["id"]
        raw[name] = value
    return json_line(raw)


def from_line(line: bytes | str) -> Event | None:
    """Read what `to_line` wrote; None for a kind of a later version.

    Raises
    ------
    ValueError
        If the line is torn or is no event.
    """
    raw = parse_line(line)
    cls = _KINDS.get(raw.get("kind", ""))
    if cls is None:
        return None
    try:
        values = {name: raw[name] for name, _, _ in _FIELDS[cls] if name in raw}
        if cls is TileChanged:
            values["tile"] = Tile.from_dict({**raw["tile"], "id": str(raw["id"])})
            values["boxes"] = tuple(_box(box) for box in raw.get("boxes", ()))
            values["scores"] = tuple(_score(score) for score in raw.get("scores", ()))
        event = cls(**values)
        _check(event)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an event: {error}") from None
    return event


def json_line(raw: dict[str, Any]) -> bytes:
    """Return `raw` as one line; text that UTF-8 cannot hold (odd file names) is escaped."""
    return _ENCODER.encode(raw).encode("utf-8", "backslashreplace") + b"\n"


def parse_line(line: bytes | str) -> dict[str, Any]:
    """Return the object that a line holds; `ValueError` if it holds none."""
    try:
        raw = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("kind"), str):
        raise ValueError("not an event")  # noqa: TRY004 - callers catch one kind for bad lines
    return raw


def _plain(value: Any) -> Any:
    """Turn NumPy numbers into Python's; anything else is written as text."""
    return value.item() if hasattr(value, "item") else str(value)


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=_plain)


def _box(raw: Any) -> tuple[int, int, int, int, str]:
    x0, y0, x1, y1, label = raw
    return int(x0), int(y0), int(x1), int(y1), str(label)


def _score(raw: Any) -> float | None:
    """Read a score; None where it is none, so that no reader meets NaN."""
    return float(raw) if raw is not None and math.isfinite(raw) else None


def _check(event: Event) -> None:
    """Refuse values of another type: they would surprise a reader far from here."""
    for name, _, accepted in _FIELDS[type(event)]:
        value = getattr(event, name)
        if not isinstance(value, accepted):
            raise TypeError(f"{name} is of another type")
        if isinstance(value, float) and not math.isfinite(value):
            raise TypeError(f"{name} is not finite")
    if isinstance(event, TileChanged):
        tile = event.tile
        whole = isinstance(tile.row, int) and isinstance(tile.col, int)
        if not whole or not all(isinstance(value, (int, float)) for value in tile.region):
            raise TypeError("the tile's numbers are not numbers")
