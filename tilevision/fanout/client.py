"""The client's side of Dask: submits tasks, queues what comes back as signals, and reads those."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any
from uuid import uuid4

import dask
from dask.delayed import delayed
from distributed import Future, span
from distributed.scheduler import KilledWorker, NoValidWorkerError, NoWorkerError
from distributed.worker_state_machine import FreeKeysEvent

import tilevision
from tilevision.cluster import Cluster, Sighting
from tilevision.errors import ClusterError, Failure
from tilevision.fanout.worker import Report, TileBatch, WorkPlugin, run_batch
from tilevision.grid import Tile
from tilevision.infer import Work
from tilevision.schedule.messages import Submit, TakeBack, TaskFinished, TaskLost
from tilevision.schedule.outcomes import DIED

__all__ = [
    "DIED",
    "Broken",
    "Heard",
    "Landed",
    "Sent",
    "TakenBack",
    "Tasks",
    "WorkersSeen",
    "broken",
    "finished",
    "lost_with_scheduler",
]

PINNED_PRIORITY = 1
PRIORITY_STEP = 1e-7  # a million tasks are no more than a tenth of one of the user's steps
BRING_SECONDS = 20.0
NOBODY = "tcp://127.0.0.1:1"
UNFIT_BRING_SECONDS = 5.0  # one of those that are left out may never answer
UNHEARD_SECONDS = 0.05  # between questions for tasks that have not reached the scheduler
LOST_WITH_SCHEDULER = ("scheduler-connection-lost", "scheduler-restart")
GIVEN_UP = (KilledWorker, NoValidWorkerError, NoWorkerError)


@dataclass(frozen=True, slots=True)
class Heard:
    """A worker says that it has begun tiles.

    Parameters
    ----------
    task : str
    tiles : sequence of int
        Their numbers in the task.
    worker : str
    cold : bool
        Whether the model has not answered there before.
    waits : bool
        Whether they wait for their turn at the model; they are heard again when they have that.
    """

    task: str
    tiles: Sequence[int]
    worker: str
    cold: bool = False
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Landed:
    """A task's result has been gathered."""

    task: str
    report: Report


@dataclass(frozen=True, slots=True)
class Broken:
    """A task has no result.

    Parameters
    ----------
    task : str
    error : BaseException
    raised : bool
        True if the task itself raised it; False if Dask lost the task.
    """

    task: str
    error: BaseException
    raised: bool


@dataclass(frozen=True, slots=True)
class WorkersSeen:
    """The workers that the scheduler has.

    Parameters
    ----------
    workers : dict of str to Sighting
    held : dict of str to (tuple of str)
        Tasks of any run that are on workers which take no more of them, by address.
    """

    workers: dict[str, Sighting]
    held: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TakenBack:
    """Tasks that the cluster has given back: no worker has begun them, and none will."""

    tasks: tuple[str, ...]


@dataclass(slots=True)
class Sent:
    """A task that was submitted and has not come back.

    Parameters
    ----------
    submit : Submit
    future : distributed.Future
    worker : str
        Where it runs, as far as reports have come.
    bound : frozenset of str
        Workers that alone may run it, where hosts are left out; else empty.
    """

    submit: Submit
    future: Future
    worker: str = ""
    bound: frozenset[str] = frozenset()

    def attempts(self) -> dict[Tile, int]:
        """Return the number of each tile's attempt, from 1."""
        return dict(zip(self.submit.tiles, self.submit.attempts, strict=True))


