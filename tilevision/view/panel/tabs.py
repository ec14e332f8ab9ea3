"""Pages that share one place: a row of buttons, and what belongs to the pressed one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from tilevision.view.panel.form import column

__all__ = ["Tabs"]


class Tabs:
    """Pages, one of which is shown; reached by keyboard as any button.

    Turned by the page itself, so that they turn while the kernel is busy too.

    Parameters
    ----------
    pages : mapping of str to sequence of widgets
    """

    def __init__(self, pages: Mapping[str, Sequence[Any]]) -> None:
        self.buttons = widgets.ToggleButtons(options=list(pages))
        self.stack = widgets.Stack([column(*page) for page in pages.values()], selected_index=0)
        self.stack.add_class("tilevision-stack")
        self.link = widgets.jslink((self.buttons, "index"), (self.stack, "selected_index"))
        row = widgets.HBox([self.buttons])
        row.add_class("tilevision-tabs")
        self.box = column(row, self.stack, name="pages")
