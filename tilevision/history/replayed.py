"""A run that is over, told once more from its journal in less time."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from typing import Any

from tilevision.checkpoint import run_owner
from tilevision.errors import RunError
from tilevision.events import Event, JournalTail, RunChanged
from tilevision.history.journaled import JournaledRun
from tilevision.history.recording import Recording
from tilevision.pipeline.settings import DEFAULT_CHECKPOINT

__all__ = ["ReplayedRun"]


class ReplayedRun(JournaledRun):
    """A run as it happened, squeezed into a few seconds; it begins with the first listener.

    Events keep their own times; `clock` tells the time that the replay is at. The time between
    a stop or a pause and the moment the run went on is left out.

    Parameters
    ----------
    run_id : str
    checkpoint : path-like
        Its folder.
    seconds : float
        That the whole takes; 0: at once.
    image : optional
        Where the run's image is now, if it is not where it was.

    Raises
    ------
    RunError
        If there is no such run, or it is still at work.
    """

    def __init__(
        self,
        run_id: str,
        checkpoint: str | os.PathLike[str] = DEFAULT_CHECKPOINT,
        *,
        seconds: float = 10,
        image: Any = None,
    ) -> None:
        if not (isinstance(seconds, (int, float)) and 0 <= seconds < math.inf):
            raise RunError(f"seconds is {seconds!r}; give how long the replay shall take")
        super().__init__(Recording(run_id, checkpoint, image))
        if run_owner(checkpoint, run_id) is not None:
            raise RunError(f"run {run_id} is still at work; tv.watch({run_id!r}) follows it")
        self._seconds = seconds
        self._playing = self._play()

    def clock(self) -> float:
        """Return the time the replay is at, seconds since the epoch."""
        return self._latest

    def _step(self) -> float | None:
        return next(self._playing, None)

    def _play(self) -> Iterator[float]:
        """Tell event after event; yield the seconds to wait before the next one."""
        total = sum(gap for _, gap in self._gaps())
        pace = self._seconds / total if total else 0.0
        began, at = time.monotonic(), 0.0
        for event, gap in self._gaps():
            at += gap
            early = began + at * pace - time.monotonic()
            if early > 0:
                yield early
            self._tell(event)
        if self._abandoned():
            self._tell_interrupted()

    def _gaps(self) -> Iterator[tuple[Event, float]]:
        """Yield each event with the seconds that the run had worked since the one before."""
        before = None
        for event in JournalTail(self._recording.path).read():
            goes_on = isinstance(event, RunChanged) and event.status == "running"
            yield event, 0.0 if before is None or goes_on else max(0.0, event.time - before)
            before = event.time
