"""The text around a live picture: progress, speed, and what the colours mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

import numpy as np

from tilevision.analysis.units import units_of
from tilevision.colouring import chosen_colour
from tilevision.plot import STATUSES, STYLES, class_colours, shown
from tilevision.plot.palette import SENT_ON
from tilevision.plot.wording import OUTLINE
from tilevision.regions import Region
from tilevision.sources import ImageSource
from tilevision.status import RunStatus, TileStatus
from tilevision.view.mapping.mappainter import MapSeen
from tilevision.view.picture.boxes import PER_TILE, BoxLayer
from tilevision.view.picture.heatlayer import TileGroups, TileHeat
from tilevision.view.picture.viewstate import ViewState

__all__ = [
    "MAX_CLASSES",
    "Counted",
    "Rivals",
    "alt_text",
    "caption",
    "duration",
    "key_of",
    "region_words",
]

MAX_CLASSES = 12
NAME_LIMIT = 80  # of image and models: two files of a cascade are read in full


class Rivals(Protocol):
    """Two results of one image, in place of the one that is drawn."""

    @property
    def names(self) -> tuple[str, ...]:
        """What tells the two apart; safe to show."""

    @property
    def words(self) -> str:
        """What they have in common, in numbers."""

    @property
    def notes(self) -> str:
        """How far they agree, and what makes that doubtful."""

    def layers(self, way: str, hidden: frozenset[str]) -> tuple[BoxLayer, BoxLayer | None]:
        """Return what is drawn, and what in a second picture, without what is `hidden`."""

    def legend(self, way: str) -> list[dict[str, Any]]:
        """Return the entries of the legend."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Detections that are drawn and counted instead of those of the single tiles.

    Attributes
    ----------
    layer : BoxLayer
    counts : dict of str to int
        Number by class, the most frequent first; labels are untrusted text.
    words : str
        What they are, such as ``"merged"``.
    heat : TileHeat, TileGroups or None
        A classifier's probabilities of the tiles, or what else they are coloured by.
    maps : MapSeen or None
        The map of the run, where it has one.
    tiles : frozenset of int or None
        Tiles whose detections are among them: those of other tiles are drawn as they come.
        None: no others are drawn.
    of : tuple
        `ViewState.version` of the run when they were counted.
    by_hand : int
        How many of them a person corrected.
    rivals : Rivals, optional
        Another result that this one is compared with.
    region : str
        Where they lie, what that is called and how large it is; empty for the whole image.
    """

    layer: BoxLayer
    counts: dict[str, int]
    words: str
    heat: TileHeat | TileGroups | None = None
    maps: MapSeen | None = None
    tiles: frozenset[int] | None = None
    of: tuple[RunStatus | None, float] | None = None
    by_hand: int = 0
    rivals: Rivals | None = None
    region: str = ""


def caption(
    state: ViewState,
    name: str,
    now: float,
    counted: Counted | None = None,
    *,
    final: bool = False,
    region: str = "",
    way: str = "",
    hidden: frozenset[str] = frozenset(),
    maps: Sequence[Mapping[str, Any]] = (),
    sent_on: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return headline, detail, alternative text, legend and progress, in plain JSON types.

    Parameters
    ----------
    state : ViewState
    name : str
        The image and the model.
    now : float
        Seconds since the epoch.
    counted : Counted, optional
        Default: all detections of the tiles, before merging.
    final : bool
        Whether nothing more will be counted. A run that has ended is said to have done so
        only then: before, the picture does not show its result.
    region : str
        What the region is called, and how large it is; empty for none.
    way : str
        How two results are compared; empty where there is one.
    hidden : frozenset of str
        Keys of what is not drawn.
    maps : sequence of mapping
        Entries of the legend for the map that is shown.
    sent_on : mapping of str to str, optional
        Models that a cascade gives tiles to, and why.

    Returns
    -------
    dict
        ``headline``, ``detail``, ``alt``: text. ``legend``: entries with ``words``,
        ``colour``, for classes ``key`` and ``off`` where they are not drawn, ``own`` where their
        colour can be changed, and ``chosen`` where it was, for a colour bar
        ``ramp``, and for statuses ``glyph``, ``hatch``, ``fill``, and ``framed`` for a frame.
        ``shares``: the share of wanted tiles that are done and that failed, 0 to 1. ``status``:
        of the run. ``latest``: time of the latest event, seconds since the epoch.
    """
    n = max(state.n_wanted, 1)
    counts = state.counts
    rivals = None if counted is None or not way else counted.rivals
    kinds = _classes(state, counted) if rivals is None else rivals.legend(way)
    mapped = [dict(entry) for entry in maps] if rivals is None else []
    switches = [entry | {"off": entry.get("key") in hidden} for entry in (*mapped, *kinds)]
    statuses = []
    if rivals is None:
        statuses = _statuses(counts) + _sent_on(state, sent_on or {})
    return {
        "headline": _headline(state, name, _found(state, counted, final), final=final)
        if rivals is None or not state.at_rest
        else f"{shown(name, NAME_LIMIT)} · {rivals.words}",
        "detail": _detail(state, now, region) if rivals is None else rivals.notes,
        "alt": alt_text(state, name, counted, final=final),
        "legend": statuses + _region(region) + _heat(counted) + switches,
        "shares": [state.n_finished / n, counts.get(TileStatus.FAILED, 0) / n],
        "status": _status(state, final),
        "latest": state.latest,
    }


