"""Which cluster a run goes to: the one given, the current one, or the process's own.

Starting a local cluster takes two seconds, so all runs of a process share one.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
from distributed import default_client, get_client, get_worker, secede
from distributed.threadpoolexecutor import thread_state

from tilevision.cluster.handle import Cluster, attach, needs_this_thread
from tilevision.cluster.local import LocalCluster, default_workers, local_cluster
from tilevision.errors import ClusterError

__all__ = [
    "BorrowedCluster",
    "check_client",
    "check_wait",
    "expect_cluster",
    "find_cluster",
    "give_way",
    "lacks_cluster",
    "no_cluster_yet",
    "shared_cluster",
]

# These change from one moment to the next, and no model depends on them.
VOLATILE = frozenset({"COLUMNS", "LINES", "OLDPWD", "PWD", "PYTEST_CURRENT_TEST", "_"})


@dataclass(slots=True)
class _Shelf:
    """The process's one cluster, who is using it, and the surroundings it was started in.

    `unused` is True where it was started ahead of a run and no run has had it yet.
    """

    cluster: LocalCluster | None = None
    users: int = 0
    unused: bool = False
    process: int = 0
    surroundings: tuple[Any, ...] = ()
    modules: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


_shelf = _Shelf()


class BorrowedCluster(Cluster):
    """A share in a local cluster; closing it gives the share back and leaves the cluster up.

    Parameters
    ----------
    cluster : LocalCluster
    kept : bool
        Whether the cluster stays up for the next run.
    """

    owned = True

    def __init__(self, cluster: LocalCluster, *, kept: bool) -> None:
        super().__init__(cluster.client)
        self._cluster = cluster
        self._kept = kept
        self._returned = False

    @property
    def alive(self) -> bool:
        """Return True if the scheduler is there and can be reached.

        Not after another run has rebuilt the cluster: what this one had there is lost.
        """
        return self._cluster.alive and self.client is self._cluster.client

    def restart_worker(self, address: str) -> None:
        """Have a worker replaced by a fresh one; returns at once."""
        self._cluster.restart_worker(address)

    def rebuild(self) -> None:
        """Start anew, with the same settings, after the scheduler was lost."""
        self._cluster.rebuild()
        self.client = self._cluster.client

    def close(self) -> None:
        """Give the share back; again is harmless."""
        if self._returned:
            return
        self._returned = True
        if not self._kept:
            self._cluster.close()
            return
        with _shelf.lock:
            _shelf.users -= 1

    def __repr__(self) -> str:
        return repr(self._cluster)


def shared_cluster(workers: int | None = None) -> BorrowedCluster:
    """Borrow this process's local cluster, which is started on the first call.

    A cluster that nobody uses is started anew if it died, if another number of workers is asked
    for, or if what its workers took over from this process is stale: the working folder, the
    environment, `sys.path`, Dask's configuration, or a module of the user's that was edited.
    One that is in use is shared as it is, unless another number of workers is asked for: then
    that run gets a cluster of its own.

    Parameters
    ----------
    workers : int, optional
        As in `local_cluster`.

    Returns
    -------
    BorrowedCluster
        A context manager; leaving it gives the cluster back.

    Raises
    ------
    RunError, ClusterError
        As `local_cluster`.
    """
    with _shelf.lock:
        _drop_what_a_parent_left()
        current = _shelf.cluster
        if current is not None and _shelf.users and not current.closed:
            if workers not in (None, current.size):
                return BorrowedCluster(local_cluster(workers), kept=False)
        elif current is None or _is_stale(current, workers):
            current = _started_anew(workers)
        _shelf.unused = False
        _shelf.modules.update(_user_modules())
        _shelf.users += 1
        return BorrowedCluster(current, kept=True)


def expect_cluster(
    client: Any = None, workers: int | None = None, usual: int | None = None
) -> None:
    """Start the local cluster that a run will use: on a thread beside the caller's other work.

    Where the run will not need one (the arguments are as for `find_cluster`), or has one, this
    does nothing. One that no run comes to use is ended by `no_cluster_yet`.

    Raises
    ------
    RunError, ClusterError
        As `local_cluster`.
    """
    if client is not None or not lacks_cluster(workers):
        return
    if not _shelf.lock.acquire(blocking=False):  # somebody is starting one
        return
    try:
        _drop_what_a_parent_left()
        if _shelf.cluster is None:
            _started_anew(usual if workers is None else workers)
            _shelf.unused = True
    finally:
        _shelf.lock.release()


def lacks_cluster(workers: int | None) -> bool:
    """Return True if a run without a client of its own would have to start a cluster."""
    if workers is None and (_of_task() or _current()):
        return False
    return _shelf.cluster is None or _shelf.process != os.getpid()


def no_cluster_yet() -> None:
    """End the cluster that `expect_cluster` has started, if no run has used it."""
    with _shelf.lock:
        _drop_what_a_parent_left()
        if _shelf.unused and _shelf.cluster is not None:
            _shelf.cluster.close()
            _shelf.cluster, _shelf.unused = None, False


def _started_anew(workers: int | None) -> LocalCluster:
    """Put a new cluster in the place of the one there is; the caller holds the lock."""
    if _shelf.cluster is not None:
        _shelf.cluster.close()
    _shelf.cluster = None
    _shelf.cluster = local_cluster(workers)
    _shelf.users, _shelf.surroundings, _shelf.modules = 0, _surroundings(), {}
    return _shelf.cluster


def _drop_what_a_parent_left() -> None:
    if _shelf.process != os.getpid():  # after a fork, the parent's cluster is not ours
        _shelf.cluster, _shelf.users, _shelf.unused = None, 0, False
        _shelf.process = os.getpid()


def _is_stale(cluster: LocalCluster, workers: int | None) -> bool:
    modules = _user_modules()
    return (
        not cluster.alive
        or cluster.size != (default_workers() if workers is None else workers)
        or _shelf.surroundings != _surroundings()
        or any(modules.get(path, changed) != changed for path, changed in _shelf.modules.items())
    )


def _surroundings() -> tuple[Any, ...]:
    environment = {name: value for name, value in os.environ.items() if name not in VOLATILE}
    return (str(Path.cwd()), tuple(sys.path), environment, repr(dask.config.config))


def _user_modules() -> dict[str, int]:
    """Return the files of imported modules that a user may be editing, with their change times."""
    installed = tuple(sysconfig.get_paths()[key] for key in ("stdlib", "platlib", "purelib"))
    found = {}
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and not path.startswith(installed):
            try:
                found[path] = os.stat(path).st_mtime_ns  # noqa: PTH116 a thousand of them, quickly
            except OSError:
                continue
    return found


def find_cluster(
    client: Any = None, workers: int | None = None, usual: int | None = None
) -> tuple[Cluster, str]:
    """Return the cluster to use, and one line that says which.

    Parameters
    ----------
    client : distributed.Client, optional
        None: the current one, unless `workers` asks for a local cluster; else a local cluster.
    workers : int, optional
        Of the local cluster.
    usual : int, optional
        Workers of a local cluster where `workers` is not given; None: one per processor.

    Raises
    ------
    ClusterError, RunError
        If the client cannot be used, or no cluster can be started.
    """
    if client is not None:
        return attach(client), _repeats(client)
    inside = _of_task() if workers is None else None
    if inside is not None:
        return attach(
            inside
        ), f"Using the cluster that this task runs on: {inside.scheduler.address}"
    current = _current() if workers is None else None
    if current is not None:
        note = f"Using the current Dask client: {current.scheduler.address}"
        return attach(current), "; ".join(filter(None, [note, _repeats(current)]))
    cluster = shared_cluster(usual if workers is None else workers)
    link = f", dashboard {cluster.dashboard_link}" if cluster.dashboard_link else ""
    count = len(cluster.workers())
    return cluster, f"local cluster of {count} worker{'s' if count != 1 else ''}{link}"


def check_client(client: Any) -> None:
    """Refuse what no run could use, before there is one.

    Raises
    ------
    ClusterError
        If `client` is no Dask client, or is not connected.
    """
    attach(client)


def check_wait(client: Any = None, workers: int | None = None) -> None:
    """Refuse to wait for a run whose cluster would have to be asked on the thread that waits.

    Parameters
    ----------
    client, workers
        As for `find_cluster`.

    Raises
    ------
    ClusterError
        If the cluster's client is asynchronous, and its loop runs on the calling thread.
    """
    if client is None and workers is None:
        client = _current()
    if needs_this_thread(client):
        raise ClusterError(
            "The Dask client is asynchronous and works on this thread, so waiting here for the "
            "run would never end; write `await tv.start(...)`, or give a client made without "
            "asynchronous=True."
        )


def give_way() -> None:
    """Give the worker's slot back where the caller is a Dask task that is about to wait.

    The tiles that it waits for may need that slot. The task goes on in its thread, beside the
    worker's other tasks, until it returns. Elsewhere, and again in the same task, this does
    nothing.
    """
    if getattr(thread_state, "executor", None) is not None and thread_state.proceed:
        with suppress(ValueError):  # a thread of such a pool which runs no task
            secede()


def _of_task() -> Any:
    """Return the client of the Dask task that the run was started in, or None outside of tasks."""
    try:
        get_worker()
    except ValueError:
        return None
    return get_client()


def _current() -> Any:
    try:
        return default_client()
    except ValueError:  # there is none
        return None


def _repeats(client: Any) -> str:
    """Say what a user's cluster does about crashes, where it is not what ours does."""
    allowed = 0
    with suppress(Exception):  # a gateway may forbid the look; then there is nothing to say
        allowed = client.run_on_scheduler(_allowed_failures)
    if allowed == 0:
        return ""
    return (
        f"This Dask cluster repeats a task on {allowed + 1} workers before it reports a crash; "
        "with its allowed-failures at 0, tiles that crash are found sooner."
    )


def _allowed_failures(dask_scheduler: Any) -> int:
    return int(dask_scheduler.allowed_failures)
