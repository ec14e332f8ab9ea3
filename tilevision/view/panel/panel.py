"""The panel: set up, run, watch, inspect, filter and export in one notebook cell."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any

import ipywidgets as widgets

from tilevision.errors import RunError
from tilevision.grid import Tile
from tilevision.history import ReplayedRun
from tilevision.history.followedrun import JournaledRun
from tilevision.pipeline import Run, plan, start
from tilevision.result import Result
from tilevision.sources import following
from tilevision.status import RunStatus, TileStatus
from tilevision.view.notebook import CellWatch, cell_number, display, require_notebook
from tilevision.view.panel.controls import Tabs, close_all
from tilevision.view.panel.exportform import ExportForm
from tilevision.view.panel.filters import Filters
from tilevision.view.panel.inspector import Inspector
from tilevision.view.panel.jobs import JobQueue
from tilevision.view.panel.pastruns import PastRunList, PastRuns
from tilevision.view.panel.results import ResultLookup
from tilevision.view.panel.runcontrols import RunControls
from tilevision.view.panel.settingsform import SettingsForm
from tilevision.view.panel.tilelist import TileList
from tilevision.view.panel.tiletrials import Trial, Trials, arguments_of_trial
from tilevision.view.picture.overlay import Frame
from tilevision.view.picture.screen import Screen
from tilevision.view.picture.snapshot import Snapshot
from tilevision.view.picture.subject import PlannedRun
from tilevision.view.picture.viewstate import ViewState

__all__ = ["Panel", "explore"]

COUNT_SECONDS = 0.3  # the least time between two counts while a run is going


def explore(
    image: Any,
    model: Any = None,
    *,
    models: Iterable[Any] = (),
    checkpoint: str | os.PathLike[str] | None = ".tilevision",
    **arguments: Any,
) -> Panel:
    """Show the panel for an image in the notebook: choose, press Run, watch, look closer.

    Returns immediately; nothing runs before Run is pressed.

    Parameters
    ----------
    image : path, PIL image, array or ImageSource
    model : optional
        The initial choice, as `tilevision.start` takes it; default: the first one offered.
    models : iterable
        More models to choose from, besides those of `tilevision.models`: functions, weights,
        specs.
    checkpoint : path-like or None
        Folder where each tile's findings are stored; past runs in it can be reopened.
    **arguments
        Initial values of the controls, as `tilevision.start` takes them: ``grid="8x8"``,
        ``min_score=0.5``, ``client=client``, …

    Returns
    -------
    Panel
        Its ``run`` and ``result`` are what is on the screen; ``close()`` ends it.

    Raises
    ------
    RunError
        Outside a notebook, or if an argument is not one of `tilevision.start`.
    ModelError, GridError
        If a model or the grid is invalid.
    """
    require_notebook("tv.explore", "tv.analyze(image, model=...)")
    known = signature(start).parameters
    strange = [name for name in arguments if name not in known or name == "strict"]
    if strange:
        raise RunError(
            f"tv.explore has no argument {strange[0]!r}. It takes image, model, models, checkpoint "
            "and the arguments of tv.start."
        )
    panel = Panel(image, model, tuple(models), checkpoint, arguments)
    panel.display()
    return panel


class Panel:
    """Controls, the live picture, filters and the tile inspector for one image.

    Whatever takes time happens on threads of the panel, which exist only while there is
    something to do: the notebook is never blocked.

    Parameters
    ----------
    image, model, models, checkpoint, arguments
        As `tilevision.explore` takes them.

    Attributes
    ----------
    run : Run, ReplayedRun or None
        The latest run that was started or opened here.
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
        self._cannot = ""  # why an opened past run cannot be resumed
        self._announced: tuple[Any, ...] = ()
        self._counted: tuple[Any, ...] = ()
        self._rest_until = 0.0
        self._cell: int | None = None
        self._snapshot = Snapshot()
        # A pause must not wait for a long job, nor a slider for a plan.
        self._work = JobQueue("tilevision-panel-work", self._alarm)
        self._commands = JobQueue("tilevision-panel-command", self._alarm)
        self._lookups = JobQueue("tilevision-panel-lookup", self._alarm)
        self._settings = SettingsForm(image, model, models, arguments, self._replan)
        self._past = PastRuns(checkpoint, self._settings)
        self._results = ResultLookup(checkpoint, self._past.model_of)
        self._filters = Filters(
            arguments.get("min_score"),
            arguments.get("classes"),
            arguments.get("merge", "seam"),
            self._recount,
        )
        self._controls = self._make_controls(arguments.get("concurrency"))
        self._past_list = PastRunList(checkpoint, self._reopen, self._resume_past, self._describe)
        self._export = ExportForm(self._save)
        self._tile_list: Any = TileList()
        self._screen = Screen(self._on_frame)
        self._inspector = self._make_inspector()
        self.widget = self._laid_out()
        self._connect()
        self._cells = CellWatch(self._controls.show_busy_cell)
        self._replan()
        self._work.put("past", self._list_past)

    @property
    def result(self) -> Result | None:
        """The result so far, as it is filtered in the panel; None if there is none yet."""
        known = self._results.of(self.run)
        return None if known is None else known.with_(**self._filters.read())

    def display(self) -> None:
        """Show the panel below the current cell; it may be shown several times."""
        display(self.widget)
        self._snapshot.display(self._screen.text)
        self._cell = cell_number()
        self._screen.poke()

    def close(self) -> None:
        """Close the panel; its last picture stays. A run that is going continues."""
        self._cells.close()
        for part in (self._inspector, self._commands, self._lookups, self._work):
            part.close()
        self._screen.close()
        self._tabs.link.close()
        close_all(self.widget)

    def _ipython_display_(self) -> None:
        # As the last value of the cell that displayed it, it is there already.
        if self._cell is None or self._cell != cell_number():
            self.display()

    def __repr__(self) -> str:
        return f"<Panel of {self._screen.text}>"

    # Its parts ----------------------------------------------------------------------------

    def _make_controls(self, concurrency: int | None) -> RunControls:
        actions = {
            "run": lambda: self._work.put("run", self._start),
            "pause": self._command("pause"),
            "cancel": self._command("cancel"),
            "resume": self._command("resume"),
            "retry": self._command("retry_failed"),
        }
        return RunControls(actions, concurrency, self._set_concurrency)

    def _make_inspector(self) -> Inspector:
        inspector = Inspector(
            self._screen,
            self._lookups,
            lambda tile: self._results.of_tile(self.run, tile),
            self._retry_tile,
            Trials(self._trial_of, self._alarm),
        )
        inspector.widget.models = list(self._settings.model.names)
        return inspector

    def _connect(self) -> None:
        """Listen to what the page tells."""
        self._screen.canvas.observe(lambda change: self._pick(change["new"]), names="picked")
        self._settings.more.observe(lambda change: self._add_model(change["new"]), names="value")
        self._tile_list.observe(lambda change: self._pick_listed(change["new"]), names="picked")

    def _laid_out(self) -> Any:
        self._tabs = Tabs(
            {
                "Setup": [self._settings.box],
                "Detections": [self._filters.box, self._export.box],
                "Tiles": [self._tile_list],
                "Runs": [self._past_list.box],
            }
        )
        side = widgets.VBox([self._controls.box, self._tabs.box])
        side.add_class("tilevision-side")
        main = widgets.VBox([self._screen.canvas, self._inspector.widget])
        main.add_class("tilevision-main")
        columns = widgets.Box([side, main])
        columns.add_class("tilevision-columns")
        root = widgets.Box([columns])
        root.add_class("tilevision-panel")
        return root

    # What the buttons do, on threads ------------------------------------------------------

    def _command(self, method: str) -> Callable[[], None]:
        """Return what calls a method of the current run.

        A past run can only be resumed, which tries its failed tiles again.
        """

        def clicked() -> None:
            run = self.run
            if isinstance(run, Run):
                self._commands.put(method, getattr(run, method))
            elif run is not None:
                self._resume_past(run.id)

        return clicked

    def _start(self) -> None:
        self._controls.say("Starting…")
        image, arguments = self._settings.read()
        arguments |= self._filters.at_start()
        arguments["concurrency"] = self._controls.concurrency.value or None
        with following(self._controls.show_preparation):
            run = start(image, **arguments, checkpoint=self._checkpoint)
        self._show(run)

    def _show(self, run: Any, **options: Any) -> None:
        self.run, self._announced, self._counted = run, (), ()
        self._screen.show(run, **options)

    def _replan(self) -> None:
        if not self._going:
            self._work.put("plan", self._plan)

    def _plan(self) -> None:
        self._ready = False
        self._controls.say("Looking at the image…")
        image, arguments = self._settings.read()
        with following(self._controls.show_preparation):
            made = plan(image, **arguments, checkpoint=self._checkpoint)
        if self._going:
            return
        self._ready = True
        if arguments.get("min_score") is None:
            self._filters.offer(made.stages.min_score or 0.0)
        self._screen.show(PlannedRun(made))
        self._controls.show_plan(made, self._settings.model.words)

    def _reopen(self, run_id: str) -> None:
        def opened() -> None:
            run = self._past.open(run_id)
            self._cannot = self._past.why_not(run_id, run.status)
            self._show(run, **({"clock": run.clock} if isinstance(run, ReplayedRun) else {}))

        self._work.put("run", opened)

    def _resume_past(self, run_id: str) -> None:
        self._work.put("run", lambda: self._show(self._past.resume(run_id)))

    def _describe(self) -> None:
        self._lookups.put("describe", lambda: self._past_list.describe(self._past.why_not))

    def _list_past(self) -> None:
        self._past_list.refresh()
        self._past_list.describe(self._past.why_not)

    def _add_model(self, text: str) -> None:
        def added() -> None:
            self._settings.add_model(text)
            self._inspector.widget.models = list(self._settings.model.names)
            self._replan()

        if text.strip():
            self._work.put("add", added)

    def _retry_tile(self, tile: Tile) -> None:
        run = self.run
        self._commands.put("retry tile", lambda: run.retry([tile]))

    def _trial_of(self, number: int, tile: Tile) -> Trial:
        models = self._settings.model
        image, arguments = self._settings.read()
        mine = arguments_of_trial(self.run, tile, arguments, models[number])
        return Trial(models.names[number], image, mine | {"checkpoint": self._checkpoint})

    def _set_concurrency(self, number: int | None) -> None:
        run = self.run
        if self._going:
            self._commands.put("concurrency", lambda: run.set_concurrency(number))

    def _save(self, path: str) -> None:
        def saved() -> None:
            result = self.result
            if result is None:
                raise RunError("There is nothing to export yet. Press Run first.")
            self._export.say(f"Saved {len(result.findings):,} detections to {result.save(path)}.")

        self._lookups.put("save", saved)

    def _alarm(self, line: str) -> None:
        self._controls.say(line, alarm=True)

    # What is shown ------------------------------------------------------------------------

    @property
    def _going(self) -> bool:
        """Whether a run of this panel has yet to end."""
        return isinstance(self.run, Run) and not RunStatus(self.run.status).over

    def _recount(self) -> None:
        self._lookups.put("count", self._count)

    def _count(self) -> None:
        run, state, began = self.run, self._screen.state, time.monotonic()
        known = self._results.of(run)
        if known is None or state is None or self._screen.run is not run:
            return
        counted = self._filters.apply(known, state.boxes.labels, state.index)
        wanted = self._filters.touched or state.ended or counted.heat is not None
        self._screen.count(counted if wanted else None)
        self._rest_until = time.monotonic() + 2 * (time.monotonic() - began) + COUNT_SECONDS

    def _on_frame(self, state: ViewState, frame: Frame, text: str) -> None:
        """Update everything beside the picture; on the drawing thread."""
        self._snapshot.update(frame, text, now=state.at_rest)
        self._tile_list.update(state, now=state.at_rest)
        run = self._screen.run
        past = isinstance(run, JournaledRun)
        self._controls.fit(
            state.run_status,
            failed=state.counts.get(TileStatus.FAILED, 0),
            ready=self._ready,
            past=past,
            resumable=state.ended and not self._cannot,
        )
        if run is None or run is not self.run or state.run_status is None:
            return
        self._inspector.follow(run)
        news = (state.run_status, state.reason, getattr(run, "dashboard_link", None))
        if news != self._announced:
            self._announced = news
            self._controls.show_run(run, state, cannot=self._cannot if past else None)
            if state.ended:
                self._work.put("past", self._list_past)
        count = (state.n_finished, state.run_status)
        if count != self._counted and (state.ended or time.monotonic() > self._rest_until):
            self._counted = count
            self._recount()

    def _pick(self, picked: list[float]) -> None:
        shown = self._screen.run
        if len(picked) == 3 and shown is not None:
            self._inspector.pick(shown, picked[0], picked[1])

    def _pick_listed(self, picked: list[int]) -> None:
        shown = self._screen.run
        if len(picked) == 2 and shown is not None:
            self._inspector.open(shown, picked[0])
