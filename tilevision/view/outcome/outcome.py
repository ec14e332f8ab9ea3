"""What was found, beside the picture: the report, the table, and the object that is selected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
SAME = 0.02  # px
LEAST_SEEN = 40.0  # times the longer side of an object that the picture may be high


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
        self._place = -1  # where the user was, if what was selected is there no more
        self._wanted: tuple[float, ...] | None = None  # box of what is selected again
        self._looks = False  # whether that is looked at, too
        self._charts: tuple[Any, dict[str, Any]] = (None, {})
        self.view.listen(on_limit)
        self.table.listen(self.look_at)

    def show(self, result: Result) -> None:
        """Show the rows of `result` in the table, and what is selected again."""
        self._show_rows(result)

    def tell(
        self,
        known: Result,
        result: Result,
        state: ViewState,
        subject: str,
        limits: dict[str, list[float | None]],
        code: dict[str, str],
    ) -> None:
        """Report `result`, which is `known` as it is filtered, and the `code` that repeats it."""
        how = result.settings
        key = (
            *(known.run_id, state.version, state.n_finished, how.method, how.match_metric),
            *(how.match_threshold, how.classes, result.facts.region, _position(result)),
        )
        if self._charts[0] != key:  # the same while limits are dragged
            free = result
            if how.limits or how.min_score is not None:
                free = result.with_(min_score=None, max_score=None, min_area=None, max_area=None)
            self._charts = (key, charts_of(free))
        report = report_of(result, state, subject) | {"code": code}
        self.view.show(report, self._charts[1], limits)

    def clear(self, why: str) -> None:
        """Show nothing, and say why."""
        self._show_rows(None)
        self.view.clear(why)

    def select(self, row: int | None) -> None:
        """Select an object, or none."""
        self._select(row)

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
        order = self.table.order()
        at = self.place_of(self.table.selected)
        if at < 0 and self._place >= 0:  # it was deleted: what followed it has its place
            at = self._place - 1 if by > 0 else self._place
        elif at < 0 and by < 0:
            at = 0
        if len(order):
            self.look_at(int(order[(at + by) % len(order)]))

    def place_of(self, row: int) -> int:
        """Return the place of an object in the order of the table; -1 where it has none."""
        at = np.flatnonzero(self.table.order() == row)
        return int(at[0]) if len(at) else -1

    @property
    def awaits(self) -> bool:
        """Whether an object is about to be selected, once what was corrected is counted."""
        return self._wanted is not None

    def go_on(self, row: int, following: int | None) -> None:
        """Select the object that follows one that was decided, once it is counted; look at it.

        With none that follows, the place is kept, for `step`.
        """
        self._place, self._wanted = self.place_of(row), None
        if self.result is not None and following is not None:
            self._wanted = tuple(self.result.findings.boxes[following].tolist())
        self._looks = self._wanted is not None
        self._select(None, forget=False)

    def come_back(self, box: Sequence[float] | None) -> None:
        """Select and look at the object that has this box, once it is shown; None: none."""
        self.return_to(-1, box)
        self._looks = box is not None

    def return_to(
        self, row: int, box: Sequence[float] | None = None, *, gone: bool = False
    ) -> None:
        """Select an object again once it is shown as it was corrected.

        Parameters
        ----------
        row : int
            Its number now; -1 for none.
        box : four numbers, optional
            Its box then. Default: the same.
        gone : bool
            Whether it was deleted: then only the place is kept, for `step`.
        """
        self._place = self.place_of(row)
        known = self.result is not None and row >= 0 and not gone
        if box is None and known and self.result is not None:
            box = self.result.findings.boxes[row].tolist()
        self._wanted, self._looks = None if box is None or gone else tuple(box), False
        self._select(None, forget=False)

    def _show_rows(self, result: Result | None) -> None:
        before, self.result = self.result, result
        if before is None or result is None or not _same(before, result):
            wanted, at = self._wanted, self.table.selected
            if wanted is None and before is not None and at >= 0:
                wanted = before.findings.boxes[at].tolist()
            self.table.update(result)
            row = None if result is None or wanted is None else _row_at(result, wanted)
            looks, self._looks = self._looks, False
            if row is None or not looks:
                self._wanted = None
                self._select(row, forget=row is not None)
            elif self._in_sight(row):
                self._select(row)
            else:
                self.look_at(row)

    def _in_sight(self, row: int) -> bool:
        """Return True if an object lies in the picture, large enough to be judged."""
        assert self.result is not None
        x0, y0, x1, y1 = self.result.findings.boxes[row].tolist()
        view = self._screen.view
        if view is None or not view.contains(Box(x0, y0, x1, y1)):
            return False
        return bool(LEAST_SEEN * max(x1 - x0, y1 - y0) >= view.height)

    def _select(self, row: int | None, *, forget: bool = True) -> None:
        if forget:
            self._place, self._wanted = -1, None
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


def _row_at(result: Result, box: Sequence[float]) -> int | None:
    """Return the number of the object that has this box; corrections keep 0.01 px."""
    off = np.abs(result.findings.boxes - np.array(box)).max(axis=1, initial=0)
    return int(off.argmin()) if len(off) and off.min() < SAME else None


def _same(before: Result, after: Result) -> bool:
    """Return True if the rows are the same, so that the selection stays."""
    one, two = before.findings, after.findings
    return (
        len(one) == len(two)
        and np.array_equal(one.boxes, two.boxes)
        and np.array_equal(one.labels, two.labels)
        and _position(before) == _position(after)
    )


def _position(result: Result) -> int:
    return 0 if result.by_hand is None else result.by_hand.position
