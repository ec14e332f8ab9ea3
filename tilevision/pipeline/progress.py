"""A progress bar for scripts and terminals: one listener among others."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from tilevision.events import Event, RunChanged, StageDone, TileChanged

__all__ = ["ProgressBar"]

_FINISHED = ("done", "restored", "failed")
_SHOWN = ("restored", "retrying", "throttled", "failed")
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
        self._latest: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

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
        before = self._latest.get(event.tile.id)
        self._latest[event.tile.id] = event.status
        self._counts[event.status] += 1
        if before is not None:
            self._counts[before] -= 1
        step = (event.status in _FINISHED) - (before in _FINISHED)
        if event.status in _SHOWN or before in _SHOWN:
            shown = {status: self._counts[status] for status in _SHOWN if self._counts[status]}
            self._bar.set_postfix(shown, refresh=False)
        if step:
            self._bar.update(step)
