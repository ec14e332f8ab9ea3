"""Two results of one image in a notebook, without a panel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import ipywidgets as widgets

from tilevision.colouring import load_colours
from tilevision.errors import TilevisionError
from tilevision.evaluation import Comparison
from tilevision.events import Event, RunChanged
from tilevision.status import RunStatus
from tilevision.view.compare.sides import DIFFERENCES, Sides
from tilevision.view.live import LiveView
from tilevision.view.notebook import cell_number, require_notebook, show_widget
from tilevision.view.picture.caption import Counted
from tilevision.view.picture.counting import count
from tilevision.view.picture.snapshot import CaptionedFrame
from tilevision.view.picture.subject import Named
from tilevision.view.picture.viewstate import ViewState

__all__ = ["CompareView", "shown_comparison"]


def shown_comparison(comparison: Comparison) -> CompareView:
    """Show two results in one picture below the current cell; nothing runs.

    Raises
    ------
    RunError
        Outside a notebook.
    """
    require_notebook("tv.explore", "comparison.plot()")
    view = CompareView(comparison)
    view.display()
    return view


def _folders(comparison: Comparison) -> tuple[str | None, str | None]:
    """Return the folders of A and of B, in which colours of classes are kept."""
    return comparison.a.facts.checkpoint, comparison.b.facts.checkpoint


class ComparedRun:
    """A comparison as a screen shows it: the tiles of `a`, all of which have ended.

    Parameters
    ----------
    comparison : Comparison
    """

    id = "compared"

    def __init__(self, comparison: Comparison) -> None:
        result = comparison.a
        self.name = result.name
        self.tiles = tuple(row.tile for row in result.rows)
        self.model: Named = SimpleNamespace(name="two results")
        self.source = comparison.source
        self.region = result.facts.region
        self.checkpoint = next(filter(None, _folders(comparison)), None)
        self._rows = result.rows
        complete = comparison.a.complete and comparison.b.complete
        self._status = RunStatus.COMPLETE if complete else RunStatus.PARTIAL

    def events(self) -> list[Event]:
        """Return the latest event of each tile, and the end."""
        ended = max((row.time for row in self._rows), default=0.0)
        return [*self._rows, RunChanged(ended, self._status)]

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Do nothing: a result does not change."""
        del listener
        return lambda: None


class CompareView(LiveView):
    """Two results in one picture, and a table of what they have in common.

    Parameters
    ----------
    comparison : Comparison
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self._sides = Sides(comparison)
        with suppress(TilevisionError):  # the screen says so of the first
            load_colours(_folders(comparison)[1])
        super().__init__(ComparedRun(comparison), clock=lambda: 0.0, checkpoint=None)
        table = widgets.HTML(comparison._repr_html_())
        table.add_class("tilevision-compared")
        self._whole = widgets.VBox([self.widget, table])

    def display(self) -> None:
        """Show the picture and the table below the current cell."""
        show_widget(self._whole)
        self._snapshot.display(f"{self._screen.text}\n{self.comparison!r}")
        self._cell = cell_number()
        self._screen.poke()

    def close(self) -> None:
        """Close the view; its last picture stays."""
        super().close()
        for part in (self._whole.children[1], self._whole):
            part.close()

    def _count(self, state: ViewState) -> Counted:
        return replace(count(self.comparison.a, state), rivals=self._sides)

    def _keep(self, state: ViewState, frame: CaptionedFrame) -> None:
        if self.widget.sides.get("way", DIFFERENCES) == DIFFERENCES:  # A alone is half of it
            self._snapshot.update(frame, now=state.ended)
        self._counting.follow(state)

    def __repr__(self) -> str:
        return f"<CompareView of {self.comparison}>"
