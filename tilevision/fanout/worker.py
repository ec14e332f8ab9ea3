"""The worker's side: one task is a batch of tiles, inferred with hooks into Dask."""

from __future__ import annotations

import math
import os
import pickle
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from threading import Condition, Lock
from typing import Any

from distributed import WorkerPlugin, get_worker, secede
from distributed.metrics import context_meter
from distributed.utils import sync

import tilevision
from tilevision.cluster import host_of, import_early
from tilevision.errors import ClusterError
from tilevision.grid import Tile
from tilevision.infer import Hooks, TileOutcome, Work, infer
from tilevision.modelspec import calls_of, may_wait, processes, waits
from tilevision.readiness import examine

__all__ = ["Report", "TileBatch", "WorkPlugin", "run_batch"]

REPORT_SECONDS = 5.0
TOGETHER_SECONDS = 0.03  # with a worker that dies, the news of so long are lost
BROUGHT_SECONDS = 10.0
AHEAD = 4  # tasks beside one that have been read, or are being read
# As many as the model does in so long: all that has begun is waited for where a run pauses or ends,
# and is suspect where the process dies.
AHEAD_SECONDS = 1.0
READING = 2  # of those at a time that read and prepare; more would but take each other's time
AT_HAND = 2  # further ones, which have not begun: what is through goes to the client and back
AHEAD_BYTES = 512 << 20  # of pixels in a process
BYTES_SHOWN, BYTES_PREPARED = 3, 16  # of a pixel: RGB as read, and what a model may make of it

_blobs: dict[str, bytes] = {}
_works: dict[str, Work] = {}
_aloft: Counter[str] = Counter()  # tasks of a work that have given their slot to the next one
_aloft_changed = Condition()
_news: dict[str, _News] = {}
_reading: Counter[str] = Counter()  # of those the ones that read or prepare
_reading_changed = Condition()
_warm: set[str] = set()  # works whose model has answered in this process
_paces: dict[str, _Pace] = {}  # of the latest task of a work
_unknown: dict[str, str] = {}  # works that this process has yet to see if it can do
_unfit: dict[str, str] = {}  # why it cannot
_examining = Lock()
NO_CHILDREN = "daemonic processes are not allowed to have children"

import_early(__name__)


@dataclass(frozen=True, slots=True)
class _Pace:
    """Seconds that reading a task takes, and the model with it."""

    read: float
    infer: float

    @classmethod
    def of(cls, outcomes: Sequence[TileOutcome]) -> _Pace:
        """Return that of a task."""
        read = sum(outcome.read_seconds for outcome in outcomes)
        return cls(read, sum(outcome.infer_seconds for outcome in outcomes))

    def share(self, readers: int) -> float:
        """Return the seconds of the process that a task took, beside others that ran meanwhile.

        Of reading and of the model, one goes by while others wait for the other.
        """
        return max(self.read / readers, self.infer)


@dataclass(frozen=True, slots=True)
class TileBatch:
    """What a task is told.

    Parameters
    ----------
    work : str
        Name under which `WorkPlugin` left the work on every worker.
    task : str
    tiles : tuple of Tile
    topic : str
        Where to report the start of each tile.
    alone : bool
        Whether the tiles share no call of the model with others.
    """

    work: str
    task: str
    tiles: tuple[Tile, ...]
    topic: str
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What a task answers.

    Parameters
    ----------
    outcomes : tuple of TileOutcome
    seconds : float
        Time in the worker, but for the time that its tiles waited for their turn at the model;
        where tasks go on side by side, its share of the time of all of them.
    worker : str
        Address.
    unfit : str
        Why this host cannot do the work at all, worded to follow its name; then nothing was tried.
    ahead : int
        Tasks worth having at the process beside the one that each of its slots is for: it reads
        the tiles of some while the model waits for something else than a processor, and the others
        are there as soon as one of those is through.
    """

    outcomes: tuple[TileOutcome, ...]
    seconds: float
    worker: str
    unfit: str = ""
    ahead: int = 0


class WorkPlugin(WorkerPlugin):  # type: ignore[misc]  # distributed is untyped
    """Brings a run's work to every worker once, also to those that come later.

    The scheduler keeps it and hands it to each worker that registers, so a task of a few hundred
    bytes is enough, however large the model's payload is.

    Parameters
    ----------
    work : str
        Its name.
    blob : bytes
        It, pickled.
    fit : frozenset of str
        Hosts that have been found able to do it.
    version : str
        Of tilevision in the client.
    """

    def __init__(self, work: str, blob: bytes, fit: frozenset[str], version: str) -> None:
        self.name = work
        self.blob = blob
        self.fit = fit
        self.version = version

    def setup(self, worker: Any) -> None:
        """Keep the work; it is unpickled by the first task, so that an error is that task's."""
        if host_of(worker.address) not in self.fit:
            _unknown[self.name] = self.version
        _blobs[self.name] = self.blob

    def teardown(self, worker: Any) -> None:  # noqa: ARG002 Dask's signature
        """Forget the work once the run is over."""
        _blobs.pop(self.name, None)
        _works.pop(self.name, None)
        _aloft.pop(self.name, None)
        _reading.pop(self.name, None)
        _news.pop(self.name, None)
        _warm.discard(self.name)
        _paces.pop(self.name, None)
        _unknown.pop(self.name, None)
        _unfit.pop(self.name, None)


