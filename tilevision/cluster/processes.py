"""The processes of a local cluster, as its client sees them: started, watched, ended.

All are forked from one host (see `tilevision.cluster.child`), which clusters of the same client
share. Distributed's own subprocess cluster works without a ``__main__`` guard but leaves orphans,
ignores the client's configuration and `sys.path`, ends with Ctrl-C, stops when its log pipe is
full and keeps counting dead workers. The entries below differ in how they start and end.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired
from typing import Any

import dask
import psutil
from distributed.core import Status
from distributed.deploy.spec import ProcessInterface

from tilevision.cluster.child import BOOTSTRAP, FORKING, NANNY, Order

__all__ = ["Host", "SchedulerProcess", "WorkerProcess", "engage", "import_early", "leave"]

START_SECONDS = 60.0
WORKERLESS_SECONDS = 40.0
END_SECONDS = 10.0
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
# Variables that are read while a library is loaded: a host that was started with others does not
# serve. All others are handed over with each order.
EARLY_VARIABLES = ("PYTHON", "DASK_", "LD_", "DYLD_", "MALLOC_", *THREAD_VARIABLES)

# Dask's own settings look at a process a hundred times a second, so that a cluster costs a tenth
# of a processor while nothing runs. What the user has set to anything else stays.
_CALMER = {
    "distributed.worker.profile.interval": ("10ms", "100ms"),
    "distributed.admin.tick.interval": ("20ms", "500ms"),
}
_OURS = {"distributed.scheduler.worker-ttl": None, "distributed.worker.daemon": False}
_EARLY_SETTINGS = "distributed.nanny.pre-spawn-environ"
# Dask has workers give freed memory back at once. The pixels of each tile then lie in fresh pages,
# which the kernel has to clear: a tile of 512 px cost 8 ms in it, as much as all else it needs.
_GIVES_BACK = ("MALLOC_TRIM_THRESHOLD_", 64 * 2**10)
_KEEPS = {"MALLOC_TRIM_THRESHOLD_": 64 * 2**20, "MALLOC_MMAP_THRESHOLD_": 32 * 2**20}

_early = [
    "distributed.nanny",
    "distributed.scheduler",
    "distributed.worker",
    "tilevision.cluster.dashboard",
]


def import_early(module: str) -> None:
    """Have hosts import `module`, so that their workers need not: each would, by itself."""
    if module not in _early:
        _early.append(module)


# The host -----------------------------------------------------------------------------------


class ServerProcess:
    """A process that a host has started.

    Attributes
    ----------
    pid : int
    """

    def __init__(self, pid: int, ended: Future[int]) -> None:
        self.pid = pid
        self._ended = ended
        self._waiter = asyncio.wrap_future(ended)  # one for all who wait, again and again

    @property
    def returncode(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self, timeout: float) -> None:
        """Return when it has ended, at the latest after `timeout` seconds."""
        await asyncio.wait([self._waiter], timeout=timeout)

    def kill_family(self) -> None:
        """End it and all that it has started, also those that would not listen."""
        if self.returncode is None:
            with suppress(psutil.NoSuchProcess):
                family = psutil.Process(self.pid)
                for member in [*family.children(recursive=True), family]:
                    with suppress(psutil.NoSuchProcess):
                        member.kill()


class Interpreter:
    """A fresh interpreter that carries out orders: forks processes, or becomes one itself.

    Parameters
    ----------
    config : str
        Dask configuration of all its processes, as `dask.config.serialize` writes it.
    """

    def __init__(self, config: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 it is closed with the host
        self._sending = threading.Lock()
        self._begun: deque[Future[tuple[int, Future[int]]]] = deque()
        self._living: dict[int, Future[int]] = {}
        ours = {
            "DASK_INTERNAL_INHERIT_CONFIG": config,
            "TILEVISION_CHILD_PATH": json.dumps(_path()),
        }
        self._process = Popen(  # noqa: S603 our own interpreter, our own words
            [sys.executable, "-c", BOOTSTRAP, *_early],
            stdin=PIPE,
            stdout=PIPE,
            stderr=self._errors,
            env=_before_imports(config) | _environment() | ours,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, name="tilevision-interpreter", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Return True if it can start processes."""
        return self._process.poll() is None

    async def carry_out(self, order: Order) -> ServerProcess:
        """Start what is ordered, in this interpreter or forked from it."""
        begun: Future[tuple[int, Future[int]]] = Future()
        begun.set_running_or_notify_cancel()  # who stops waiting must not stop the listener
        await asyncio.to_thread(self._send, order, begun)  # while it imports, its pipe may be full
        return ServerProcess(*await asyncio.wrap_future(begun))

    def _send(self, order: Order, begun: Future[tuple[int, Future[int]]]) -> None:
        assert self._process.stdin is not None
        with self._sending:  # it answers in the order of the orders
            self._begun.append(begun)
            try:
                self._process.stdin.write(json.dumps(order).encode() + b"\n")
                self._process.stdin.flush()
            except (OSError, ValueError) as error:  # it has ended
                self._begun.remove(begun)
                raise RuntimeError(self._last_words()) from error

    def _listen(self) -> None:
        """Keep account of the processes, on a thread of the host's own."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "pid" in said:
                ended: Future[int] = Future()
                self._living[said["pid"]] = ended
                self._begun.popleft().set_result((said["pid"], ended))
            elif said["ended"] in self._living:
                self._living.pop(said["ended"]).set_result(said["code"])
        code = self._process.wait()
        self._hang_up()
        # Its processes end with it: they watch it.
        for ended in self._living.values():
            ended.set_result(code)
        for begun in self._begun:
            begun.set_exception(RuntimeError(self._last_words()))

    def _hang_up(self) -> None:
        assert self._process.stdin is not None
        with self._sending, suppress(OSError):
            self._process.stdin.close()

    def _last_words(self) -> str:
        with suppress(OSError, ValueError):
            size = self._errors.seek(0, os.SEEK_END)
            self._errors.seek(max(0, size - 4096))
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            if lines:
                return lines[-1].strip()[:300]
        return "its processes did not start"

    def close(self) -> None:
        """End it, and whatever it has started and is still there."""
        self._hang_up()
        if self._living:
            with suppress(TimeoutExpired):
                self._process.wait(END_SECONDS)
        self._process.kill()
        self._process.wait()
        self._errors.close()


class Host:
    """What starts the processes of all clusters of one client that have the same configuration.

    Parameters
    ----------
    config : str
        As for `Interpreter`.
    """

    def __init__(self, config: str) -> None:
        self.config = config
        self.users = 0
        self._shared = Interpreter(config) if FORKING else None

    @property
    def alive(self) -> bool:
        """Return True if it can start processes."""
        return self._shared is None or self._shared.alive

    async def start(
        self, cls: str, args: list[Any], opts: dict[str, Any], log: Path, *, dashboard: bool = False
    ) -> ServerProcess:
        """Start a process that becomes the Dask server `cls`, with its log in its cluster's folder.

        Raises
        ------
        RuntimeError
            If its interpreter has ended.
        """
        interpreter = self._shared or Interpreter(self.config)
        return await interpreter.carry_out(
            {
                "cls": cls,
                "args": args,
                "opts": opts,
                "dashboard": dashboard,
                "environment": _environment(),
                "directory": _directory(),
                "path": _path(),
                "parent": os.getpid(),
                "folder": str(log.parent),
                "log": str(log),
            }
        )

    def close(self) -> None:
        """End it, and whatever it has started and is still there."""
        if self._shared is not None:
            self._shared.close()


_hosts: dict[tuple[Any, ...], Host] = {}
_changing = threading.Lock()


def engage() -> Host:
    """Return a host for the current configuration: one that is there, else a new one."""
    config = dask.config.serialize(_portable_config())
    early = {k: v for k, v in os.environ.items() if k.startswith(EARLY_VARIABLES)}
    key = (os.getpid(), config, tuple(sorted(early.items())))
    with _changing:
        host = _hosts.get(key)
        if host is None or not host.alive:
            host = _hosts[key] = Host(config)
        host.users += 1
    return host


def leave(host: Host) -> None:
    """Say that `host` is used no more; with its last user it ends."""
    with _changing:
        host.users -= 1
        if host.users:
            return
        for key in [key for key, value in _hosts.items() if value is host]:
            del _hosts[key]
    host.close()


def _environment() -> dict[str, str]:
    return {**dict.fromkeys(THREAD_VARIABLES, "1"), **os.environ}


def _before_imports(config: str) -> dict[str, str]:
    # What Dask sets for workers alone before they start: these are forked.
    settings = dask.config.get(_EARLY_SETTINGS, config=dask.config.deserialize(config))
    return {name: str(value) for name, value in settings.items()}


def _directory() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return os.sep


def _path() -> list[str]:
    return [_absolute(entry) for entry in sys.path]


def _absolute(entry: str) -> str:
    # Only what is a place: editable installs put names of import hooks into the path.
    place = Path(entry or ".")
    return str(place.absolute()) if place.exists() else entry


def _portable_config() -> dict[str, Any]:
    """Return the client's Dask configuration without what only makes sense in the client.

    With what our processes need whatever the client has: a tile that holds Python's lock for
    long is no dead worker (nannies notice those), and models may start processes of their own.
    """
    portable = {}
    for key, value in dask.config.config.items():
        if key in ("scheduler", "shuffle", "get", "scheduler-address"):
            continue
        with suppress(TypeError, ValueError):
            portable[key] = json.loads(json.dumps(value))
    calmer = {key: calm for key, (usual, calm) in _CALMER.items() if dask.config.get(key) == usual}
    early = dict(dask.config.get(_EARLY_SETTINGS))
    name, usual = _GIVES_BACK
    if early.get(name) == usual:
        del early[name]
        early = _KEEPS | early
    dask.config.set(calmer | _OURS | {_EARLY_SETTINGS: early}, config=portable)
    return portable


# The entries of a cluster -----------------------------------------------------------------------


class _ServerEntry(ProcessInterface):  # type: ignore[misc]  # distributed is untyped
    """A server of a cluster, in a process of its own.

    Parameters
    ----------
    host : Host
    folder : Path
        Where its log goes.
    """

    def __init__(self, host: Host, folder: Path) -> None:
        self.host, self.folder = host, folder
        self.process: ServerProcess | None = None
        super().__init__()

    @property
    def running(self) -> bool:
        """Return True if the process is there."""
        return self.process is not None and self.process.returncode is None

    async def close(self) -> None:
        """Kill the process, and what that has started."""
        self.status = Status.closing
        if self.process is not None:
            self.process.kill_family()
            await self.process.wait(END_SECONDS)
        await super().close()


class SchedulerProcess(_ServerEntry):
    """A Dask scheduler in a process of its own.

    Parameters
    ----------
    host : Host
    folder : Path
        Where its log and address file go.
    scheduler_kwargs : dict
        For ``distributed.Scheduler``; plain JSON.
    """

    def __init__(self, host: Host, folder: Path, scheduler_kwargs: dict[str, Any]) -> None:
        super().__init__(host, folder)
        self.scheduler_file = folder / "scheduler.json"
        self.scheduler_kwargs = {**scheduler_kwargs, "scheduler_file": str(self.scheduler_file)}

    async def start(self) -> None:
        """Return once its address is known."""
        self.process = await self.host.start(
            "distributed.Scheduler",
            [],
            self.scheduler_kwargs,
            self.folder / "scheduler.log",
            dashboard=importlib.util.find_spec("bokeh") is not None,
        )
        deadline = time.monotonic() + START_SECONDS
        while self.running and time.monotonic() < deadline:
            with suppress(OSError, ValueError):  # not there yet, or half written
                self.address = json.loads(self.scheduler_file.read_text())["address"]
                await super().start()
                return
            await asyncio.sleep(0.02)
        raise RuntimeError("its scheduler did not come up")


class WorkerProcess(_ServerEntry):
    """A nanny in a process of its own, which starts its worker again whenever that dies.

    Parameters
    ----------
    scheduler : str
        Address of the scheduler.
    name : int
        Set by the cluster.
    host : Host
    folder : Path
        Where its log goes.
    worker_kwargs : dict
        For ``distributed.Nanny``; plain JSON.
    """

    def __init__(
        self, scheduler: str, name: int, host: Host, folder: Path, worker_kwargs: dict[str, Any]
    ) -> None:
        super().__init__(host, folder)
        self.scheduler, self.name = scheduler, name
        self.worker_kwargs = {**worker_kwargs, "name": name}

    async def start(self) -> None:
        """Return once its process has begun, and have it watched."""
        self.process = await self.host.start(
            NANNY, [self.scheduler], self.worker_kwargs, self.folder / f"worker-{self.name}.log"
        )
        self._watch = asyncio.create_task(self._watch_nanny(self.process))
        await super().start()

    async def _watch_nanny(self, process: ServerProcess) -> None:
        """Have the cluster replace this entry when the nanny dies or has no worker for long."""
        seen = time.monotonic()
        while process.returncode is None and time.monotonic() - seen < WORKERLESS_SECONDS:
            await process.wait(1.0)
            cluster = self._cluster() if hasattr(self, "_cluster") else None
            if cluster is None or cluster.has_worker(self.name):
                seen = time.monotonic()
        if self.status == Status.running and cluster is not None:
            cluster.replace(self)
