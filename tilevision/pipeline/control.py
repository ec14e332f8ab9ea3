"""The border between the user's threads and the run's own: commands one way, news the other."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from tilevision.display import ErrorStream
from tilevision.errors import RunError, TilevisionError
from tilevision.events import Bus, RunChanged, StageDone
from tilevision.grid import Tile
from tilevision.schedule.messages import (
    Cancelled,
    Happening,
    Paused,
    Resumed,
    RetryFailed,
    SetConcurrency,
)
from tilevision.status import RunStatus

if TYPE_CHECKING:
    from tilevision.pipeline.estimate import Estimate
    from tilevision.result import Result

__all__ = ["Commands", "Control", "check_wait"]

# Batch systems end a process half a minute after they have asked it to.
TERMINATED_PATIENCE_SECONDS = 2.0
TERMINATED_SECONDS = 7.0
TERMINATED_EXIT = 128 + 15

_KINDS = (Cancelled, Paused, Resumed, RetryFailed, SetConcurrency)


class Commands:
    """Takes commands from any thread, for whichever pass runs.

    Each pass has a queue of its own: what the cluster still reports about an earlier pass must
    not be taken for news about this one. Commands that come between two passes are kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._concurrency: SetConcurrency | None = None
        self._retry: frozenset[Tile] | None = frozenset()

    def put(self, command: Happening) -> None:
        """Give a command."""
        with self._lock:
            if isinstance(command, SetConcurrency):
                self._concurrency = command
            if isinstance(command, RetryFailed):
                if self._retry is None or command.tiles is None:
                    self._retry = None
                else:
                    self._retry |= command.tiles
            self._queue.put(command)

    def take(self) -> list[Happening]:
        """Return the commands that no pass has taken, and forget them."""
        with self._lock:
            return self._leftover()

    @property
    def to_be_retried(self) -> bool:
        """Return True if there were `RetryFailed` since `to_retry` was last called."""
        with self._lock:
            return self._retry is None or bool(self._retry)

    def to_retry(self) -> frozenset[Tile] | None:
        """Return the tiles of all `RetryFailed` since the last call; None: any failed tile."""
        with self._lock:
            tiles, self._retry = self._retry, frozenset()
            return tiles

    def hand_over(self, first: Sequence[Happening] = ()) -> SimpleQueue[Any]:
        """Return the queue of the next pass: `first`, what lasts, then what nobody has taken."""
        with self._lock:
            leftover, self._queue = self._leftover(), SimpleQueue()
            lasting = [self._concurrency] if self._concurrency is not None else []
            for command in (*lasting, *first, *leftover):
                self._queue.put(command)
            return self._queue

    def _leftover(self) -> list[Happening]:
        found: list[Happening] = []
        try:
            while True:
                item = self._queue.get_nowait()
                if isinstance(item, _KINDS):
                    found.append(item)
        except Empty:
            return found


