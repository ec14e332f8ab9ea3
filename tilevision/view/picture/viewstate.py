"""What a view knows about a run: a fold over its events. Pure; it does not draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tilevision.events import Event, RunChanged, StageDone, TileChanged
from tilevision.grid import Tile
from tilevision.plot import STATUSES
from tilevision.status import RunStatus, TileStatus
from tilevision.view.picture.boxes import BoxLayer, seen_boxes

__all__ = ["ViewState", "fold", "initial"]

RATE_TILES = 32
# Tiles that have to be timed before an estimate is shown: this share, between these numbers.
ENOUGH_SHARE, ENOUGH_LEAST, ENOUGH_TILES = 0.1, 3, 100

_T = TypeVar("_T", bound=np.generic)
_CODES = {status: code for code, status in enumerate(STATUSES)}
_ANALYSED_CODES = [_CODES[status] for status in STATUSES if status.analysed]
_ENDED_CODES = [_CODES[status] for status in STATUSES if status.ended]


@dataclass(frozen=True, slots=True, eq=False)
class ViewState:
    """The current state of a run, with columns in the order of `tiles`. Arrays never change.

    Attributes
    ----------
    tiles : tuple of Tile
    status : array (n,) of uint8
        Position in `tilevision.plot.STATUSES`.
    times : array (n,)
        Seconds since the epoch of each tile's latest event; 0 for none.
    attempts, n_findings : array (n,) of int
    seconds : array (n,)
        Time for reading and inference; NaN where nothing ran.
    saturated : array (n,) of bool
    model : array (n,) of int
        Position in `models` of the model that the latest event of each tile names.
    models : tuple of str
        Their labels; the first is "", for tiles without an event.
    errors : mapping of int to str
        Error of each tile whose latest event has one, by position.
    boxes : BoxLayer
        Detections of the tiles, in image pixels, before merging.
    planned : bool
        Whether this is a plan, of which nothing has run.
    run_status : RunStatus or None
        None before the first event of the run.
    reason : str
    stages : tuple of StageDone
    started, latest : float
        Time of the first and of the latest event; 0 for none.
    changed : float
        Time of the latest event of the run as a whole; 0 for none.
    idle : float
        Seconds between `started` and `latest` in which the run was paused or had ended.
    """

    tiles: tuple[Tile, ...]
    index: Mapping[Tile, int] = field(repr=False)
    status: NDArray[np.uint8]
    times: NDArray[np.float64]
    attempts: NDArray[np.int32]
    n_findings: NDArray[np.int64]
    seconds: NDArray[np.float32]
    saturated: NDArray[np.bool_]
    model: NDArray[np.int32]
    errors: Mapping[int, str]
    boxes: BoxLayer
    models: tuple[str, ...] = ("",)
    planned: bool = False
    run_status: RunStatus | None = None
    reason: str = ""
    stages: tuple[StageDone, ...] = ()
    started: float = 0.0
    latest: float = 0.0
    changed: float = 0.0
    idle: float = 0.0

    @property
    def version(self) -> tuple[RunStatus | None, float]:
        """Changes whenever the run as a whole changes."""
        return self.run_status, self.changed

    @property
    def seconds_active(self) -> float:
        """Seconds that the run has been going, without pauses and without idling after an end."""
        return max(self.latest - self.started - self.idle, 0.0)

    @property
    def n_skipped(self) -> int:
        """Number of tiles that lie outside the region."""
        return int((self.status == _CODES[TileStatus.SKIPPED]).sum())

    @property
    def n_wanted(self) -> int:
        """Number of tiles that are to be analysed: all but the skipped ones."""
        return len(self.tiles) - self.n_skipped

    @property
    def counts(self) -> dict[TileStatus, int]:
        """Number of tiles by status, without zeros."""
        counts = np.bincount(self.status, minlength=len(STATUSES))
        return {status: int(n) for status, n in zip(STATUSES, counts, strict=True) if n}

    @property
    def n_finished(self) -> int:
        """Tiles whose findings are known."""
        return int(np.isin(self.status, _ANALYSED_CODES).sum())

    @property
    def n_open(self) -> int:
        """Tiles that may still change."""
        return len(self.tiles) - int(np.isin(self.status, _ENDED_CODES).sum())

    @property
    def n_detections(self) -> int:
        """Detections in all finished tiles, counted twice where tiles overlap."""
        return int(self.n_findings[np.isin(self.status, _ANALYSED_CODES)].sum())

    @property
    def ended(self) -> bool:
        """Return True if the run is over."""
        return self.run_status is not None and self.run_status.over

    @property
    def at_rest(self) -> bool:
        """Return True if nothing will change unless the user does something."""
        return self.ended or self.planned

    def given_to(self, label: str) -> NDArray[np.bool_]:
        """Return which tiles ``(n,)`` came to the model of that label, by their latest events."""
        if label not in self.models:
            return np.zeros(len(self.model), dtype=bool)
        given: NDArray[np.bool_] = self.model == self.models.index(label)
        return given

    def rate(self, now: float) -> float | None:
        """Return the tiles per second that become done; None until that can be known.

        Counted from the first tile that was done on, so that the start of the cluster does not
        count, over the latest half of the tiles done, at least `RATE_TILES` of them.
        """
        done = self.status == _CODES[TileStatus.DONE]
        done = np.sort(self.times[done & (self.times > self.changed)])  # since it was resumed
        n = len(done)
        if n < 2:
            return None
        first = done[max(0, n - max(RATE_TILES, n // 2) - 1)]
        counted = int((done > first).sum())
        span = max(now, done[-1]) - first
        return counted / span if counted and span > 0 else None

    def seconds_left(self, now: float) -> float | None:
        """Return the seconds until all tiles have ended; None while too few are timed to tell."""
        done = int((self.status == _CODES[TileStatus.DONE]).sum())
        enough = min(max(ENOUGH_SHARE * (done + self.n_open), ENOUGH_LEAST), ENOUGH_TILES)
        rate = self.rate(now)
        return self.n_open / rate if rate and done >= enough else None


def initial(tiles: Sequence[Tile], *, planned: bool = False) -> ViewState:
    """Return the state of a run of `tiles` before its first event: all pending."""
    n = len(tiles)
    return ViewState(
        tiles=tuple(tiles),
        index={tile: i for i, tile in enumerate(tiles)},
        status=np.full(n, _CODES[TileStatus.PENDING], dtype=np.uint8),
        times=np.zeros(n),
        attempts=np.zeros(n, dtype=np.int32),
        n_findings=np.zeros(n, dtype=np.int64),
        seconds=np.full(n, np.nan, dtype=np.float32),
        saturated=np.zeros(n, dtype=bool),
        model=np.zeros(n, dtype=np.int32),
        errors={},
        boxes=BoxLayer(),
        planned=planned,
    )


def fold(state: ViewState, events: Iterable[Event]) -> ViewState:
    """Return the state after `events`, in their order; `state` stays as it is.

    Events are taken many at a time since a step copies the columns: its cost is the number
    of tiles once, plus the number of events. A repeated event changes nothing, so a snapshot
    and the events after it may overlap. Tiles that are not the run's are ignored.
    """
    tiles: list[tuple[int, TileChanged]] = []
    stages = list(state.stages)
    run_status, reason, changed = state.run_status, state.reason, state.changed
    started, latest, idle = state.started, state.latest, state.idle
    for event in events:
        if isinstance(event, RunChanged):
            begins = event.status == RunStatus.RUNNING and run_status is not None
            if begins and event.time > latest:  # after a pause, an end, or a kill
                idle += event.time - latest
            run_status, reason, changed = RunStatus(event.status), event.reason, event.time
        elif isinstance(event, StageDone):
            if event not in stages:
                stages.append(event)
        elif (i := state.index.get(event.tile)) is not None:
            tiles.append((i, event))
        started, latest = started or event.time, max(latest, event.time)
    state = replace(
        state,
        run_status=run_status,
        reason=reason,
        changed=changed,
        stages=tuple(stages),
        started=started,
        latest=latest,
        idle=idle,
    )
    return _with_tiles(state, tiles) if tiles else state


def _with_tiles(state: ViewState, tiles: list[tuple[int, TileChanged]]) -> ViewState:
    latest = dict(tiles)  # only the last event of a tile counts
    at = np.fromiter(latest, np.int64, len(latest))
    events = latest.values()
    errors = {i: text for i, text in state.errors.items() if i not in latest}
    errors |= {i: event.error for i, event in latest.items() if event.error}

    numbers = {name: i for i, name in enumerate(state.models)}
    model = [numbers.setdefault(event.model, len(numbers)) for event in events]
    news = {i: e for i, e in latest.items() if not _known(state, i, e)}
    return replace(
        state,
        status=_column(state.status, at, (_CODES[TileStatus(e.status)] for e in events)),
        times=_column(state.times, at, (e.time for e in events)),
        attempts=_column(state.attempts, at, (e.attempt for e in events)),
        n_findings=_column(state.n_findings, at, (e.n_findings for e in events)),
        seconds=_column(state.seconds, at, (_seconds(e) for e in events)),
        saturated=_column(state.saturated, at, (e.saturated for e in events)),
        model=_column(state.model, at, model),
        models=tuple(numbers),
        errors=errors,
        boxes=state.boxes.with_tiles(
            {i: seen_boxes(e) if TileStatus(e.status).analysed else () for i, e in news.items()}
        ),
    )


def _known(state: ViewState, i: int, event: TileChanged) -> bool:
    last = (state.times[i], state.status[i], state.attempts[i], state.n_findings[i])
    return last == (event.time, _CODES[TileStatus(event.status)], event.attempt, event.n_findings)


def _column(old: NDArray[_T], at: NDArray[np.int64], values: Iterable[float]) -> NDArray[_T]:
    new = old.copy()
    new[at] = np.fromiter(values, old.dtype, len(at))
    return new


def _seconds(event: TileChanged) -> float:
    known = [s for s in (event.read_seconds, event.infer_seconds) if s is not None]
    return sum(known) if known else np.nan
