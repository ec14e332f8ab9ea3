"""The panel: choose, run, watch, look closer and change one's mind, in one cell."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import ipywidgets as widgets

from tilevision.errors import RunError
from tilevision.findings import TileFindings
from tilevision.grid import Tile
from tilevision.pipeline import Plan, ReplayedRun, Run, plan, resume, start
from tilevision.result import Result
from tilevision.view.board import Board
from tilevision.view.choices import Choices
from tilevision.view.filters import Filters
from tilevision.view.lane import Lane
from tilevision.view.notebook import cell_number, display, require_notebook
from tilevision.view.overlay import Frame
from tilevision.view.past import Past
from tilevision.view.saving import Saving
from tilevision.view.screen import Screen
from tilevision.view.state import ENDED, ViewState
from tilevision.view.steering import Steering
from tilevision.view.still import Still
from tilevision.view.subject import PlannedRun
from tilevision.view.tabs import Tabs
from tilevision.view.tileview import TileView

__all__ = ["Panel", "explore"]


def explore(
    image: Any,
    model: Any = None,
    *,
    models: Iterable[Any] = (),
    checkpoint: str | os.PathLike[str] | None = ".tilevision",
    **arguments: Any,
) -> Panel:
    """Show the panel for an image in the notebook: choose, press Run, watch, look closer.

    Returns at once; nothing runs before Run is pressed.

    Parameters
    ----------
    image : path, PIL image, array or ImageSource
    model : optional
        Chosen at first, as `tilevision.start` takes it; default: the first there is.
    models : iterable
        More to choose from, beside those of `tilevision.models`: functions, weights, specs.
    checkpoint : path-like or None
        Folder where each tile's findings are kept; its past runs can be reopened.
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
        If a model or the grid makes no sense.
    """
    require_notebook("tv.explore", "tv.analyze(image, model=...)")
    panel = Panel(image, model, tuple(models), checkpoint, arguments)
    panel.display()
    return panel


class Panel:
    """Controls, the live picture, filters and the tile inspector of one image.

    Whatever takes time happens on threads of its own, which live while there is something
    to do: the notebook stays free.

    Parameters
    ----------
    image, model, models, checkpoint, arguments
        As `explore` takes them.

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
        self._plan: Plan | None = None
        self._counted_at: Any = None
        self._cell: int | None = None
        self._still = Still()
        # What takes long must not keep a pause waiting, nor a slider a plan.
        self._doing = Lane("tilevision-panel-do", self._alarm)
        self._steering_lane = Lane("tilevision-panel-steer", self._alarm)
        self._looking = Lane("tilevision-panel-look", self._alarm)
        self._screen = Screen(self._follow)
        self._choices = Choices(image, model, models, arguments, self._replan)
        self._filters = Filters(
            arguments.get("min_score"),
            arguments.get("classes"),
            arguments.get("merge", "seam"),
            self._recount,
        )
        self._steering = Steering(
            {name: _putting(self._steering_lane, name, act) for name, act in self._acts().items()},
            arguments.get("concurrency"),
            self._set_concurrency,
        )
        self._past = Past(checkpoint, self._reopen, self._resume)
        self._saving = Saving(self._save)
        self._board: Any = Board()
        self._tile = TileView(
            self._screen, self._looking, self._known_of, {"retry": self._retry_tile}
        )
        self._screen.canvas.observe(lambda change: self._pick(change["new"]), names="picked")
        self._board.observe(lambda change: self._pick_listed(change["new"]), names="picked")
        self._tabs = Tabs(
            {
                "Setup": [self._choices.box],
                "Detections": [self._filters.box, self._saving.box],
                "Tiles": [self._board],
                "Runs": [self._past.box],
            }
        )
        self.widget = self._laid_out()
        self._replan()
        self._doing.put("past", self._past.refresh)

    def _laid_out(self) -> Any:
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
        known = self._known()
        return None if known is None else known.with_(**self._filters.read())

    def display(self) -> None:
        """Show the panel below the current cell, once more if need be."""
        display(self.widget)
        self._still.display(self._screen.text)
        self._cell = cell_number()
        self._screen.poke()

    def close(self) -> None:
        """End the panel; its last picture stays. A run that is at work goes on."""
        for lane in (self._steering_lane, self._looking, self._doing):
            lane.close()
        self._screen.close()
        for part in (self._tile.widget, self._board, self.widget):
            part.close()

    def _ipython_display_(self) -> None:
        # As the last value of the cell that displayed it, it is there already.
        if self._cell is None or self._cell != cell_number():
            self.display()

    def __repr__(self) -> str:
        return f"<Panel of {self._screen.text}>"

    # What the buttons do, on threads ------------------------------------------------------

    def _acts(self) -> dict[str, Callable[[], None]]:
        return {
            "run": lambda: self._doing.put("run", self._start),
            **{name: self._steer(name) for name in ("pause", "resume", "cancel")},
            "retry": self._steer("retry_failed"),
        }

    def _steer(self, method: str) -> Callable[[], None]:
        """Return what calls a method of the run that is there when it is called."""

        def steered() -> None:
            getattr(self.run, method)()

        return steered

    def _start(self) -> None:
        self._steering.say("Starting…")
        image, arguments = self._choices.read()
        chosen = {name: self._filters.read()[name] for name in ("min_score", "classes", "merge")}
        chosen["concurrency"] = self._steering.concurrency.value or None
        chosen["checkpoint"] = self._checkpoint
        self._show(start(image, **(arguments | chosen)))

    def _show(self, run: Any, **options: Any) -> None:
        self.run, self._counted_at = run, None
        self._screen.show(run, **options)

    def _replan(self) -> None:
        if not self._going:
            self._doing.put("plan", self._make_plan)

    def _make_plan(self) -> None:
        self._plan = None
        self._steering.say("Looking at the image…")
        image, arguments = self._choices.read()
        made = plan(image, **(arguments | {"checkpoint": self._checkpoint}))
        if self._going:
            return
        self._plan = made
        self._screen.show(PlannedRun(made), live=False)
        self._steering.say(_planned(made))

    def _reopen(self, run_id: str) -> None:
        def opened() -> None:
            run = ReplayedRun(run_id, self._checkpoint or "", seconds=0)
            self._show(run, clock=run.clock)

        self._doing.put("run", opened)

    def _resume(self, run_id: str) -> None:
        self._doing.put("run", lambda: self._show(resume(run_id, self._checkpoint or "")))

    def _retry_tile(self, tile: Tile) -> None:
        self._steering_lane.put("retry", lambda: self.run.retry([tile]))

    def _set_concurrency(self, number: int | None) -> None:
        if self._going and isinstance(self.run, Run):
            run = self.run
            self._steering_lane.put("concurrency", lambda: run.set_concurrency(number))

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
        return self.run is not None and self.run.status not in ENDED

    def _known(self) -> Result | None:
        return self.run.so_far() if isinstance(self.run, Run) else None

    def _known_of(self, tile: Tile) -> TileFindings | None:
        known = self._known()
        found = () if known is None else known.tile_findings
        return next((seen for seen in found if seen.tile == tile), None)

    def _recount(self) -> None:
        self._looking.put("count", self._count)

    def _count(self) -> None:
        known, state = self._known(), self._screen.state
        if known is None or state is None:
            return
        _, counted = self._filters.apply(known, state.boxes.labels)
        self._screen.count(counted if self._filters.touched or not self._going else None)

    def _follow(self, state: ViewState, frame: Frame, text: str) -> None:
        """Bring everything beside the picture up to date; on the drawing thread."""
        self._still.update(frame, text, now=state.ended or not state.run_status)
        self._board.tell(state, now=state.ended)
        failed = state.counts.get("failed", 0)
        self._steering.fit(state.run_status, failed=failed, ready=self._plan is not None)
        if self.run is None or not state.run_status:
            return
        self._tile.follow(self.run)
        known = (state.n_finished, state.ended)
        if known != self._counted_at:
            self._counted_at = known
            self._recount()
            self._tell(state)

    def _tell(self, state: ViewState) -> None:
        run = self.run
        link = getattr(run, "dashboard_link", None)
        if state.ended:
            self._doing.put("past", self._past.refresh)
            reason = state.reason or f"{state.n_finished:,} of {len(state.tiles):,} tiles"
            alarm = state.run_status in ("stopped", "blocked", "partial")
            line = f"{state.run_status.capitalize()}: {reason}"
            self._steering.say(line, alarm=alarm, link=link)
        else:
            self._steering.say(f"Run {run.id} is at work.", link=link)

    def _pick(self, picked: list[float]) -> None:
        shown = self._screen.run
        if len(picked) == 3 and shown is not None:
            self._tile.pick(shown, picked[0], picked[1])

    def _pick_listed(self, picked: list[int]) -> None:
        shown = self._screen.run
        if len(picked) == 2 and shown is not None:
            self._tile.open(shown, picked[0])


def _planned(made: Plan) -> str:
    """Say what pressing Run would do."""
    width, height = made.source.size
    stored = len(made.restored)
    words = f"{width:,} × {height:,} px, {len(made.tiles):,} tiles ({made.tiling}); "
    words += f"{stored:,} stored already, {len(made.to_run):,} to run."
    return " ".join([words, *(f"Note: {note}." for note in made.notes)])


def _putting(lane: Lane, kind: str, act: Callable[[], None]) -> Callable[[], None]:
    """Return what has `act` done on `lane`."""
    return lambda: lane.put(kind, act)
