"""The tiles of a run: where each is, the tasks that the cluster has, what is yet to be sent.

Tiles that may have killed a worker are tried apart, until they are cleared or convicted: a
worker's death takes everything on it along, so it proves nothing against a single tile. Suspects
run pinned, one task to a worker, beside the main pass; large sets are halved first. Only a death
with nothing else in flight that could be to blame convicts.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, auto

from tilevision.errors import Failure, RunError
from tilevision.grid import Tile
from tilevision.schedule.messages import Abandon, Action, Announce, Submit
from tilevision.status import TileStatus

__all__ = [
    "DEATHS",
    "LOSSES",
    "STATUSES",
    "Backlog",
    "Flight",
    "Ledger",
    "Place",
    "Suspects",
    "Task",
    "TileState",
]

STATUSES: tuple[TileStatus, ...] = tuple(
    status for status in TileStatus if status not in (TileStatus.RESTORED, TileStatus.SKIPPED)
)


class Place(IntEnum):
    """Where a tile is; exactly one at a time."""

    READY = auto()  # never failed, waits for its turn in a batch
    ALONE = auto()  # to be tried again by itself, at once
    WAITING = auto()  # to be tried again by itself, when it is due
    SUSPECT = auto()  # may have killed a worker
    FLIGHT = auto()  # in a task that the cluster has
    ARRIVED = auto()  # came back well, is not committed yet
    DONE = auto()
    FAILED = auto()


@dataclass(slots=True, eq=False)
class TileState:
    """One tile and its history, kept as small as can be: there may be a million.

    Parameters
    ----------
    tile : Tile
    order : int
        Position in the run, from 0: row-major.
    place : Place
    status : TileStatus
        The last one that was announced.
    tries : int
        Tries that were charged to the tile in any way; the next attempt is one more.
    errors, throttles, deaths, losses : int
        Errors and timeouts, which use up `Retry.attempts`; refusals by a busy backend;
        worker deaths when it ran pinned and alone; tasks lost before it was seen to start.
    alone : bool
        Whether it goes by itself from now on, since a batch with it went wrong.
    due : float
        When it is tried again, while waiting.
    task : Task, optional
        The task it is in, while in flight.
    """

    tile: Tile
    order: int
    place: Place = Place.READY
    status: TileStatus = TileStatus.PENDING
    tries: int = 0
    errors: int = 0
    throttles: int = 0
    deaths: int = 0
    losses: int = 0
    alone: bool = False
    due: float = 0.0
    task: Task | None = None

    def forgive(self) -> None:
        """Give it a fresh set of attempts."""
        self.errors = self.throttles = self.deaths = self.losses = 0


@dataclass(slots=True, eq=False)
class Task:
    """One task in flight.

    Parameters
    ----------
    key : str
    serial : int
        Number of the task in this run, rising.
    size : int
        Tiles it was sent with.
    submitted : float
    pin : str, optional
        Worker it may run on; None where the cluster decides.
    exclusive : bool
        Whether nothing that could run on the same worker is in flight beside it.
    worker : str
        Where it runs, as far as reports have come.
    tiles : dict of TileState
        Tiles whose outcome is not known yet, in order.
    started : set of TileState
        Tiles that a worker has begun.
    waits : bool
        Whether the tile it is at waits for its turn at the model.
    cold : bool
        Whether its worker may have to load the model first.
    asked_back : bool
        Whether the cluster has been asked to give it back, if no worker has begun it.
    deadline : float
        When it is given up.
    """

    key: str
    serial: int
    size: int
    submitted: float
    pin: str | None = None
    exclusive: bool = False
    worker: str = ""
    tiles: dict[TileState, None] = field(default_factory=dict)
    started: set[TileState] = field(default_factory=set)
    waits: bool = False
    cold: bool = False
    asked_back: bool = False
    deadline: float = float("inf")


class Ledger:
    """All tiles of a run, counted by place and by status, and the actions to be answered.

    Parameters
    ----------
    tiles : sequence of Tile

    Raises
    ------
    RunError
        If a tile is there twice.
    """

    def __init__(self, tiles: Sequence[Tile]) -> None:
        self.states = [TileState(tile, order) for order, tile in enumerate(tiles)]
        self._by_tile = {state.tile: state for state in self.states}
        if len(self._by_tile) < len(self.states):
            twice = next(s.tile for s in self.states if self._by_tile[s.tile] is not s)
            raise RunError(f"Tile {twice.id} is planned twice; give each region once.")
        self.places = dict.fromkeys(Place, 0) | {Place.READY: len(self.states)}
        self.counts = dict.fromkeys(STATUSES, 0) | {TileStatus.PENDING: len(self.states)}
        self.failures: dict[TileState, Failure] = {}
        self.actions: list[Action] = []
        self._news_of_done = False

    def __len__(self) -> int:
        return len(self.states)

    def find(self, tile: Tile) -> TileState | None:
        """Return the state of `tile`, or None where it is not part of this run."""
        return self._by_tile.get(tile)

    @property
    def finished(self) -> bool:
        """Return True if every tile is done or has failed."""
        return self.places[Place.DONE] + self.places[Place.FAILED] == len(self.states)

    @property
    def busy(self) -> int:
        """Tiles in flight, or back but not committed."""
        return self.places[Place.FLIGHT] + self.places[Place.ARRIVED]

    def move(self, state: TileState, place: Place) -> None:
        """Put a tile into another place."""
        self.places[state.place] -= 1
        self.places[place] += 1
        if state.place is Place.FAILED:
            del self.failures[state]
        state.place = place

    def mark(self, state: TileState, status: TileStatus) -> None:
        """Give a tile a status without announcing it."""
        self.counts[state.status] -= 1
        self.counts[status] += 1
        state.status = status

    def announce(
        self,
        state: TileState,
        status: TileStatus,
        attempt: int,
        worker: str,
        failure: Failure | None,
    ) -> None:
        """Give a tile a status and announce it."""
        self.mark(state, status)
        self.actions.append(Announce(state.tile, status, attempt, worker, failure))

    def done(self, state: TileState) -> None:
        """End a tile well; whoever commits it announces that."""
        self.move(state, Place.DONE)
        self.mark(state, TileStatus.DONE)
        self._news_of_done = True

    def answer(self) -> list[Action]:
        """Take the actions, without announcements about tiles that are done by now."""
        actions, self.actions = self.actions, []
        if self._news_of_done:
            self._news_of_done = False
            return [a for a in actions if not (isinstance(a, Announce) and self._is_done(a.tile))]
        return actions

    def _is_done(self, tile: Tile) -> bool:
        return self._by_tile[tile].place is Place.DONE

    def fail(self, state: TileState, failure: Failure, worker: str) -> None:
        """End a tile with `failure`."""
        self.move(state, Place.FAILED)
        self.failures[state] = failure
        self.announce(state, TileStatus.FAILED, state.tries, worker, failure)


class Flight:
    """Tasks by key, and which worker has a pinned one.

    Parameters
    ----------
    ledger : Ledger
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.tasks: dict[str, Task] = {}
        self.pinned: dict[str, Task] = {}
        self.serial = 0
        self._emptied: list[Task] = []

    @property
    def unpinned(self) -> int:
        """Tasks that may be on any worker."""
        return len(self.tasks) - len(self.pinned)

    @property
    def exclusive(self) -> bool:
        """Return True if a task must have its worker to itself."""
        return any(task.exclusive for task in self.pinned.values())

    def submit(
        self,
        states: Sequence[TileState],
        now: float,
        pin: str | None = None,
        *,
        exclusive: bool = False,
    ) -> Task:
        """Send tiles off as one task, pinned to a worker or not ("" pins to the only one)."""
        self.serial += 1
        attempts = tuple(state.tries + 1 for state in states)
        key = f"tile-infer-{states[0].tile.id}-a{attempts[0]}-{self.serial}"
        task = Task(key, self.serial, len(states), now, pin, exclusive, pin or "")
        for state in states:
            task.tiles[state] = None
            state.task = task
            self._ledger.move(state, Place.FLIGHT)
        self.tasks[key] = task
        if pin is not None:
            self.pinned[pin] = task
        tiles = tuple(state.tile for state in states)
        self._ledger.actions.append(Submit(key, tiles, attempts, pin or None))
        return task

    def close(self, task: Task) -> list[TileState]:
        """Forget a task; return the tiles whose outcome was not known."""
        self.tasks.pop(task.key, None)
        if task.pin is not None:
            self.pinned.pop(task.pin, None)
        states = list(task.tiles)
        task.tiles.clear()
        for state in states:
            state.task = None
        return states

    def abandon(self, task: Task, *, restart_worker: bool, left: bool = False) -> list[TileState]:
        """Give a task up; return the tiles whose outcome was not known."""
        self._ledger.actions.append(Abandon(task.key, restart_worker, left))
        return self.close(task)

    def detach(self, state: TileState) -> None:
        """Take a tile out of its task, since its outcome came another way."""
        task, state.task = state.task, None
        if task is not None:
            task.tiles.pop(state, None)
            if not task.tiles:
                self._emptied.append(task)

    def pointless(self) -> list[Task]:
        """Return, once, the tasks that are open though all their tiles are settled."""
        emptied, self._emptied = self._emptied, []
        return [task for task in emptied if task.key in self.tasks]


