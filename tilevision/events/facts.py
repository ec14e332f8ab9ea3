"""Facts about a run, as they happen.

Events are published after the fact: `done` follows the commit. Listeners stand outside
and only read.
"""

from __future__ import annotations

from dataclasses import dataclass

from tilevision.grid import Tile
from tilevision.plaintext import readable

__all__ = ["BOXES_PER_EVENT", "Event", "RunChanged", "StageDone", "TileChanged"]

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
        for name in ("boxes", "scores"):
            values = getattr(self, name)
            if len(values) > BOXES_PER_EVENT:
                object.__setattr__(self, name, tuple(values[:BOXES_PER_EVENT]))
        if self.error:
            line = readable(" ".join(self.error.split())[:LINE_LIMIT])
            object.__setattr__(self, "error", line)


Event = RunChanged | StageDone | TileChanged
