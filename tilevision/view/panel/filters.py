"""Filters: minimum score, classes and merge, changed without running the model again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import ipywidgets as widgets

from tilevision.plot import shown
from tilevision.result import Result
from tilevision.seams import LIMITS
from tilevision.view.panel.controls import button, column, control, menu, option, visible
from tilevision.view.picture.caption import Counted
from tilevision.view.picture.counting import count
from tilevision.view.picture.heatlayer import TileGroups, TileHeat, tile_heat
from tilevision.view.picture.viewstate import ViewState

__all__ = ["Filters"]

METHODS = (
    ("seam: join objects cut by seams", "seam"),
    ("nms: drop the weaker one", "nms"),
    ("nmm: unite", "nmm"),
    ("wbf: average", "wbf"),
    ("none: every tile on its own", "none"),
)
METRICS = (("IoU: share of both", "iou"), ("IoS: share of the smaller", "ios"))
CLASSES_SHOWN = 200
OFF = "\0off"  # not the name of any class
HEATS = (("the class that varies most", None), ("none", OFF))


class Filters:
    """Controls for score, classes and merge.

    Parameters
    ----------
    min_score, classes, merge, limits
        Initial values, as `tilevision.start` takes them.
    on_change : callable
        Called after one was changed.
    """

    def __init__(
        self,
        min_score: float | None,
        classes: Sequence[str] | None,
        merge: str,
        on_change: Callable[[], None],
        limits: Mapping[str, float] | None = None,
    ) -> None:
        self._classes: tuple[str, ...] = ()
        self._listing = 0  # the thread that lists classes now
        self._on_change = on_change
        self._limits: dict[str, float | None] = dict.fromkeys(LIMITS) | dict(limits or {})
        given = (classes,) if isinstance(classes, str) else tuple(classes or ())
        self._first = (min_score or 0.0, given, merge)
        self._model: str | None = None  # whose classes are listed
        self._add_controls()
        self.words = widgets.HTML(_dom_classes=["tilevision-words"])
        self.box = column(
            self.words, self.heat, self.score, self.classes, self.method, self.metric,
            self.threshold, self.reset, name="filters",
        )  # fmt: skip
        self._fit()
        self.reset.on_click(lambda _: self._reset())
        self.method.observe(lambda _: self._fit(), names="value")
        self.classes.observe(lambda _: self._picked(), names="value")
        for made in (self.heat, self.score, self.method, self.metric, self.threshold):
            made.observe(lambda _: on_change(), names="value")
        if given:
            self._list(dict.fromkeys(given, 0))
            self.classes.value = given

    def _add_controls(self) -> None:
        score, _, merge = self._first
        slider = {"min": 0.0, "max": 1.0, "step": 0.01, "readout_format": ".2f"}
        tip = "Detections with a lower score are left out before the merge"
        self.score = control(widgets.FloatSlider, "Minimum score", tip, value=score, **slider)
        tip = "Select none for all classes; use Ctrl or Shift to select several"
        self.classes = control(widgets.SelectMultiple, "Classes", tip, options=(), rows=5)
        self.method = menu("Merge", METHODS, value=merge)
        self.metric = menu("Overlap as", METRICS, value="iou")
        slider |= {"min": 0.05, "step": 0.05}
        tip = "Two detections that overlap this much are one"
        self.threshold = control(widgets.FloatSlider, "Min. overlap", tip, value=0.5, **slider)
        tip = "Colours the tiles by the probability of a class"
        self.heat = menu("Heatmap", HEATS, tip, value=None)
        visible(self.heat, False)
        tip = "Remove the minimum score and the class filter, and reset the merge"
        self.reset = button("Show all", tip)

    def _picked(self) -> None:
        # Ignore the change that listing the classes makes; a click on another thread counts.
        if self._listing != threading.get_ident():
            self._on_change()

    def offer(self, min_score: float) -> None:
        """Start from another minimum score, unless the user has chosen one."""
        if self.score.value == self._first[0] != min_score:
            self._first = (min_score, *self._first[1:])
            self.score.value = min_score

    def limit(self, kind: str, low: float | None, high: float | None) -> None:
        """Set the least and the most of ``"score"`` or ``"area"``; None is no limit."""
        self._limits[f"max_{kind}"] = high
        if kind == "area":
            self._limits["min_area"] = low
        elif self.score.value != (low or 0.0):
            self.score.value = low or 0.0  # which counts again
            return
        self._on_change()

    @property
    def limits(self) -> dict[str, list[float | None]]:
        """The least and the most of ``score`` and ``area``."""
        return {
            "score": [self.score.value or None, self._limits["max_score"]],
            "area": [self._limits["min_area"], self._limits["max_area"]],
        }

    def _fit(self) -> None:
        matched = self.method.value in ("nms", "nmm", "wbf")
        visible(self.metric, matched)
        visible(self.threshold, matched)

    def _reset(self) -> None:
        limited, self._limits = self._limits, dict.fromkeys(LIMITS)
        if limited != self._limits:
            self._on_change()
        self.score.value, self.classes.value, self.method.value = 0.0, (), self._first[2]
        self.metric.value, self.threshold.value = "iou", 0.5

    @property
    def touched(self) -> bool:
        """Return True if any filter differs from all detections, merged as the run asked for."""
        how = (self.method.value, self.metric.value, self.threshold.value)
        limited = any(value is not None for value in self._limits.values())
        return (
            limited
            or bool(self.score.value or self.classes.value)
            or how != (self._first[2], "iou", 0.5)
        )

    def at_start(self) -> dict[str, Any]:
        """Return the settings that `tilevision.start` takes."""
        settings = self.read()
        # 0 instead of None: None would use the model's own minimum.
        return {
            "min_score": self.score.value,
            "classes": settings["classes"],
            "merge": settings["merge"],
            "match_metric": settings["match_metric"],
            "match_threshold": settings["match_threshold"],
            **self._limits,
        }

    def read(self) -> dict[str, Any]:
        """Return the settings, as `Result.with_` takes them."""
        return {
            "min_score": self.score.value or None,
            "classes": tuple(self.classes.value) or None,
            "merge": self.method.value,
            "match_metric": self.metric.value,
            "match_threshold": round(self.threshold.value, 2),
            **self._limits,
        }

    def apply(
        self,
        known: Result,
        result: Result,
        state: ViewState,
        subject: str = "",
        *,
        cut: bool = False,
        over: TileHeat | TileGroups | None = None,
    ) -> Counted:
        """Return the detections of `result` as they are drawn, and say how many there are.

        Parameters
        ----------
        known, result : Result
            All findings of the tiles so far, and under these settings.
        state : ViewState
            Of the run, as it was before `known` was looked up.
        subject : str
            What is shown, such as the name of the run.
        cut : bool
            Whether `result` is cut to regions that are not the run's.
        over : TileHeat or TileGroups, optional
            Colours of the tiles in place of the heatmap.
        """
        seen = known.labels_in_tiles.copy()
        if result.by_hand is not None:
            seen.update(dict.fromkeys(result.by_hand.labels, 0))
        label = self.heat.value
        heat = None if label == OFF else tile_heat(known.tile_findings, state.index, label)
        counted = count(result, state, heat=over or heat, filtered=self.touched or cut)
        n, counts = len(result.findings), counted.counts
        lifted = bool(seen) and state.at_rest and self._turn_to(known, seen)
        self._list({label: counts.get(label, 0) for label, _ in seen.most_common(CLASSES_SHOWN)})
        what = f"{escape(shown(subject, 80))}: " if subject else ""
        noun = "detection" if n == 1 else "detections"
        self._say(f"{what}<b>{n:,}</b> {noun} {counted.words}, from {seen.total():,} in the tiles.")
        self._offer_heat(heat)
        if lifted:
            self._on_change()
        return counted

    def _turn_to(self, known: Result, seen: Iterable[str]) -> bool:
        """List the classes of another model alone; return True if none of those chosen is its.

        Then none is chosen any more: names of the model before would hide all that it found. A
        run that was started for classes keeps them.
        """
        before, self._model = self._model, known.facts.model
        if before is None or before == self._model:
            return False
        chosen, wanted = self.classes.value, {*seen, *(known.settings.classes or ())}
        kept = tuple(name for name in chosen if name in wanted)
        self._classes, self._listing = (), threading.get_ident()
        self.classes.value = kept
        self._listing = 0
        return bool(chosen) and not kept

    def clear(self, line: str) -> None:
        """Say why there is nothing to filter."""
        self._say(escape(line))

    def _say(self, html: str) -> None:
        if self.words.value != html:
            self.words.value = html

    def _offer_heat(self, heat: TileHeat | None) -> None:
        """Offer the classes of the heatmap if the tiles have probabilities."""
        if heat is None or len(self.heat.options) == len(heat.labels) + 2:
            return
        chosen = self.heat.value
        named = [option(label, label) for label in heat.labels[:CLASSES_SHOWN]]
        with self.heat.hold_trait_notifications():
            self.heat.options = [*HEATS, *named]
            self.heat.value = chosen
        visible(self.heat, True)

    def _list(self, counts: dict[str, int]) -> None:
        """Offer these classes, in an order that stays the same while counts grow."""
        kept = self._classes or self.classes.value
        names = (*kept, *(label for label in counts if label not in kept))
        options = tuple((f"{shown(n, 40) or '(no name)'}  {counts.get(n, 0):,}", n) for n in names)
        if options == self.classes.options:
            return
        self._classes, self._listing = names, threading.get_ident()
        picked = self.classes.value
        self.classes.options = options  # clears the selection
        self.classes.value = picked
        self._listing = 0
