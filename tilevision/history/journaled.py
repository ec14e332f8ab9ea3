"""What runs that are read from a journal have in common: listeners, and a thread for them."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext

from tilevision.checkpoint import run_owner
from tilevision.events import Bus, Event, RunChanged, StageDone, TileChanged
from tilevision.history.recording import Recording
from tilevision.pipeline.conductor import ENDED
from tilevision.sources import ImageSource

__all__ = ["OVER", "JournaledRun"]

OVER = ENDED | {"interrupted"}


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
        self._status = "running"
        self._link = ""
        self._latest = recording.started
        self._statuses = dict.fromkeys(self.tiles, "pending")
        self._statuses.update(dict.fromkeys(recording.skipped, "skipped"))
        self._counts = Counter(self._statuses.values())
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
        return {status: n for status, n in self._counts.items() if n}

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
            elif isinstance(event, TileChanged) and event.tile in self._statuses:
                self._counts[self._statuses[event.tile]] -= 1
                self._counts[event.status] += 1
                self._statuses[event.tile] = event.status
            self._bus.emit(event)

    def _abandoned(self) -> bool:
        """Say whether the run is not over and yet nobody works on it."""
        return self._status not in OVER and run_owner(self._recording.checkpoint, self.id) is None

    def _tell_interrupted(self) -> None:
        reason = f"its process has ended; tv.resume({self.id!r}) goes on"
        self._tell(RunChanged(self._latest, "interrupted", reason))
