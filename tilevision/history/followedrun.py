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
    lost_tiles,
    tell_lost,
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
        Id of the run, name of its image.
    tiles : tuple of Tile
    region : Region or None
        The part of the image that is analysed, its ``geometry`` in pixels; None: all of it.
    model : ModelName
    routing : mapping or None
        Which tiles go to which model, where there are several.
    started : float
        Seconds since the epoch.
    """

    def __init__(self, recording: Recording) -> None:
        self.id = recording.id
        self.name = recording.name
        self.tiles = recording.tiles
        self.region = recording.region
        self.model = recording.model
        self.routing = recording.routing
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
        """The image; if it cannot be opened here, one without pixels that says why.

        Raises
        ------
        SourceError
            If the image that was given cannot be opened, or is not the run's.
        """
        return self._recording.source

    @property
    def status(self) -> str:
        """As for `Run`; or ``interrupted``: its process has ended and no other has resumed it."""
        return self._status

    @property
    def counts(self) -> dict[str, int]:
        """Tiles by status."""
        return self._counts.by_status()

    @property
    def dashboard_link(self) -> str | None:
        """Address of the Dask dashboard while the run is working, as its journal has it.

        It is the address in its own process, and may not be reachable from another machine.
        """
        return None if self._status in OVER else self._link or None

    def events(self) -> list[Event]:
        """Return the latest event of the run and of each tile, and all stages, in order."""
        return self._bus.snapshot()

    def subscribe(
        self, listener: Callable[[Event], None], *, history: bool = False
    ) -> Callable[[], None]:
        """Call `listener` with every event from now on; returns the function that ends it.

        The listener is called on a thread that lives while there are listeners and the run is
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
            if isinstance(event, RunChanged):
                lost = lost_tiles(event.status, self._counts.by_status())
                tell_lost(self._recording.path, lost, "tile")

    def _abandoned(self) -> bool:
        """Say whether the run is not over and yet nobody works on it."""
        return self._status not in OVER and run_owner(self._recording.checkpoint, self.id) is None

    def _tell_interrupted(self) -> None:
        reason = f"its process has ended; tv.resume({self.id!r}) continues it"
        self._tell(RunChanged(self._latest, RunStatus.INTERRUPTED, reason))


class FollowedRun(JournaledRun):
    """A run in another process: all that has happened so far, then what happens, nothing missed.

    It can be watched and waited for, not controlled. Its properties are read from the journal
    when they are asked for; a thread reads the journal only while there are listeners.

    Parameters
    ----------
    run_id : str
        As `tilevision.runs` lists it.
    checkpoint : path-like
        Its folder.
    image : optional
        The image of the run, if it is not where it was.

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
        """As for `Run`; or ``interrupted``: its process has ended and no other has resumed it."""
        self._catch_up()
        return super().status

    @property
    def counts(self) -> dict[str, int]:
        """Tiles by status."""
        self._catch_up()
        return super().counts

    @property
    def dashboard_link(self) -> str | None:
        """Address of the Dask dashboard while the run is working, as its journal has it."""
        self._hear_if_alone()
        return super().dashboard_link

    def events(self) -> list[Event]:
        """Return the latest event of the run and of each tile, and all stages, in order.

        While there are listeners, these are the events they were given: a caller that
        subscribes first misses nothing, and does not wait while a long history is read.
        """
        self._hear_if_alone()
        return super().events()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the run is over (ended or interrupted); return True if it is."""
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
            self._tell_lost(error)
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
        try:
            for event in self._tail.read():
                self._tell(event)
        except (RunError, OSError) as error:  # of one that is over, everything was told
            if self._status not in OVER:
                self._tell_lost(error)

    def _tell_lost(self, error: Exception) -> None:
        reason = f"it cannot be followed any more: {error}"
        self._tell(RunChanged(self._latest, RunStatus.INTERRUPTED, reason))


class ReplayedRun(JournaledRun):
    """A run as it happened, in a few seconds; it starts with the first listener.

    Events keep their own times; `clock` returns the time that the replay is at. The time
    between a stop or a pause and the moment the run was resumed is left out.

    Parameters
    ----------
    run_id : str
    checkpoint : path-like
        Its folder.
    seconds : float
        Length of the replay; 0: everything at once.
    image : optional
        The image of the run, if it is not where it was.

    Raises
    ------
    RunError
        If there is no such run, or it is still running.
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
            raise RunError(f"A replay cannot take {seconds!r} seconds. Give 0 or more.")
        super().__init__(Recording(run_id, checkpoint, image))
        if run_owner(checkpoint, run_id) is not None:
            raise RunError(f"Run {run_id} is still running. Follow it with tv.watch({run_id!r}).")
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