class Control:
    """All that the threads of a run share: its status, its commands, its result.

    The user's side is `tilevision.Run`, on any thread: `start`, `pause`, `resume`, `cancel`,
    `retry`, `set_concurrency`, `wait`, `wait_settled`. The run's side is the conductor and what
    it calls, on the run's thread: `tell`, `stage`, `waiting`, `stumble`, `guard`, `finish`.
    Listeners of the bus are called on the thread that tells.

    Attributes
    ----------
    bus : Bus
        Where every change is published.
    status : RunStatus
        Written under `changed`: by `tell` and `finish` on the run's side, and on the user's side
        by `pause`, `resume` and `retry`.
    changed : threading.Condition
        Notified whenever the status changes, and when the run's thread has let go of everything.
    commands : Commands
        Written on the user's side, taken on the run's side.
    fault : TilevisionError or None
        What stopped the run, or pauses it until somebody fixes it. Written on the run's side;
        `resume` clears it.
    cancelled : threading.Event
        Set by `cancel`; cleared when failed tiles get fresh attempts.
    result : Result or None
        Written on the run's side together with the last status.
    dashboard_link : str or None
        Of the cluster, once it is up; written on the run's side.
    terminated : bool
        True once the process has been asked to end (SIGTERM): nothing more is begun.
    resume_line : str
        Code that resumes the run; empty where nothing is kept.
    so_far, estimate : callable
        Return the result of what is known by now, and what is left to do. Set by the conductor
        before the run starts; they read copies, so any thread may call them.
    """

    so_far: Callable[[], Result]
    estimate: Callable[[], Estimate]

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.status = RunStatus.RUNNING
        self.changed = threading.Condition()
        self.commands = Commands()
        self.fault: TilevisionError | None = None
        self.cancelled = threading.Event()
        self.result: Result | None = None
        self.dashboard_link: str | None = None
        self.terminated = False
        self.resume_line = ""
        self._over: Future[None] = Future()

    # The user's side --------------------------------------------------------------------------

    def start(self, work: Callable[[], None], name: str) -> None:
        """Call `work` on a thread of its own; the run is over once it has returned."""
        _give_way()
        over: Future[None] = Future()

        def whole() -> None:
            self.guard(work)
            with self.changed:
                over.set_result(None)
                self.changed.notify_all()

        over.set_running_or_notify_cancel()  # from now on no waiter can cancel it
        self._over = over
        _termination.watch(self)
        # What the caller declares around the call, such as Dask's annotations, holds there too.
        within = contextvars.copy_context().run
        threading.Thread(target=within, args=(whole,), name=name, daemon=True).start()

    @property
    def settled(self) -> bool:
        """Return True if waiting longer would change nothing: it is over, or somebody must act."""
        held_up = self.status is RunStatus.PAUSED and self.fault is not None
        return self._over.done() or held_up

    @property
    def over(self) -> bool:
        """Return True if the run's thread has let go of everything."""
        return self._over.done()

    def on_over(self, call: Callable[[object], None]) -> None:
        """Call `call` once the run's thread has let go of everything."""
        self._over.add_done_callback(call)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the run's thread has let go of everything; return True if it has."""
        with self.changed:
            return self.changed.wait_for(self._over.done, timeout)

    def wait_settled(self, timeout: float | None = None) -> bool:
        """Wait until the run is `settled`; return True if it is."""
        with self.changed:
            return self.changed.wait_for(lambda: self.settled, timeout)

    def pause(self, reason: str = "run.resume() continues the run.") -> None:
        """Start no further tile; those in flight finish."""
        if self.status is RunStatus.RUNNING:
            self.commands.put(Paused())
            self.tell(RunStatus.PAUSED, reason)

    def resume(self) -> None:
        """Continue after a pause."""
        if self.status is RunStatus.PAUSED:
            self.fault = None
            self.commands.put(Resumed())
            self.tell(RunStatus.RUNNING, "Resumed.")

    def cancel(self) -> None:
        """End early; tiles in flight may finish."""
        self.cancelled.set()
        self.commands.put(Cancelled())

    def terminate(self) -> None:
        """End as soon as what has arrived is stored: the process is about to end."""
        self.terminated = True
        self.cancelled.set()
        self.commands.put(Cancelled("terminated", TERMINATED_PATIENCE_SECONDS))
        if not self.wait(TERMINATED_SECONDS):
            self.tell(RunStatus.STOPPED, "terminated")

    def retry(self, tiles: frozenset[Tile] | None) -> bool:
        """Ask for fresh attempts of failed tiles; return True if the run has ended before that.

        A run that has ended takes nothing: who gets True starts it anew. Any other sees the
        command before it ends.
        """
        with self.changed:
            self.commands.put(RetryFailed(tiles))
            return self.status.ended

    def reopen(self) -> None:
        """Make a run that has ended one that runs, for fresh attempts."""
        self.cancelled.clear()
        self.tell(RunStatus.RUNNING, "Failed tiles are tried again.")

    def set_concurrency(self, concurrency: int | None) -> None:
        """Change how many tiles may be in flight; None is automatic."""
        self.commands.put(SetConcurrency(concurrency))

    # The run's side ---------------------------------------------------------------------------

    def tell(self, status: str, reason: str = "") -> None:
        """Publish the run's status; callable from any thread."""
        with self.changed:
            self.status = RunStatus(status)
            self.changed.notify_all()
        self.bus.emit(RunChanged(time.time(), self.status, reason))

    def finish(self, result: Result, status: str, reason: str, *, failed: bool) -> bool:
        """Publish the end with its result; return False if fresh attempts were asked for first.

        Parameters
        ----------
        result : Result
        status, reason : str
        failed : bool
            True if there are failed tiles, which attempts can be asked for.
        """
        with self.changed:  # `retry` looks at the status in the same way
            if failed and self.commands.to_be_retried:
                return False
            self.result, self.status = result, RunStatus(status)
        self.tell(status, reason)
        return True

    def stage(
        self, stage: str, began: float, message: str, restored: bool = False, link: str = ""
    ) -> None:
        """Publish that a stage is done, which `began` at that `time.perf_counter`."""
        seconds = time.perf_counter() - began
        self.bus.emit(StageDone(time.time(), stage, seconds, message, restored, link))

    def waiting(self, line: str) -> None:
        """Publish what the run waits for."""
        self.stage("waiting", time.perf_counter(), line)

    def stumble(self, fault: TilevisionError) -> None:
        """Pause over something the user has to fix; whoever waits for the result gets it raised."""
        self.fault = fault
        self.tell(RunStatus.PAUSED, str(fault))

    def guard(self, flow: Callable[[], None]) -> None:
        """Call `flow`; whatever it raises becomes the run's `fault` and stops it."""
        try:
            flow()
        except TilevisionError as error:
            self.fault = error
            self.tell(RunStatus.STOPPED, str(error))
        except BaseException as error:  # noqa: BLE001 - a thread's error would be lost otherwise
            words = f"{type(error).__name__}: {error}"
            self.fault = RunError(f"The run stopped because of a defect in tilevision: {words}.")
            self.fault.__cause__ = error
            self.tell(RunStatus.STOPPED, str(self.fault))


