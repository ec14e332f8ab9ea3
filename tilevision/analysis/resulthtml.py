"""A result as a notebook shows it: what was found, what is missing, and its map."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

from tilevision.analysis.account import Digest
from tilevision.errors import CheckpointError, RunError

if TYPE_CHECKING:
    from tilevision.rasters import RasterMap

__all__ = ["map_html", "result_html"]

SHOWN_CLASSES = 8
MOST_DRAWN = 2000  # tiles of a map that is drawn unasked: each is read for it


def result_html(
    name: str, status: str, summary: str, missing: str, facts: Digest, mapped: str
) -> str:
    """Return a result as HTML; `missing` says what was not analysed, `mapped` is its map."""
    alarm = f"<p><strong>⚠ {escape(missing)}</strong></p>" if missing else ""
    found = "" if mapped and not facts.n_findings else f"{facts.n_findings:,} detections, "
    table = _table(facts.counts, facts.n_classes) if found else ""
    return (
        f"<div><p><strong>{escape(name)}</strong>: {found}{escape(status)}</p>{alarm}"
        f"<p>{escape(summary)}</p>{mapped}{table}</div>"
    )


def map_html(look: Callable[[], RasterMap | None]) -> str:
    """Return the map as a picture; empty without one, or where drawing it would take long."""
    try:
        raster = look()
        if raster is None or len(raster.tiles) > MOST_DRAWN:
            return ""
        return raster._repr_html_()
    except (RunError, CheckpointError):  # several kinds, or damaged: the summary says so
        return ""


def _table(counts: dict[str, int], n_classes: int) -> str:
    shown = list(counts.items())[:SHOWN_CLASSES]
    cells = "".join(
        f"<tr><td style='text-align:left'>{escape(label[:60])}</td><td>{n:,}</td></tr>"
        for label, n in shown
    )
    if n_classes > len(shown):
        cells += f"<tr><td>{n_classes - len(shown)} more classes</td><td>…</td></tr>"
    return (
        f"<table><thead><tr><th style='text-align:left'>class</th><th>detections</th></tr>"
        f"</thead><tbody>{cells}</tbody></table>"
    )
