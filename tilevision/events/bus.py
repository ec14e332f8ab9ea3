"""What happens in a run, and the bus that hands it to all listeners.

Events are published after the fact: `done` follows the commit. Listeners stand outside and only
read. The bus keeps what a late listener needs.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from tilevision.display import readable
from tilevision.grid import Tile
from tilevision.status import TileStatus

__all__ = [
    "BOXES_PER_EVENT",
    "Bus",
    "Event",
    "Listener",
    "RunChanged",
    "StageDone",
    "TileChanged",
    "TileCounts",
]

BOXES_PER_EVENT = 256
LINE_LIMIT = 500


@dataclass(frozen=True, slots=True)
class RunChanged:
    """The run as a whole has a new status.

    Parameters
    ----------
    time : float
        Seconds since the epoch.
    status : str
        The text of a `RunStatus`: ``running`` (also when a paused or ended run continues),
        ``paused``, ``complete``, ``partial``, ``stopped``, ``cancelled`` or ``blocked``;
        ``interrupted`` only where a run is followed or replayed.
    reason : str
        One line: why, and what to do about it; empty where there is nothing to say.
    """

    time: float
    status: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StageDone:
    """A stage has finished, or there is something to say about it.

    Parameters
    ----------
    time : float
    stage : str
        ``cluster`` (it is up), ``model`` (a line about how it was loaded), ``waiting`` (what
        the run waits for), ``restore``, ``moderation``, ``merge`` or ``synthesis``.
    seconds : float
    message : str
        One line for people.
    restored : bool
        True if it came from the checkpoint.
    link : str
        Address of a page about it: the Dask dashboard of ``cluster``.
    """

    time: float
    stage: str
    seconds: float
    message: str = ""
    restored: bool = False
    link: str = ""


@dataclass(frozen=True, slots=True)
class TileChanged:
    """One tile has a new status; also the row of a tile in a `Result`, which has no boxes.

    Parameters
    ----------
    time : float
    tile : Tile
    status : str
        The text of a `TileStatus`; ``done`` is published after the commit.
    attempt : int
        From 1; 0 where no attempt was made.
    worker : str
        Address, where one was involved.
    read_seconds, infer_seconds : float or None
        None where nothing ran.
    n_findings : int
    saturated : bool
    model : str
    error : str
        One line; empty unless an attempt failed.
    details : str
        Where the error came from: the last lines of the user's code, the causes, notes. Bounded,
        secrets replaced; empty where nothing of that is known.
    boxes : tuple of (x0, y0, x1, y1, label)
        Up to 256 of the strongest detections, whole image pixels: for drawing, not for
        counting. Further ones are dropped, so the strongest come first.
    scores : tuple of float or None
        Of those boxes; empty where the model gives none.
    cost : float, optional
        What the tile has cost since the run was started or resumed, all attempts and models
        together; None where nothing was charged.
    input_tokens, output_tokens : int
        What `model` used for the tile in that time, where it counts tokens.
    """

    time: float
    tile: Tile
    status: str
    attempt: int = 0
    worker: str = ""
    read_seconds: float | None = None
    infer_seconds: float | None = None
    n_findings: int = 0
    saturated: bool = False
    model: str = ""
    error: str = ""
    boxes: tuple[tuple[int, int, int, int, str], ...] = ()
    scores: tuple[float | None, ...] = ()
    cost: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    details: str = ""

    @property
    def attempts(self) -> int:
        """Number of attempts that were made; 0 where the tile was restored or never tried."""
        return self.attempt

    def __post_init__(self) -> None:
        if len(self.boxes) > BOXES_PER_EVENT:
            object.__setattr__(self, "boxes", tuple(self.boxes[:BOXES_PER_EVENT]))
        if len(self.scores) > BOXES_PER_EVENT:
            object.__setattr__(self, "scores", tuple(self.scores[:BOXES_PER_EVENT]))
        if self.error:
            line = readable(" ".join(self.error.split())[:LINE_LIMIT])
            # What steers a terminal or turns the direction of writing has no place in a line.
            line = "".join(char if char.isprintable() else "\ufffd" for char in line)
            object.__setattr__(self, "error", line)


Event = RunChanged | StageDone | TileChanged


_ENDED = tuple(status for status in TileStatus if status.ended)
BOXES_REMEMBERED = 50_000
_log = logging.getLogger("tilevision.events")


class TileCounts:
    """The latest status of each tile, and how many tiles have which.

    Not locked: whoever changes it from several threads holds a lock of their own.

    Parameters
    ----------
    statuses : mapping of tile to str, optional
        What is known to begin with. A tile is whatever names it: a `Tile`, its id.
    """

    def __init__(self, statuses: Mapping[Any, str] | None = None) -> None:
        self._latest: dict[Hashable, str] = dict(statuses or {})
        self._counts: Counter[str] = Counter(self._latest.values())

    def change(self, tile: Hashable, status: str) -> str:
        """Give `tile` a new status; return the one it had, empty if it is new here."""
        before = self._latest.get(tile, "")
        if before:
            self._counts[before] -= 1
        self._latest[tile] = status
        self._counts[status] += 1
        return before

    def __contains__(self, tile: object) -> bool:
        return tile in self._latest

    def __len__(self) -> int:
        return len(self._latest)

    def __getitem__(self, status: str) -> int:
        return self._counts[status]

    @property
    def ended(self) -> int:
        """Tiles that the run will not touch again by itself."""
        return sum(self._counts[status] for status in _ENDED)

    def by_status(self) -> dict[str, int]:
        """Return the number of tiles by status, without those that no tile has."""
        return {status: n for status, n in self._counts.copy().items() if n}


Listener = Callable[[Event], None]


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

    @contextmanager
    def together(self) -> Iterator[None]:
        """Publish many events within: listeners that have a `together` as well may hold them."""
        with self._state:
            listeners = tuple(self._listeners.values())
        with ExitStack() as stack:
            for listener in listeners:
                held = getattr(listener, "together", None)
                if held is not None:
                    stack.enter_context(held())
            yield

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
