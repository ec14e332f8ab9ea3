"""The panel: choose, run, watch, look closer and change one's mind, in one cell."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from tilevision.errors import RunError
from tilevision.grid import Tile
from tilevision.history import ReplayedRun
from tilevision.history.journaled import JournaledRun
from tilevision.pipeline import Run, plan, start
from tilevision.result import Result
from tilevision.sources import following
from tilevision.view.notebook import CellWatch, cell_number, display
from tilevision.view.panel.filters import Filters
from tilevision.view.panel.form import close_all
from tilevision.view.panel.jobs import Lane
from tilevision.view.panel.pastruns import Past
from tilevision.view.panel.results import Known
from tilevision.view.panel.revival import Revival
from tilevision.view.panel.runcontrols import Steering
from tilevision.view.panel.saving import Saving
from tilevision.view.panel.settingsform import Choices
from tilevision.view.panel.tabs import Tabs
from tilevision.view.panel.tilelist import Board
from tilevision.view.panel.tiletrials import Trial, Trials, arguments_of_one
from tilevision.view.panel.tileview import TileView
from tilevision.view.picture.overlay import Frame
from tilevision.view.picture.screen import Screen
from tilevision.view.picture.snapshot import Still
from tilevision.view.picture.subject import PlannedRun
from tilevision.view.picture.viewstate import ENDED, ViewState

__all__ = ["Panel"]

COUNT_SECONDS = 0.3  # at least, between two counts while a run goes on


class Panel:
    """Controls, the live picture, filters and the tile inspector of one image.

    Whatever takes time happens on threads of its own, which live while there is something
    to do: the notebook stays free.

    Parameters
    ----------
    image, model, models, checkpoint, arguments
        As `tilevision.explore` takes them.

    Attributes
    ----------
    run : Run, ReplayedRun or None
        The latest that was started or opened here.
    """

    def __init__(
        self,
        image: Any,
        model: Any,
        models: tuple[Any, ...],
        checkpoint: str | os.PathLike[str] | None,
        arguments: dict[str, Any],
    ) -> None:
        self.run: Any = None
        self._checkpoint = checkpoint
        self._ready = False
        self._cannot = ""  # why an opened run of the past cannot be gone on with
        self._told: tuple[Any, ...] = ()
        self._counted: tuple[Any, ...] = ()
        self._rest_until = 0.0
        self._cell: int | None = None
        self._still = Still()
        # What takes long must not keep a pause waiting, nor a slider a plan.
        self._doing = Lane("tilevision-panel-do", self._alarm)
        self._quick = Lane("tilevision-panel-steer", self._alarm)
        self._looking = Lane("tilevision-panel-look", self._alarm)
        self._choices = Choices(image, model, models, arguments, self._replan)
        self._revival = Revival(checkpoint, self._choices)
        self._known = Known(checkpoint, self._revival.model_of)
        self._filters = Filters(
            arguments.get("min_score"),
            arguments.get("classes"),
            arguments.get("merge", "seam"),
            self._recount,
        )
        self._steering = Steering(
            {
                "run": lambda: self._doing.put("run", self._start),
                **{name: self._steer(name) for name in ("pause", "cancel")},
                "resume": self._steer("resume"),
                "retry": self._steer("retry_failed"),
            },
            arguments.get("concurrency"),
            self._set_concurrency,
        )
        self._past = Past(checkpoint, self._reopen, self._revive, self._describe)
        self._saving = Saving(self._save)
        self._board: Any = Board()
        self._screen = Screen(self._follow)
        self._tile = TileView(
            self._screen,
            self._looking,
            lambda tile: self._known.of_tile(self.run, tile),
            self._retry_tile,
            Trials(self._trial_of, self._alarm),
        )
        self._tile.widget.models = list(self._choices.model.names)
        self._screen.canvas.observe(lambda change: self._pick(change["new"]), names="picked")
        self._choices.more.observe(lambda change: self._add_model(change["new"]), names="value")
        self._board.observe(lambda change: self._pick_listed(change["new"]), names="picked")
        self.widget = self._laid_out()
        self._cells = CellWatch(self._steering.wait_for_cell)
        self._replan()
        self._doing.put("past", self._list_past)

    def _laid_out(self) -> Any:
        self._tabs = Tabs(
            {
                "Setup": [self._choices.box],
                "Detections": [self._filters.box, self._saving.box],
                "Tiles": [self._board],
                "Runs": [self._past.box],
            }
        )
        side = widgets.VBox([self._steering.box, self._tabs.box])
        side.add_class("tilevision-side")
        main = widgets.VBox([self._screen.canvas, self._tile.widget])
        main.add_class("tilevision-main")
        columns = widgets.Box([side, main])
        columns.add_class("tilevision-columns")
        root = widgets.Box([columns])
        root.add_class("tilevision-panel")
        return root

    @property
    def result(self) -> Result | None:
        """What is known by now, as it is filtered in the panel; None before there is anything."""
        known = self._known.of(self.run)
        return None if known is None else known.with_(**self._filters.read())

    def display(self) -> None:
        """Show the panel below the current cell, once more if need be."""
        display(self.widget)
        self._still.display(self._screen.text)
        self._cell = cell_number()
        self._screen.poke()

    def close(self) -> None:
        """End the panel; its last picture stays. A run that is at work goes on."""
        self._cells.close()
        for lane in (self._tile, self._quick, self._looking, self._doing):
            lane.close()
        self._screen.close()
        self._tabs.link.close()
        close_all(self.widget)

    def _ipython_display_(self) -> None:
        # As the last value of the cell that displayed it, it is there already.
        if self._cell is None or self._cell != cell_number():
            self.display()

    def __repr__(self) -> str:
        return f"<Panel of {self._screen.text}>"

    # What the buttons do, on threads ------------------------------------------------------

    def _steer(self, method: str) -> Callable[[], None]:
        """Return what has a method called of the run that is there then.

        A run of the past can only be gone on with, which gives its failed tiles fresh attempts.
        """

        def clicked() -> None:
            run = self.run
            if isinstance(run, Run):
                self._quick.put(method, getattr(run, method))
            elif run is not None:
                self._revive(run.id)

        return clicked

    def _start(self) -> None:
        self._steering.say("Starting…")
        image, arguments = self._choices.read()
        arguments |= self._filters.at_start()
        arguments["concurrency"] = self._steering.concurrency.value or None
        with following(self._steering.prepare):
            run = start(image, **arguments, checkpoint=self._checkpoint)
        self._show(run)

    def _show(self, run: Any, **options: Any) -> None:
        self.run, self._told, self._counted = run, (), ()
        self._screen.show(run, **options)

    def _replan(self) -> None:
        if not self._going:
            self._doing.put("plan", self._plan)

    def _plan(self) -> None:
        self._ready = False
        self._steering.say("Looking at the image…")
        image, arguments = self._choices.read()
        with following(self._steering.prepare):
            made = plan(image, **arguments, checkpoint=self._checkpoint)
        if self._going:
            return
        self._ready = True
        if arguments.get("min_score") is None:
            self._filters.offer(made.stages.min_score or 0.0)
        self._screen.show(PlannedRun(made))
        self._steering.plan(made, self._choices.model.words)

    def _reopen(self, run_id: str) -> None:
        def opened() -> None:
            run = self._revival.open(run_id)
            self._cannot = self._revival.why_not(run_id, run.status)
            self._show(run, **({"clock": run.clock} if isinstance(run, ReplayedRun) else {}))

        self._doing.put("run", opened)

    def _revive(self, run_id: str) -> None:
        self._doing.put("run", lambda: self._show(self._revival.resume(run_id)))

    def _describe(self) -> None:
        self._looking.put("describe", lambda: self._past.describe(self._revival.why_not))

    def _list_past(self) -> None:
        self._past.refresh()
        self._past.describe(self._revival.why_not)

    def _add_model(self, text: str) -> None:
        def added() -> None:
            self._choices.add_model(text)
            self._tile.widget.models = list(self._choices.model.names)
            self._replan()

        if text.strip():
            self._doing.put("add", added)

    def _retry_tile(self, tile: Tile) -> None:
        run = self.run
        self._quick.put("retry tile", lambda: run.retry([tile]))

    def _trial_of(self, number: int, tile: Tile) -> Trial:
        menu = self._choices.model
        image, arguments = self._choices.read()
        mine = arguments_of_one(self.run, tile, arguments, menu[number])
        return Trial(menu.names[number], image, mine | {"checkpoint": self._checkpoint})

    def _set_concurrency(self, number: int | None) -> None:
        run = self.run
        if self._going:
            self._quick.put("concurrency", lambda: run.set_concurrency(number))

    def _save(self, path: str) -> None:
        def saved() -> None:
            result = self.result
            if result is None:
                raise RunError("there is nothing to export yet; press Run first")
            self._saving.say(f"Saved {len(result.findings):,} detections to {result.save(path)}.")

        self._looking.put("save", saved)

    def _alarm(self, line: str) -> None:
        self._steering.say(line, alarm=True)

    # What is known ------------------------------------------------------------------------

    @property
    def _going(self) -> bool:
        """Whether a run of this panel's is at work."""
        return isinstance(self.run, Run) and self.run.status not in ENDED

    def _recount(self) -> None:
        self._looking.put("count", self._count)

    def _count(self) -> None:
        run, state, began = self.run, self._screen.state, time.monotonic()
        known = self._known.of(run)
        if known is None or state is None or self._screen.run is not run:
            return
        counted = self._filters.apply(known, state.boxes.labels, state.index)
        meant = self._filters.touched or state.ended or counted.heat is not None
        self._screen.count(counted if meant else None)
        self._rest_until = time.monotonic() + 2 * (time.monotonic() - began) + COUNT_SECONDS

    def _follow(self, state: ViewState, frame: Frame, text: str) -> None:
        """Bring everything beside the picture up to date; on the drawing thread."""
        self._still.update(frame, text, now=state.at_rest)
        self._board.tell(state, now=state.at_rest)
        run = self._screen.run
        self._steering.fit(
            state.run_status,
            failed=state.counts.get("failed", 0),
            ready=self._ready,
            past=isinstance(run, JournaledRun),
            revivable=state.ended and not self._cannot,
        )
        if run is None or run is not self.run or not state.run_status:
            return
        self._tile.follow(run)
        news = (state.run_status, state.reason, getattr(run, "dashboard_link", None))
        if news != self._told:
            self._told = news
            past = isinstance(run, JournaledRun)
            self._steering.tell(run, state, cannot=self._cannot if past else None)
            if state.ended:
                self._doing.put("past", self._list_past)
        count = (state.n_finished, state.run_status)
        if count != self._counted and (state.ended or time.monotonic() > self._rest_until):
            self._counted = count
            self._recount()

    def _pick(self, picked: list[float]) -> None:
        shown = self._screen.run
        if len(picked) == 3 and shown is not None:
            self._tile.pick(shown, picked[0], picked[1])

    def _pick_listed(self, picked: list[int]) -> None:
        shown = self._screen.run
        if len(picked) == 2 and shown is not None:
            self._tile.open(shown, picked[0])
