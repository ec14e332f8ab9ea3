"""What stands around a live picture, in words: how far, how fast, what the colours mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tilevision.plot import STATUSES, STYLES, class_colours, shown
from tilevision.plot.heat import heat_keys
from tilevision.view.picture.boxes import PER_TILE, BoxLayer
from tilevision.view.picture.heatlayer import TileHeat
from tilevision.view.picture.viewstate import PLANNED, ViewState

__all__ = ["Counted", "alt_text", "caption", "duration"]

MAX_CLASSES = 12


@dataclass(frozen=True, slots=True)
class Counted:
    """Detections that are drawn and counted in place of what the tiles told.

    Attributes
    ----------
    layer : BoxLayer
    counts : dict of str to int
        By class, the most frequent first; labels are untrusted text.
    words : str
        What they are, as ``"merged"``.
    heat : TileHeat or None
        What a classifier said of the tiles.
    """

    layer: BoxLayer
    counts: dict[str, int]
    words: str
    heat: TileHeat | None = None


def caption(
    state: ViewState, name: str, now: float, counted: Counted | None = None
) -> dict[str, Any]:
    """Return headline, detail, alternative text, legend and progress, in plain JSON types.

    Parameters
    ----------
    state : ViewState
    name : str
        What is analysed, and with what.
    now : float
        Seconds since the epoch.
    counted : Counted, optional
        Default: all that the tiles told, before merging.

    Returns
    -------
    dict
        ``headline``, ``detail``, ``alt``: text. ``legend``: entries with ``words``,
        ``colour``, and for statuses ``glyph``, ``hatch``, ``fill``. ``shares``: of all
        tiles, those done and those failed, 0 to 1. ``status``: of the run. ``latest``: time of
        the latest event, seconds since the epoch.
    """
    n = max(len(state.tiles), 1)
    counts = state.counts
    return {
        "headline": _headline(state, name, _found(state, counted)),
        "detail": _detail(state, now),
        "alt": alt_text(state, name, counted),
        "legend": _statuses(counts) + _heat(counted) + _classes(state, counted),
        "shares": [state.n_finished / n, counts.get("failed", 0) / n],
        "status": state.run_status or "starting",
        "latest": state.latest,
    }


def alt_text(state: ViewState, name: str, counted: Counted | None = None) -> str:
    """Return the picture in one sentence, for those who do not see it."""
    tiles = ", ".join(f"{count:,} {status}" for status, count in state.counts.items())
    status = state.run_status or "starting"
    found = _found(state, counted)
    return f"{shown(name, 80)}, {status}: {_tiles(len(state.tiles))} ({tiles}), {found}."


def _headline(state: ViewState, name: str, found: str) -> str:
    status = (state.run_status or "starting").capitalize()
    if state.run_status == PLANNED:
        stored = (
            f"{state.n_finished:,} stored already" if state.n_finished else "nothing stored yet"
        )
        return f"{shown(name, 60)} · {status} · {_tiles(len(state.tiles))} · {stored}"
    done = f"{state.n_finished:,} of {_tiles(len(state.tiles))}"
    return f"{shown(name, 60)} · {status} · {done} · {found}"


def _detail(state: ViewState, now: float) -> str:
    if state.run_status == PLANNED:
        return "the grid as it would be laid; press Run to analyse it"
    if state.ended or state.run_status == "paused":
        seconds = state.latest - state.started
        parts = [f"{'took' if state.ended else 'after'} {duration(seconds)}"]
    else:
        rate = state.rate(now)
        parts = [f"{rate:,.1f} tiles a second" if rate else _waiting(state)]
        if rate and state.n_open:
            parts.append(f"about {duration(state.n_open / rate)} left")
    if saturated := int(state.saturated.sum()):
        parts.append(f"{_tiles(saturated)} saturated")
    if state.reason:
        parts.append(shown(state.reason, 300))
    return " · ".join(parts)


def _waiting(state: ViewState) -> str:
    if any(stage.stage == "cluster" for stage in state.stages):
        return "waiting for the first tiles"
    return "getting ready"


def _found(state: ViewState, counted: Counted | None) -> str:
    n = state.n_detections if counted is None else sum(counted.counts.values())
    if counted is not None and counted.heat is not None and not n:
        return f"{_tiles(counted.heat.n_known)} classified"
    words = "before merging" if counted is None else counted.words
    return f"{n:,} {'detection' if n == 1 else 'detections'} {words}"


def _tiles(n: int) -> str:
    return f"{n:,} {'tile' if n == 1 else 'tiles'}"


def _statuses(counts: dict[str, int]) -> list[dict[str, Any]]:
    entries = []
    for status in (s for s in STATUSES if s in counts):
        style = STYLES[status]
        look = {"glyph": style.glyph, "hatch": style.hatch, "fill": style.fill}
        entries.append({"words": f"{counts[status]:,} {status}", "colour": style.colour, **look})
    return entries


def _heat(counted: Counted | None) -> list[dict[str, Any]]:
    if counted is None or counted.heat is None:
        return []
    return [
        {"words": key.words, "colour": key.colour, "wide": True}
        for key in heat_keys(counted.heat.label)
    ]


def _classes(state: ViewState, counted: Counted | None) -> list[dict[str, Any]]:
    """Counts of what tiles told are of boxes that are drawn: a plus says that there are more."""
    if counted is None:
        counts, labels = state.boxes.counts, state.boxes.labels
        limit = min(PER_TILE, state.boxes.per_tile)
        more = "+" if (state.n_findings > limit).any() else ""
    else:
        counts, labels, more = counted.counts, counted.layer.labels, ""
    colours = class_colours(labels)
    common = sorted((label for label in counts if counts[label]), key=lambda x: -counts[x])
    entries: list[dict[str, Any]] = [
        {"words": f"{counts[label]:,}{more} {shown(label, 30)}", "colour": colours[label]}
        for label in common[:MAX_CLASSES]
    ]
    if len(common) > MAX_CLASSES:
        words = f"{len(common) - MAX_CLASSES:,} more classes"
        entries.append({"words": words, "colour": "#999999"})
    return entries


def duration(seconds: float) -> str:
    """Return ``0.4 s``, ``12 s``, ``3 min`` or ``2.5 h``."""
    if seconds < 1:
        return f"{max(seconds, 0):.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