def alt_text(
    state: ViewState, name: str, counted: Counted | None = None, *, final: bool = False
) -> str:
    """Return the picture in one sentence, for screen readers."""
    tiles = ", ".join(f"{count:,} {status}" for status, count in state.counts.items())
    status, found = _status(state, final), _found(state, counted, final)
    return f"{shown(name, NAME_LIMIT)}, {status}: {_tiles(len(state.tiles))} ({tiles}), {found}."


def _headline(state: ViewState, name: str, found: str, *, final: bool) -> str:
    status = _status(state, final).capitalize()
    if state.planned:
        if not state.n_finished:
            tiles = f"{_tiles(state.n_wanted)} · nothing stored yet"
        else:
            tiles = f"{state.n_finished:,} of {_tiles(state.n_wanted)} stored · {found}"
        return f"{shown(name, NAME_LIMIT)} · {status} · {tiles}"
    done = f"{state.n_finished:,} of {_tiles(state.n_wanted)}"
    return f"{shown(name, NAME_LIMIT)} · {status} · {done} · {found}"


def _detail(state: ViewState, now: float, region: str) -> str:
    outside = []
    if region and state.n_skipped:
        outside = [f"{_tiles(state.n_skipped)} outside the region skipped"]
    if state.planned:
        press = "Press Run to analyse the image with this grid"
        done = "Every tile is stored already; Run costs nothing"
        return " · ".join([press if state.n_open else done, *outside])
    if state.ended or state.run_status is RunStatus.PAUSED:
        took = "took" if state.ended else "after"
        parts = [f"{took} {duration(state.seconds_active)}"]
    else:
        rate, left = state.rate(now), state.seconds_left(now)
        parts = [f"{rate:,.1f} tiles per second" if rate else _waiting(state)]
        if left:
            parts.append(f"about {duration(left)} left")
    parts += outside
    if saturated := int(state.saturated.sum()):
        parts.append(f"{_tiles(saturated)} saturated")
    if state.reason:
        parts.append(shown(state.reason, 300))
    return " · ".join(parts)


def _status(state: ViewState, final: bool) -> str:
    if state.planned:
        return "planned"
    if state.ended and not final:
        return "merging"
    return str(state.run_status or "starting")


def _waiting(state: ViewState) -> str:
    if any(stage.stage == "cluster" for stage in state.stages):
        return "waiting for the first tiles"
    return "getting ready"