@dataclass(slots=True)
class Tasks:
    """One run's tasks on one cluster.

    Parameters
    ----------
    cluster : Cluster
    work : Work
    run_id : str
    inbox : SimpleQueue
        Gets `Heard`, `Landed`, `Broken`, `TakenBack` and `WorkersSeen`, from other threads.
    fit : frozenset of str
        Hosts that were found able to do the work; others examine themselves first.
    some_unfit : bool
        Whether there are workers that cannot even take it.

    Attributes
    ----------
    bounded : list of str, optional
        Workers that may run tasks; None: any.
    """

    cluster: Cluster
    work: Work
    run_id: str
    inbox: SimpleQueue[Any]
    fit: frozenset[str] = frozenset()
    some_unfit: bool = False
    flights: dict[str, Sent] = field(default_factory=dict)
    bounded: list[str] | None = None
    _demand: Future | None = None
    _count: int = 0
    _name: str = ""
    _nonce: str = ""
    _looking: bool = False

    def open(self) -> None:
        """Bring the work to the workers and listen to them; again after a rebuild.

        Raises
        ------
        ClusterError
            If a worker cannot take the work: it lacks the package, or has another version.
        """
        client = self.cluster.client
        self._nonce = uuid4().hex[:8]
        self._name = f"tilevision-{self.run_id}-{self._nonce}"
        self._looking = False
        plugin = WorkPlugin(self._name, pickle.dumps(self.work), self.fit, tilevision.__version__)
        loop = client.loop.asyncio_loop
        brought = asyncio.run_coroutine_threadsafe(self._bring(client, plugin), loop)
        try:
            # A worker that is too busy to answer gets the work later; its tasks wait for it.
            with suppress(TimeoutError):
                brought.result(timeout=UNFIT_BRING_SECONDS if self.some_unfit else BRING_SECONDS)
        except Exception as error:
            if not self.some_unfit:  # else it is one of those that are left out
                raise ClusterError(
                    f"A Dask worker cannot take the work ({type(error).__name__}: {error}); "
                    "install the same tilevision there as here."
                ) from error
        client.subscribe_topic(self._name, self._hear)

    @staticmethod
    async def _bring(client: Any, plugin: WorkPlugin) -> None:
        await client.register_plugin(plugin, name=plugin.name)

    def close(self) -> None:
        """Let go of whatever is still under way; the workers forget the work."""
        client = self.cluster.client
        self.release(list(self.flights))
        self.want_workers(wanted=False)
        if self.cluster.alive:
            with suppress(
                Exception
            ):  # the cluster may go at this very moment; nothing is left to do
                client.unsubscribe_topic(self._name)
                client.loop.add_callback(self._forget, client, self._name)

    @staticmethod
    async def _forget(client: Any, name: str) -> None:
        with suppress(Exception):  # as in `close`
            await client.unregister_worker_plugin(name)

    def submit(self, submits: Sequence[Submit]) -> None:
        """Send tasks, those for any worker in one message."""
        for worker in dict.fromkeys(submit.worker for submit in submits):
            self._send([submit for submit in submits if submit.worker == worker], worker)

    def _send(self, submits: Sequence[Submit], worker: str | None) -> None:
        client = self.cluster.client
        node = delayed(run_batch, pure=False, traverse=False)
        with span("tilevision", self.run_id, "tiles"), dask.annotate(**self._bound(worker)):
            nodes = [self._node(node, submit, pinned=worker is not None) for submit in submits]
            futures = client.compute(
                nodes,
                optimize_graph=False,
                traverse=False,
            )
        bound = frozenset(self._bound(None).get("workers", ()) if worker is None else ())
        for submit, future in zip(submits, futures, strict=True):
            self.flights[submit.task] = Sent(submit, future, bound=bound)
            client.loop.add_callback(self._await, submit.task, future)

    def _bound(self, worker: str | None) -> dict[str, Any]:
        """Return what is laid down for tasks beyond the annotations around the user's call."""
        workers = self.bounded if worker is None else [worker]
        if workers == []:  # Dask takes no worker for any
            workers = [NOBODY]
        return {} if workers is None else {"workers": workers, "allow_other_workers": False}

    def _node(self, node: Any, submit: Submit, *, pinned: bool) -> Any:
        """Return a task for Dask, which comes after those that were sent before it.

        Dask itself takes the tasks of one message in the reverse order of their names.
        """
        alone = pinned or max(submit.attempts) > 1
        order = pickle.dumps(TileBatch(self._name, submit.task, submit.tiles, self._name, alone))
        theirs = dask.get_annotations().get("priority", 0)
        self._count += 1
        priority = (0 if callable(theirs) else theirs) - self._count * PRIORITY_STEP
        with dask.annotate(priority=priority + PINNED_PRIORITY * pinned):
            # Runs side by side have tiles of the same name, and Dask would hand one run the
            # other's results; it still groups keys by what precedes the tile.
            return node(order, dask_key_name=f"{submit.task}-{self._nonce}")

    def want_workers(self, *, wanted: bool) -> None:
        """Have a task wait on a cluster without workers, so that an adaptive one starts some."""
        if wanted and self._demand is None:
            self._demand = self.cluster.client.submit(bool, pure=False)
        elif not wanted:
            self._demand = None

    async def _await(self, task: str, future: Future) -> None:
        """Wait on the client's loop for one task, and gather it at once."""
        try:
            report = await future
        except BaseException as error:  # noqa: BLE001 cancellations are signals as well
            self.inbox.put(Broken(task, error, raised=future.status == "error"))
        else:
            self.inbox.put(Landed(task, report))

    def _hear(self, event: tuple[float, Any]) -> None:
        _, told = event
        for message in told if isinstance(told, (list, tuple)) else [told]:
            self.inbox.put(Heard(**message))

    def release(self, tasks: Sequence[str]) -> list[Sent]:
        """Take tasks out of the air; what they still bring is ignored."""
        flights = [self.flights.pop(task) for task in tasks if task in self.flights]
        for flight in flights:
            flight.future.release()
        return flights

    def abandon(self, task: str, *, restart_worker: bool) -> None:
        """Forget a task that takes too long, and replace the worker it hangs on."""
        flight = self.flights.pop(task, None)
        if flight is not None:
            self.cluster.client.loop.add_callback(self._abandon, flight, restart_worker)

    async def _abandon(self, flight: Sent, restart_worker: bool) -> None:
        worker = flight.worker
        if restart_worker and not worker:  # its start was never reported
            with suppress(OSError):  # a lost scheduler shows in every other task
                processing = await self.cluster.client.scheduler.processing(workers=None)
                worker = next((w for w in processing if flight.future.key in processing[w]), "")
        flight.future.release()
        if restart_worker and worker:
            self.cluster.restart_worker(worker)

    def take_back(self, action: TakeBack) -> None:
        """Ask the cluster for tasks that no worker has begun; they come as `TakenBack`."""
        keys = {self.flights[t].future.key: t for t in action.tasks if t in self.flights}
        self.cluster.client.loop.add_callback(self._take_back, keys, action.at_hand)

    async def _take_back(self, keys: dict[str, str], at_hand: int) -> None:
        client = self.cluster.client
        while keys:
            try:
                back, elsewhere, unheard = await client.run_on_scheduler(
                    release_queued, keys=list(keys), client=client.id
                )
            except Exception:  # noqa: BLE001 a gateway may forbid it: then those last in turn come back
                back, elsewhere, unheard = list(keys)[at_hand:], {}, []
            asked = (
                client.run(drop_unbegun, keys=its, workers=[worker])
                for worker, its in elsewhere.items()
            )
            for answer in await asyncio.gather(*asked, return_exceptions=True):
                if isinstance(
                    answer, dict
                ):  # else that worker is gone or busy, and keeps its tasks
                    back.extend(key for dropped in answer.values() for key in dropped)
            self.inbox.put(TakenBack(tuple(keys[key] for key in back)))
            keys = {key: keys[key] for key in unheard if self._under_way(keys[key])}
            if keys:
                await asyncio.sleep(UNHEARD_SECONDS)

    def _under_way(self, task: str) -> bool:
        flight = self.flights.get(task)
        return flight is not None and flight.future.status == "pending"

    def look(self) -> None:
        """Ask the scheduler for its workers; the answer comes as `WorkersSeen`."""
        if not self._looking and self.cluster.alive:
            self._looking = True
            self.cluster.client.loop.add_callback(self._look)

    async def _look(self) -> None:
        with suppress(Exception):  # no answer is an answer: the watchdog counts the time
            scheduler = self.cluster.client.scheduler
            workers = (await scheduler.identity(n_workers=-1))["workers"]
            seen = {address: Sighting.of(worker) for address, worker in workers.items()}
            idle = [address for address, worker in seen.items() if worker.status == "paused"]
            held = await scheduler.processing(workers=idle) if idle else {}
            self.inbox.put(WorkersSeen(seen, {a: tuple(keys) for a, keys in held.items()}))
        self._looking = False


