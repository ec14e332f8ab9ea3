"""A cluster as the rest of tilevision sees it, ours or the user's, and who works in it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from dask.utils import format_bytes
from distributed import Client
from distributed.comm.addressing import get_address_host
from distributed.deploy.spec import SpecCluster

from tilevision.errors import ClusterError

__all__ = ["Cluster", "Crew", "Sighting", "attach", "host_of", "needs_this_thread"]

GROWTH = 4  # that a cluster of unknown limits is thought able to take at a time

HEAL_SECONDS = 20.0
# Dask gives a worker 15 s to come back before it drops it, and a crowded machine takes its time.
LOOK_AFTER_SECONDS = 60.0


class Cluster:
    """A Dask cluster to fan tiles out on.

    Parameters
    ----------
    client : distributed.Client
        Synchronous, connected.

    Attributes
    ----------
    owned : bool
        Whether tilevision started it, may rebuild it and will close it.
    """

    owned = False

    def __init__(self, client: Client) -> None:
        self.client = client
        self._restarting: set[str] = set()
        self._healed = -HEAL_SECONDS
        self._short = -LOOK_AFTER_SECONDS

    @property
    def alive(self) -> bool:
        """Return True if the scheduler can be reached."""
        return bool(self.client.status == "running")

    @property
    def dashboard_link(self) -> str:
        """Address of Dask's dashboard; empty where there is none."""
        try:
            return str(self.client.dashboard_link or "")
        except (KeyError, AttributeError, ValueError):
            return ""

    def workers(self) -> dict[str, int]:
        """Return the workers that are there now: address to number of threads.

        Raises
        ------
        ClusterError
            If the scheduler does not answer.
        """
        return {address: worker["nthreads"] for address, worker in self.described().items()}

    def described(self) -> dict[str, dict[str, Any]]:
        """Return what the scheduler says about each worker that is there now, by address.

        Raises
        ------
        ClusterError
            If the scheduler does not answer.
        """
        client = self.client
        try:
            identity = client.sync(client.scheduler.identity, n_workers=-1)
            return dict(identity["workers"])
        except Exception as error:
            raise ClusterError(f"The Dask scheduler does not answer: {error}.") from error

    def may_have(self, workers: Mapping[str, int]) -> int:
        """Return how many threads the cluster may come to have; 0 where it stays as it is.

        A cluster that adapts says how far. Of one that is known by its address alone nobody
        knows, so it is given the chance to grow, step by step.

        Parameters
        ----------
        workers : mapping
            Those that work now: address to number of threads.
        """
        if self.owned:
            return 0
        threads, cluster = sum(workers.values()), self.client.cluster
        adaptive = getattr(cluster, "_adaptive", None)
        if adaptive is not None and getattr(adaptive, "state", "running") != "stopped":
            most = getattr(adaptive, "maximum", math.inf)
            if math.isfinite(most):
                each = threads / len(workers) if workers else _threads_each(cluster)
                return math.ceil(most * each)
        elif isinstance(cluster, SpecCluster):
            return 0
        return GROWTH * max(1, threads)

    def restart_worker(self, address: str) -> None:
        """Have a worker replaced by a fresh one; returns at once.

        Whatever it runs is lost. A worker without a nanny cannot be restarted and is left alone.
        """
        if address in self._restarting or not self.alive:
            return
        self._restarting.add(address)
        self.client.loop.add_callback(self._restart, address)

    async def _restart(self, address: str) -> None:
        try:
            identity = await self.client.scheduler.identity(n_workers=-1)
            nanny = identity["workers"].get(address, {}).get("nanny")
            if nanny:
                await self._restart_through(nanny, address)
        except (OSError, TimeoutError):
            return  # gone meanwhile, which is what was wanted; or the scheduler is, which is seen
        finally:
            self._restarting.discard(address)

    async def _restart_through(self, nanny: str, address: str) -> None:  # noqa: ARG002 ours needs it
        await self.client.scheduler.restart_workers(
            workers=[address], timeout=30, on_error="return", stimulus_id="tilevision-deadline"
        )

    def heal(self) -> bool:
        """Have a user's cluster start the workers again that it has given up; say if it had to.

        A cluster of Dask's own drops a worker that is down at the wrong moment, for ever and
        silently: after a few tiles that crash, a user's `LocalCluster` has none left. The number
        of workers stays the one that the cluster itself says it should have.
        """
        if self.owned:
            return False
        cluster = self.client.cluster
        wanted, present = getattr(cluster, "worker_spec", {}), getattr(cluster, "workers", {})
        now = time.monotonic()
        registered = getattr(cluster, "scheduler_info", {}).get("workers", {})
        if len(registered) < len(wanted):
            self._short = now
        if not set(wanted) - set(present) or now - self._healed < HEAL_SECONDS:
            return False
        self._healed = now
        cluster.scale(len(wanted))
        return True

    def rebuild(self) -> None:
        """Start anew after the scheduler was lost.

        Raises
        ------
        ClusterError
            Always, for a cluster that is not ours.
        """
        raise ClusterError(
            "The Dask cluster was closed or lost its scheduler; start it again, and make a "
            "new client."
        )

    def close(self) -> None:
        """Close the cluster if it is ours; a user's stays, with the workers that it had.

        One that lacked a worker just now is looked after for another minute: Dask may drop that
        worker only when the run is over.
        """
        if self.alive and time.monotonic() - self._short < LOOK_AFTER_SECONDS:
            self.client.loop.add_callback(self._look_after, time.monotonic() + LOOK_AFTER_SECONDS)

    async def _look_after(self, until: float) -> None:
        while self.alive and time.monotonic() < until:
            self.heal()
            await asyncio.sleep(1.0)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def attach(client: Any) -> Cluster:
    """Use a cluster that the user brought, with the settings it has.

    Parameters
    ----------
    client : distributed.Client
        Connected. Of an asynchronous one the thread of its loop must stay free meanwhile: see
        `needs_this_thread`.

    Raises
    ------
    ClusterError
        If it is no client, or is not connected.
    """
    if not isinstance(client, Client):
        raise ClusterError(
            f"client is of type {type(client).__name__}; give a dask.distributed.Client, "
            "as in tv.analyze(..., client=Client(cluster))."
        )
    if client.status != "running":
        raise ClusterError(f"The Dask client is {client.status}; make a new one.")
    return Cluster(client)


