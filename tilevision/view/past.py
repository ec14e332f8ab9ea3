"""Runs that were: a list to choose from, open one, or go on with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from tilevision.pipeline import runs
from tilevision.view.form import button, column, menu

__all__ = ["Past"]

MOST_LISTED = 50


class Past:
    """Controls for the runs of a checkpoint folder.

    Parameters
    ----------
    checkpoint : path-like or None
        Their folder; without one there are no past runs.
    on_open, on_resume : callable
        Given the run that was chosen: its id, and the name of its model.
    """

    def __init__(
        self,
        checkpoint: Any,
        on_open: Callable[[str, str], None],
        on_resume: Callable[[str, str], None],
    ) -> None:
        self._checkpoint = checkpoint
        self._models: dict[str, str] = {}
        self.menu = menu("Past runs", [("none yet", "")], "runs in this checkpoint folder")
        self.open = button("Open", "Show how it went and what it found; nothing runs")
        self.resume = button("Go on", "Run what it has not done, under its own id")
        row = widgets.HBox([self.open, self.resume])
        self.box = column(self.menu, row, name="past")
        self.open.on_click(lambda _: self._with_chosen(on_open))
        self.resume.on_click(lambda _: self._with_chosen(on_resume))

    def refresh(self) -> None:
        """Read the list anew; takes as long as the journals are."""
        if self._checkpoint is None:
            return
        table = runs(self._checkpoint).head(MOST_LISTED)
        self._models = dict(zip(table["id"], table["model"], strict=True))
        options = [
            (f"{row.started:%d %b %H:%M} · {row.image} · {row.model} · {row.status}", row.id)
            for row in table.itertuples()
        ]
        if options and options != list(self.menu.options):
            chosen = self.menu.value
            self.menu.options = options
            if chosen in self._models:
                self.menu.value = chosen

    def _with_chosen(self, act: Callable[[str, str], None]) -> None:
        run_id = self.menu.value
        if run_id:
            act(run_id, self._models.get(run_id, ""))
