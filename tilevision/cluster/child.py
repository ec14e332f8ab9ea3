"""What runs inside the processes of our local cluster: one Dask server, and a watch on its parent.

The client writes an `Order` as JSON to the standard input of a fresh interpreter, which has
nothing of the user's script in it: no main module is imported again, so a script needs no
``__main__`` guard.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import signal
import stat
import sys
import threading
import time
from multiprocessing.connection import wait
from typing import Any, TypedDict

__all__ = ["BOOTSTRAP", "Order", "dask_setup", "main"]

# Paths and configuration must be in place before anything of Dask is imported.
BOOTSTRAP = """
import json, os, sys
order = json.load(sys.stdin)
sys.path[:] = order["path"]
os.environ["DASK_INTERNAL_INHERIT_CONFIG"] = order["config"]
from tilevision.cluster.child import main
del os.environ["DASK_INTERNAL_INHERIT_CONFIG"]
main(order)
"""

LOG_LIMIT = 8 * 2**20
CHECK_SECONDS = 0.25


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
    path : list of str
        ``sys.path`` of the client, so that modules beside its script can be imported.
    config : str
        The client's Dask configuration, as `dask.config.serialize` writes it.
    parent : int
        Process id of the client.
    folder : str
        The cluster's temporary folder, removed by whoever notices that the client is gone.
    """

    cls: str
    args: list[Any]
    opts: dict[str, Any]
    dashboard: bool
    path: list[str]
    config: str
    parent: int
    folder: str


def main(order: Order) -> None:
    """Serve until told to close, or until the client is gone."""
    # An ignored signal stays ignored in the worker that a nanny starts: Ctrl-C is the client's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch_client, args=(order,), daemon=True).start()
    asyncio.run(_serve(order))


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
