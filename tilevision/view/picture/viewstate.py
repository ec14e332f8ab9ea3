"""What a view knows about a run: a fold over its events. Pure; it does not draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tilevision.events import Event, RunChanged, StageDone, TileChanged
from tilevision.grid import Tile
from tilevision.pipeline.estimate import TimeLeft
from tilevision.plot import STATUSES
from tilevision.status import RunStatus, TileStatus
from tilevision.view.picture.boxes import BoxLayer, seen_boxes

__all__ = ["ViewState", "fold", "initial"]

_T = TypeVar("_T", bound=np.generic)
_CODES = {status: code for code, status in enumerate(STATUSES)}
_ANALYSED_CODES = [_CODES[status] for status in STATUSES if status.analysed]
_ENDED_CODES = [_CODES[status] for status in STATUSES if status.ended]
_NO_MODEL, _EARLIER, _LAST = range(3)


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
    turns : array (n,) of uint8
        Whether a tile's latest event is of no model, of one that is not the last, or of the last.
    last_model : str
        Of several models the one that looks at tiles last; empty where there is one.
    at_once : int
        The most tiles that were looked at at once since the run was started or resumed.
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
    turns: NDArray[np.uint8]
    models: tuple[str, ...] = ("",)
    last_model: str = ""
    at_once: int = 0
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
        """Return the tiles per second that become done; None until that can be known."""
        return self._time_left.rate(now)

    def seconds_left(self, now: float) -> float | None:
        """Return the seconds until all tiles have ended; None where that cannot be told."""
        return self._time_left.seconds(now)

    @property
    def _time_left(self) -> TimeLeft:
        return TimeLeft(
            done=self._timed,
            begun=self.times[self.status == _CODES[TileStatus.RUNNING]],
            n_open=self.n_open,
            n_waiting=self.number(TileStatus.RETRYING) + self.number(TileStatus.THROTTLED),
            at_once=self.at_once,
            more_to_come=self._more_to_come,
        )

    def number(self, status: TileStatus) -> int:
        """Return how many tiles have a status."""
        return int((self.status == _CODES[status]).sum())

    @property
    def _timed(self) -> NDArray[np.float64]:
        """When tiles became done since the run was started or resumed, in order."""
        done = (self.status == _CODES[TileStatus.DONE]) & (self.times > self.changed)
        last = done & (self.turns == _LAST)  # none where there is one model
        return np.sort(self.times[last if last.any() else done])

    @property
    def _more_to_come(self) -> bool:
        """Return True if a model has tiles to look at that another has first."""
        if not self.last_model:
            return False
        is_open = ~np.isin(self.status, _ENDED_CODES)
        timed = (self.status == _CODES[TileStatus.DONE]) & (self.times > self.changed)
        begun = bool((timed & (self.turns == _LAST)).any())
        return not begun or bool((is_open & (self.turns == _EARLIER)).any())


def initial(tiles: Sequence[Tile], *, planned: bool = False, last_model: str = "") -> ViewState:
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
        turns=np.zeros(n, dtype=np.uint8),
        last_model=last_model,
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
    started, latest, idle, at_once = state.started, state.latest, state.idle, state.at_once
    for event in events:
        if isinstance(event, RunChanged):
            begins = event.status == RunStatus.RUNNING and run_status is not None
            if begins and event.time > latest:  # after a pause, an end, or a kill
                idle += event.time - latest
            at_once = 0 if event.time > changed else at_once
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
        at_once=at_once,
    )
    if tiles:
        state = _with_tiles(state, tiles)
        state = replace(state, at_once=max(at_once, state.number(TileStatus.RUNNING)))
    return state


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
        turns=_column(state.turns, at, (_turn(state, e) for e in events)),
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


def _turn(state: ViewState, event: TileChanged) -> int:
    if not event.model:
        return _NO_MODEL
    return _LAST if event.model == state.last_model else _EARLIER


def _seconds(event: TileChanged) -> float:
    known = [s for s in (event.read_seconds, event.infer_seconds) if s is not None]
    return sum(known) if known else np.nan
