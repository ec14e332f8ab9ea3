"""Runs that were: a list to choose from, open one, or go on with it."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as widgets

from tilevision.history import image_runs
from tilevision.plot import shown
from tilevision.view.panel.form import button, column, option

__all__ = ["Past"]

MOST_LISTED = 50
ROWS = 8


class Past:
    """Controls for the runs of a checkpoint folder.

    Parameters
    ----------
    checkpoint : path-like or None
        Their folder; without one there are no past runs.
    on_open, on_resume : callable
        Given the id of the run that was chosen.
    on_choose : callable
        Called when another run was chosen: `describe` is wanted.
    """

    def __init__(
        self,
        checkpoint: Any,
        on_open: Callable[[str], None],
        on_resume: Callable[[str], None],
        on_choose: Callable[[], None],
    ) -> None:
        self._checkpoint = checkpoint
        self._rows: dict[str, Any] = {}
        kept = "No runs yet." if checkpoint is not None else "Nothing is kept: checkpoint is None."
        self.menu = widgets.Select(
            options=[(kept, "")],
            rows=ROWS,
            description="Past runs",
            tooltip="runs in this checkpoint folder, the latest first",
            style={"description_width": "0px"},
            layout=widgets.Layout(width="auto", margin="1px 0"),
        )
        self.words = widgets.HTML()
        self.words.add_class("tilevision-words")
        self.open = button("Open", "Show how it went and what it found; nothing runs")
        self.resume = button(
            "Go on", "Run what it has not done, under its own id; what is done stays"
        )
        self.open.disabled = self.resume.disabled = True
        row = widgets.HBox([self.open, self.resume])
        self.box = column(self.menu, self.words, row, name="past")
        self.open.on_click(lambda _: on_open(self.menu.value))
        self.resume.on_click(lambda _: on_resume(self.menu.value))
        self.menu.observe(lambda _: on_choose(), names="value")

    def refresh(self) -> None:
        """Read the list anew; takes as long as the journals are."""
        if self._checkpoint is None:
            return
        table = image_runs(self._checkpoint).head(MOST_LISTED)
        self._rows = {str(row.id): row for row in table.itertuples()}
        options = [
            option(f"{row.started:%d %b %H:%M} · {row.status} · {row.image}", row.id)
            for row in self._rows.values()
        ]
        if options and options != list(self.menu.options):
            chosen = self.menu.value
            self.menu.options = options
            self.menu.value = chosen if chosen in self._rows else options[0][1]

    def describe(self, why_not: Callable[[str, str], str]) -> None:
        """Say what is known of the chosen run, and whether it can be gone on with.

        Parameters
        ----------
        why_not : callable
            Given a run's id and status, says why not; empty where it can.
        """
        row = self._rows.get(self.menu.value or "")
        if row is None:
            return
        why = why_not(row.id, row.status)
        failed = f", {row.failed:,} failed" if row.failed else ""
        lines = [
            f"{row.image} with {row.model}",
            f"{row.done:,} of {row.tiles:,} tiles{failed} · run {row.id}",
            *([f"Cannot go on: {why}"] if why else []),
        ]
        notes = (f'<div class="tilevision-note">{escape(shown(line, 300))}</div>' for line in lines)
        self.words.value = "".join(notes)
        self.open.disabled = False
        self.resume.disabled = bool(why)
