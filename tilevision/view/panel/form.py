"""How the panel's controls are made: each with a label of its own, as wide as its column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from tilevision.plot import shown

__all__ = ["button", "close_all", "column", "control", "menu", "option", "visible"]

LABEL_WIDTH = "86px"


def control(kind: type[Any], label: str, tip: str = "", **traits: Any) -> Any:
    """Return a control of `kind` with its label; `tip` is shown when the pointer rests on it."""
    return kind(
        description=label,
        tooltip=tip or label,
        style={"description_width": LABEL_WIDTH},
        layout=widgets.Layout(width="auto", margin="1px 0"),
        **traits,
    )


def menu(label: str, options: Sequence[tuple[str, Any]], tip: str = "", **traits: Any) -> Any:
    """Return a drop-down menu; the words of `options` may be anything."""
    safe = [option(words, value) for words, value in options]
    return control(widgets.Dropdown, label, tip, options=safe, **traits)


def option(words: str, value: Any) -> tuple[str, Any]:
    """Return an entry of a menu; `words` may be anything."""
    return shown(words, 60) or "?", value


def button(words: str, tip: str, kind: str = "") -> Any:
    """Return a button; `kind` is ``"primary"`` for the one that matters most."""
    return widgets.Button(
        description=words,
        tooltip=tip,
        button_style=kind,
        layout=widgets.Layout(width="auto", margin="2px"),
    )


def column(*children: Any, name: str = "") -> Any:
    """Return `children` below each other."""
    box = widgets.VBox(children)
    box.add_class("tilevision-column")
    if name:
        box.add_class(f"tilevision-{name}")
    return box


def visible(made: Any, yes: bool) -> None:
    """Show a control, or take it out of the page."""
    made.layout.display = None if yes else "none"


def close_all(made: Any) -> None:
    """Close a widget and all in it: what stays open is kept in memory for good."""
    for child in getattr(made, "children", ()):
        close_all(child)
    for name in ("style", "layout"):
        part = getattr(made, name, None)
        if isinstance(part, widgets.Widget):
            part.close()
    made.close()
