"""The bus: hands each event to all listeners, and keeps what a late listener needs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from tilevision.events.facts import BOXES_PER_EVENT, Event, RunChanged, StageDone, TileChanged
from tilevision.events.tilecounts import TileCounts
from tilevision.grid import Tile

__all__ = ["Bus", "Listener"]

Listener = Callable[[Event], None]
BOXES_REMEMBERED = 50_000

_log = logging.getLogger("tilevision.events")


class Bus:
    """Publishes events to listeners, in one order for all of them.

    A listener is called on the thread that emits, so it must be quick: put the event on
    a queue and return. The first error of a listener is logged; the listener keeps getting
    events, and the run continues.

    Memory holds one event per tile and up to 50,000 boxes in all: beyond that, every tile
    keeps fewer of its strongest boxes.
    """

    def __init__(self) -> None:
        self._delivery = threading.RLock()  # keeps the order the same for all listeners
        self._state = threading.Lock()  # never held while a listener runs
        self._listeners: dict[int, Listener] = {}
        self._complained: set[int] = set()
        self._waiting: list[Event] = []
        self._delivering = False
        self._number = 0
        self._run: tuple[int, RunChanged] | None = None
        self._stages: list[tuple[int, StageDone]] = []
        self._tiles: dict[Tile, tuple[int, TileChanged]] = {}
        self._counts = TileCounts()
        self._boxes = 0
        self._boxes_per_tile = BOXES_PER_EVENT
        self._one_tile_in = 1

    def emit(self, event: Event) -> None:
        """Publish `event`. Safe from any thread, also from within a listener."""
        with self._delivery:
            self._waiting.append(event)
            if self._delivering:  # a listener emits: its event follows the one it was given
                return
            self._delivering = True
            try:
                while self._waiting:
                    self._deliver(self._waiting.pop(0))
            finally:
                self._delivering = False

    def subscribe(self, listener: Listener, replay: bool = False) -> Callable[[], None]:
        """Call `listener` with every event from now on; return a function that ends it.

        Parameters
        ----------
        listener : callable
            Takes one event.
        replay : bool
            First hand over `snapshot`, with nothing missed or doubled in between.
        """
        with self._delivery:
            history = self.snapshot() if replay else []
            with self._state:
                self._number += 1
                token = self._number
            for event in history:
                self._call(token, listener, event)
            with self._state:
                self._listeners[token] = listener

        def unsubscribe() -> None:
            with self._state:
                self._listeners.pop(token, None)

        return unsubscribe

    def snapshot(self) -> list[Event]:
        """Return the latest event of the run and of each tile and all stages, in order."""
        with self._state:
            numbered: list[tuple[int, Event]] = [*self._stages, *self._tiles.values()]
            if self._run is not None:
                numbered.append(self._run)
        return [event for _, event in sorted(numbered, key=lambda pair: pair[0])]

    def counts(self) -> dict[str, int]:
        """Return the number of tiles by their latest status; quick, however many there are."""
        with self._state:
            return self._counts.by_status()

    def _deliver(self, event: Event) -> None:
        with self._state:
            self._remember(event)
            listeners = tuple(self._listeners.items())
        for token, listener in listeners:
            self._call(token, listener, event)

    def _call(self, token: int, listener: Listener, event: Event) -> None:
        try:
            listener(event)
        except Exception:  # noqa: BLE001 - a listener may raise anything
            if token not in self._complained:
                self._complained.add(token)
                _log.exception("A listener failed on %s; the run continues.", type(event).__name__)

    def _remember(self, event: Event) -> None:
        self._number += 1
        if isinstance(event, RunChanged):
            self._run = (self._number, event)
        elif isinstance(event, StageDone):
            self._stages.append((self._number, event))
        else:
            before = self._tiles.get(event.tile)
            if before is not None:
                self._boxes -= len(before[1].boxes)
            self._counts.change(event.tile, event.status)
            event = self._thinned(event)
            self._tiles[event.tile] = (self._number, event)
            self._boxes += len(event.boxes)
            while self._boxes > BOXES_REMEMBERED:
                self._thin()

    def _thin(self) -> None:
        """Halve what each tile may keep; at one box each, which tiles keep it, evenly spread."""
        if self._boxes_per_tile > 1:
            self._boxes_per_tile //= 2
        else:
            self._one_tile_in *= 2
        for tile, (number, event) in self._tiles.items():
            self._tiles[tile] = (number, self._thinned(event))
        self._boxes = sum(len(event.boxes) for _, event in self._tiles.values())

    def _thinned(self, event: TileChanged) -> TileChanged:
        chosen = hash((event.tile.row, event.tile.col)) % self._one_tile_in == 0
        limit = self._boxes_per_tile if chosen else 0
        if len(event.boxes) <= limit:
            return event
        return replace(event, boxes=event.boxes[:limit], scores=event.scores[:limit])
