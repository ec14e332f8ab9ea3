"""Progress bars for scripts and terminals: of a run, and of an image that is being prepared."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tilevision.events import Event, RunChanged, StageDone, TileChanged, TileCounts
from tilevision.sources import Preparation, following, is_followed
from tilevision.status import TileStatus

__all__ = ["ProgressBar", "preparing"]

_SHOWN = (
    *(TileStatus.RESTORED, TileStatus.RETRYING),
    *(TileStatus.THROTTLED, TileStatus.FAILED),
)
_SAID = ("cluster", "model", "waiting")
_PATIENCE = 1.0  # seconds: what is over sooner is not worth a bar


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
        """Draw what one event changes."""
        if isinstance(event, TileChanged):
            self._tile(event)
        elif isinstance(event, StageDone) and event.message and event.stage in _SAID:
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


@contextmanager
def preparing(name: str, *, wanted: bool) -> Iterator[None]:
    """Within the block, draw on standard error how far an image without windows is decoded.

    Parameters
    ----------
    name : str
        What people call the image.
    wanted : bool
        False: nothing is drawn; nor is it where somebody else draws this already.
    """
    if not wanted or is_followed():
        yield
        return
    bar = _PreparationBar(name)
    with following(bar):
        try:
            yield
        finally:
            bar.close()


class _PreparationBar:
    """Draws the latest preparation; starts anew with another image."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: Any = None

    def __call__(self, preparation: Preparation) -> None:
        from tqdm import tqdm

        if self._bar is None or preparation.done < self._bar.n:
            self.close()
            self._bar = tqdm(
                total=preparation.total,
                desc=f"preparing {self._name[-30:]} in {preparation.folder}",
                unit="B",
                unit_scale=True,
                file=sys.stderr,
                dynamic_ncols=True,
                leave=False,
                delay=_PATIENCE,
            )
        self._bar.update(preparation.done - self._bar.n)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
