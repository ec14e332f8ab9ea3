"""Building blocks of the panel: labelled controls, buttons, columns and tabs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import ipywidgets as widgets

from tilevision.plot import shown

__all__ = [
    "Answer",
    "SubjectSwitch",
    "Tabs",
    "button",
    "close_all",
    "column",
    "control",
    "menu",
    "option",
    "run_options",
    "visible",
]

LABEL_WIDTH = "104px"


def control(kind: type[Any], label: str, tip: str = "", **traits: Any) -> Any:
    """Return a control of `kind` with its label; `tip` is its tooltip."""
    return kind(
        description=label,
        tooltip=tip or label,
        style={"description_width": LABEL_WIDTH},
        layout=widgets.Layout(width="auto", margin="1px 0"),
        **traits,
    )


def menu(label: str, options: Sequence[tuple[str, Any]], tip: str = "", **traits: Any) -> Any:
    """Return a drop-down menu; the text of `options` may come from anywhere."""
    safe = [option(words, value) for words, value in options]
    return control(widgets.Dropdown, label, tip, options=safe, **traits)


def option(words: str, value: Any) -> tuple[str, Any]:
    """Return a menu entry; `words` may be untrusted text."""
    return shown(words, 60) or "?", value


def run_options(named: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return menu entries of runs, of which no two read the same.

    Parameters
    ----------
    named : iterable of (str, str)
        What is said of each run, and its id.
    """
    told = [option(words, run_id) for words, run_id in named]
    often = Counter(words for words, _ in told)
    return [
        (words if often[words] == 1 else f"{words} · {run_id.rpartition('-')[2]}", run_id)
        for words, run_id in told
    ]


def button(words: str, tip: str, kind: str = "") -> Any:
    """Return a button; `kind` is ``"primary"`` for the most important one."""
    return widgets.Button(
        description=words,
        tooltip=tip,
        button_style=kind,
        layout=widgets.Layout(width="auto", margin="2px"),
    )


def column(*children: Any, name: str = "") -> Any:
    """Return `children` stacked from top to bottom."""
    # Given at once: to add a class later is a message of its own.
    classes = ["tilevision-column", *([f"tilevision-{name}"] if name else [])]
    return widgets.VBox(children, _dom_classes=classes)


class Answer:
    """A line below a button: what it did, or why it could not.

    Attributes
    ----------
    words : ipywidgets.HTML
    """

    def __init__(self) -> None:
        self.words = widgets.HTML()

    def say(self, line: str) -> None:
        """Say what was done."""
        self.words.value = f'<div role="status">{escape(line)}</div>'

    def fail(self, line: str) -> None:
        """Say why it was not done, in the place of what was done before."""
        line = escape(shown(line, 600))
        self.words.value = f'<div class="tilevision-alarm" role="alert">{line}</div>'


def visible(made: Any, yes: bool) -> None:
    """Show a control, or remove it from the page."""
    made.layout.display = None if yes else "none"


def close_all(made: Any) -> None:
    """Close a widget and all widgets in it; a widget that is not closed stays in memory."""
    for child in getattr(made, "children", ()):
        close_all(child)
    for name in ("style", "layout"):
        part = getattr(made, name, None)
        if isinstance(part, widgets.Widget):
            part.close()
    made.close()


class SubjectSwitch:
    """Two buttons above the picture: the run, or the plan of settings changed since.

    Parameters
    ----------
    on_switch : callable
        Given True for the plan.
    """

    def __init__(self, on_switch: Callable[[bool], None]) -> None:
        self._offering = False
        self._on_switch = on_switch
        self.buttons = widgets.ToggleButtons(options=[("Run", 0), ("New setup", 1)], value=0)
        self.box = widgets.HBox([self.buttons], _dom_classes=["tilevision-tabs"])
        visible(self.box, False)
        self.buttons.observe(lambda change: self._clicked(change["new"]), names="value")

    def offer(self, run: str, plan: str | None) -> None:
        """Offer both, the run being shown; without a plan there is nothing to choose."""
        self._offering = True
        self.buttons.options = [(shown(run, 60), 0), (shown(plan or "", 60), 1)]
        self.buttons.value = 0
        self._offering = False
        visible(self.box, plan is not None)

    def _clicked(self, value: int | None) -> None:
        if not self._offering and value is not None:
            self._on_switch(value == 1)


class Tabs:
    """A row of buttons that switches between pages; every button can be reached by keyboard.

    The browser switches the pages, so they switch while the kernel is busy too.

    Parameters
    ----------
    pages : mapping of str to sequence of widgets
    """

    def __init__(self, pages: Mapping[str, Sequence[Any]]) -> None:
        self.buttons = widgets.ToggleButtons(options=list(pages))
        columns = [column(*page) for page in pages.values()]
        classes = ["tilevision-stack"]
        self.stack = widgets.Stack(columns, selected_index=0, _dom_classes=classes)
        self.link = widgets.jslink((self.buttons, "index"), (self.stack, "selected_index"))
        row = widgets.HBox([self.buttons], _dom_classes=["tilevision-tabs"])
        self.box = column(row, self.stack, name="pages")

    def turn(self, before: str, after: str) -> None:
        """Show the page `after` if `before` is shown: who reads another one is not disturbed."""
        if self.buttons.value == before:
            self.buttons.value = after