def needs_this_thread(client: Any) -> bool:
    """Return True if a client's loop runs on the calling thread, which must not wait for it.

    An asynchronous client answers from its own loop alone: a run on another thread can use it as
    long as that loop goes on, and stands still for ever once its thread waits for the run.
    """
    return isinstance(client, Client) and bool(client.asynchronous)


def _threads_each(cluster: Any) -> int:
    """Return how many threads a worker that such a cluster starts will have."""
    options = (getattr(cluster, "new_spec", None) or {}).get("options", {})
    threads = options.get("nthreads") or options.get("cores") or 1
    return threads if isinstance(threads, int) else 1


PAUSED_SECONDS = 5.0  # a worker that is short of memory for a moment goes on by itself
SILENT_SECONDS = 30.0
REMIND_SECONDS = 60.0
SHOWN = 4
MEMORY, CLOSING, UNFIT = "memory", "closing", "unfit"


@dataclass(frozen=True, slots=True)
class Sighting:
    """One worker as its scheduler describes it.

    Parameters
    ----------
    name : str
    host : str
    threads : int
    status : str
        Dask's: ``running``, ``paused``, ``closing_gracefully``, …
    memory, limit : int
        Bytes in use, and those it may use; 0 where that is unknown or unlimited.
    heartbeat : float
        When the scheduler last heard from it, on the scheduler's clock.
    resources : mapping
        What it has declared to have.
    """

    name: str
    host: str
    threads: int
    status: str = "running"
    memory: int = 0
    limit: int = 0
    heartbeat: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, worker: Mapping[str, Any]) -> Sighting:
        """Return what a scheduler's ``identity`` says about a worker."""
        return cls(
            str(worker.get("name", "")),
            str(worker.get("host", "")),
            int(worker["nthreads"]),
            str(worker.get("status", "running")),
            int(worker.get("metrics", {}).get("memory", 0) or 0),
            int(worker.get("memory_limit") or 0),
            float(worker.get("last_seen") or 0.0),
            dict(worker.get("resources") or {}),
        )