def release_queued(
    keys: list[str], client: str, dask_scheduler: Any = None
) -> tuple[list[str], dict[str, list[str]], list[str]]:
    """Release tasks that no worker has, on the scheduler.

    Returns
    -------
    tuple of list, dict of list, list
        The tasks that were released; those that a worker has, by its address; those that the
        scheduler does not know yet: it takes a moment to unpack what a client has sent, and would
        run them afterwards.
    """
    back: list[str] = []
    elsewhere: dict[str, list[str]] = {}
    unheard: list[str] = []
    for key in keys:
        task = dask_scheduler.tasks.get(key)
        if task is None:
            unheard.append(key)
        elif task.processing_on is not None:
            elsewhere.setdefault(task.processing_on.address, []).append(key)
        elif task.state in ("queued", "no-worker", "waiting", "released"):
            back.append(key)
    dask_scheduler.client_releases_keys(keys=back, client=client)
    return back, elsewhere, unheard


def drop_unbegun(keys: list[str], dask_worker: Any = None) -> list[str]:
    """Drop tasks that this worker has not begun; return them."""
    tasks = dask_worker.state.tasks
    found = [key for key in keys if key in tasks and tasks[key].state in ("ready", "constrained")]
    if found:
        dask_worker.handle_stimulus(FreeKeysEvent(keys=found, stimulus_id=f"unbegun-{uuid4().hex}"))
    return found


