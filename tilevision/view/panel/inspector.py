"""The tile inspector: one tile at full resolution, and all that is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets
from numpy.typing import NDArray

from tilevision.events import TileChanged
from tilevision.findings import Findings, TileFindings
from tilevision.plot import STYLES, class_colours, shown

__all__ = ["Inspector", "encoded", "tile_facts", "tile_rows"]

_FOLDER = Path(__file__).parent
MOST_DETECTIONS = 1000
QUALITY = 88


class Inspector(anywidget.AnyWidget):
    """Shows one tile.

    Attributes
    ----------
    facts : dict
        See `tile_facts`; empty while no tile is open.
    picture : bytes
        The tile's pixels, a JPEG.
    rows : dict
        See `tile_rows`.
    other : dict
        The same of another model, with ``model`` and ``words``; empty without one.
    models : list of str
        That the tile can be run with.
    asked : list
        What the user asked for last: ``"retry"``, ``"run"`` or ``"close"``, the number of
        the model, and how many requests there were. Set by the page.
    """

    _esm = (_FOLDER / "inspector.js").read_text(encoding="utf-8")
    _css = (_FOLDER / "inspector.css").read_text(encoding="utf-8")

    facts = traitlets.Dict({}).tag(sync=True)
    picture = traitlets.Bytes(b"").tag(sync=True)
    rows = traitlets.Dict({}).tag(sync=True)
    other = traitlets.Dict({}).tag(sync=True)
    models = traitlets.List(traitlets.Unicode(), []).tag(sync=True)
    asked: Any = traitlets.List([]).tag(sync=True)

    def clear(self) -> None:
        """Show no tile."""
        with self.hold_sync():
            self.facts, self.picture, self.rows, self.other = {}, b"", {}, {}


def tile_rows(
    seen: TileFindings, labels: Sequence[str] = (), limit: int = MOST_DETECTIONS
) -> dict[str, Any]:
    """Return the strongest detections of a tile in its own frame, in plain JSON types.

    `labels` are those drawn elsewhere, in their order there: colours are the same here.

    Returns
    -------
    dict
        ``boxes``: x0, y0, x1, y1 as shares of the tile's width and height; ``labels``,
        ``scores`` (None for none), ``colours``; ``outlines``: rings of such points, empty
        without a polygon; ``total``: how many there are.
    """
    findings = seen.findings.take(range(min(limit, len(seen.findings))))
    width, height = seen.tile.output_size
    colours = class_colours([*labels, *map(str, seen.findings.labels)])
    return {
        "boxes": _shares(findings.boxes.reshape(-1, 2), width, height).reshape(-1, 4).tolist(),
        "labels": [shown(label, 80) for label in findings.labels],
        "scores": [None if np.isnan(s) else round(float(s), 3) for s in findings.scores],
        "colours": [colours[str(label)] for label in findings.labels],
        "outlines": _outlines(findings, width, height),
        "total": len(seen.findings),
    }


def tile_facts(event: TileChanged, seen: TileFindings | None) -> dict[str, Any]:
    """Return what is known of a tile, in plain JSON types.

    Parameters
    ----------
    event : TileChanged
        The latest of the tile.
    seen : TileFindings or None

    Returns
    -------
    dict
        ``id``, ``status``, ``colour`` and ``glyph`` of it; ``lines``: pairs of text;
        ``error``; ``note``; ``scores``: of the tile as a whole, name and value.
    """
    tile, style = event.tile, STYLES[event.status]
    box, (width, height) = tile.box, tile.output_size
    lines = {
        "Region": f"x {box.x0:,.0f}–{box.x1:,.0f}, y {box.y0:,.0f}–{box.y1:,.0f} px",
        "Model sees": f"{width:,} × {height:,} px, scale {tile.scale:.3g}",
        "Detections": f"{event.n_findings:,}" + (" (saturated)" if event.saturated else ""),
        "Attempts": str(event.attempt or "–"),
        "Reading": _seconds(event.read_seconds),
        "Inference": _seconds(event.infer_seconds),
        "Model": event.model or "–",
        "Worker": event.worker or "–",
    }
    findings = seen.findings if seen is not None else Findings()
    scores = sorted(findings.tile_scores.items(), key=lambda pair: -pair[1])[:10]
    return {
        "id": tile.id,
        "status": event.status,
        "colour": style.colour,
        "glyph": style.glyph,
        "lines": [[what, shown(value, 120)] for what, value in lines.items() if value != "–"],
        "error": shown(event.error, 500),
        "note": shown(findings.note, 1000),
        "scores": [[shown(name, 60), round(value, 3)] for name, value in scores],
    }


def encoded(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels (h, w, 3) as a JPEG."""
    from PIL import Image

    out = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def _outlines(findings: Findings, width: int, height: int) -> list[list[list[list[float]]]]:
    if findings.polygons is None:
        return []
    return [
        [_shares(ring, width, height).tolist() for part in shape or () for ring in part]
        for shape in findings.polygons
    ]


def _shares(points: Any, width: int, height: int) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = np.round(np.asarray(points) / (width, height), 5)
    return shares


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value * 1000:,.0f} ms" if value < 1 else f"{value:,.1f} s"
