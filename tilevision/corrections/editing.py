"""Correcting a result: what a person does to its objects, from Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from tilevision.checks import is_whole
from tilevision.corrections.correctionlayer import (
    ALIKE,
    BY_HAND,
    CorrectionLayer,
    alike,
)
from tilevision.corrections.correctionlog import CorrectionLog
from tilevision.corrections.handobject import (
    HandObject,
    drawn_box,
    drawn_outline,
    named,
    objects_of,
)
from tilevision.errors import RunArgumentError
from tilevision.findings import Findings

__all__ = ["Corrections"]

Rows = int | Sequence[int] | Any


class Correctable(Protocol):
    """What corrections need of a result."""

    @property
    def findings(self) -> Findings:
        """Its detections."""

    @property
    def source(self) -> Any:
        """The image."""


class Corrections:
    """What a person does to the detections of a result; each step is on the disk when it returns.

    Rows are those of ``result.findings`` and `Result.to_dataframe`, of the result that this belongs
    to, which does not change: `Result.corrected` returns it with all corrections so far.

    Parameters
    ----------
    result : Result
    log : CorrectionLog
        Where corrections are kept.
    """

    def __init__(self, result: Correctable, log: CorrectionLog) -> None:
        self._result = result
        self._log = log

    @property
    def path(self) -> Path | None:
        """The file that they are kept in; None: they are kept nowhere."""
        return self._log.path

    @property
    def layer(self) -> CorrectionLayer:
        """All corrections so far, those of other programs too."""
        self._log.refresh()
        return self._log.layer

    def accept(self, rows: Rows) -> None:
        """Say that detections are right: they stay, whatever limit of score is set later.

        Parameters
        ----------
        rows : int, or several
            Numbers of detections, or a mask ``(n,)`` of bool.

        Raises
        ------
        RunError
            If there is no such detection, or the step cannot be written; also below.
        """
        self._log.write([about | {"verb": "accept"} for about in self._about(rows)])

    def delete(self, rows: Rows) -> None:
        """Delete detections that are wrong; `rows` as in `accept`."""
        self._log.write([about | {"verb": "delete"} for about in self._about(rows)])

    def relabel(self, rows: Rows, label: str) -> None:
        """Give detections another class; `rows` as in `accept`."""
        change = {"verb": "relabel", "label": named(label)}
        self._log.write([about | change for about in self._about(rows)])

    def reshape(self, row: int, *, box: Any = None, outline: ArrayLike | Any = None) -> None:
        """Give a detection another box or outline.

        Parameters
        ----------
        row : int
        box : four numbers, optional
            xmin, ymin, xmax, ymax in pixels of the full-resolution image.
        outline : array (k, 2), or parts of rings, optional
            x, y there.
        """
        shape = self._drawn(box, outline).to_dict()
        del shape["label"]
        self._log.write([self._about(row)[0] | {"verb": "reshape", "shape": shape}])

    def add(self, label: str, *, box: Any = None, outline: ArrayLike | Any = None) -> None:
        """Add an object that the model missed; `box` or `outline` as in `reshape`."""
        made = self._drawn(box, outline).named(named(label))
        _, _, overlap = alike([made], self._result.findings)
        beside = bool((overlap >= ALIKE).any())
        self._log.write([{"verb": "add", "object": made.to_dict(), "beside": beside}])

    def undo(self) -> bool:
        """Undo the latest step; return False if there is none."""
        return self._log.undo()

    def redo(self) -> bool:
        """Do the step again that was undone last; return False if there is none."""
        return self._log.redo()

    def __len__(self) -> int:
        return len(self.layer)

    def __repr__(self) -> str:
        n = len(self)
        told = f"{n:,} {'object' if n == 1 else 'objects'} corrected"
        if self._log.unreadable:
            told += f", {self._log.unreadable:,} damaged lines passed over"
        return f"<Corrections: {told}, in {self.path or 'memory only'}>"

    def _drawn(self, box: Any, outline: Any) -> HandObject:
        if (box is None) == (outline is None):
            raise RunArgumentError("Give either box= or outline=, in pixels of the image.")
        size = self._result.source.size
        return drawn_box(box, size) if outline is None else drawn_outline(outline, size)

    def _about(self, rows: Rows) -> list[dict[str, Any]]:
        """Return of each row the entry that it is, or the object as the model gave it."""
        found = self._result.findings
        numbers = _numbers(rows, len(found))
        layer = self.layer
        about: list[dict[str, Any]] = []
        for row, one in zip(numbers, objects_of(found, numbers), strict=True):
            entry = layer.entry_of(one, by_hand=_by_hand(found, row))
            about.append({"was": one.to_dict()} if entry is None else {"on": entry.id})
        return about


def _by_hand(found: Findings, row: int) -> bool:
    said = None if found.attributes is None else found.attributes[row]
    return bool(said) and BY_HAND in (said or {})


def _numbers(rows: Rows, n: int) -> list[int]:
    given: Iterable[Any] = [rows] if is_whole(rows) else np.asarray(rows).reshape(-1).tolist()
    numbers = list(given)
    if len(numbers) == n and all(isinstance(one, bool) for one in numbers):
        return np.flatnonzero(numbers).tolist()
    bad = [one for one in numbers if not is_whole(one) or not 0 <= one < n]
    if bad:
        last = f"the last is {n - 1:,}" if n else "there are none"
        raise RunArgumentError(f"There is no detection {bad[0]!r:.40}; {last}.")
    if not numbers:
        raise RunArgumentError("rows is empty; give the numbers of detections.")
    return list(dict.fromkeys(int(one) for one in numbers))