class _Termination:
    """What a SIGTERM does while runs work: they keep what has arrived, and the process exits.

    A handler of the program's own stays; so does the usual behaviour while no run works, and in
    processes that were forked.
    """

    def __init__(self) -> None:
        self._controls: weakref.WeakSet[Control] = weakref.WeakSet()
        self._process = 0

    def watch(self, control: Control) -> None:
        """Take a run along; signals are the main thread's."""
        self._controls.add(control)
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._asked)
            self._process = os.getpid()

    def _asked(self, number: int, frame: object) -> None:
        del frame
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # who asks again does not want to wait
        working = [control for control in self._controls if not control.over]
        if not working or os.getpid() != self._process:
            os.kill(os.getpid(), number)
            return
        # On threads of their own: this one may hold a lock that they need.
        ends = [threading.Thread(target=one.terminate, daemon=True) for one in working]
        for end in ends:
            end.start()
        until = time.monotonic() + TERMINATED_SECONDS + 1.0
        for end in ends:
            end.join(max(0.0, until - time.monotonic()))
        stream = ErrorStream()
        for line in filter(None, (control.resume_line for control in working)):
            stream.write(f"tilevision: Terminated. What is done is kept; {line} resumes the run.\n")
        stream.flush()
        raise SystemExit(TERMINATED_EXIT)


_termination = _Termination()


def check_wait(client: Any, workers: int | None) -> None:
    """Refuse a wait on the thread that the run's Dask client needs; elsewhere do nothing.

    Raises
    ------
    ClusterError
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # no loop runs here, so no client needs this thread
        return
    if "distributed" in sys.modules:
        from tilevision.cluster import check_wait as check

        check(client, workers)


def _give_way() -> None:
    """Give the worker's slot back where the caller is a Dask task that is about to wait."""
    if "distributed" in sys.modules:
        from tilevision.cluster import give_way as secede

        secede()
