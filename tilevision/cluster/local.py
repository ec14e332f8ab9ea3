"""The local cluster: processes on this machine, up in about two seconds, quiet, without orphans."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import shutil
import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import dask
from dask.system import CPU_COUNT
from distributed import Client, rpc
from distributed.core import Status
from distributed.deploy.spec import SpecCluster
from distributed.utils import silence_logging_cmgr
from distributed.worker_memory import parse_memory_limit

from tilevision.checks import whole, worker_count
from tilevision.cluster.handle import Cluster
from tilevision.cluster.processes import SchedulerProcess, WorkerProcess, engage, leave
from tilevision.errors import ClusterError, RunArgumentError

__all__ = [
    "GuardlessCluster",
    "LocalCluster",
    "default_workers",
    "local_cluster",
]


class GuardlessCluster(SpecCluster):  # type: ignore[misc]  # distributed is untyped
    """A cluster of processes on this machine that replaces what dies."""

    def has_worker(self, name: int) -> bool:
        """Return True if the worker called `name` is registered with the scheduler."""
        workers = self.scheduler_info["workers"].values()
        return any(worker["name"] == name for worker in workers)

    def replace(self, worker: WorkerProcess) -> None:
        """Start another process in the place of a dead one."""
        self._futures.add(asyncio.ensure_future(self._replace(worker)))

    async def _replace(self, worker: WorkerProcess) -> None:
        await worker.close()
        if self.status == Status.running and self.workers.get(worker.name) is worker:
            await asyncio.sleep(1.0)  # a process that dies at once must not spin
            self.workers.pop(worker.name, None)
            await self._correct_state()

    async def _close(self) -> None:
        if self.scheduler is not None and not self.scheduler.running:
            # Nobody is left to say good-bye to; trying would take half a minute.
            self.scheduler.status = Status.closed
            self.shutdown_scheduler = False
        await super()._close()

    def kill(self) -> None:
        """End what an orderly close has left; harmless after one that went well."""
        for server in [*self.workers.values(), self.scheduler]:
            if server is not None and server.process is not None:
                server.process.kill_family()

    def _update_worker_status(self, op: str, msg: Any) -> None:
        # The inherited method drops an entry whose worker stayed away, and nobody starts another;
        # ours is watched by `WorkerProcess`, so only the record of who is there is kept.
        if op == "remove":
            self.scheduler_info["workers"].pop(msg, None)
        else:
            super()._update_worker_status(op, msg)


HOST = "127.0.0.1"
DASHBOARD_PORT = 8787
CLOSE_SECONDS = 10.0
RESTART_PATIENCE_SECONDS = 1.0
WORKER_PRELOAD = "tilevision.cluster.child"


class _Hush:
    """Keeps Dask's own log off the terminal while any of our clusters is up.

    What it has to say (connections lost, workers restarted) is dealt with, or told in our words.
    """

    def __init__(self) -> None:
        self._users = 0
        self._lock = threading.Lock()
        self._silence = ExitStack()

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._silence.enter_context(silence_logging_cmgr(logging.CRITICAL))

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._silence.close()


_hush = _Hush()
_open: set[LocalCluster] = set()


def close_all() -> None:
    """Close whatever is still open when the interpreter ends."""
    for cluster in list(_open):
        cluster.close()


# Dask's own functions for the exit were registered when it was imported above, so this runs
# before them and leaves them nothing to complain about.
atexit.register(close_all)


class LocalCluster(Cluster):
    """A cluster of processes on this machine, started and owned by tilevision.

    Parameters
    ----------
    workers : int
        Number of worker processes.
    threads_per_worker : int
    memory_limit : int or None
        Bytes per worker; a worker that passes 95 % of it is replaced.
    """

    owned = True

    def __init__(self, workers: int, threads_per_worker: int, memory_limit: int | None) -> None:
        self.size = workers
        self.threads_per_worker = threads_per_worker
        self.memory_limit = memory_limit
        self.closed = False
        self._process = os.getpid()
        self._up = False
        self._changing = threading.Lock()
        self._start()

    def _start(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tilevision-cluster-"))
        self._host = engage()
        self._up = True
        _hush.enter()
        try:
            self._processes = self._start_processes()
            client = Client(self._processes, set_as_default=False)
            client.wait_for_workers(self.size, timeout=60)
        except Exception as error:
            said = str(error).removeprefix("Cluster failed to start: ")
            words = self._last_words() or " ".join(said.split())[:300]
            self._discard()
            raise ClusterError(
                f"The local cluster of {self.size} workers did not start ({words}); "
                "try fewer workers, or give your own client=."
            ) from error
        super().__init__(client)
        _open.add(self)

    def _last_words(self) -> str:
        """Return the last line of the first log that has any: why a process ended."""
        for log in sorted(self._folder.glob("*.log")):
            lines = log.read_text(errors="replace").strip().splitlines()
            if lines:
                return lines[-1].strip()[:300]
        return ""

    def _start_processes(self) -> GuardlessCluster:
        scheduler = {
            "host": HOST,
            "port": 0,
            "dashboard": False,  # see `tilevision.cluster.dashboard`
            "dashboard_address": f"{HOST}:{DASHBOARD_PORT}",
            # One death is reason enough: who is to blame is found out by running suspects alone,
            # and a few killers in a row wear out the nannies otherwise.
            "allowed_failures": 0,
        }
        worker = {
            "host": HOST,
            "nthreads": self.threads_per_worker,
            "memory_limit": self.memory_limit or 0,
            "local_directory": str(self._folder),
            "preload": [*dask.config.get("distributed.worker.preload"), WORKER_PRELOAD],
            "preload_argv": [],
        }
        place = {"host": self._host, "folder": self._folder}
        entry = {
            "cls": WorkerProcess,
            "options": {**place, "worker_kwargs": worker},
        }
        return GuardlessCluster(
            workers=dict.fromkeys(range(self.size), entry),
            worker=entry,
            scheduler={
                "cls": SchedulerProcess,
                "options": {**place, "scheduler_kwargs": scheduler},
            },
            name="tilevision",
            shutdown_on_close=False,  # `close_all` does it, and quietly
        )

    @property
    def alive(self) -> bool:
        """Return True if the scheduler is there and can be reached."""
        return not self.closed and self._processes.scheduler.running and super().alive

    async def _restart_through(self, nanny: str, address: str) -> None:  # noqa: ARG002
        # The scheduler's own way gives a hung task 4 s to end; it never does.
        async with rpc(nanny) as connection:
            await connection.kill(timeout=RESTART_PATIENCE_SECONDS, reason="tilevision-deadline")

    def rebuild(self) -> None:
        """Start anew, with the same settings, after the scheduler was lost.

        Another run on this cluster may have been quicker: a cluster that is alive stays.
        """
        with self._changing:
            if self.closed:
                raise ClusterError("The local cluster was closed while a run was using it.")
            if not self.alive or not self.workers():
                self._discard()
                self._start()

    def close(self) -> None:
        """End all processes and remove their folder; again is harmless."""
        if os.getpid() != self._process:
            return  # a fork of the client ends, which is not the cluster's end
        with self._changing:
            if not self.closed:
                self.closed = True
                self._discard()
                _open.discard(self)

    def _discard(self) -> None:
        if not self._up:
            return
        self._up = False
        client, processes = getattr(self, "client", None), getattr(self, "_processes", None)
        with suppress(Exception):  # whatever state it is in, its processes go
            if client is not None:
                client.close(timeout=CLOSE_SECONDS)
        with suppress(Exception):
            if processes is not None:
                processes.close(timeout=CLOSE_SECONDS)
        if processes is not None:
            processes.kill()
        leave(self._host)
        shutil.rmtree(self._folder, ignore_errors=True)
        _hush.leave()

    def __repr__(self) -> str:
        state = "running" if self.alive else "closed"
        return f"<local cluster: {self.size} workers × {self.threads_per_worker} threads, {state}>"


def local_cluster(
    workers: int | None = None,
    threads_per_worker: int = 1,
    memory_limit: str | float | None = "auto",
) -> LocalCluster:
    """Start a cluster of processes on this machine.

    Works from a plain script without a ``__main__`` guard and from notebooks. All its processes
    end with this one, however this one ends.

    Parameters
    ----------
    workers : int, optional
        Number of processes; None: as many as there are usable processors.
    threads_per_worker : int
        Tiles a process works on at once. Native thread pools (BLAS, OpenMP) get one thread each.
    memory_limit : str, float or None
        Per worker: ``"auto"`` (a fair share of the machine), ``"2 GiB"``, a fraction of the
        machine up to 1, bytes, or None for no limit.

    Raises
    ------
    RunError
        If a number makes no sense.
    ClusterError
        If the processes do not start.
    """
    count = default_workers() if workers is None else worker_count(workers)
    threads = whole("threads_per_worker", threads_per_worker)
    return LocalCluster(count, threads, _bytes(memory_limit, threads, count * threads))


def default_workers() -> int:
    """Return how many processors this process may use: affinity and container limits count."""
    return int(CPU_COUNT)


def _bytes(limit: str | float | None, threads: int, total: int) -> int | None:
    try:
        found = parse_memory_limit(limit, threads, total, logger=logging.getLogger(__name__))
    except (ValueError, TypeError) as error:
        raise RunArgumentError(
            f"memory_limit is {limit!r}; give 'auto', '2 GiB', a fraction, bytes, or None."
        ) from error
    return None if found is None else int(found)
