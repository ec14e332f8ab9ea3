"""The processes of our local cluster, and who replaces them when they die.

Distributed's own subprocess cluster works without a ``__main__`` guard but leaves orphans,
ignores the client's configuration and `sys.path`, dies of Ctrl-C, stops when its log pipe is
full and keeps counting dead workers. These subclasses change how the processes are started.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import dask
import psutil
from distributed.core import Status
from distributed.deploy.spec import SpecCluster
from distributed.deploy.subprocess import SubprocessScheduler, SubprocessWorker

from tilevision.cluster.child import BOOTSTRAP, Order

__all__ = ["GuardlessCluster", "SchedulerProcess", "WorkerProcess"]

START_SECONDS = 60.0
WORKERLESS_SECONDS = 40.0
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


async def _spawn(
    cls: str, args: list[Any], opts: dict[str, Any], folder: Path, log: str
) -> asyncio.subprocess.Process:
    """Start a fresh interpreter that becomes the Dask server `cls`."""
    order: Order = {
        "cls": cls,
        "args": args,
        "opts": opts,
        "path": [_absolute(entry) for entry in sys.path],
        "config": dask.config.serialize(_portable_config()),
        "parent": os.getpid(),
        "folder": str(folder),
    }
    environment = {**dict.fromkeys(THREAD_VARIABLES, "1"), **os.environ}
    with (folder / log).open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            BOOTSTRAP,
            stdin=PIPE,
            stdout=DEVNULL,
            stderr=errors,
            env=environment,
            start_new_session=True,
        )
    assert process.stdin is not None
    with suppress(OSError):  # it died already; whoever waits for it says so
        process.stdin.write(json.dumps(order).encode())
        await process.stdin.drain()
    process.stdin.close()
    return process


def _absolute(entry: str) -> str:
    # Only what is a place: editable installs put names of import hooks into the path.
    place = Path(entry or ".")
    return str(place.absolute()) if place.exists() else entry


def _portable_config() -> dict[str, Any]:
    """Return the client's Dask configuration without what only makes sense in the client."""
    portable = {}
    for key, value in dask.config.config.items():
        if key in ("scheduler", "shuffle", "get", "scheduler-address"):
            continue
        with suppress(TypeError, ValueError):
            json.dumps(value)
            portable[key] = value
    return portable


class SchedulerProcess(SubprocessScheduler):  # type: ignore[misc]  # distributed is untyped
    """A Dask scheduler in a process of its own.

    Parameters
    ----------
    folder : Path
        Where its log and address file go.
    scheduler_kwargs : dict
        For ``distributed.Scheduler``; plain JSON.
    """

    def __init__(self, folder: Path, scheduler_kwargs: dict[str, Any]) -> None:
        self.folder = folder
        self.scheduler_file = folder / "scheduler.json"
        super().__init__(
            {**scheduler_kwargs, "scheduler_file": str(self.scheduler_file)}, timeout=START_SECONDS
        )

    async def _start(self) -> None:
        self.process = await _spawn(
            "distributed.Scheduler", [], self.scheduler_kwargs, self.folder, "scheduler.log"
        )
        deadline = time.monotonic() + self.timeout
        while self.process.returncode is None and time.monotonic() < deadline:
            with suppress(OSError, ValueError):  # not there yet, or half written
                self.address = json.loads(self.scheduler_file.read_text())["address"]
                return
            await asyncio.sleep(0.02)
        raise RuntimeError("its scheduler did not come up")

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.returncode is None


class WorkerProcess(SubprocessWorker):  # type: ignore[misc]  # distributed is untyped
    """A nanny in a process of its own, which starts its worker again whenever that dies.

    Parameters
    ----------
    scheduler : str
        Address of the scheduler.
    name : int
        Set by the cluster.
    folder : Path
        Where its log goes.
    worker_kwargs : dict
        For ``distributed.Nanny``; plain JSON.
    """

    def __init__(
        self, scheduler: str, name: int, folder: Path, worker_kwargs: dict[str, Any]
    ) -> None:
        self.folder = folder
        super().__init__(scheduler, name=name, worker_kwargs={**worker_kwargs, "name": name})

    async def _start(self) -> None:
        self.process = await _spawn(
            self.worker_class,
            [self.scheduler],
            self.worker_kwargs,
            self.folder,
            f"worker-{self.name}.log",
        )
        self._watch = asyncio.create_task(self._watch_nanny(self.process))

    async def _watch_nanny(self, process: asyncio.subprocess.Process) -> None:
        """Have the cluster replace this entry when the nanny dies or has no worker for long."""
        seen = time.monotonic()
        while process.returncode is None and time.monotonic() - seen < WORKERLESS_SECONDS:
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 1.0)
            cluster = self._cluster() if hasattr(self, "_cluster") else None
            if cluster is None or cluster.has_worker(self.name):
                seen = time.monotonic()
        if self.status == Status.running and cluster is not None:
            cluster.replace(self)

    async def close(self) -> None:
        """Kill the nanny and its worker."""
        self.status = Status.closing
        with suppress(ProcessLookupError):
            await super().close()


class GuardlessCluster(SpecCluster):  # type: ignore[misc]  # distributed is untyped
    """A cluster of processes on this machine that replaces what dies."""

    def has_worker(self, name: int) -> bool:
        """Whether the worker called `name` is registered with the scheduler."""
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
            process = None if server is None else server.process
            if process is not None and process.returncode is None:
                with suppress(psutil.NoSuchProcess):
                    family = psutil.Process(process.pid)
                    for member in [*family.children(recursive=True), family]:
                        member.kill()

    def _update_worker_status(self, op: str, msg: Any) -> None:
        # The inherited method drops an entry whose worker stayed away, and nobody starts another;
        # ours is watched by `WorkerProcess`, so only the record of who is there is kept.
        if op == "remove":
            self.scheduler_info["workers"].pop(msg, None)
        else:
            super()._update_worker_status(op, msg)
