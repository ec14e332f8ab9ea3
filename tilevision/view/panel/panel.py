"""The panel: set up, run, watch, inspect, filter and export in one notebook cell."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from inspect import signature
from typing import Any

import ipywidgets as widgets

from tilevision.analysis.probing import Probe
from tilevision.colouring import chosen_colours
from tilevision.errors import RunError
from tilevision.evaluation import Comparison
from tilevision.findings import TileFindings
from tilevision.grid import Tile
from tilevision.history import ReplayedRun
from tilevision.history.followedrun import JournaledRun
from tilevision.pipeline import Run, plan, start
from tilevision.result import Result
from tilevision.seams import LIMITS
from tilevision.sources import following
from tilevision.status import RunStatus, TileStatus
from tilevision.view.compare.compareform import CompareForm
from tilevision.view.compare.compareview import shown_comparison
from tilevision.view.correction.correcting import Correcting
from tilevision.view.drawing.drawnregions import DrawnRegions
from tilevision.view.drawing.regionform import RegionForm
from tilevision.view.jobs import JobQueue
from tilevision.view.notebook import CellWatch, cell_number, name_of, require_notebook, show_widget
from tilevision.view.outcome.codelines import python_code, shell_code, with_own
from tilevision.view.outcome.outcome import Outcome
from tilevision.view.panel.controls import SubjectSwitch, Tabs, close_all
from tilevision.view.panel.exportform import ExportForm
from tilevision.view.panel.filters import Filters
from tilevision.view.panel.inspector import Inspector
from tilevision.view.panel.lookalikes import LookAlikes
from tilevision.view.panel.pastruns import PastRunList, PastRuns
from tilevision.view.panel.runcontrols import RunControls
from tilevision.view.panel.settingsform import SettingsForm
from tilevision.view.panel.tilelist import TileList
from tilevision.view.panel.tiletrials import Trial, Trials, arguments_of_trial
from tilevision.view.picture.caption import Counted
from tilevision.view.picture.counting import Counting
from tilevision.view.picture.screen import Screen
from tilevision.view.picture.snapshot import CaptionedFrame, Snapshot
from tilevision.view.picture.subject import PlannedRun
from tilevision.view.picture.viewstate import ViewState
from tilevision.view.results import ResultLookup

__all__ = ["Panel", "explore"]

LISTING = ("Compare", "Runs")  # tabs that list past runs


def explore(
    image: Any,
    model: Any = None,
    *,
    models: Iterable[Any] = (),
    checkpoint: str | os.PathLike[str] | None = ".tilevision",
    **arguments: Any,
) -> Any:
    """Show the panel for an image in the notebook: choose, press Run, watch, look closer.

    Returns immediately; nothing runs before Run is pressed. Given what `tilevision.compare`
    returned, it shows both results in one picture: differences, a divider to drag, or in turn.

    Parameters
    ----------
    image : path, PIL image, array, ImageSource or Comparison
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
    Panel or CompareView
        ``run`` and ``result`` of a panel are what is on the screen; ``close()`` ends it.

    Raises
    ------
    RunError
        Outside a notebook, or if an argument is not one of `tilevision.start`.
    ModelError, GridError
        If a model or the grid is invalid.
    """
    if isinstance(image, Comparison):
        return shown_comparison(image)
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
        self._clock: dict[str, Any] = {}
        self._checkpoint = checkpoint
        self._ready = self._listed = self._changed = False
        self._cannot = ""  # why an opened past run cannot be resumed
        self._announced: tuple[Any, ...] = ()
        self._plan: PlannedRun | None = None  # of the settings as they are now
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
            {name: arguments[name] for name in LIMITS if arguments.get(name) is not None},
        )
        self._controls = self._make_controls(arguments.get("concurrency"))
        self._past_list = PastRunList(
            checkpoint, self._reopen, self._resume_past, self._describe, self._refresh_past
        )
        self._export = ExportForm(self._save)
        self._tile_list: Any = TileList()
        self._screen = Screen(self._on_frame)
        self._outcome = Outcome(self._screen, self._filters.limit)
        self._correcting = Correcting(
            self._screen, self._outcome, checkpoint, self._lookups, self._recount
        )
        self._screen.outlines = False
        self._screen.folder, self._screen.on_colour = checkpoint, self._recoloured
        self._regions = DrawnRegions(self._screen.canvas, self._redrawn)
        self._region_form = RegionForm(self._regions, lambda: self._screen.run, self._work)
        self._counting = Counting(self._screen, self._count, self._lookups)
        self._subject = SubjectSwitch(self._switch)
        self._compare = CompareForm(checkpoint, self._past.read, self._past.model_of, self._recount)
        self._alike = LookAlikes(self._lookups, self._known, self._go_to, self._recount)
        self._inspector = self._make_inspector()
        self.widget = self._laid_out()
        self._connect()
        self._cells = CellWatch(self._controls.show_busy_cell)
        self._replan()

    @property
    def result(self) -> Result | None:
        """The result of what is shown, as it is filtered in the panel; None if there is none."""
        known = self._known()
        if known is None or not known.tile_findings:
            return None
        return self._cut(known)

    @property
    def labels(self) -> dict[str, list[str]]:
        """The tiles labelled by hand, ids by class, as `Result.probe` takes them."""
        return {name: list(ids) for name, ids in self._alike.labels.items()}

    @property
    def probe(self) -> Probe | None:
        """The latest probe of the labelled tiles; None before the first."""
        return self._alike.probe

    def display(self) -> None:
        """Show the panel below the current cell; it may be shown several times."""
        show_widget(self.widget)
        self._snapshot.display(self._screen.text)
        self._cell = cell_number()
        self._screen.poke()

    def close(self) -> None:
        """Close the panel; its last picture stays. A run that is going continues."""
        self._cells.close()
        self._counting.close()
        queues = self._commands, self._lookups, self._work
        for part in (self._past_list, self._inspector, self._alike, self._correcting, *queues):
            part.close()
        self._screen.close()
        self._snapshot.flush()
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
            self._findings_of,
            self._retry_tile,
            Trials(self._trial_of, self._alarm),
            self._alike.show,
        )
        inspector.widget.models = list(self._settings.model.names)
        return inspector

    def _connect(self) -> None:
        """Listen to what the page tells."""
        self._screen.canvas.observe(lambda change: self._pick(change["new"]), names="picked")
        self._screen.canvas.on_msg(lambda _, content, __: self._press(content))
        self._settings.more.observe(lambda change: self._add_model(change["new"]), names="value")
        self._tile_list.observe(lambda change: self._pick_listed(change["new"]), names="picked")
        self._tabs.buttons.observe(lambda change: self._turned(change["new"]), names="value")

    def _turned(self, tab: str) -> None:
        """Do what only the tab needs that is open now."""
        self._past_list.watch(tab in LISTING)
        self._lookups.put("doubt", self._tell_doubt)

    def _laid_out(self) -> Any:
        self._tabs = Tabs(
            {
                "Setup": [self._settings.box],
                "Results": [self._outcome.view, self._region_form.box],
                "Detections": [self._filters.box, self._outcome.table, self._export.box],
                "Tiles": [self._tile_list],
                "Compare": [self._compare.box],
                "Runs": [self._past_list.box],
            }
        )
        side = [self._controls.box, self._tabs.box]
        main = [self._subject.box, self._screen.canvas, self._inspector.widget, self._alike.widget]
        columns = [
            widgets.VBox(side, _dom_classes=["tilevision-side"]),
            widgets.VBox(main, _dom_classes=["tilevision-main"]),
        ]
        inner = widgets.Box(columns, _dom_classes=["tilevision-columns"])
        return widgets.Box([inner], _dom_classes=["tilevision-panel"])

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
        if self._going:  # a second click came before the button was greyed
            return
        self._controls.say("Starting…")
        image, arguments = self._asked()
        arguments |= self._filters.at_start()
        arguments["concurrency"] = self._controls.concurrency.value or None
        with following(self._controls.show_preparation):
            run = start(image, **arguments, checkpoint=self._checkpoint)
        self._show(run)

    def _asked(self) -> tuple[Any, dict[str, Any]]:
        """Return the image, and the arguments of `tilevision.start` as they are set."""
        image, arguments = self._settings.read()
        return image, arguments | ({"region": self._regions.value} if self._regions.touched else {})

    def _show(self, run: Any, **options: Any) -> None:
        self._regions.show(getattr(run, "region", None))
        self.run, self._announced, self._clock = run, (), options
        self._subject.offer(_run_words(run), None)
        self._screen.show(run, **options)
        self._compare.offer(run, self._past_list.rows)

    def _switch(self, to_plan: bool) -> None:
        """Show the plan of the settings as they are now, or the run again."""
        self._announced = ()
        plan, run = self._plan, self.run
        if to_plan and plan is not None:
            self._screen.show(plan)
            self._controls.show_plan(plan.plan, self._settings.model.words)
        elif run is not None:
            self._screen.show(run, **self._clock)

    def _replan(self) -> None:
        self._changed = True  # first: a run that ends at this moment plans by itself
        if not self._going:
            self._work.put("plan", self._make_plan)

    def _make_plan(self) -> None:
        if self._going:
            return  # the end of a run plans what was changed
        self._ready = self._changed = False
        self._controls.say("Looking at the image…")
        image, arguments = self._asked()
        with following(self._controls.show_preparation):
            made = plan(image, **arguments, checkpoint=self._checkpoint)
        self._changed = self._changed or self._going
        if self._changed and self._going:
            return
        self._ready = True
        if arguments.get("min_score") is None:
            self._filters.offer(made.stages.min_score or 0.0)
        self._plan = PlannedRun(made)
        self._regions.show(made.region if self.run is None else getattr(self.run, "region", None))
        if self.run is None:
            self._screen.show(self._plan)
        elif self._screen.run is self.run:
            # What the run found stays on the screen until the user looks elsewhere.
            self._subject.offer(_run_words(self.run), f"New setup: {len(made.tiles):,} tiles")
            self._screen.poke()  # a frame drawn meanwhile has found nothing ready, and greyed Run
        else:
            self._screen.show(self._plan)
        new = self._screen.run is not self._plan
        self._controls.show_plan(made, self._settings.model.words, new=new)

    def _reopen(self, run_id: str) -> None:
        def opened() -> None:
            run = self._past.open(run_id)
            # A replay has the status with which it ended once it is watched, and no sooner.
            status = self._past_list.status_of(run_id) or run.status
            self._cannot = self._past.why_not(run_id, status)
            self._regions.show(getattr(run, "region", None), instead=True)
            self._show(run, **({"clock": run.clock} if isinstance(run, ReplayedRun) else {}))

        self._work.put("run", opened)

    def _resume_past(self, run_id: str) -> None:
        def resumed() -> None:
            if not (self._going and self.run.id == run_id):  # of a second click: it is running
                self._show(self._past.resume(run_id))

        self._work.put("run", resumed)

    def _describe(self) -> None:
        self._lookups.put("describe", lambda: self._past_list.describe(self._past.why_not))

    def _refresh_past(self) -> None:
        self._listed = True
        self._work.put("past", self._list_past)

    def _list_first(self) -> None:
        """List past runs, if that was not done: not before a picture is there, or none can be."""
        if not self._listed:
            self._refresh_past()

    def _list_past(self) -> None:
        self._past_list.refresh()
        self._compare.offer(self._screen.run, self._past_list.rows)
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
        if self._going:
            self._commands.put("concurrency", partial(self.run.set_concurrency, number))

    def _redrawn(self) -> None:
        """Count what is in the regions at once, and plan the tiles that they touch."""
        self._recount()
        self._replan()

    def _save(self, path: str) -> None:
        def saved() -> None:
            self._export.write(path, self.result, self._shown_words)

        self._lookups.put("save", saved, self._export.answer.fail)

    def _alarm(self, line: str) -> None:
        self._controls.say(line, alarm=True)
        self._screen.show_none()
        self._list_first()

    # What is shown ------------------------------------------------------------------------

    @property
    def _going(self) -> bool:
        """Return True if a run of this panel has yet to end."""
        return isinstance(run := self.run, Run) and not RunStatus(run.status).over

    @property
    def _shown_words(self) -> str:
        """What is shown, counted and exported."""
        shown = self._screen.run
        if shown is None or isinstance(shown, PlannedRun):
            return "the tiles that are stored for this setup"
        return f"run {shown.id}"

    def _recoloured(self) -> None:
        """Draw what has colours of classes again."""
        self._outcome.table.recolour()
        self._inspector.recolour()
        self._recount()

    def _recount(self) -> None:
        self._counting.again()

    def _count(self, state: ViewState) -> Counted | None:
        """Return what is shown, filtered; the words beside the filters say what that is."""
        known = self._results.of(self._screen.run, state)
        if known is None:
            self._say_nothing(f"The result of {self._shown_words} is not available here.")
            return None
        if state.planned and not known.tile_findings:
            self._say_nothing("No tile is stored for this setup yet. Press Run.")
            return None
        result, subject = self._cut(known), self._shown_words
        self._outcome.show(result)
        self._correcting.follow()
        report = partial(self._report, known, result, state, subject)
        if state.at_rest:
            self._counting.then(report)
        else:
            report()
        cut, over = self._regions.touched, self._alike.layer(state)
        counted = self._filters.apply(
            known, result, state, subject.capitalize(), cut=cut, over=over
        )
        return self._compare.over(counted, self._screen.run, result, self._cut)

    def _report(self, known: Result, result: Result, state: ViewState, subject: str) -> None:
        self._outcome.tell(known, result, state, subject, self._filters.limits, self._code())
        self._tell_doubt()

    def _tell_doubt(self) -> None:
        """List the tiles in doubt, while somebody looks at the list: it takes its time."""
        state = self._screen.state
        if state is not None and state.at_rest and self._tabs.buttons.value == "Tiles":
            self._tile_list.tell_doubt(self._correcting.in_doubt(state))
            self._screen.poke()

    def _code(self) -> dict[str, str]:
        """Return what is set, filters and regions included, in Python and for the shell."""
        run = self._screen.run
        if isinstance(run, JournaledRun):  # opened here: Setup may say something else
            image, arguments = self._past.arguments_of(run.id)
            arguments["region"] = self._regions.told
        else:
            image, arguments = self._asked()
            arguments |= {"region": self._regions.told} if self._regions.touched else {}
        arguments |= self._filters.at_start() | {"checkpoint": self._checkpoint}
        arguments["concurrency"] = self._controls.concurrency.value or None
        result = self._outcome.result
        return with_own(
            python_code(image, arguments, name_of),
            shell_code(image, arguments, name_of),
            corrected=self._correcting.in_use,
            colours={} if result is None else chosen_colours(result.classes),
        )

    def _cut(self, known: Result) -> Result:
        """Return what is shown of `known`: as it is filtered, and within the regions drawn."""
        drawn: dict[str, Any] = {"region": self._regions.value} if self._regions.touched else {}
        return self._correcting.applied(known, self._filters.read() | drawn)

    def _say_nothing(self, why: str) -> None:
        self._filters.clear(why)
        self._outcome.clear(why)
        self._tile_list.tell_doubt([])
        self._correcting.follow()

    def _findings_of(self, tile: Tile) -> TileFindings | None:
        state = self._screen.state
        return None if state is None else self._results.of_tile(self._screen.run, state, tile)

    def _known(self) -> Result | None:
        """Return what is known of what is shown, as no filter leaves anything out."""
        state = self._screen.state
        return None if state is None else self._results.of(self._screen.run, state)

    def _go_to(self, run: Any, number: int) -> None:
        self._inspector.open(run, number)
        box = run.tiles[number].box
        self._screen.look_at(box, 3.0 * max(box.width, box.height))

    def _on_frame(self, state: ViewState, frame: CaptionedFrame) -> None:
        """Update everything beside the picture; on the drawing thread."""
        run = self._screen.run
        if self._screen.state is not state:  # of a run that has just made way for another
            return
        self._list_first()
        self._snapshot.update(frame, now=state.at_rest)
        self._tile_list.update(state, now=state.at_rest)
        self._counting.follow(state)
        past = isinstance(run, JournaledRun)
        self._controls.fit(
            state.run_status,
            failed=state.counts.get(TileStatus.FAILED, 0),
            ready=self._ready,
            past=past,
            resumable=state.ended and not self._cannot,
        )
        if run is not None:
            self._inspector.follow(run)
        if run is None or run is not self.run or state.run_status is None:
            return
        news = (state.run_status, state.reason, getattr(run, "dashboard_link", None))
        if news != self._announced:
            self._announced = news
            self._controls.show_run(run, state, cannot=self._cannot if past else None)
            if state.ended:
                self._refresh_past()
                self._tabs.turn("Setup", "Results")
                if self._changed:
                    self._replan()

    def _press(self, content: Any) -> None:
        """Do what a key on the picture asks for."""
        match content:
            case {"step": (1 | -1) as step}:
                self._outcome.step(step)
            case {"pause": True} if self._going:
                paused = RunStatus(self.run.status) is RunStatus.PAUSED
                self._command("resume" if paused else "pause")()
            case {"opened": True}:
                self._controls.tell_again()

    def _pick(self, picked: list[float]) -> None:
        shown = self._screen.run
        if len(picked) == 3 and shown is not None:
            self._outcome.select_at(picked[0], picked[1])
            self._inspector.pick(shown, picked[0], picked[1])

    def _pick_listed(self, picked: list[int]) -> None:
        shown = self._screen.run
        if len(picked) == 2 and shown is not None:
            self._inspector.open(shown, picked[0])


def _run_words(run: Any) -> str:
    return f"Run {run.id}"
