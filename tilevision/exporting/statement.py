"""What every file states besides the detections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilevision.exporting.methods import methods
from tilevision.status import TileStatus

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData

__all__ = ["missing_tiles", "statement"]


def statement(result: ResultData) -> dict[str, Any]:
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


def missing_tiles(result: ResultData) -> list[dict[str, Any]]:
    """Return id and box (full-resolution pixels) of each tile that should have been analysed."""
    return [
        {"tile": row.tile.id, "box": list(row.tile.box.as_tuple())}
        for row in result.rows
        if not TileStatus(row.status).finished
    ]
