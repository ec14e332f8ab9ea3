"""What every file states besides the detections, and how files are streamed as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

from tilevision.account import ANALYSED

if TYPE_CHECKING:
    from tilevision.result import Result

__all__ = ["statement", "stream_json"]


def statement(result: Result) -> dict[str, Any]:
    """Return what was looked at, how, and what was not analysed: no times, no run id."""
    width, height = result.source.size
    facts = result.digest
    return {
        "image": {
            "name": result.name,
            "width": width,
            "height": height,
            "mpp": list(result.mpp) if result.mpp else None,
            "crs": result.source.metadata.crs,
            "fingerprint": result.source.fingerprint,
        },
        "model": {"name": result.facts.model, "fingerprint": result.facts.model_fingerprint},
        "grid": result.facts.grid,
        "scales": list(result.facts.scales),
        "merge": result.settings.to_dict(),
        "complete": result.complete,
        "coverage": result.coverage,
        "analysed": {
            "tiles": facts.n_tiles,
            "analysed": facts.n_analysed,
            "failed": facts.n_failed,
            "skipped": facts.n_skipped,
            "saturated": facts.n_saturated,
            "area_px2": facts.analysed_area,
            "area_share": round(facts.analysed_share, 6),
        },
        "not_analysed": [
            {"tile": row.tile.id, "box": list(row.tile.box.as_tuple())}
            for row in result.rows
            if row.status not in (*ANALYSED, "skipped")
        ],
        "summary": result.description,
    }


def stream_json(stream: TextIO, head: dict[str, Any], rows: Iterable[Any], name: str) -> None:
    """Write the object `head` with one more member, a list: a line for each member and row."""
    stream.write("{\n")
    for key, value in head.items():
        stream.write(f"{_dumps(key)}: {_dumps(value)},\n")
    stream.write(f"{_dumps(name)}: [")
    separator = "\n"
    for row in rows:
        stream.write(separator + _dumps(row))
        separator = ",\n"
    stream.write("\n]}\n")


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
