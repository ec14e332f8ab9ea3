"""A progress bar for scripts and terminals: one listener among others."""

from __future__ import annotations

import sys
from typing import Any

from tilevision.events import Event, RunChanged, StageDone, TileChanged, TileCounts
from tilevision.status import TileStatus

__all__ = ["ProgressBar"]

_SHOWN = (
    *(TileStatus.RESTORED, TileStatus.RETRYING),
    *(TileStatus.THROTTLED, TileStatus.FAILED),
)
_TOLD = ("cluster", "model", "waiting")


class ProgressBar:
    """Draws a run's progress on standard error.

    Parameters
    ----------
    name : str
        What the bar is labelled with.
    total : int
        Number of tiles, without those that are skipped.
    """

    def __init__(self, name: str, total: int) -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(
            total=total,
            desc=name[:30],
            unit="tile",
            file=sys.stderr,
            dynamic_ncols=True,
            leave=True,
        )
        self._counts = TileCounts()

    def __call__(self, event: Event) -> None:
        """Take notice of one event."""
        if isinstance(event, TileChanged):
            self._tile(event)
        elif isinstance(event, StageDone) and event.message and event.stage in _TOLD:
            self.note(event.message)
        elif isinstance(event, RunChanged) and event.reason:
            self.note(f"{event.status}: {event.reason}")

    def note(self, line: str) -> None:
        """Write a line above the bar."""
        self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """Draw the bar a last time."""
        self._bar.refresh()
        self._bar.close()

    def _tile(self, event: TileChanged) -> None:
        before = self._counts.change(event.tile.id, event.status)
        if event.status in _SHOWN or before in _SHOWN:
            shown = {status: self._counts[status] for status in _SHOWN if self._counts[status]}
            self._bar.set_postfix(shown, refresh=False)
        step = self._counts.ended - self._counts[TileStatus.SKIPPED] - self._bar.n
        if step:
            self._bar.update(step)
