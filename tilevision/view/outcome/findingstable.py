"""The table of all detections; their rows travel when a page shows it, and stay in no notebook."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets
from numpy.typing import NDArray

from tilevision.plot import class_colours, shown
from tilevision.result import Result

__all__ = ["FindingsTable", "packed"]

_FOLDER = Path(__file__).parent
MOST_ROWS = 200_000
NAME_LIMIT = 60


class FindingsTable(anywidget.AnyWidget):
    """A table that draws only the rows in sight; it sorts by any column.

    Attributes
    ----------
    version : int
        Changes when there are other rows; the page asks for them when it shows the table.
    total : int
        Number of detections.
    selected : int
        Number of the selected detection among the findings; -1 for none. Set by the kernel.
    """

    _esm = (_FOLDER / "findingstable.js").read_text(encoding="utf-8")
    _css = (_FOLDER / "findingstable.css").read_text(encoding="utf-8")

    version = traitlets.Int(0).tag(sync=True)
    total = traitlets.Int(0).tag(sync=True)
    selected = traitlets.Int(-1).tag(sync=True)

    _shown: Result | None = None
    _sorting: tuple[int | None, bool] = (None, False)

    def listen(self, on_pick: Callable[[int], None]) -> None:
        """Call ``on_pick(row)`` when the user chose a row."""

        def heard(_: object, content: Any, __: object) -> None:
            match content:
                case {"ask": True}:
                    self._answer()
                case {"pick": int(row)} if 0 <= row < self.total:
                    on_pick(row)
                case {"sort": [(None | 0 | 1 | 2) as column, bool(down)]}:
                    self._sorting = (column, down)

        self.on_msg(heard)

    def order(self) -> NDArray[np.int64]:
        """Return the numbers of the detections, as the page sorts them; ties by number."""
        column, down = self._sorting
        result = self._shown
        rows = np.arange(0 if result is None else len(result.findings))
        if result is None or column is None:
            return rows[::-1] if down else rows
        keys = result.findings.scores if column == 1 else result.areas
        if column == 0:
            names = [str(label).casefold() for label in result.findings.labels]
            keys = np.unique(names, return_inverse=True)[1].astype(np.float64)
        # What has no score comes last either way, as numpy sorts it.
        return np.argsort(-keys if down else keys, kind="stable")

    def update(self, result: Result | None) -> None:
        """Offer the detections of `result`; rows are packed only when a page asks."""
        self._shown = result
        with self.hold_sync():
            self.total = 0 if result is None else min(len(result.findings), MOST_ROWS)
            self.selected = -1
            self.version += 1

    def recolour(self) -> None:
        """Let pages ask again: classes have other colours."""
        self.version += 1

    def _answer(self) -> None:
        result, version = self._shown, self.version
        rows, names, colours = (b"", [], []) if result is None else packed(result)
        unit = "" if result is None else result.units.area
        told = {"version": version, "names": names, "colours": colours, "unit": unit}
        self.send(told, buffers=[rows])


def packed(result: Result, limit: int = MOST_ROWS) -> tuple[bytes, list[str], list[str]]:
    """Return the first `limit` detections as a page reads them, and classes with their colours.

    Returns
    -------
    rows : bytes
        float32 ``(n, 3)``: number of the class, score (NaN for none), area.
    names, colours : list of str
        Of the classes; names are safe to show.
    """
    found = result.findings
    labels = [str(label) for label in found.labels[:limit]]
    colours = class_colours(labels)
    numbers = {label: i for i, label in enumerate(colours)}
    columns = [
        np.array([numbers[label] for label in labels], dtype="<f4"),
        found.scores[:limit].astype("<f4"),
        result.areas[:limit].astype("<f4"),
    ]
    names = [shown(label, NAME_LIMIT) or "(no name)" for label in colours]
    return np.column_stack(columns).astype("<f4").tobytes(), names, list(colours.values())
