"""The Compare tab: another run beside the one that is shown, or the first model of a cascade."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from html import escape
from typing import Any

import ipywidgets as widgets

from tilevision.display import readable
from tilevision.errors import RunError, TilevisionError
from tilevision.evaluation import compare
from tilevision.history import cascade_steps, stored_result
from tilevision.pipeline.manifest import find_manifest
from tilevision.plot import shown
from tilevision.result import Result
from tilevision.view.compare.sides import Sides
from tilevision.view.notebook import variable
from tilevision.view.panel.controls import column, menu, run_options
from tilevision.view.picture.caption import Counted
from tilevision.view.picture.subject import PlannedRun
from tilevision.view.picture.viewstate import fold, initial
from tilevision.view.results import ResultLookup

__all__ = ["CompareForm"]

NOTHING, FIRST_MODEL = "", "\0first"  # not the id of any run
NO_RIVAL = ("nothing", NOTHING)
_HINT = "Shows another run of this image over the one in the picture. Nothing is run."


class CompareForm:
    """Chooses what the result in the picture is compared with, and says how they differ.

    Parameters
    ----------
    checkpoint : path-like or None
        Folder of the runs.
    open_run : callable
        Given a run's id, returns the run as its journal has it.
    model_of : callable
        Given a run's id and its model's name, returns the model or None.
    on_change : callable
        Called after another run was chosen.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | None,
        open_run: Callable[[str], Any],
        model_of: Callable[[str, str], Any],
        on_change: Callable[[], None],
    ) -> None:
        self._checkpoint, self._open, self._model_of = checkpoint, open_run, model_of
        self._known: tuple[Any, Result | None, str] = (None, None, "")
        self._last: tuple[Any, Sides | None] = (None, None)
        self.menu = menu("Compare with", [NO_RIVAL], "Runs of this image, the latest first")
        self.words = widgets.HTML(
            f'<div class="tilevision-note">{_HINT}</div>', _dom_classes=["tilevision-words"]
        )
        self.box = column(self.menu, self.words, name="compare")
        self.menu.observe(lambda _: on_change(), names="value")

    def offer(self, run: Any, rows: Iterable[Any]) -> None:
        """List what `run` can be compared with of the past runs `rows`; the choice stays."""
        if run is None:
            return
        options = [NO_RIVAL]
        if self._has_cascade(run):
            options.append(("the first model of its cascade", FIRST_MODEL))
        options += run_options(
            (f"{row.started:%d %b %H:%M} · {row.tiles:,} tiles, {row.status} · {row.model}", row.id)
            for row in rows
            if row.id != run.id and row.image == readable(run.name)
        )
        chosen = self.menu.value
        if tuple(options) != tuple(self.menu.options):
            self.menu.options = options
            self.menu.value = chosen if chosen in [value for _, value in options] else NOTHING

    def over(
        self, counted: Counted, run: Any, result: Result, cut: Callable[[Result], Result]
    ) -> Counted:
        """Return what is drawn of `result`, beside what was chosen.

        Parameters
        ----------
        counted : Counted
            What is drawn without it.
        run : Watched
            That is shown.
        result : Result
            Of `run`, as it is filtered.
        cut : callable
            Filters another result as that one is.
        """
        chosen = self.menu.value
        if chosen == NOTHING or run is None:
            self._say(_HINT)
            return counted
        rival, words = self._rival(run, chosen)
        if rival is None:
            self._say(words, alarm=True)
            return counted
        if rival.source.size != result.source.size:
            self._say("That run is of an image of another size.", alarm=True)
            return counted
        other = cut(rival)
        key = (id(result.findings), id(rival), repr(other.settings), other.facts.region)
        if self._last[0] != key:
            pair = (other, result) if chosen == FIRST_MODEL else (result, other)
            comparison = compare(*pair)
            self._last = (key, Sides(comparison))
            note = f'<div class="tilevision-note">{escape(words)}</div>' if words else ""
            self.words.value = note + comparison._repr_html_()
        return replace(counted, rivals=self._last[1])

    def _rival(self, run: Any, chosen: str) -> tuple[Result | None, str]:
        """Return the other result, and words on it; without a result, why there is none."""
        key = (chosen, run.id)
        if self._known[0] != key:
            self._say("Reading what is stored…")
            try:
                self._known = (key, *self._read(run, chosen))
            except (TilevisionError, OSError, KeyError) as error:
                self._known = (key, None, shown(str(error), 300))
        return self._known[1:]

    def _read(self, run: Any, chosen: str) -> tuple[Result, str]:
        if self._checkpoint is None:
            raise RunError("Nothing is kept: checkpoint=None.")
        if chosen != FIRST_MODEL:
            return self._read_other(self._open(chosen), self._checkpoint)
        model = self._model(run.id, run.model.name)
        steps = cascade_steps(run, self._checkpoint, model=model)
        return steps.first, f"A is the first model alone, B the cascade. {steps.words}"

    def _has_cascade(self, run: Any) -> bool:
        if isinstance(run, PlannedRun):  # looking for its journal would read all others
            return False
        try:
            routing = find_manifest(run.id, self._checkpoint or "").get("routing")
        except RunError:  # nothing is kept
            return False
        if routing is None:
            return False
        targets = (routing, routing.get("default"), *(to for _, to in routing.get("rules", ())))
        return any(isinstance(target, dict) and "first" in target for target in targets)

    def _read_other(self, other: Any, checkpoint: Any) -> tuple[Result, str]:
        """Return what is stored of a run; without its function, what its journal tells."""
        words = f"B is run {other.id}."
        try:
            model = self._model(other.id, other.model.name)
            return stored_result(other, checkpoint, model=model), words
        except (TilevisionError, KeyError):
            state = fold(initial(other.tiles), other.events())
            told = ResultLookup(checkpoint).of(other, state)
            if told is None:
                raise
            return told, f"{words} Its model is not here: boxes are those of its journal."

    def _model(self, run_id: str, name: str) -> Any:
        """Return a run's model, of the panel or the notebook; the store checks what it is."""
        return self._model_of(run_id, name) or variable(name)

    def _say(self, line: str, *, alarm: bool = False) -> None:
        kind = "tilevision-alarm" if alarm else "tilevision-note"
        self._last = (None, None)
        self.words.value = f'<div class="{kind}">{escape(line)}</div>'
