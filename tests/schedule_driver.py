"""Plays the conductor by hand: what is sent, what comes back, when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from tilevision.errors import Failure
from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.schedule import Policy, Scheduler
from tilevision.schedule.messages import (
    Abandon,
    Action,
    Announce,
    ClusterChanged,
    Committed,
    End,
    Happening,
    Hold,
    Submit,
    TaskFinished,
    TaskLost,
    TileStarted,
)

__all__ = ["BROKEN", "BUSY", "DEAD", "FLAKY", "Driver", "row_of_tiles"]

FLAKY = Failure("transient", "OSError", "try again")
BROKEN = Failure("permanent", "ModelError", "no use")
BUSY = Failure("throttled", "Throttled", "too many requests")
DEAD = Failure("lost", "WorkerDied", "its worker died")

Kind = TypeVar("Kind", bound=Action)


def row_of_tiles(n: int) -> tuple[Tile, ...]:
    return tuple(Tile(0, i, Box(10 * i, 0, 10 * i + 10, 10)) for i in range(n))


class Driver:
    """A scheduler, its clock, and all it has ordered."""

    def __init__(
        self,
        tiles: int | Sequence[Tile],
        workers: dict[str, int] | None = None,
        **policy: object,
    ) -> None:
        self.tiles = row_of_tiles(tiles) if isinstance(tiles, int) else tuple(tiles)
        self.scheduler = Scheduler(self.tiles, Policy(**policy))
        self.now = 100.0
        self.actions: list[Action] = []
        self.open: dict[str, Submit] = {}
        self.do(ClusterChanged(workers if workers is not None else {"a": 1, "b": 1}))

    def do(self, *happenings: Happening, after: float = 0.0) -> list[Action]:
        """Tell the scheduler, `after` some seconds; return what it orders."""
        self.now += after
        for happening in happenings:
            if isinstance(happening, (TaskFinished, TaskLost)):
                self.open.pop(happening.task, None)
        actions = self.scheduler.advance(happenings, self.now)
        for action in actions:
            if isinstance(action, Submit):
                self.open[action.task] = action
            elif isinstance(action, Abandon):
                self.open.pop(action.task, None)
        self.actions += actions
        return actions

    def all(self, kind: type[Kind]) -> list[Kind]:
        """Return all actions of one kind so far."""
        return [action for action in self.actions if isinstance(action, kind)]

    @property
    def tasks(self) -> list[Submit]:
        """What is in flight, in the order it was sent."""
        return list(self.open.values())

    @property
    def aloft(self) -> list[Tile]:
        """Tiles in flight."""
        return [tile for submit in self.open.values() for tile in submit.tiles]

    @property
    def end(self) -> End | None:
        """How it ended; None while it has not."""
        ends = self.all(End)
        return ends[-1] if ends and self.scheduler.ended else None

    @property
    def holds(self) -> list[Hold]:
        """How often it paused of its own accord, and why."""
        return self.all(Hold)

    def statuses(self, tile: Tile) -> list[str]:
        """What was announced of a tile, in order."""
        return [news.status for news in self.all(Announce) if news.tile == tile]

    def task_of(self, tile: Tile) -> Submit:
        """Return the task that has a tile."""
        return next(submit for submit in self.open.values() if tile in submit.tiles)

    # What may happen to a task ------------------------------------------------------------

    def start(self, submit: Submit, worker: str = "a", first: int | None = None) -> None:
        """Report that a task's tiles, or the first so many, have begun."""
        self.do(*(TileStarted(submit.task, t, worker) for t in submit.tiles[:first]))

    def succeed(self, submit: Submit, seconds: float = 0.0, after: float = 0.0) -> list[Action]:
        """Let all tiles of a task go well, and be committed."""
        done = TaskFinished(submit.task, dict.fromkeys(submit.tiles), seconds)
        return self.do(Committed(submit.tiles), done, after=after)

    def fail(self, submit: Submit, failure: Failure, after: float = 0.0) -> list[Action]:
        """Let each tile of a task fail."""
        outcomes = dict.fromkeys(submit.tiles, failure)
        return self.do(TaskFinished(submit.task, outcomes), after=after)

    def kill(self, *submits: Submit, worker: str = "a", new: str | None = None) -> None:
        """Let a worker die with these tasks, and a new one come."""
        self.do(*(TaskLost(submit.task, DEAD) for submit in submits))
        others = {a: 1 for a in ("a", "b") if a != worker}
        self.do(ClusterChanged(others))
        self.do(ClusterChanged(others | {new or worker: 1}), after=1.0)

    def wake(self) -> list[Action]:
        """Sleep until the scheduler wants to be woken."""
        due = self.scheduler.wake_at(self.now)
        assert due is not None, self.scheduler.waiting_for
        self.now = due
        return self.do()

    def finish(self) -> None:
        """Let all that is sent go well until it ends."""
        for _ in range(10_000):
            if self.scheduler.ended:
                return
            if self.tasks:
                self.succeed(self.tasks[0], after=0.01)
            else:
                self.wake()
        raise AssertionError(self.scheduler.waiting_for)
