"""What every file states besides the detections, and how files are streamed as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

from tilevision.analysis.account import ANALYSED
from tilevision.exporting.methods import methods

if TYPE_CHECKING:
    from tilevision.result import Result

__all__ = ["as_text", "dumps", "missing_tiles", "statement", "stream_json", "stream_list"]


def statement(result: Result) -> dict[str, Any]:
    """Return what was looked at, how, and what was not analysed: no times, no run id."""
    width, height = result.source.size
    facts, transform = result.digest, result.source.metadata.transform
    return {
        "image": {
            "name": result.name,
            "width": width,
            "height": height,
            "mpp": list(result.mpp) if result.mpp else None,
            "crs": result.source.metadata.crs,
            "transform": list(transform) if transform else None,
            "fingerprint": result.source.fingerprint,
        },
        "model": {"name": result.facts.model, "fingerprint": result.facts.model_fingerprint},
        "models": [
            {"name": name, "fingerprint": mark, "tiles": result.models.get(name, 0)}
            for name, mark in result.facts.models
        ],
        "grid": result.facts.grid,
        "scales": list(result.facts.scales),
        "region": None if result.facts.region is None else result.facts.region.to_dict(),
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
            "area": {"value": facts.ground[0], "unit": facts.ground[1]},
        },
        "not_analysed": missing_tiles(result),
        "summary": result.description,
        "methods": methods(result),
    }


def missing_tiles(result: Result) -> list[dict[str, Any]]:
    """Return id and box (full-resolution pixels) of each tile that should have been analysed."""
    return [
        {"tile": row.tile.id, "box": list(row.tile.box.as_tuple())}
        for row in result.rows
        if row.status not in (*ANALYSED, "skipped")
    ]


def as_text(value: Any) -> str | None:
    """Return `value` as JSON for a column of texts; None for nothing."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True) if value else None


def stream_json(stream: TextIO, head: dict[str, Any], rows: Iterable[Any], name: str) -> None:
    """Write the object `head` with one more member, a list: a line for each member and row."""
    stream.write("{\n")
    for key, value in head.items():
        stream.write(f"{dumps(key)}: {dumps(value)},\n")
    stream.write(f"{dumps(name)}: ")
    stream_list(stream, rows)
    stream.write("}\n")


def stream_list(stream: TextIO, rows: Iterable[Any]) -> None:
    """Write a list, a line for each row."""
    stream.write("[")
    separator = "\n"
    for row in rows:
        stream.write(separator + dumps(row))
        separator = ",\n"
    stream.write("\n]\n")


def dumps(value: Any) -> str:
    """Return strict JSON, readable as it is."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