class Crew:
    """Follows a cluster's workers, and says what keeps some of them from working.

    Parameters
    ----------
    annotations : mapping
        Of Dask, around the call: ``workers`` and ``resources`` bound where tiles may run.
    unfit : mapping
        Hosts that are known not to be able to do the work, and why.

    Attributes
    ----------
    workers : dict of str to int
        Those where tiles may run: address to number of threads.
    seen : dict of str to Sighting
        The same, as the scheduler described them.
    unfit : dict of str to str
        Hosts that cannot do the work, and why.
    """

    def __init__(self, annotations: Mapping[str, Any] = {}, unfit: Mapping[str, str] = {}) -> None:
        self.workers: dict[str, int] = {}
        self.unfit: dict[str, str] = dict(unfit)
        self._annotations = annotations
        self.seen: dict[str, Sighting] = {}
        self._since: dict[str, tuple[str, float]] = {}
        self._beats: dict[str, tuple[float, float]] = {}
        self._said: dict[str, float] = {}
        self._named: set[str] = set()

    def saw(self, workers: Mapping[str, Sighting], now: float) -> None:
        """Take over what the scheduler says."""
        self.seen = {a: w for a, w in workers.items() if self._may_run(a, w)}
        self.workers = {address: worker.threads for address, worker in self.seen.items()}
        for address, worker in self.seen.items():
            reason = self._reason(worker)
            if self._since.get(address, ("",))[0] != reason:
                self._since[address] = (reason, now)
            if self._beats.get(address, (-1.0,))[0] != worker.heartbeat:
                self._beats[address] = (worker.heartbeat, now)
        for address in self._since.keys() - self.seen.keys():
            del self._since[address], self._beats[address]

    @property
    def idle(self) -> frozenset[str]:
        """Workers that take no tasks now."""
        return frozenset(address for address, (reason, _) in self._since.items() if reason)

    @property
    def bounded(self) -> list[str] | None:
        """Workers that tasks have to be bound to, since some hosts cannot do them; else None."""
        if not self.unfit:
            return None
        return [address for address, worker in self.seen.items() if worker.host not in self.unfit]

    @property
    def hopeless(self) -> bool:
        """Return True if there are workers, and none of them is on a host that can do the work."""
        return bool(self.seen) and self.bounded == []

    def retires(self, address: str) -> bool:
        """Return True if a worker was closing when it was last seen: no tile is to blame."""
        return self._since.get(address, ("",))[0] == CLOSING

    def silent(self, address: str, now: float) -> float:
        """Return for how many seconds a worker has not answered its scheduler."""
        heartbeat, since = self._beats.get(address, (0.0, now))
        return now - since if heartbeat else 0.0

    def stuck(self, now: float) -> list[str]:
        """Return the workers that have been paused for so long that it is no passing matter."""
        return [
            address
            for address, (reason, since) in self._since.items()
            if reason == MEMORY and now - since >= PAUSED_SECONDS
        ]

    def leave_out(self, address: str, trouble: str) -> str:
        """Send no more tiles to a worker's host; return the line that says so, once."""
        host = self.seen[address].host if address in self.seen else host_of(address)
        if host in self.unfit:
            return ""
        self.unfit[host] = trouble
        return f"Worker host {host} is left out of this run: it {trouble}."

    def memory(self, address: str) -> str:
        """Say how much memory a worker holds."""
        worker = self.seen.get(address)
        if worker is None or not worker.limit:
            return "too much memory"
        return f"{format_bytes(worker.memory)} of its {format_bytes(worker.limit)} of memory"

    def renewed(self, address: str, now: float) -> str:
        """Return the line that says why a worker of ours is started anew, once a minute."""
        last = self._said.get("renewed")
        if last is not None and now - last < REMIND_SECONDS:
            return ""
        self._said["renewed"] = now
        return (
            f"Worker {address} holds {self.memory(address)} and takes no more tiles; such workers "
            "are started anew. Smaller tiles, a smaller batch_size= or fewer workers= need less."
        )

    def news(self, now: float, *, owned: bool) -> list[str]:
        """Return a line for each reason why workers do not work, at most once a minute each."""
        lines: list[str] = []
        stuck = [] if owned else self.stuck(now)
        if stuck and self._due(MEMORY, stuck, now):
            holds = self.memory(stuck[0])
            lines.append(
                f"{_named(stuck)} paused by Dask and {_verb(stuck, 'takes', 'take')} no tiles: "
                f"{stuck[0]} holds {holds}. Restart it, or give workers more memory; smaller "
                "tiles and a smaller batch_size= need less."
            )
        closing = sorted(a for a, (reason, _) in self._since.items() if reason == CLOSING)
        if closing and len(closing) == len(self.seen) and self._due(CLOSING, closing, now):
            lines.append(
                f"{_named(closing)} closing (retired, or at the end of "
                f"{_verb(closing, 'its', 'their')} lifetime); the run waits for another worker."
            )
        silent = sorted(a for a in self.seen if self.silent(a, now) >= SILENT_SECONDS)
        if silent and self._due("silent", silent, now):
            lines.append(
                f"{_named(silent)} silent for {self.silent(silent[0], now):.0f} s: a tile holds "
                "Python's lock, or the machine or its network is overloaded. The run waits."
            )
        return lines

    def _due(self, reason: str, addresses: Collection[str], now: float) -> bool:
        """Say whether a reason may be named (again), or holds for workers not named before."""
        fresh = not self._named.issuperset(f"{reason} {address}" for address in addresses)
        last = self._said.get(reason)
        if last is not None and now - last < REMIND_SECONDS:
            return False
        if not fresh and reason != "silent":
            return False
        self._named.update(f"{reason} {address}" for address in addresses)
        self._said[reason] = now
        return True

    def _reason(self, worker: Sighting) -> str:
        """Return why a worker takes no tasks; empty where it does."""
        if worker.host in self.unfit:
            return UNFIT
        if worker.status == "paused":
            return MEMORY
        return CLOSING if worker.status.startswith("clos") else ""

    def _may_run(self, address: str, worker: Sighting) -> bool:
        """Return True if the annotations around the call allow a worker."""
        resources = self._annotations.get("resources")
        if isinstance(resources, Mapping) and any(
            worker.resources.get(name, 0) < amount for name, amount in resources.items()
        ):
            return False
        wanted = self._annotations.get("workers")
        if not wanted or callable(wanted) or self._annotations.get("allow_other_workers"):
            return True
        wanted = {wanted} if isinstance(wanted, str) else set(map(str, wanted))
        return not wanted.isdisjoint((address, worker.name, worker.host))


def host_of(address: str) -> str:
    """Return the host in a worker's address."""
    return str(get_address_host(address))


def _named(addresses: list[str]) -> str:
    shown = ", ".join(addresses[:SHOWN])
    more = len(addresses) - SHOWN
    last = f" and {more} more" if more > 0 else ""
    return f"Worker{'s' * (len(addresses) > 1)} {shown}{last} {_verb(addresses, 'is', 'are')}"


def _verb(addresses: list[str], one: str, many: str) -> str:
    return one if len(addresses) == 1 else many