def run_batch(order: bytes) -> Report:
    """Infer the tiles of a pickled `TileBatch` on the worker that this is called on.

    Tiles travel as one blob, since Dask would walk through every dataclass it finds.
    """
    batch: TileBatch = pickle.loads(order)  # noqa: S301 our own client wrote it
    worker = get_worker()
    began = time.perf_counter()
    if unfit := _unfitness(batch.work):
        return Report((), time.perf_counter() - began, worker.address, unfit)
    work = _work(batch.work)
    ahead, warm = _ahead(work, batch), batch.work in _warm
    report = _Reporter(batch, worker, _news_of(worker, batch) if ahead else None)
    reading = partial(_reading_beside, batch.work, _readers(work)) if ahead else nullcontext
    slot = _Slot(batch.work)
    hooks = Hooks(report, slot.leave, _span, report.queued, reading)
    with slot:
        if ahead:
            slot.leave(beside=ahead)
        began = time.perf_counter()
        found = infer(work, batch.tiles, hooks, alone=batch.alone)
    outcomes = [_remedied(outcome) for outcome in found]
    if any(outcome.failure is None for outcome in outcomes):
        _warm.add(batch.work)
    seconds = time.perf_counter() - began - report.waited
    pace = _Pace.of(found)
    if warm:  # else it had the model to load as well
        _paces[batch.work] = pace
    if ahead:
        seconds = pace.share(_readers(work))
    wanted = _ahead(work, batch)  # known since the first call
    wanted += AT_HAND if wanted else 0
    return Report(tuple(outcomes), seconds, worker.address, ahead=wanted)


def _ahead(work: Work, batch: TileBatch) -> int:
    """Return how many tasks are worth having beside one, since the model leaves time to read."""
    model = work.model
    decided = waits(model)
    if model.hosted or not (decided or may_wait(model)):
        return 0
    sides = [batch.tiles[0].output_size, model.input_size or (0, 0)]
    pixels = max(width * height for width, height in sides)
    steps = calls_of(model).steps
    as_read = work.options.dtype == "uint8" and (steps is None or steps.prepare is None)
    held = AHEAD_BYTES // (pixels * (BYTES_SHOWN if as_read else BYTES_PREPARED) * model.batch_size)
    enough = _enough(_paces.get(batch.work), _readers(work)) if decided else 1
    return max(1, min(held, enough))


def _enough(pace: _Pace | None, readers: int) -> int:
    """Return how many tasks to read ahead so that the device never waits, by `readers` threads."""
    most = max(AHEAD, 2 * readers)
    if pace is None or pace.infer <= 0:
        return most
    # Those that are read while the model is at one; half as many again, as none is like the other.
    meanwhile = math.ceil(1.5 * pace.read / pace.infer)
    return min(most, max(math.ceil(AHEAD_SECONDS / pace.infer), meanwhile))