def _found(state: ViewState, counted: Counted | None, final: bool) -> str:
    n = state.n_detections if counted is None else sum(counted.counts.values())
    stored = state.planned and state.n_finished  # a plan does not know how many are stored
    if counted is None and (n or stored) and not final:  # a number would drop when merged
        return "counting detections"
    if counted is not None and counted.heat is not None and not n:
        return f"{_tiles(counted.heat.n_known)} classified"
    if counted is not None and counted.rivals is not None:
        return counted.rivals.words
    if counted is not None and counted.maps is not None and not n:
        return f"map of {counted.maps.raster.spec.kind}"
    words = "in tiles, not merged" if counted is None else counted.words
    return f"{n:,} {'detection' if n == 1 else 'detections'} {words}"


def _tiles(n: int) -> str:
    return f"{n:,} {'tile' if n == 1 else 'tiles'}"


def _statuses(counts: dict[TileStatus, int]) -> list[dict[str, Any]]:
    entries = []
    for status in (s for s in STATUSES if s in counts):
        style = STYLES[status]
        look = {"glyph": style.glyph, "hatch": style.hatch, "fill": style.fill}
        entries.append({"words": f"{counts[status]:,} {status}", "colour": style.colour, **look})
    return entries


def _sent_on(state: ViewState, sent_on: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return an entry for each model of a cascade that tiles came to from another, and why."""
    look = {"colour": SENT_ON.colour, "glyph": SENT_ON.glyph, "hatch": "", "fill": SENT_ON.fill}
    look |= {"framed": True}
    given = {label: int(state.given_to(label).sum()) for label in sent_on}
    return [
        {"words": f"{n:,} sent on to {shown(label, 40)} ({sent_on[label]})", **look}
        for label, n in given.items()
        if n
    ]


def _region(region: str) -> list[dict[str, Any]]:
    return [{"words": f"region: {region}", "colour": OUTLINE, "dashed": True}] if region else []


def _heat(counted: Counted | None) -> list[dict[str, Any]]:
    if counted is None or counted.heat is None:
        return []
    return [{"words": words, "colour": colour, "wide": True} for words, colour in counted.heat.keys]


def _classes(state: ViewState, counted: Counted | None) -> list[dict[str, Any]]:
    """Return the legend of classes; a plus after a count says that some boxes are not drawn."""
    if counted is None:
        counts, labels = state.boxes.counts, state.boxes.labels
        limit = min(PER_TILE, state.boxes.per_tile)
        more = "+" if (state.n_findings > limit).any() else ""
    else:
        counts, labels, more = counted.counts, counted.layer.labels, ""
    colours = class_colours(labels)
    common = sorted((label for label in counts if counts[label]), key=lambda x: -counts[x])
    entries: list[dict[str, Any]] = [
        {
            "words": f"{counts[label]:,}{more} {shown(label, 30)}",
            "colour": colours[label],
            "key": key_of(label),
            "own": True,
            "chosen": chosen_colour(label) is not None,
        }
        for label in common[:MAX_CLASSES]
    ]
    if len(common) > MAX_CLASSES:
        words = f"{len(common) - MAX_CLASSES:,} more classes"
        entries.append({"words": words, "colour": "#999999"})
    if counted is not None and counted.by_hand:
        entries.append({"words": f"{counted.by_hand:,} by hand", "colour": OUTLINE, "dashed": True})
    return entries


def key_of(label: str) -> str:
    """Return what a page calls a class: of one length, and the same while the class lives."""
    return sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def duration(seconds: float) -> str:
    """Return ``0.4 s``, ``12 s``, ``3 min`` or ``2.5 h``."""
    if seconds < 1:
        return f"{max(seconds, 0):.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def region_words(region: Region, source: ImageSource) -> str:
    """Return what a region is called and how large it is."""
    width, height = source.size
    units = units_of(source.metadata)
    middle = region.geometry.representative_point()
    area = units.of(np.array([[middle.x, middle.y]]), np.array([region.area]))[0]
    share = region.area / (width * height)
    size = units.in_words(area)
    return f"{shown(region.name, 40)}, {size}, {share:.0%} of the image"
