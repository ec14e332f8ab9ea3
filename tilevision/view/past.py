"""Runs that were: a list to choose from, open one, or go on with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
        Given the id of the run that was chosen.
    """

    def __init__(
        self, checkpoint: Any, on_open: Callable[[str], None], on_resume: Callable[[str], None]
    ) -> None:
        self._checkpoint = checkpoint
        self.menu = menu("Past runs", [("none yet", "")], "runs in this checkpoint folder")
        self.open = button("Open", "Show how it went; nothing runs")
        self.resume = button("Go on", "Run what it has not done, under its own id")
        self.box = column(self.menu, self.open, self.resume, name="past")
        self.open.on_click(lambda _: self._with_chosen(on_open))
        self.resume.on_click(lambda _: self._with_chosen(on_resume))

    def refresh(self) -> None:
        """Read the list anew; takes as long as the journals are."""
        if self._checkpoint is None:
            return
        table = runs(self._checkpoint).head(MOST_LISTED)
        options = [
            (f"{row.started:%d %b %H:%M} · {row.image} · {row.model} · {row.status}", row.id)
            for row in table.itertuples()
        ]
        if options and tuple(options) != self.menu.options:
            chosen = self.menu.value
            self.menu.options = options
            if chosen in {value for _, value in options}:
                self.menu.value = chosen

    def _with_chosen(self, act: Callable[[str], None]) -> None:
        if self.menu.value:
            act(self.menu.value)
