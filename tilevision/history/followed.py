"""A run that another process, or another notebook, carries out: followed through its journal."""

from __future__ import annotations

import os
import threading
from typing import Any

from tilevision.errors import TilevisionError
from tilevision.events import Event, JournalTail, RunChanged
from tilevision.history.journaled import OVER, JournaledRun
from tilevision.history.recording import Recording
from tilevision.pipeline.settings import DEFAULT_CHECKPOINT

__all__ = ["FollowedRun"]

LOOK_SECONDS = 0.1


class FollowedRun(JournaledRun):
    """A run seen from elsewhere: all that happened so far, then what happens, nothing missed.

    It can be watched and waited for, not steered. What is asked of it is read from the journal
    at that moment; a thread reads on only while somebody listens.

    Parameters
    ----------
    run_id : str
        As `tilevision.runs` lists it.
    checkpoint : path-like
        Its folder.
    image : optional
        Where the run's image is now, if it is not where it was.

    Raises
    ------
    RunError
        If there is no such run; the message names the latest ones.
    """

    def __init__(
        self,
        run_id: str,
        checkpoint: str | os.PathLike[str] = DEFAULT_CHECKPOINT,
        *,
        image: Any = None,
    ) -> None:
        recording = Recording(run_id, checkpoint, image)
        super().__init__(recording)
        self._tail = JournalTail(recording.path)
        self._reading = False

    @property
    def status(self) -> str:
        """As a run's, or ``interrupted``: its process ended and nobody goes on with it."""
        self._catch_up()
        return super().status

    @property
    def counts(self) -> dict[str, int]:
        """Tiles by status."""
        self._catch_up()
        return super().counts

    @property
    def dashboard_link(self) -> str | None:
        """Address of the Dask dashboard while the run is at work, as its journal has it."""
        self._hear_if_alone()
        return super().dashboard_link

    def events(self) -> list[Event]:
        """Return what a late listener needs: the run's status, its stages, each tile's latest.

        While somebody listens, as far as they were told: whoever subscribes and then asks has
        all, and is not kept waiting while a long history is read.
        """
        self._hear_if_alone()
        return super().events()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the run is over (ended or interrupted); say whether it is."""
        over = threading.Event()

        def look(event: Event) -> None:
            if isinstance(event, RunChanged) and event.status in OVER:
                over.set()

        unsubscribe = self.subscribe(look)
        try:
            return self.status in OVER or over.wait(timeout)
        finally:
            unsubscribe()

    def _hear_if_alone(self) -> None:
        with self._changing:
            alone = not self._listeners
        if alone:
            self._catch_up()

    def _step(self) -> float | None:
        try:
            self._catch_up()
        except (TilevisionError, OSError) as error:
            reason = f"it cannot be followed any more: {error}"
            self._tell(RunChanged(self._latest, "interrupted", reason))
        return None if self._status in OVER else LOOK_SECONDS

    def _catch_up(self) -> None:
        """Tell what was appended since; then, if nobody works on the run, that it was cut off."""
        with self._telling:
            if self._reading:  # a listener asks, and is being told
                return
            self._reading = True
            try:
                self._read()
                if self._abandoned():
                    self._read()  # its end was written before it was let go
                    if self._status not in OVER:
                        self._tell_interrupted()
            finally:
                self._reading = False

    def _read(self) -> None:
        for event in self._tail.read():
            self._tell(event)
