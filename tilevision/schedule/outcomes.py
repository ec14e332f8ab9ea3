"""What an outcome means for its tile: committed next, tried again, suspected or failed."""

from __future__ import annotations

from collections.abc import Mapping

from tilevision.errors import Failure
from tilevision.grid import Tile
from tilevision.schedule.messages import (
    Abandon,
    ClusterChanged,
    ClusterLost,
    Renewed,
    TaskFinished,
    TaskLost,
)
from tilevision.schedule.state import Board
from tilevision.schedule.tilestates import DEATHS, LOSSES, Place, Task, TileState
from tilevision.status import TileStatus

__all__ = ["DIED", "Outcomes"]

THROTTLES = 30  # refusals of one tile; more, and it is the tile that the backend refuses
DIED = Failure("lost", "WorkerDied", "its worker died (crashed, killed or out of memory)")
SILENT = Failure(
    "transient", "RunError", "the task returned nothing for this tile; is the cluster up to date?"
)


class Outcomes:
    """Applies what came back, or did not, to the tiles.

    Parameters
    ----------
    board : Board
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._ledger, self._flight = board.ledger, board.flight
        self._backlog, self._suspects = board.backlog, board.suspects
        self._circuit, self._backoff = board.circuit, board.backoff

    def finished(self, happening: TaskFinished, now: float) -> None:
        """Apply what a task returned; of a task that was given up only what went well."""
        task = self._flight.tasks.get(happening.task)
        if task is None:
            self._late(happening.outcomes)
            return
        for state in self._flight.close(task):
            failure = happening.outcomes.get(state.tile, SILENT)
            if failure is None:
                self._arrived(state)
            elif state.tile in happening.batched:
                self._split(state, failure, task, now)
            else:
                self._failed(state, failure, task, now)
        self._circuit.closed(task)
        good = sum(failure is None for failure in happening.outcomes.values())
        if good:
            board = self._board
            board.window.succeeded(good, board.workers.threads, board.batches.size)
            board.circuit.succeeded()
        if good and task.cold:
            self._board.deadlines.loaded(happening.seconds)
        if good == task.size:
            self._board.batches.measured(happening.seconds, good, self._board.workers.threads)

    def lost(self, happening: TaskLost, now: float) -> None:
        """Apply the death of a task's worker, or another failure of the task as a whole."""
        task, failure = self._flight.tasks.get(happening.task), happening.failure
        if task is None:
            return
        # Where one waits for its turn, those before it are through: none of them can be to blame.
        started = set() if task.waits else set(task.started)
        worker = task.worker or happening.worker
        states = self._flight.close(task)
        if failure.kind != "lost":
            for state in states:
                self._split(state, failure, task, now)
        elif happening.blameless or self._board.workers.restarted(worker, now):
            self._unblamed(task, states)
        else:
            self._suspects.disturbed(now)
            self._circuit.died(failure, now)
            self._died(task, states, started, failure)
        self._circuit.closed(task)

    def overdue(self, task: Task, now: float) -> None:
        """Give a task up; a tile that hangs alone is charged, a batch is tried one by one."""
        restart = not self._board.policy.hosted
        states = self._flight.abandon(task, restart_worker=restart)
        self._suspects.disturbed(now)
        if restart:
            self._board.workers.restart(task.worker, now)
        waited = now - task.submitted
        failure = Failure("timeout", "TimeoutError", f"not finished after {waited:.1f} s; given up")
        for state in states:
            # One that still waits for its turn is as little to blame as one that was not begun.
            if (task.started and not task.waits) or task.exclusive:
                self._split(state, failure, task, now)
            else:
                self._unseen(state, failure, task, now)
        self._circuit.closed(task)

    def withdraw(self) -> None:
        """Take back what waits in the cluster's queue, since the run is to stand still or end."""
        if not self._board.queued:
            return
        for task in [task for task in self._flight.tasks.values() if not task.started]:
            self._unblamed(task, self._flight.abandon(task, restart_worker=False))
            self._circuit.closed(task)

    def leave(self) -> None:
        """Give up what is in flight, since a cancelled run has waited for it long enough."""
        restart = not self._board.policy.hosted
        for task in list(self._flight.tasks.values()):
            begun = bool(task.started)
            states = self._flight.abandon(task, restart_worker=restart and begun, left=begun)
            self._unblamed(task, states)
            self._circuit.closed(task)

    def cluster_changed(
        self, happening: ClusterChanged | ClusterLost | Renewed, now: float
    ) -> None:
        """Take over the workers that there are, or which of them are about to go."""
        match happening:
            case ClusterChanged():
                self._workers_changed(happening, now)
            case ClusterLost():
                self._cluster_lost(now)
            case Renewed(worker):
                self._board.workers.restart(worker, now)

    def _workers_changed(self, there: ClusterChanged, now: float) -> None:
        """Take over the workers; what is pinned to one that is gone would wait for ever."""
        for address, task in list(self._flight.pinned.items()):
            if address and address not in there.workers:
                self._ledger.actions.append(Abandon(task.key, restart_worker=False))
                self.lost(TaskLost(task.key, DIED), now)
        if self._board.workers.changed(there.workers, there.idle, there.may_have):
            self._suspects.disturbed(now)

    def _cluster_lost(self, now: float) -> None:
        """Take back everything in flight, without blame, and wait for a cluster."""
        for task in list(self._flight.tasks.values()):
            self._unblamed(task, self._flight.close(task))
            self._circuit.closed(task)
        self._board.workers.changed({})
        self._suspects.disturbed(now)

    def refused(self, failures: Mapping[Tile, Failure]) -> None:
        """Fail tiles whose findings the checkpoint cannot hold."""
        for tile, failure in failures.items():
            state = self._ledger.find(tile)
            if state is None or state.place is Place.DONE:
                continue
            if state.place is Place.FAILED:
                self._ledger.failures[state] = failure  # a late result: now it is known why
                continue
            self._flight.detach(state)
            state.tries += 1
            self._ledger.fail(state, failure, "")

    def committed(self, tiles: tuple[Tile, ...]) -> None:
        """End tiles that are on disk, wherever they are: this may come before the outcome."""
        for tile in tiles:
            state = self._ledger.find(tile)
            if state is None or state.place is Place.DONE:
                continue
            self._flight.detach(state)
            self._ledger.done(state)

    def spare(self) -> None:
        """Give up tasks whose tiles were all settled by others, or are on disk already."""
        for task in self._flight.pointless():
            self._flight.abandon(task, restart_worker=False)
            self._circuit.closed(task)

    def _late(self, outcomes: Mapping[Tile, Failure | None]) -> None:
        """Keep what went well in a task that was given up."""
        for tile, failure in outcomes.items():
            state = self._ledger.find(tile)
            if failure is not None or state is None:
                continue
            refused = (
                state.place is Place.FAILED and self._ledger.failures[state].kind == "permanent"
            )
            if not refused and state.place not in (Place.ARRIVED, Place.DONE):
                self._flight.detach(state)
                self._arrived(state)

    def _arrived(self, state: TileState) -> None:
        self._ledger.move(state, Place.ARRIVED)
        self._ledger.mark(state, TileStatus.RUNNING)  # its hint may be late or lost

    def _failed(self, state: TileState, failure: Failure, task: Task, now: float) -> None:
        """Charge a failure to a tile, and try it again while it may."""
        self._circuit.failed(state, failure, task, now)
        state.tries += 1
        if failure.kind == "throttled":
            state.throttles += 1
            self._throttled(task)
            if state.throttles < THROTTLES:
                wait = self._backoff.wait(state.throttles, failure)
                self._again(state, TileStatus.THROTTLED, failure, task, now + wait)
                return
        elif failure.kind != "permanent":
            state.errors += 1
            if state.errors < self._board.policy.retry.attempts:
                wait = self._backoff.wait(state.errors, failure)
                self._again(state, TileStatus.RETRYING, failure, task, now + wait)
                return
        self._ledger.fail(state, failure, task.worker)

    def _split(self, state: TileState, failure: Failure, task: Task, now: float) -> None:
        """Try a tile alone, at no charge, where its batch failed as a whole."""
        if task.size == 1 or failure.kind == "throttled":
            self._failed(state, failure, task, now)
        else:
            self._again(state, TileStatus.RETRYING, failure, task, now)

    def _unseen(self, state: TileState, failure: Failure, task: Task, now: float) -> None:
        """Do not charge a tile that may have been queued all the time; find out if it goes on."""
        state.losses += 1
        if state.losses < LOSSES:
            self._again(state, TileStatus.RETRYING, failure, task, now)
        else:
            self._suspects.retry(state)
            self._retrying(state, failure, task)

    def _again(
        self, state: TileState, status: TileStatus, failure: Failure, task: Task, due: float
    ) -> None:
        self._backlog.again(state, due)
        self._ledger.announce(state, status, max(1, state.tries), task.worker, failure)

    def _retrying(self, state: TileState, failure: Failure, task: Task) -> None:
        self._ledger.announce(state, TileStatus.RETRYING, max(1, state.tries), task.worker, failure)

    def _died(
        self,
        task: Task,
        states: list[TileState],
        started: set[TileState],
        failure: Failure,
    ) -> None:
        """Find out which tiles of a task may have killed its worker."""
        for state in states:
            state.tries += state in started
        if task.pin is None:
            for state in states:
                if state in started:
                    self._accuse(state, failure, task)
                else:
                    self._missed(state, failure, task)
        elif task.size > 1:
            self._suspects.regroup(states, started)
            for state in states:
                self._retrying(state, failure, task)
        else:
            for state in states:
                self._died_alone(state, failure, task, seen=state in started)

    def _accuse(self, state: TileState, failure: Failure, task: Task) -> None:
        """Suspect a tile of the main pass."""
        self._suspects.accuse(state)
        self._retrying(state, failure, task)

    def _missed(self, state: TileState, failure: Failure, task: Task) -> None:
        """Requeue a tile that was never seen to start; time and again, that is suspect too."""
        state.losses += not self._board.queued  # else it waited behind others, most likely
        if state.losses >= LOSSES:
            self._accuse(state, failure, task)
        else:
            self._backlog.requeue(state)

    def _died_alone(self, state: TileState, failure: Failure, task: Task, *, seen: bool) -> None:
        """Count a death of a suspect that ran alone; convict it where nothing else ran."""
        certain = task.exclusive
        state.tries += certain and not seen
        state.deaths += certain or seen
        state.losses += not (certain or seen)
        if certain and state.deaths >= DEATHS:
            self._ledger.fail(state, failure, task.worker)
            return
        self._suspects.retry(state)
        self._retrying(state, failure, task)

    def _unblamed(self, task: Task, states: list[TileState]) -> None:
        """Put tiles back as if they had not been sent."""
        for state in states:
            if state.status is TileStatus.RUNNING:
                self._ledger.announce(state, TileStatus.PENDING, 0, "", None)
        if task.pin is not None:
            self._suspects.put_back(states)
        else:
            for state in states:
                self._backlog.requeue(state)

    def _throttled(self, task: Task) -> None:
        board = self._board
        board.window.throttled(
            task.serial, board.flight.serial, board.workers.threads, board.batches.size
        )
