"""How fast a run goes, by its own events."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from statistics import median

from tilevision.events import Event, RunChanged, TileChanged
from tilevision.grid import Tile

__all__ = ["Meter"]

RECENT = 200


class Meter:
    """A listener that measures tiles a second, for the model that is at work.

    A tile that is being looked at counts for the part of it that should be done by now, as
    long as tiles have taken so far. Otherwise hundreds of requests on their way, none of which is
    back, would look as if nothing went on; and the first few as if all would come at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begin("")

    def __call__(self, event: Event) -> None:
        """Take notice of one event."""
        with self._lock:
            if isinstance(event, RunChanged) and event.status == "running":
                self._begin(self._model)  # what was measured before a pause holds no longer
            elif isinstance(event, TileChanged):
                self._tile(event)

    def rate(self, model: str, now: float) -> tuple[float, int] | None:
        """Return tiles a second and how many tiles that rests on; None while none is back."""
        with self._lock:
            if model != self._model or not self._recent:
                return None
            usual = max(median(self._recent), 1e-6)
            done = self._done + _begun(self._running.values(), now, usual)
            spent = now - self._began
            if self._base is not None and self._done >= 2 * self._base[1]:
                # What came first waited for models and workers to be ready; the rest will not.
                since, earlier, running = self._base
                done -= earlier + _begun(running, since, usual)
                spent = now - since
            else:
                spent -= max(0.0, self._first - usual)
            return max(done, 1.0) / max(spent, usual), self._done

    def _begin(self, model: str) -> None:
        self._model = model
        self._began = float("inf")
        self._first = 0.0
        self._done = 0
        self._most = 0
        self._base: tuple[float, int, tuple[float, ...]] | None = None
        self._running: dict[Tile, float] = {}
        self._recent: deque[float] = deque(maxlen=RECENT)

    def _tile(self, event: TileChanged) -> None:
        if event.status == "running":
            if event.model != self._model:
                self._begin(event.model)
            self._began = min(self._began, event.time)
            self._running[event.tile] = event.time
            self._most = max(self._most, len(self._running))
            return
        self._running.pop(event.tile, None)
        if event.status == "done" and event.model == self._model:
            seconds = (event.read_seconds or 0.0) + (event.infer_seconds or 0.0)
            self._began = min(self._began, event.time - seconds)
            self._first = self._first or seconds
            self._recent.append(seconds)
            self._done += 1
            if self._base is None and self._done >= self._most:
                self._base = event.time, self._done, tuple(self._running.values())


def _begun(starts: Iterable[float], now: float, usual: float) -> float:
    """Return how many tiles' worth of work was done on those that are under way."""
    return sum(min(1.0, (now - start) / usual) for start in starts)
