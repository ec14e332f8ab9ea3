"""What runs inside the processes of our local cluster: one Dask server each, forked from a host.

The host is a fresh interpreter that imports Dask and the worker's side of the package once. Then
it forks a process for every order that the client writes to it, so that a cluster of eight
workers pays for one import and not for seventeen. A host has nothing of the user's script in it:
no main module is imported again, so a script needs no ``__main__`` guard. It runs no thread and
no event loop, without which a fork is safe.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import multiprocessing
import os
import select
import shutil
import signal
import socket
import stat
import sys
import threading
import time
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypedDict

__all__ = ["BOOTSTRAP", "FORKING", "Order", "dask_setup", "main", "next_order"]

# Elsewhere system libraries do not survive a fork; there each server is a fresh interpreter.
FORKING = sys.platform.startswith("linux")

# Paths and configuration must be in place before anything of Dask is imported. What `next_order`
# returns in a forked process is served here, so that the process ends as any interpreter does.
BOOTSTRAP = """
import json, os, sys
sys.path[:] = json.loads(os.environ.pop("TILEVISION_CHILD_PATH"))
from tilevision.cluster.child import main, next_order
os.environ.pop("DASK_INTERNAL_INHERIT_CONFIG")
order = next_order(sys.argv[1:])
if order is not None:
    main(order)
"""

LOG_LIMIT = 8 * 2**20
CHECK_SECONDS = 0.25
NANNY = "distributed.Nanny"


class Order(TypedDict):
    """What a child process is to become.

    Parameters
    ----------
    cls : str
        Dotted name of the server's class.
    args, opts : list, dict
        What it is called with; plain JSON.
    dashboard : bool
        True for a scheduler whose dashboard is built when it is first asked for.
    environment : dict
        The client's environment.
    directory : str
        The client's current folder.
    path : list of str
        ``sys.path`` of the client, so that modules beside its script can be imported.
    parent : int
        Process id of the client, and then of the host.
    folder : str
        The cluster's temporary folder, removed by whoever notices that the client is gone.
    log : str
        Where what the process prints to standard error goes.
    """

    cls: str
    args: list[Any]
    opts: dict[str, Any]
    dashboard: bool
    environment: dict[str, str]
    directory: str
    path: list[str]
    parent: int
    folder: str
    log: str


# The host -----------------------------------------------------------------------------------


def next_order(modules: list[str]) -> Order | None:
    """Import `modules`, read orders from standard input, and return in who is to carry one out.

    In a forked process that is its order; in the host None, once its client is gone. The host
    prints a line of JSON for each process begun or ended.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's, in all that we start
    gc.disable()  # nothing of what is imported is garbage, and to look for it takes a tenth longer
    _import(modules)
    gc.enable()
    if sys.platform != "win32" and FORKING:
        return _Host().serve()
    order: Order = json.loads(sys.stdin.readline())
    _say({"pid": os.getpid()})
    _become(order)
    return order


def _import(modules: list[str]) -> None:
    import distributed.utils
    import numpy as np

    for module in modules:
        importlib.import_module(module)
    # Else Dask imports all that it may ever need before a nanny forks; that is done by now.
    distributed.utils._forkserver_preload_set = True  # noqa: SLF001 there is no public way
    if sys.platform != "win32":
        # Without this all workers would draw the same random numbers.
        os.register_at_fork(after_in_child=np.random.seed)


