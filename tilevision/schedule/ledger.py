"""What is known of every tile: where it is, what it has gone through, what listeners know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import TYPE_CHECKING

from tilevision.errors import Failure, RunError
from tilevision.grid import Tile
from tilevision.schedule.messages import Action, Announce

if TYPE_CHECKING:
    from tilevision.schedule.flight import Task

__all__ = ["STATUSES", "Ledger", "Place", "TileState"]

STATUSES = ("pending", "running", "done", "retrying", "throttled", "failed")


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
    status : str
        What listeners were told last.
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
    status: str = "pending"
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
            raise RunError(f"tile {twice.id} is planned twice; give each region once")
        self.places = dict.fromkeys(Place, 0) | {Place.READY: len(self.states)}
        self.counts = dict.fromkeys(STATUSES, 0) | {"pending": len(self.states)}
        self.failures: dict[TileState, Failure] = {}
        self.actions: list[Action] = []
        self._news_of_done = False

    def __len__(self) -> int:
        return len(self.states)

    def find(self, tile: Tile) -> TileState | None:
        """Return the state of `tile`, or None where it is not of this run."""
        return self._by_tile.get(tile)

    @property
    def finished(self) -> bool:
        """Whether every tile is done or has failed."""
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

    def mark(self, state: TileState, status: str) -> None:
        """Give a tile a status without telling anybody."""
        self.counts[state.status] -= 1
        self.counts[status] += 1
        state.status = status

    def announce(
        self, state: TileState, status: str, attempt: int, worker: str, failure: Failure | None
    ) -> None:
        """Give a tile a status and tell the listeners."""
        self.mark(state, status)
        self.actions.append(Announce(state.tile, status, attempt, worker, failure))

    def done(self, state: TileState) -> None:
        """End a tile well; its conductor tells the listeners, since it is the one to commit."""
        self.move(state, Place.DONE)
        self.mark(state, "done")
        self._news_of_done = True

    def answer(self) -> list[Action]:
        """Take the actions, less what would be told of tiles after they were done."""
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
        self.announce(state, "failed", state.tries, worker, failure)
