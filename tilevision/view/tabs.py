"""Pages that share one place: a row of buttons, and what belongs to the pressed one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from tilevision.view.form import column, visible

__all__ = ["Tabs"]


class Tabs:
    """Pages, one of which is shown; reached by keyboard as any button.

    Parameters
    ----------
    pages : mapping of str to sequence of widgets
    """

    def __init__(self, pages: Mapping[str, Sequence[Any]]) -> None:
        self._pages = {name: column(*children) for name, children in pages.items()}
        self.buttons = widgets.ToggleButtons(options=list(pages))
        row = widgets.HBox([self.buttons])
        row.add_class("tilevision-tabs")
        self.box = column(row, *self._pages.values(), name="pages")
        self.buttons.observe(lambda _: self._fit(), names="value")
        self._fit()

    def _fit(self) -> None:
        for name, page in self._pages.items():
            visible(page, name == self.buttons.value)
