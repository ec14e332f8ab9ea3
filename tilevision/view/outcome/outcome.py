"""What was found, beside the picture: the report, the table, and the object that is selected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilevision.geometry import Box
from tilevision.result import Result
from tilevision.view.outcome.findingstable import FindingsTable
from tilevision.view.outcome.report import charts_of, report_of
from tilevision.view.outcome.resultsview import ResultsView
from tilevision.view.picture.screen import Screen
from tilevision.view.picture.viewstate import ViewState

__all__ = ["Outcome", "object_at"]

ROOM = 6.0  # times the longer side of an object that is shown around it
LEAST_ROOM = 160.0  # px


class Outcome:
    """The widgets of a result, kept in step with the picture.

    Parameters
    ----------
    screen : Screen
        Shows and marks the selected object.
    on_limit : callable
        ``on_limit(kind, low, high)`` when a limit of ``"score"`` or ``"area"`` was dragged.

    Attributes
    ----------
    view : ResultsView
    table : FindingsTable
    result : Result or None
        What they show.
    """

    def __init__(
        self, screen: Screen, on_limit: Callable[[str, float | None, float | None], None]
    ) -> None:
        self.view: Any = ResultsView()
        self.table: Any = FindingsTable()
        self.result: Result | None = None
        self._screen = screen
        self._charts: tuple[Any, dict[str, Any]] = (None, {})
        self.view.listen(on_limit)
        self.table.listen(self.look_at)

    def show(
        self,
        known: Result,
        result: Result,
        state: ViewState,
        subject: str,
        limits: dict[str, list[float | None]],
        code: dict[str, str],
    ) -> None:
        """Show `result`, which is `known` as it is filtered, and the `code` that repeats it."""
        how = result.settings
        key = (
            *(known.run_id, state.version, state.n_finished, how.method, how.match_metric),
            *(how.match_threshold, how.classes, result.facts.region),
        )
        if self._charts[0] != key:  # the same while limits are dragged
            free = known.with_(
                merge=how.method,
                match_metric=how.match_metric,
                match_threshold=how.match_threshold,
                classes=how.classes,
                min_score=None,
                max_score=None,
                min_area=None,
                max_area=None,
                region=result.facts.region,
            )
            self._charts = (key, charts_of(free))
        self._show_rows(result)
        report = report_of(result, state, subject) | {"code": code}
        self.view.show(report, self._charts[1], limits)

    def clear(self, why: str) -> None:
        """Show nothing, and say why."""
        self._show_rows(None)
        self.view.clear(why)

    def select_at(self, x: float, y: float) -> None:
        """Select the smallest object at a point of the image, or none."""
        row = None if self.result is None else object_at(self.result, x, y)
        self._select(row)

    def look_at(self, row: int) -> None:
        """Select an object and bring it into sight."""
        if self.result is None or row >= len(self.result.findings):
            return
        self._select(row)
        x0, y0, x1, y1 = self.result.findings.boxes[row].tolist()
        self._screen.look_at(Box(x0, y0, x1, y1), max(ROOM * max(x1 - x0, y1 - y0), LEAST_ROOM))

    def step(self, by: int) -> None:
        """Look at the next object, or the one before; after the last comes the first."""
        n = 0 if self.result is None else len(self.result.findings)
        at = self.table.selected
        if n:
            self.look_at((at + by) % n if at >= 0 else (0 if by > 0 else n - 1))

    def _show_rows(self, result: Result | None) -> None:
        before, self.result = self.result, result
        if before is None or result is None or not _same(before, result):
            self._screen.canvas.chosen = []
            self.table.update(result)

    def _select(self, row: int | None) -> None:
        self.table.selected = -1 if row is None else row
        box = None if row is None or self.result is None else self.result.findings.boxes[row]
        x0, y0, x1, y1 = (0.0,) * 4 if box is None else box.tolist()
        self._screen.canvas.chosen = [] if box is None else [x0, y0, x1 - x0, y1 - y0]


def object_at(result: Result, x: float, y: float) -> int | None:
    """Return the number of the smallest object whose box has a point of the image in it."""
    boxes = result.findings.boxes
    inside = (boxes[:, 0] <= x) & (x <= boxes[:, 2]) & (boxes[:, 1] <= y) & (y <= boxes[:, 3])
    at = np.flatnonzero(inside)
    if not len(at):
        return None
    sides = boxes[at, 2:] - boxes[at, :2]
    return int(at[np.argmin(sides.prod(axis=1))])


def _same(before: Result, after: Result) -> bool:
    """Return True if the rows are the same, so that the selection stays."""
    one, two = before.findings, after.findings
    return (
        len(one) == len(two)
        and np.array_equal(one.boxes, two.boxes)
        and np.array_equal(one.labels, two.labels)
    )