class Backlog:
    """Queues of tiles, in order; entries that are out of date are skipped when met.

    Parameters
    ----------
    ledger : Ledger
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._cursor = 0
        self._requeued: list[int] = []
        self._alone: deque[TileState] = deque()
        self._waiting: list[tuple[float, int]] = []

    @property
    def untried(self) -> int:
        """Tiles that have their first try before them."""
        return self._ledger.places[Place.READY]

    def requeue(self, state: TileState) -> None:
        """Put a tile back as if it had not been sent."""
        if state.alone:
            self._ledger.move(state, Place.ALONE)
            self._alone.append(state)
        else:
            self._ledger.move(state, Place.READY)
            heapq.heappush(self._requeued, state.order)

    def again(self, state: TileState, due: float) -> None:
        """Try a tile again by itself, not before `due`."""
        state.alone, state.due = True, due
        self._ledger.move(state, Place.WAITING)
        heapq.heappush(self._waiting, (due, state.order))

    def next_due(self) -> float | None:
        """When the next waiting tile is due."""
        while self._waiting:
            due, order = self._waiting[0]
            state = self._ledger.states[order]
            if state.place is Place.WAITING and state.due == due:
                return due
            heapq.heappop(self._waiting)
        return None

    def single(self, now: float) -> TileState | None:
        """Take the next tile that goes by itself, if one is due."""
        due = self.next_due()
        if due is not None and due <= now:
            return self._ledger.states[heapq.heappop(self._waiting)[1]]
        while self._alone:
            state = self._alone.popleft()
            if state.place is Place.ALONE:
                return state
        return None

    def batch(self, size: int) -> list[TileState]:
        """Take up to `size` tiles that were never tried, in order."""
        states: list[TileState] = []
        while len(states) < size and (order := self._pop()) is not None:
            states.append(self._ledger.states[order])
        return states

    def _pop(self) -> int | None:
        while self._requeued:
            order = heapq.heappop(self._requeued)
            if self._ledger.states[order].place is Place.READY:
                return order
        while self._cursor < len(self._ledger):
            order, self._cursor = self._cursor, self._cursor + 1
            if self._ledger.states[order].place is Place.READY:
                return order
        return None


DEATHS = 3  # a tile fails after so many, each when it ran alone, the last when it was quiet
LOSSES = 3  # after so many tasks lost before it was seen to start, a tile is a suspect too
SINGLY = 4  # sets up to this size are tried tile by tile
SETTLE_SECONDS = 2.0  # for news of dead and new workers to arrive


class Suspects:
    """Groups of suspects, to be sent as one task each.

    Parameters
    ----------
    ledger : Ledger
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._groups: deque[list[TileState]] = deque()
        self._last_resort: deque[TileState] = deque()
        self._accused: list[TileState] = []
        self.quiet_from = 0.0

    @property
    def any(self) -> bool:
        """Return True if suspects wait to be tried."""
        return self._ledger.places[Place.SUSPECT] > 0

    @property
    def last_resort(self) -> bool:
        """Return True if some suspect waits for a try with nothing else in flight."""
        while self._last_resort and self._last_resort[0].place is not Place.SUSPECT:
            self._last_resort.popleft()
        return bool(self._last_resort)

    def disturbed(self, now: float) -> None:
        """Note that workers came or went: no conviction until it has been quiet."""
        self.quiet_from = max(self.quiet_from, now + SETTLE_SECONDS)

    def accuse(self, state: TileState) -> None:
        """Suspect a tile of the main pass; `group` decides how it is tried."""
        self._ledger.move(state, Place.SUSPECT)
        self._accused.append(state)

    def group(self) -> None:
        """Sort those accused at the same time into groups: halves, or one by one."""
        self._enqueue(_parts(self._accused))
        self._accused = []

    def retry(self, state: TileState) -> None:
        """Try a suspect alone, quietly where all depends on it."""
        self._ledger.move(state, Place.SUSPECT)
        if state.deaths >= DEATHS - 1 or state.losses >= LOSSES:
            self._last_resort.append(state)
        else:
            self._groups.append([state])

    def regroup(self, states: Sequence[TileState], started: Collection[TileState]) -> None:
        """Split a group that took its worker down; its parts are always smaller."""
        for state in states:
            self._ledger.move(state, Place.SUSPECT)
        begun = [state for state in states if state in started]
        others = [state for state in states if state not in started]
        self._enqueue(_parts(begun))
        self._enqueue([others] if begun and others else _parts(others))

    def put_back(self, states: Sequence[TileState]) -> None:
        """Keep a group as it was, since its task was lost for a known reason."""
        if len(states) == 1:
            self.retry(states[0])
            return
        for state in states:
            self._ledger.move(state, Place.SUSPECT)
        self._enqueue([list(states)])

    def take(self, most: int) -> list[TileState]:
        """Take the next group, up to `most` tiles of it; empty where none waits."""
        while self._groups:
            group = [state for state in self._groups.popleft() if state.place is Place.SUSPECT]
            if group:
                if group[most:]:
                    self._groups.appendleft(group[most:])
                return group[:most]
        return []

    def take_last_resort(self) -> list[TileState]:
        """Take the next tile that is tried with nothing else in flight."""
        return [self._last_resort.popleft()] if self.last_resort else []

    def _enqueue(self, groups: Iterable[list[TileState]]) -> None:
        self._groups.extend(groups)


def _parts(states: Sequence[TileState]) -> list[list[TileState]]:
    if len(states) <= SINGLY:
        return [[state] for state in states]
    half = len(states) // 2
    return [list(states[:half]), list(states[half:])]