def _say(message: dict[str, int]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


if sys.platform != "win32":

    class _Host:
        """Forks a process for each order, and says which have ended.

        Its end is the end of what it has forked: each of them watches it.
        """

        def __init__(self) -> None:
            self._client = os.getppid()
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            signal.signal(signal.SIGCHLD, lambda *_: None)
            resource_tracker.ensure_running()  # one for all: each nanny would start its own
            gc.collect()
            gc.freeze()  # what is shared by all is looked at by none, and so never copied

        def serve(self) -> Order | None:
            unread = b""
            # The client's pipe stays open where the client has forked: its end alone tells nothing.
            while os.getppid() == self._client:
                ready, _, _ = select.select([0, self._pipe[0]], [], [], CHECK_SECONDS)
                if self._pipe[0] in ready:
                    os.read(self._pipe[0], 4096)
                    self._reap()
                if 0 in ready:
                    read = os.read(0, 2**16)
                    if not read:
                        break
                    *lines, unread = (unread + read).split(b"\n")
                    for line in lines:
                        if (order := self._fork(json.loads(line))) is not None:
                            return order
            return None

        def _fork(self, order: Order) -> Order | None:
            host = os.getpid()
            if pid := os.fork():
                _say({"pid": pid})
                return None
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in self._pipe:
                os.close(end)
            order["parent"] = host
            _become(order)
            return order

        def _reap(self) -> None:
            with suppress(ChildProcessError):  # there is none left
                while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                    _say({"ended": ended[0], "code": os.waitstatus_to_exitcode(ended[1])})


def _become(order: Order) -> None:
    """Take over the client's environment, folder and paths; print to the log alone."""
    nothing = os.open(os.devnull, os.O_RDWR)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((nothing, 0), (nothing, 1), (log, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(log)
    os.environ.clear()
    os.environ.update(order["environment"])
    with suppress(OSError):  # the client's folder may be gone
        os.chdir(order["directory"])
    sys.path[:] = order["path"]
    sys.argv[1:] = []
    importlib.invalidate_caches()


# One server ---------------------------------------------------------------------------------


def main(order: Order) -> None:
    """Serve until told to close, or until the client is gone."""
    if sys.platform != "win32" and FORKING and order["cls"] == NANNY:
        _fork_workers(order["folder"])
    threading.Thread(target=_watch_client, args=(order,), daemon=True).start()
    asyncio.run(_serve(order))


if sys.platform != "win32":

    def _fork_workers(folder: str) -> None:
        """Have this process's nanny fork its workers from a copy of this process as it is now.

        The standard library's fork server, which a nanny can use, is a fresh interpreter; the copy
        takes its place. Where that does not work (newer Python versions, too long a path) nannies
        start interpreters, as they do by default.
        """
        from multiprocessing import forkserver

        import dask

        if sys.version_info >= (3, 14):  # its fork server wants a key
            return
        address = str(Path(folder, f"{os.getpid()}.fork"))
        alive, ours = os.pipe()
        with socket.socket(socket.AF_UNIX) as listener:
            try:
                listener.bind(address)
            except OSError:
                return
            listener.listen()
            if not (pid := os.fork()):
                try:
                    os.close(ours)
                    forkserver.main(listener.fileno(), alive, [])
                finally:
                    os._exit(0)
        os.close(alive)
        server: Any = vars(forkserver)["_forkserver"]  # there is no public way to say where it is
        vars(server).update(
            _forkserver_address=address, _forkserver_alive_fd=ours, _forkserver_pid=pid
        )
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})


async def _serve(order: Order) -> None:
    from distributed.utils import import_term

    from tilevision.cluster.dashboard import build_on_request

    server = import_term(order["cls"])(*order["args"], **order["opts"])
    await server
    if order["dashboard"]:
        build_on_request(server)
    await server.finished()


def _watch_client(order: Order) -> None:
    """End this process and its children as soon as the client is gone."""
    while os.getppid() == order["parent"]:
        _bound_log()
        time.sleep(CHECK_SECONDS)
    import psutil

    for child in psutil.Process().children(recursive=True):
        child.kill()
    shutil.rmtree(order["folder"], ignore_errors=True)
    os._exit(1)


def _bound_log() -> None:
    """Empty the log once it is large: a chatty model must not fill the disk."""
    status = os.fstat(sys.stderr.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size > LOG_LIMIT:
        os.ftruncate(sys.stderr.fileno(), 0)


def dask_setup(worker: Any) -> None:  # noqa: ARG001 the name and the argument are Dask's
    """Make a worker end with its nanny, even when both of them are killed hard."""
    nanny = multiprocessing.parent_process()
    if nanny is None:
        return

    def follow() -> None:
        wait([nanny.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
