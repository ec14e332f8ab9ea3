"""Export from the panel: a path, a format, a button."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets

from tilevision.errors import RunError
from tilevision.exporting import FORMATS, SUFFIXES
from tilevision.result import Result
from tilevision.view.panel.controls import Answer, button, column, control

__all__ = ["ExportForm"]

# What files hold by the first word of their format's name; all others hold detections.
_HELD = {
    "map": "the map",
    "heatmap": "the heatmap",
    "embeddings": "the vectors",
    "anndata": "the vectors",
    "recipe": "the recipe",
}


class ExportForm:
    """Controls that say where a result is saved.

    Parameters
    ----------
    on_save : callable
        Given the path.
    """

    def __init__(self, on_save: Callable[[str], None]) -> None:
        self._on_save = on_save
        tip = "The file name ending decides the format"
        self.path = control(widgets.Text, "File", tip, value="detections.geojson")
        self.format = control(
            widgets.Dropdown,
            "Format",
            options=SUFFIXES,
            value=".geojson" if ".geojson" in SUFFIXES else SUFFIXES[0],
        )
        self.save = button("Export", "Save the detections as they are filtered now")
        self.answer = Answer()
        below = self.answer.words
        self.box = column(self.path, self.format, self.save, below, name="saving")
        self.format.observe(lambda change: self._rename(change["new"]), names="value")
        self.path.observe(lambda change: self._follow(change["new"]), names="value")
        self.save.on_click(lambda _: self._on_save(self.path.value))

    def write(self, path: str, result: Result | None, subject: str) -> None:
        """Save a result, which is that of `subject`, and say so below the button.

        Raises
        ------
        TilevisionError
            If there is no result, or if it cannot be written.
        """
        if result is None:
            raise RunError("There is nothing to export yet. Press Run first.")
        n = len(result.findings)
        held = _held(path)
        what = held or f"{n:,} {'detection' if n == 1 else 'detections'}"
        done = f"Saved {what} of {subject} to {result.save(path)}."
        self.answer.say(f"{done} {'' if held else result.correction_counts or ''}".strip())

    def _rename(self, suffix: str) -> None:
        name = self.path.value
        if (old := _suffix(name) or Path(name).suffix) != suffix:
            self.path.value = name.removesuffix(old) + suffix

    def _follow(self, name: str) -> None:
        if suffix := _suffix(name):
            self.format.value = suffix


def _held(path: str) -> str:
    """Return what a file of this name holds; empty for detections."""
    suffix = _suffix(path.lower())
    names = [name for name, form in FORMATS.items() if form.suffix == suffix]
    return _HELD.get(names[0].partition("-")[0], "") if names else ""


def _suffix(name: str) -> str:
    """Return the ending that decides the format; empty where it is none."""
    return max((s for s in SUFFIXES if name.endswith(s)), key=len, default="")