def _readers(work: Work) -> int:
    """Return how many tasks read at a time in this process: the machine is shared with others."""
    count = os.cpu_count() or 1
    return max(READING, count // (processes(work.model) or count))


@contextmanager
def _reading_beside(name: str, readers: int) -> Iterator[None]:
    """Read or prepare tiles, once fewer than `readers` other tasks do."""
    with _reading_changed:
        _reading_changed.wait_for(lambda: _reading[name] < readers)
        _reading[name] += 1
    try:
        yield
    finally:
        with _reading_changed:
            _reading[name] -= 1
            _reading_changed.notify()


class _Slot:
    """The place of a task among those that Dask runs at a time; a task may leave it to the next."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._left = False

    def leave(self, *, beside: float = math.inf) -> None:
        """Give the slot to the next task, once no more than `beside` others have given theirs.

        Until then this task keeps the slot and has not begun. So a task begins as soon as one is
        over: if the last of them kept the slot to its end, all would end, and begin to read, at
        once.
        """
        if self._left:
            return
        with _aloft_changed:
            _aloft_changed.wait_for(lambda: _aloft[self._name] <= beside)
            _aloft[self._name] += 1
            self._left = True
        secede()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        if self._left:
            with _aloft_changed:
                _aloft[self._name] -= 1
                _aloft_changed.notify_all()


class _News:
    """What the tasks of a work tell, sent together once every few milliseconds.

    A batch that is read while the device has another one is told of three times (it is begun, it
    waits, it has its turn), and each message took the processors from those that read. To tell is
    no system call: the device would stand still while Python's lock goes to another thread.
    """

    def __init__(self, worker: Any, work: str, topic: str) -> None:
        self._worker = worker
        self._work = work
        self._topic = topic
        self._told: list[dict[str, Any]] = []
        self._watched = False
        self._lock = Lock()

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message soon, on any thread."""
        with self._lock:
            self._told.append(message)
            watched, self._watched = self._watched, True
        if not watched:
            self._worker.loop.add_callback(self._look)

    def _look(self) -> None:
        """Send what there is, on the worker's loop, and look again as long as tasks go on."""
        with self._lock:
            told, self._told = self._told, []
            self._watched = _aloft[self._work] > 0
            again = self._watched
        if again:
            self._worker.loop.call_later(TOGETHER_SECONDS, self._look)
        if told:
            self._worker.log_event(self._topic, told)


def _news_of(worker: Any, batch: TileBatch) -> _News:
    with _aloft_changed:
        if batch.work not in _news:
            _news[batch.work] = _News(worker, batch.work, batch.topic)
        return _news[batch.work]


class _Reporter:
    """Tells the client which tiles are begun, so that a death is blamed on the right ones.

    The first batch of a task is reported before it is touched: a tile that kills the process at
    once would otherwise take the news with it, and be tried for ever without blame. The others
    do not wait for their news to get through, which would cost more than a millisecond each.
    Tiles of a batch are one piece of news: each costs the worker, the scheduler and the client
    together a millisecond of a processor. Where the model waits for a device, all news of a moment
    are one message.
    """

    def __init__(self, batch: TileBatch, worker: Any, news: _News | None = None) -> None:
        self._batch = batch
        self._worker = worker
        self._news = news
        self._numbers = {tile.id: number for number, tile in enumerate(batch.tiles)}
        self._waited = False
        self._queued: float | None = None
        self.waited = 0.0  # seconds for the model

    def queued(self, tiles: Sequence[Tile]) -> None:
        """Tell that tiles wait for their turn at the model; told again when they have it."""
        self._queued = time.perf_counter()
        self._tell(self._message(tiles) | {"waits": True})

    def _tell(self, message: dict[str, Any]) -> None:
        if self._news is not None:
            self._news.tell(message)
        else:
            self._worker.log_event(self._batch.topic, message)

    def _message(self, tiles: Sequence[Tile]) -> dict[str, Any]:
        return {
            "task": self._batch.task,
            "tiles": [self._numbers[tile.id] for tile in tiles],
            "worker": self._worker.address,
            "cold": self._batch.work not in _warm,
        }

    def __call__(self, tiles: Sequence[Tile]) -> None:
        if self._queued is not None:
            self.waited += time.perf_counter() - self._queued
            self._queued = None
        worker, topic, message = self._worker, self._batch.topic, self._message(tiles)
        if self._waited:
            self._tell(message)
            return
        self._waited = True
        with suppress(OSError, TimeoutError):  # a hint: a scheduler that is gone shows elsewhere
            sync(
                worker.loop,
                worker.scheduler.log_event,
                topic=topic,
                msg=message,
                callback_timeout=REPORT_SECONDS,
            )


def _span(name: str) -> AbstractContextManager[None]:
    meter: AbstractContextManager[None] = context_meter.meter(f"tile-{name}")
    return meter


def _work(name: str) -> Work:
    work = _works.get(name)
    if work is None:
        deadline = time.monotonic() + BROUGHT_SECONDS
        while (blob := _blobs.get(name)) is None:
            if time.monotonic() > deadline:
                raise ClusterError(f"The worker never got the work of {name}; restart the cluster.")
            time.sleep(0.02)
        work = _works[name] = pickle.loads(blob)  # noqa: S301 our own client wrote it
    return work


def _unfitness(name: str) -> str:
    """Return why this process cannot do the work; examined once, on a host that joined later."""
    if name not in _unknown and name not in _unfit:
        return ""
    with _examining:
        if name in _unknown:
            ours, theirs = tilevision.__version__, _unknown[name]
            if ours != theirs:
                trouble = f"has tilevision {ours} and the client {theirs}; install the same"
            else:
                work = _work(name)
                trouble = ", and ".join(examine(work.source, work.model).troubles)
            if trouble:
                _unfit[name] = trouble
            _unknown.pop(name)
    return _unfit.get(name, "")


def _remedied(outcome: TileOutcome) -> TileOutcome:
    """Add what helps where Dask's settings forbid what the model does."""
    failure = outcome.failure
    if failure is None or NO_CHILDREN not in failure.message:
        return outcome
    remedy = (
        f"{failure.message}; start the workers with distributed.worker.daemon: false in Dask's "
        "configuration (DASK_DISTRIBUTED__WORKER__DAEMON=False), or leave client= out"
    )
    return replace(outcome, failure=replace(failure, message=remedy))
