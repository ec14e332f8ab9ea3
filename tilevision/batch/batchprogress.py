"""The progress of many images: one bar for all, and a line for each that is not complete."""

from __future__ import annotations

import re
import threading

from tilevision.batch.batch import ImageRow
from tilevision.events import Bus, Event, StageDone, TileChanged, TileCounts
from tilevision.pipeline.planning import Plan
from tilevision.pipeline.progress import Bar
from tilevision.status import ImageStatus, TileStatus

__all__ = ["Headway"]

_SHOWN = (
    *(TileStatus.RESTORED, TileStatus.RETRYING),
    *(TileStatus.THROTTLED, TileStatus.FAILED),
)
_TOLD = ("cluster", "model", "waiting")
_LAYOUT = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


class Headway:
    """Draws the progress of many images on standard error.

    Parameters
    ----------
    total : int
        Number of images.
    shown : bool
        False: nothing is drawn.
    """

    def __init__(self, total: int, *, shown: bool) -> None:
        self._bar = Bar(total, shown=shown, bar_format=_LAYOUT)
        self._total = total
        self._ended = 0
        self._shares: dict[str, float] = {}  # of images under way, the first one's turn it is
        self._told: set[str] = set()
        self._lock = threading.RLock()  # images that overlap tell from threads of their own

    def show(self, name: str, plan: Plan, bus: Bus) -> None:
        """Follow one image's run."""
        for note in plan.notes:
            self._note(f"{name}: {note}", note)
        with self._lock:
            self._shares[name] = 0.0
        bus.subscribe(_Tiles(self, name, len(plan.tiles)))

    def tiles(self, name: str, total: int, counts: TileCounts) -> None:
        """Draw how many of an image's tiles have ended."""
        with self._lock:
            if name not in self._shares:
                return
            self._shares[name] = counts.ended / total
            if name == next(iter(self._shares)):
                parts = [f"{counts[status]} {status}" for status in _SHOWN if counts[status]]
                head = f"image {self._ended + 1} of {self._total}, {name[-30:]}"
                words = ", ".join([f"{head}: {counts.ended}/{total} tiles", *parts])
                self._bar.describe(words)
            self._draw()

    def end(self, row: ImageRow) -> None:
        """Count an image that has ended."""
        with self._lock:
            self._ended += 1
            self._shares.pop(row.image, None)
            self._draw()
            if row.status != ImageStatus.COMPLETE:
                self.say(f"{row.image}: {row.status}. {row.error}".rstrip())

    def _draw(self) -> None:
        self._bar.move(self._ended + sum(self._shares.values()))

    def tell(self, message: str) -> None:
        """Write what a run says about its cluster or its model, once for all images."""
        self._note(message, message)

    def close(self) -> None:
        """Draw the bar a last time."""
        self._bar.close()

    def _note(self, line: str, said: str) -> None:
        kind = re.sub(r"\d+", "0", said)  # what differs in figures only is known by now
        with self._lock:
            if kind not in self._told:
                self._told.add(kind)
                self.say(line)

    def say(self, line: str) -> None:
        """Write a line above the bar."""
        self._bar.note(line)


class _Tiles:
    """Counts the tiles of one run."""

    def __init__(self, headway: Headway, name: str, total: int) -> None:
        self._headway = headway
        self._name = name
        self._total = total
        self._counts = TileCounts()

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageDone) and event.message and event.stage in _TOLD:
            self._headway.tell(event.message)
        if not isinstance(event, TileChanged):
            return
        self._counts.change(event.tile.id, event.status)
        self._headway.tiles(self._name, self._total, self._counts)
