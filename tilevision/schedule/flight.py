"""The tasks that the cluster has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tilevision.schedule.ledger import Ledger, Place, TileState
from tilevision.schedule.messages import Abandon, Submit

__all__ = ["Flight", "Task"]


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
        Where it runs, as far as hints have told.
    tiles : dict of TileState
        Those that nothing is known of yet, in order.
    started : set of TileState
        Those that a worker has begun.
    cold : bool
        Whether its worker may have to load the model first.
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
    cold: bool = False
    deadline: float = float("inf")


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
        """Whether some task must have its worker to itself."""
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
        """Forget a task; return the tiles that nothing was known of."""
        self.tasks.pop(task.key, None)
        if task.pin is not None:
            self.pinned.pop(task.pin, None)
        states = list(task.tiles)
        task.tiles.clear()
        for state in states:
            state.task = None
        return states

    def abandon(self, task: Task, *, restart_worker: bool) -> list[TileState]:
        """Give a task up; return the tiles that nothing was known of."""
        self._ledger.actions.append(Abandon(task.key, restart_worker))
        return self.close(task)

    def detach(self, state: TileState) -> None:
        """Take a tile out of its task, since its fate came another way."""
        task, state.task = state.task, None
        if task is not None:
            task.tiles.pop(state, None)
            if not task.tiles:
                self._emptied.append(task)

    def pointless(self) -> list[Task]:
        """Return, once, the tasks that are open though all their tiles are settled."""
        emptied, self._emptied = self._emptied, []
        return [task for task in emptied if task.key in self.tasks]
