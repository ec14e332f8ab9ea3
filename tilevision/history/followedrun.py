"""Runs that are read from their journals: followed while they go on, or replayed afterwards."""

from __future__ import annotations

import math
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

from tilevision.checkpoint import run_owner
from tilevision.errors import RunError, TilevisionError
from tilevision.events import (
    Bus,
    Event,
    JournalTail,
    RunChanged,
    StageDone,
    TileChanged,
    TileCounts,
)
from tilevision.history.runrecord import Recording
from tilevision.pipeline.settings import DEFAULT_CHECKPOINT
from tilevision.sources import ImageSource
from tilevision.status import RunStatus, TileStatus

__all__ = ["OVER", "FollowedRun", "JournaledRun", "ReplayedRun"]

LOOK_SECONDS = 0.1

OVER = frozenset(status for status in RunStatus if status.over)


class JournaledRun(ABC):
    """A run seen through its journal.

    Parameters
    ----------
    recording : Recording

    Attributes
    ----------
    id, name : str
        The run's, and what people call its image.
    tiles : tuple of Tile
    region : Region or None
        The part of the image that was asked for, its ``geometry`` in pixels; None: all of it.
    model : ModelName
    started : float
        Seconds since the epoch.
    """

    def __init__(self, recording: Recording) -> None:
        self.id = recording.id
        self.name = recording.name
        self.tiles = recording.tiles
        self.region = recording.region
        self.model = recording.model
        self.started = recording.started
        self._recording = recording
        self._bus = Bus()
        self._telling = threading.RLock()  # taken before the bus's own
        self._status: str = RunStatus.RUNNING
        self._link = ""
        self._latest = recording.started
        statuses = dict.fromkeys(self.tiles, TileStatus.PENDING)
        self._counts = TileCounts(statuses | dict.fromkeys(recording.skipped, TileStatus.SKIPPED))
        self._changing = threading.Lock()
        self._listeners: set[object] = set()
        self._alone = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def source(self) -> ImageSource:
        """The image; one without pixels, that says why, where it cannot be opened here.

        Raises
        ------
        SourceError
            If the image that was given cannot be opened, or is not the run's.
        """
        return self._recording.source

    @property
    def status(self) -> str:
        """As a run's, or ``interrupted``: its process ended and nobody goes on with it."""
        return self._status

    @property
    def counts(self) -> dict[str, int]:
        """Tiles by status."""
        return self._counts.by_status()

    @property
    def dashboard_link(self) -> str | None:
        """Address of the Dask dashboard of a run at work, as its journal has it.

        It is the one that its own process sees, and may lead nowhere on another machine.
        """
        return None if self._status in OVER else self._link or None

    def events(self) -> list[Event]:
        """Return what a late listener needs: the run's status, its stages, each tile's latest."""
        return self._bus.snapshot()

    def subscribe(
        self, listener: Callable[[Event], None], *, history: bool = False
    ) -> Callable[[], None]:
        """Call `listener` with every event from now on; returns the function that ends it.

        The listener is called on a thread that lives while anybody listens and the run is
        not over; it must be quick, and its errors are logged.

        Parameters
        ----------
        listener : callable
            Takes one event.
        history : bool
            First hand over `events`, with nothing missed or doubled in between.
        """
        token = object()
        with self._telling if history else nullcontext():
            leave = self._bus.subscribe(listener, replay=history)
        with self._changing:
            self._listeners.add(token)
            self._alone.clear()
            self._wake()

        def unsubscribe() -> None:
            leave()
            with self._changing:
                self._listeners.discard(token)
                if not self._listeners:
                    self._alone.set()

        return unsubscribe

    def __repr__(self) -> str:
        status, counts = self.status, ", ".join(f"{n:,} {s}" for s, n in self.counts.items())
        kind = type(self).__name__
        return f"{kind} {self.id} of {self.name} with {self.model.name}: {status} ({counts})"

    @abstractmethod
    def _step(self) -> float | None:
        """Tell what is due; return the seconds until the next step, None after the last."""

    def _wake(self) -> None:
        """Start the thread if there is none; holding `_changing`."""
        if self._thread is None:
            name = f"tilevision-journal-{self.id}"
            self._thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._thread.start()

    def _work(self) -> None:
        """Take steps until the last, or until nobody listens."""
        pause: float | None = 0.0
        while pause is not None and self._heeded():
            pause = self._step()
            self._alone.wait(pause or 0.0)
        with self._changing:
            if self._thread is threading.current_thread():
                self._thread = None

    def _heeded(self) -> bool:
        """Say whether anybody listens; where not, the next who does starts a thread anew."""
        with self._changing:
            if not self._listeners:
                self._thread = None
            return bool(self._listeners)

    def _tell(self, event: Event) -> None:
        with self._telling:
            self._latest = event.time
            if isinstance(event, RunChanged):
                self._status = event.status
            elif isinstance(event, StageDone) and event.stage == "cluster":
                self._link = event.link
            elif isinstance(event, TileChanged) and event.tile in self._counts:
                self._counts.change(event.tile, event.status)
            self._bus.emit(event)

    def _abandoned(self) -> bool:
        """Say whether the run is not over and yet nobody works on it."""
        return self._status not in OVER and run_owner(self._recording.checkpoint, self.id) is None

    def _tell_interrupted(self) -> None:
        reason = f"its process has ended; tv.resume({self.id!r}) goes on"
        self._tell(RunChanged(self._latest, RunStatus.INTERRUPTED, reason))


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
            self._tell(RunChanged(self._latest, RunStatus.INTERRUPTED, reason))
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
            resumed = isinstance(event, RunChanged) and event.status == RunStatus.RUNNING
            yield event, 0.0 if before is None or resumed else max(0.0, event.time - before)
            before = event.time
