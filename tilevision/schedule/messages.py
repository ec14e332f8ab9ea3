"""What happened, for the scheduler, and what it answers. Pure data: no clock, no cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tilevision.errors import Failure
from tilevision.grid import Tile
from tilevision.status import RunStatus, TileStatus

__all__ = [
    "Abandon",
    "Action",
    "Allowed",
    "Announce",
    "Cancelled",
    "ClusterChanged",
    "ClusterLost",
    "Committed",
    "End",
    "Happening",
    "Hold",
    "Paused",
    "Refused",
    "Renewed",
    "Resumed",
    "RetryFailed",
    "SetConcurrency",
    "Submit",
    "TakeBack",
    "TaskFinished",
    "TaskLost",
    "TileStarted",
    "TileWaits",
]


# What happened ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TileStarted:
    """A worker has begun to read this tile (a hint: it can come late, twice or never).

    Parameters
    ----------
    task : str
    tile : Tile
    worker : str
    cold : bool
        Whether the model has not answered in this process before: it may have to be loaded.
    """

    task: str
    tile: Tile
    worker: str
    cold: bool = False


@dataclass(frozen=True, slots=True)
class TileWaits:
    """A tile that has begun waits for its turn at the model; `TileStarted` follows once it has it.

    Its own time has not begun: what it waits for is a neighbour on the same worker.
    """

    task: str
    tile: Tile
    worker: str


@dataclass(frozen=True, slots=True)
class TaskFinished:
    """A task came back. Each of its tiles is either done (None) or failed.

    Parameters
    ----------
    task : str
    outcomes : mapping of Tile to Failure or None
    seconds : float
        Time the worker spent, for the automatic batch size.
    batched : frozenset of Tile
        Failed tiles whose failure hit several tiles at once: retried alone, without blame.
    ahead : int
        Tasks that a worker takes beside the one that each of its threads is for, since its model
        waits for a device.
    worker : str
        Which one.
    """

    task: str
    outcomes: Mapping[Tile, Failure | None]
    seconds: float = 0.0
    batched: frozenset[Tile] = frozenset()
    ahead: int = 0
    worker: str = ""


@dataclass(frozen=True, slots=True)
class TaskLost:
    """A task will never come back: its worker died, or Dask gave it up.

    Parameters
    ----------
    task : str
    failure : Failure
    worker : str
        Where it was, as far as that is known.
    blameless : bool
        True if its tiles cannot be the cause: the worker retired, cannot do the work, or takes
        no more of it. They are sent again as if they had not been sent.
    """

    task: str
    failure: Failure
    worker: str = ""
    blameless: bool = False


@dataclass(frozen=True, slots=True)
class Committed:
    """These tiles' findings are on disk."""

    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """These tiles came back, but the checkpoint cannot hold them (too large)."""

    failures: Mapping[Tile, Failure]


@dataclass(frozen=True, slots=True)
class ClusterChanged:
    """The workers that are there now: address to number of threads.

    Parameters
    ----------
    workers : mapping
    idle : frozenset of str
        Those among them that take no tasks now: paused, closing, or unable to do the work.
    may_have : int
        Threads that the cluster may come to have, since it starts workers when tasks wait for
        them; 0 where it stays as it is.
    """

    workers: Mapping[str, int]
    idle: frozenset[str] = frozenset()
    may_have: int = 0


@dataclass(frozen=True, slots=True)
class Renewed:
    """A worker is being replaced at our own wish; what is lost with it is not to blame."""

    worker: str


@dataclass(frozen=True, slots=True)
class ClusterLost:
    """The scheduler is gone, and every task with it; a new cluster may follow."""


@dataclass(frozen=True, slots=True)
class Paused:
    """Submit nothing more until resumed; what is in flight may finish."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Resumed:
    """Continue."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """End once what is in flight has finished, or has had its time; again: end at once.

    Parameters
    ----------
    reason : str
        Why the run stops, where that was not the user's wish.
    patience : float, optional
        Seconds to wait for what is in flight; None: by how long tiles take.
    """

    reason: str = ""
    patience: float | None = None


@dataclass(frozen=True, slots=True)
class RetryFailed:
    """Give failed tiles fresh attempts: these, or all."""

    tiles: frozenset[Tile] | None = None


@dataclass(frozen=True, slots=True)
class SetConcurrency:
    """Change the window while running; None is automatic."""

    concurrency: int | None


@dataclass(frozen=True, slots=True)
class Allowed:
    """No more tiles than this may be in flight from now on, whatever the window says.

    Parameters
    ----------
    tiles : int or None
        Below 1, nothing more is sent and the run stops; None: as many as the window has room for.
    reason : str
        Why it stops, one line.
    """

    tiles: int | None
    reason: str = ""


Happening = (
    TileStarted
    | TaskFinished
    | TaskLost
    | Committed
    | Refused
    | ClusterChanged
    | ClusterLost
    | Renewed
    | TileWaits
    | Paused
    | Resumed
    | Cancelled
    | RetryFailed
    | SetConcurrency
    | Allowed
)


# What to do ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submit:
    """Send these tiles to the cluster as one task.

    Parameters
    ----------
    task : str
        Unique for ever: ``tile-infer-<first tile>-a<attempt>-<serial>``.
    tiles : tuple of Tile
    attempts : tuple of int
        Number of the attempt of each tile, from 1.
    worker : str, optional
        Address to pin a suspect to, alone.
    """

    task: str
    tiles: tuple[Tile, ...]
    attempts: tuple[int, ...]
    worker: str | None = None


@dataclass(frozen=True, slots=True)
class Abandon:
    """Forget a task past its deadline; restart its worker where the model runs there.

    Parameters
    ----------
    task : str
    restart_worker : bool
    left : bool
        True if a cancelled run no longer waits for a tile that may still run.
    """

    task: str
    restart_worker: bool
    left: bool = False


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Ask the cluster for tasks that no worker has begun; those it gives back are lost to nobody.

    Parameters
    ----------
    tasks : tuple of str
        In the order in which they were sent.
    at_hand : int
        As many of the first ones may have been begun: all that is known without asking.
    """

    tasks: tuple[str, ...]
    at_hand: int


@dataclass(frozen=True, slots=True)
class Announce:
    """A tile has a new status, to be published (never ``done``: see Committed)."""

    tile: Tile
    status: TileStatus
    attempt: int = 0
    worker: str = ""
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """The run pauses of its own accord: the backend fails tile after tile."""

    reason: str


@dataclass(frozen=True, slots=True)
class End:
    """Nothing is left to do.

    Parameters
    ----------
    status : RunStatus
        ``complete``, ``partial``, ``stopped`` (a limit was hit) or ``cancelled``.
    reason : str
        One line; empty for ``complete``.
    failures : mapping of Tile to (Failure, attempts)
    """

    status: RunStatus
    reason: str = ""
    failures: Mapping[Tile, tuple[Failure, int]] = field(default_factory=dict)


Action = Submit | Abandon | TakeBack | Announce | Hold | End
