"""The progress of many images: one bar over all, and a line for each that is not whole."""

from __future__ import annotations

import re
import sys
from collections import Counter
from typing import Any

from tilevision.events import Bus, Event, StageDone, TileChanged
from tilevision.pipeline.batch import ImageRow
from tilevision.pipeline.planning import Plan

__all__ = ["Headway"]

_FINISHED = ("done", "restored", "failed", "skipped")
_SHOWN = ("restored", "retrying", "throttled", "failed")
_TOLD = ("cluster", "model", "waiting")
_LAYOUT = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


class Headway:
    """Draws on standard error how far many images are.

    Parameters
    ----------
    total : int
        Number of images.
    shown : bool
        False: nothing is drawn.
    """

    def __init__(self, total: int, *, shown: bool) -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(
            total=total,
            file=sys.stderr,
            bar_format=_LAYOUT,
            dynamic_ncols=True,
            disable=not shown,
        )
        self._shown = shown
        self._total = total
        self._begun = 0
        self._head = ""
        self._told: set[str] = set()

    def begin(self, name: str) -> None:
        """Take notice that the next image's turn has come."""
        self._begun += 1
        self._head = f"image {self._begun} of {self._total}, {name[-30:]}"
        self._bar.set_description_str(self._head, refresh=False)

    def show(self, plan: Plan, bus: Bus) -> None:
        """Follow one image's run."""
        for note in plan.notes:
            self._note(f"{plan.name}: {note}", note)
        bus.subscribe(_Tiles(self, len(plan.tiles)))

    def tiles(self, finished: int, total: int, counts: Counter[str]) -> None:
        """Draw how many of the image's tiles are finished."""
        parts = [f"{counts[status]} {status}" for status in _SHOWN if counts[status]]
        words = ", ".join([f"{self._head}: {finished}/{total} tiles", *parts])
        self._bar.set_description_str(words, refresh=False)
        self._bar.update(self._begun - 1 + finished / total - self._bar.n)

    def end(self, row: ImageRow) -> None:
        """Take notice that an image is done with."""
        self._bar.update(self._begun - self._bar.n)
        if row.status != "complete":
            self._say(f"{row.image}: {row.status}. {row.error}".rstrip())

    def tell(self, message: str) -> None:
        """Write what a run says of its cluster or its model, once for all images."""
        self._note(message, message)

    def close(self) -> None:
        """Draw the bar a last time."""
        self._bar.close()

    def _note(self, line: str, said: str) -> None:
        kind = re.sub(r"\d+", "0", said)  # what differs in figures only is known by now
        if kind not in self._told:
            self._told.add(kind)
            self._say(line)

    def _say(self, line: str) -> None:
        if self._shown:
            self._bar.write(line, file=sys.stderr)


class _Tiles:
    """Counts the tiles of one run."""

    def __init__(self, headway: Headway, total: int) -> None:
        self._headway = headway
        self._total = total
        self._latest: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageDone) and event.message and event.stage in _TOLD:
            self._headway.tell(event.message)
        if not isinstance(event, TileChanged):
            return
        before = self._latest.get(event.tile.id, "")
        self._latest[event.tile.id] = event.status
        self._counts[event.status] += 1
        self._counts[before] -= 1
        finished = sum(self._counts[status] for status in _FINISHED)
        self._headway.tiles(finished, self._total, self._counts)
