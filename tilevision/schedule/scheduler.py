"""Decides what runs where and when: state and clock in, actions out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilevision.grid import Tile
from tilevision.schedule.messages import (
    Abandon,
    Action,
    Allowed,
    Cancelled,
    ClusterChanged,
    ClusterLost,
    Committed,
    End,
    Happening,
    Hold,
    Paused,
    Refused,
    Renewed,
    Resumed,
    RetryFailed,
    SetConcurrency,
    TaskFinished,
    TaskLost,
    TileStarted,
    TileWaits,
)
from tilevision.schedule.outcomes import Dispatch, Outcomes
from tilevision.schedule.policy import Policy
from tilevision.schedule.state import Board
from tilevision.schedule.tilestates import Place
from tilevision.status import RunStatus, TileStatus

__all__ = ["Scheduler"]


class Scheduler:
    """The decisions of one run; pure: no clock, no threads, no cluster.

    Call `advance` with what happened and the time, carry out the actions, and call it
    again when something happens or `wake_at` is reached. Every advance costs time in
    proportion to what happened and was sent, not to the number of tiles.

    Parameters
    ----------
    tiles : sequence of Tile
        Tiles to analyse, in the order in which they are to be sent.
    policy : Policy
    seed : int
        Of the jitter; the same happenings at the same times give the same actions.

    Raises
    ------
    RunError
        If a tile is there twice.
    """

    def __init__(self, tiles: Sequence[Tile], policy: Policy, *, seed: int = 0) -> None:
        self._board = Board(tiles, policy, seed)
        self._ledger = self._board.ledger
        self._outcomes = Outcomes(self._board)
        self._dispatch = Dispatch(self._board)
        self._now = -math.inf
        self._paused: str | None = None
        self._held = ""
        self._cancelled = False
        self._terminated = ""
        self._leave_at = math.inf
        self._exhausted = ""
        self._ended = False

    @property
    def counts(self) -> dict[str, int]:
        """Tiles by status: pending, running, done, retrying, throttled, failed."""
        return {status.value: n for status, n in self._ledger.counts.items()}

    @property
    def ended(self) -> bool:
        """Return True if nothing is left to do; `RetryFailed` can give it more."""
        return self._ended

    @property
    def window(self) -> int:
        """Tiles that may be in flight or uncommitted at once, as of now."""
        return self._board.limit

    @property
    def waiting_for(self) -> str:
        """What the run waits for, one line; empty once it has ended."""
        if self._ended:
            return ""
        places = self._ledger.places
        out = f"{places[Place.FLIGHT]} tiles in flight"
        if places[Place.ARRIVED]:
            out += f" and {places[Place.ARRIVED]} to be committed"
        if self._draining:
            return f"{out} before it ends"
        if self._held or self._paused is not None:
            return f"resume ({self._held or self._paused or 'paused'})"
        if self._dispatch.obstacle:
            return self._dispatch.obstacle
        if self._ledger.busy:
            return out
        seconds = max(0.0, self._dispatch.until - self._now)
        if self._board.suspects.any:
            return f"quiet on the cluster to try suspect tiles alone, {seconds:.1f} s"
        return f"{places[Place.WAITING]} tiles to be tried again, the next in {seconds:.1f} s"

    def wants(self, tile: Tile) -> bool:
        """Return True if a result for `tile` would be news: it is neither back nor done."""
        state = self._ledger.find(tile)
        return state is not None and state.place not in (Place.ARRIVED, Place.DONE)

    def wake_at(self, now: float) -> float | None:
        """Return when to call `advance` though nothing happens; None: not before something does."""
        if self._now == -math.inf:
            return now
        deadline = self._board.deadlines.next(self._board.flight.tasks)
        wake = min(self._dispatch.until, math.inf if deadline is None else deadline)
        if not self._ended and self._board.flight.tasks:
            wake = min(wake, self._leave_at)
        return None if wake == math.inf else max(wake, now)

    def advance(self, happenings: Sequence[Happening], now: float) -> list[Action]:
        """Take in what happened, in this order, and return what to do, in this order.

        Parameters
        ----------
        happenings : sequence of Happening
        now : float
            Seconds of a clock that never runs backwards; if it does, time stands still.

        Returns
        -------
        list of Action
            `End` comes last, and once (again after a `RetryFailed`).
        """
        self._now = now = max(now, self._now)
        for happening in happenings:
            self._take(happening, now)
        for task in self._board.deadlines.due(self._board.flight.tasks, now, self._queueing):
            self._outcomes.overdue(task, now)
        self._outcomes.spare()
        if now >= self._leave_at:
            self._outcomes.leave()
        self._hold()
        if self._ended or self._draining or self._held or self._paused is not None:
            self._outcomes.withdraw()
            self._dispatch.stop()
        else:
            self._dispatch.fill(now)
        self._end()
        return self._ledger.answer()

    def _take(self, happening: Happening, now: float) -> None:
        match happening:
            case TaskFinished():
                self._outcomes.finished(happening, now)
            case TileStarted():
                self._started(happening, now)
            case Committed(tiles):
                self._outcomes.committed(tiles)
            case TileWaits():
                self._waits(happening, now)
            case TaskLost():
                self._outcomes.lost(happening, now)
            case Refused(failures):
                self._outcomes.refused(failures)
            case ClusterChanged() | ClusterLost() | Renewed():
                self._outcomes.cluster_changed(happening, now)
            case _:
                self._command(happening, now)

    def _command(self, happening: Happening, now: float) -> None:
        match happening:
            case Paused(reason):
                self._paused = reason
            case Resumed():
                self._go_on()
            case Cancelled(reason, patience):
                self._cancel(reason, patience, now)
            case RetryFailed(tiles):
                self._retry_failed(tiles, now)
            case SetConcurrency(concurrency):
                self._board.window.limit(concurrency)
            case Allowed(tiles, reason):
                self._board.allowed = tiles
                self._exhausted = reason if tiles is not None and tiles < 1 else ""

    def _started(self, start: TileStarted, now: float) -> None:
        task, state = self._board.flight.tasks.get(start.task), self._ledger.find(start.tile)
        if task is None or state not in task.tiles:
            return
        task.worker = start.worker
        if state in task.started:
            if task.waits:  # it has its turn now
                task.waits = False
                self._board.deadlines.started(task, now)
            return
        task.waits = False
        task.started.add(state)
        task.cold |= start.cold
        self._board.deadlines.started(task, now)
        self._ledger.announce(state, TileStatus.RUNNING, state.tries + 1, start.worker, None)

    def _waits(self, wait: TileWaits, now: float) -> None:
        task = self._board.flight.tasks.get(wait.task)
        if task is None:
            return
        task.worker, task.waits = wait.worker, True
        others = sum(one.worker == wait.worker for one in self._board.flight.tasks.values())
        self._board.deadlines.waits(task, now, others)

    def _cancel(self, reason: str, patience: float | None, now: float) -> None:
        """Send nothing more, and set when to stop waiting for what is in flight."""
        seconds = self._board.patience if patience is None else patience
        self._leave_at = min(self._leave_at, now if self._cancelled else now + seconds)
        self._cancelled = True
        self._terminated = self._terminated or reason

    @property
    def _queueing(self) -> float:
        """Seconds more for tasks that have not begun, while they wait in the cluster's queue."""
        board = self._board
        if board.policy.timeout is None or not (board.queued or not board.workers.threads):
            return 0.0
        turns = math.ceil(board.ledger.busy / max(1, board.workers.threads)) + 1
        return turns * board.policy.timeout

    def _go_on(self) -> None:
        self._paused, self._held = None, ""
        for task in self._board.flight.tasks.values():
            task.asked_back = False
        self._board.circuit.reset()

    def _retry_failed(self, tiles: frozenset[Tile] | None, now: float) -> None:
        failed = [s for s in self._ledger.failures if tiles is None or s.tile in tiles]
        if not failed or (self._cancelled and not self._ended):
            return
        for state in sorted(failed, key=lambda state: state.order):
            killer = state.deaths > 0
            state.forgive()
            if killer:
                self._board.suspects.retry(state)
            else:
                self._board.backlog.again(state, now)
            self._ledger.announce(state, TileStatus.PENDING, 0, "", None)
        self._ended = self._cancelled = False
        self._terminated, self._leave_at = "", math.inf
        self._held = ""
        self._board.circuit.reset()

    @property
    def _draining(self) -> bool:
        """Return True if the run ends as soon as nothing is in flight."""
        return self._cancelled or self._hopeless or bool(self._exhausted)

    @property
    def _hopeless(self) -> bool:
        limit = self._board.policy.failure_limit(len(self._ledger))
        return limit is not None and len(self._ledger.failures) >= limit

    def _hold(self) -> None:
        """Pause of its own accord while the backend fails tile after tile."""
        board = self._board
        if self._held or self._draining or not board.circuit.suspicious:
            return
        window = board.window.tiles(board.workers.threads, board.batches.size)
        self._held = board.circuit.outage(window, board.untried)
        if self._held:
            self._ledger.actions.append(Hold(self._held))

    def _end(self) -> None:
        idle = not self._board.flight.tasks and not self._ledger.busy
        if self._ended or not (self._ledger.finished or (self._draining and idle)):
            return
        self._ended = True
        self._dispatch.stop()
        for task in list(self._board.flight.tasks.values()):
            self._ledger.actions.append(Abandon(task.key, restart_worker=False))
            self._board.flight.close(task)
        failures = {state.tile: (f, state.tries) for state, f in self._ledger.failures.items()}
        status, reason = self._verdict()
        self._ledger.actions.append(End(status, reason, dict(sorted(failures.items()))))

    def _verdict(self) -> tuple[RunStatus, str]:
        done, failed, total = (
            self._ledger.counts[TileStatus.DONE],
            self._ledger.counts[TileStatus.FAILED],
            len(self._ledger),
        )
        if self._hopeless:
            return RunStatus.STOPPED, f"{failed} of {total} tiles failed, which is the limit."
        if self._ledger.finished:
            if not failed:
                return RunStatus.COMPLETE, ""
            return RunStatus.PARTIAL, f"{failed} of {total} tiles failed."
        if self._terminated:
            return RunStatus.STOPPED, self._terminated
        if self._exhausted and not self._cancelled:
            return RunStatus.STOPPED, self._exhausted
        return RunStatus.CANCELLED, f"{done} of {total} tiles done."
