"""The widget of the Results tab."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

__all__ = ["ResultsView"]

_FOLDER = Path(__file__).parent


class ResultsView(anywidget.AnyWidget):
    """Numbers, distributions with limits that can be dragged, checks and texts.

    Attributes
    ----------
    report : dict
        See `tilevision.view.outcome.report.report_of`, and ``code``: what is set, in Python and
        for the shell; empty while there is no result.
    charts : dict
        See `tilevision.view.outcome.report.charts_of`.
    limits : dict
        ``score`` and ``area``: the least and the most that is shown, or None.
    note : str
        Why there is no result.
    """

    _esm = (_FOLDER / "resultsview.js").read_text(encoding="utf-8")
    _css = (_FOLDER / "resultsview.css").read_text(encoding="utf-8")

    report = traitlets.Dict({}).tag(sync=True)
    charts = traitlets.Dict({}).tag(sync=True)
    limits = traitlets.Dict({}).tag(sync=True)
    note = traitlets.Unicode("").tag(sync=True)

    def listen(self, on_limit: Callable[[str, float | None, float | None], None]) -> None:
        """Call ``on_limit(kind, low, high)`` when a limit was dragged; None is no limit."""

        def heard(_: object, content: Any, __: object) -> None:
            match content:
                case {"limit": ["score" | "area" as kind, low, high]}:
                    if all(value is None or _is_number(value) for value in (low, high)):
                        on_limit(kind, low, high)

        self.on_msg(heard)

    def show(self, report: dict[str, Any], charts: dict[str, Any], limits: dict[str, Any]) -> None:
        """Show all of it in one message."""
        with self.hold_sync():
            self.report, self.charts, self.limits, self.note = report, charts, limits, ""

    def clear(self, note: str) -> None:
        """Show no result, and say why."""
        with self.hold_sync():
            self.report, self.charts, self.note = {}, {}, note


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
