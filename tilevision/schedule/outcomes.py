"""What is sent next, within window, quota and circuit; and what an outcome means for its tile.

A tile's result is committed next, or the tile is tried again, suspected or failed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from tilevision.errors import Failure
from tilevision.grid import Tile
from tilevision.schedule.messages import (
    Abandon,
    ClusterChanged,
    ClusterLost,
    Renewed,
    TakeBack,
    TaskFinished,
    TaskLost,
)
from tilevision.schedule.state import Board
from tilevision.schedule.tilestates import DEATHS, LOSSES, Place, Task, TileState
from tilevision.status import TileStatus

__all__ = ["DIED", "Dispatch", "Outcomes"]


class Dispatch:
    """Sends tiles off: suspects first, then retries that are due, then fresh ones in order.

    Parameters
    ----------
    board : Board

    Attributes
    ----------
    until : float
        When there may be more to send though nothing happens; infinity where never.
    obstacle : str
        What keeps tiles that are ready from being sent; empty where nothing does.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._flight, self._backlog = board.flight, board.backlog
        self._suspects, self._workers = board.suspects, board.workers
        self._circuit = board.circuit
        self.stop()

    def stop(self) -> None:
        """Send nothing: the run is paused or draining."""
        self.until, self.obstacle = math.inf, ""

    def fill(self, now: float) -> None:
        """Send as much as may be sent."""
        self.stop()
        if not self._workers.threads:
            self.obstacle = "workers; the cluster has none"
            if not self._workers.may_have:
                return  # else it starts workers for what waits
        self._suspects.group()
        while self._next(now):
            pass

    def _next(self, now: float) -> bool:
        """Send one task; False where none is left or allowed."""
        room = self._room()
        if room < 1:
            return False
        shut = self._circuit.protects(self._backlog.untried)
        if shut and not self._may_probe(now):
            return False
        bucket = self._board.bucket
        tokens = bucket.available(now)
        if tokens < 1:
            return self._wait(bucket.ready_at(now), "the quota of requests per minute")
        limit = 1 if shut else tokens
        return self._send_suspects(int(min(room, limit)), now) or self._send_main(room, limit, now)

    def _room(self) -> int:
        if len(self._flight.tasks) >= self._board.tasks:
            return 0
        return self._board.limit - self._board.ledger.busy

    def _may_probe(self, now: float) -> bool:
        obstacle = f"the backend to recover ({self._circuit.trouble})"
        if self._circuit.probing:
            self.obstacle = obstacle
            return False
        return now >= self._circuit.shut_until or self._wait(self._circuit.shut_until, obstacle)

    def _wait(self, until: float, obstacle: str = "") -> bool:
        self.until = min(self.until, until)
        self.obstacle = obstacle or self.obstacle
        return False

    def _send_suspects(self, most: int, now: float) -> bool:
        """Send suspects to a worker that has none; False where none can go now."""
        if not self._suspects.any:
            return False
        worker = self._free_worker(now)
        if worker is None:
            return False
        if self._quiet(now) and self._flight.unpinned == 0:
            states = self._suspects.take_last_resort()
            if states:
                self._send(states, now, worker, exclusive=True)
                return True
        states = self._suspects.take(most)
        if states:
            self._send(states, now, worker)
        return bool(states)

    def _free_worker(self, now: float) -> str | None:
        """Return a worker that has no suspect and is not being restarted."""
        restarts = self._workers.restarts_until(now)
        if restarts is not None:
            self._wait(restarts)
        for address in self._workers.addresses:
            if address not in self._flight.pinned and not self._workers.restarting(address):
                return address
        return None

    def _quiet(self, now: float) -> bool:
        """Return True if a death now could only be the doing of what is sent now."""
        quiet_from = max(self._suspects.quiet_from, self._workers.restarts_until(now) or 0.0)
        if now < quiet_from and self._suspects.last_resort:
            self._wait(quiet_from)
        return now >= quiet_from

    def _send_main(self, room: int, limit: float, now: float) -> bool:
        """Send a retry that is due, or a batch of fresh tiles."""
        if self._flight.exclusive or (self._suspects.last_resort and self._quiet(now)):
            return False  # the cluster is being emptied for suspects
        single = self._backlog.single(now)
        if single is not None:
            self._send([single], now)
            return True
        due = self._backlog.next_due()
        if due is not None:
            self._wait(due)
        states = self._backlog.batch(self._batch(room, limit))
        if states:
            self._send(states, now)
        return bool(states)

    def _batch(self, room: int, limit: float) -> int:
        """Return the size of the next batch; 0 to wait for more room."""
        threads, batches = self._workers.threads, self._board.batches
        sharing = max(1, threads, self._workers.may_have if self._board.queue else 0)
        sharing += threads * self._board.window.ahead
        size = batches.next(self._backlog.untried, sharing, self._board.limit)
        wanted = int(min(size, self._board.window.share(threads), limit))
        busy = len(self._flight.tasks) >= threads and not self._board.policy.hosted
        if room < wanted and busy:
            return 0  # or ever smaller batches would follow
        return batches.whole(min(wanted, room))

    def _send(
        self,
        states: list[TileState],
        now: float,
        pin: str | None = None,
        *,
        exclusive: bool = False,
    ) -> None:
        task = self._flight.submit(states, now, pin, exclusive=exclusive)
        self._board.bucket.take(len(states))
        self._circuit.sent(task)
        threads = max(1, self._workers.threads, self._workers.may_have)
        self._board.batches.sent(self._flight.serial, threads)
        self._board.deadlines.submitted(task, self._board.ledger.busy, self._workers.threads)


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
        self._board.window.reads_ahead(happening.worker, happening.ahead)
        good = sum(failure is None for failure in happening.outcomes.values())
        if good:
            board = self._board
            board.window.succeeded(good, board.workers.threads, board.batches.size)
            board.circuit.succeeded()
        if good and task.cold:
            self._board.deadlines.loaded(happening.seconds)
        # What it takes to load the model says nothing of the next tasks.
        if good == task.size and not (task.cold and not self._board.policy.hosted):
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
        """Ask for what no worker has begun, since the run is to stand still or end.

        A worker may have begun a task though nobody has said so yet: only the cluster knows.
        """
        waiting = [t for t in self._flight.tasks.values() if not (t.started or t.asked_back)]
        if waiting:
            for task in waiting:
                task.asked_back = True
            at_hand = min(self._board.window.tasks(self._board.workers.threads), len(waiting))
            keys = tuple(task.key for task in waiting)
            self._ledger.actions.append(TakeBack(keys, int(at_hand)))

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