def lost_with_scheduler(signal: Broken, cluster: Cluster) -> bool:
    """Return True if a task is gone because all tasks are: its tiles are not to blame."""
    if signal.raised:
        return False
    reason = getattr(signal.error, "reason", "")
    return reason in LOST_WITH_SCHEDULER or not cluster.alive


def broken(flight: Sent, signal: Broken) -> TaskFinished | TaskLost:
    """Return what a task without a result means: it raised, or Dask lost it."""
    if not signal.raised or isinstance(signal.error, GIVEN_UP):
        worker = getattr(getattr(signal.error, "last_worker", None), "address", "")
        return TaskLost(signal.task, _loss(signal.error), worker)
    tiles = flight.submit.tiles
    failure = Failure.of(signal.error)
    batched = frozenset(tiles if len(tiles) > 1 else ())
    return TaskFinished(signal.task, dict.fromkeys(tiles, failure), batched=batched)


def finished(flight: Sent, signal: Landed) -> TaskFinished:
    """Return what a task brought; a tile that it left out has failed."""
    outcomes = {outcome.tile: outcome.failure for outcome in signal.report.outcomes}
    for tile in flight.submit.tiles:
        if tile not in outcomes:
            outcomes[tile] = Failure("transient", "RuntimeError", "the worker left this tile out")
    batched = frozenset(
        outcome.tile for outcome in signal.report.outcomes if outcome.failure and outcome.batched
    )
    report = signal.report
    return TaskFinished(
        flight.submit.task, outcomes, report.seconds, batched, report.ahead, report.worker
    )


def _loss(error: BaseException) -> Failure:
    """Say in one line what became of a task that never came back."""
    if isinstance(error, KilledWorker):
        return DIED
    if isinstance(error, (NoValidWorkerError, NoWorkerError)):
        return Failure("lost", "NoWorker", "Dask found no worker for it in time")
    line = " ".join(str(error).split())[:300]
    return Failure("lost", type(error).__name__, f"Dask lost the task ({line})")
