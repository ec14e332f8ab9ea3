"""A cluster as the rest of tilevision sees it: ours, or one that the user brought."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from distributed import Client
from distributed.deploy.spec import SpecCluster

from tilevision.errors import ClusterError

__all__ = ["Cluster", "attach"]

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
        """Whether the scheduler can be reached."""
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
        Synchronous and connected.

    Raises
    ------
    ClusterError
        If it is no client, is asynchronous, or is not connected.
    """
    if not isinstance(client, Client):
        raise ClusterError(
            f"client is a {type(client).__name__}; give a dask.distributed.Client, "
            "as in tv.analyze(..., client=Client(cluster))."
        )
    if client.asynchronous:
        raise ClusterError(
            "The Dask client is asynchronous; give one made without asynchronous=True."
        )
    if client.status != "running":
        raise ClusterError(f"The Dask client is {client.status}; make a new one.")
    return Cluster(client)


def _threads_each(cluster: Any) -> int:
    """Return how many threads a worker that such a cluster starts will have."""
    options = (getattr(cluster, "new_spec", None) or {}).get("options", {})
    threads = options.get("nthreads") or options.get("cores") or 1
    return threads if isinstance(threads, int) else 1
