"""The lock of a run: one process works on it at a time, and a crash frees it.

Where locks cannot be trusted a run has a lease in place of its lock; see `Lease`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tilevision.checkpoint.database import explained
from tilevision.checkpoint.filesystem import NO_LINKS, free, take
from tilevision.checkpoint.folder import absolute, has_segments, prepare
from tilevision.checkpoint.lease import Lease, Owner, lease_folder, lease_owner
from tilevision.errors import RunBusy, RunError

__all__ = ["Owner", "RunLock", "run_owner"]

_RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class RunLock:
    """Keeps a second process, or a second thread, from working on the same run.

    The lock belongs to the open file, so the system frees it when the process ends,
    however it ends. In a folder of segments it is a lease, which a dead process loses after a
    minute.

    Parameters
    ----------
    folder : path
        The checkpoint folder; made where it is missing.
    run_id : str
    on_lost : callable, optional
        Called with a sentence, on a thread of its own, if another process takes a lease over.

    Attributes
    ----------
    epoch : int
        In a folder of segments, how many owners the run has had, this one included; else 0.

    Raises
    ------
    RunBusy
        On entering, if the run is taken; names the owner's pid and host.
    RunError
        If `run_id` cannot be the name of a file.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        run_id: str,
        on_lost: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._path = _lock_path(folder, run_id)
        self._run_id = run_id
        self._on_lost = on_lost
        self._lease: Lease | None = None
        self._file = -1

    @property
    def epoch(self) -> int:
        """Return the number of this owner; 0 where the run has a lock and not a lease."""
        return 0 if self._lease is None else self._lease.epoch

    def acquire(self) -> None:
        """Take the lock, or raise `RunBusy`."""
        folder = prepare(self._folder)
        shared = has_segments(folder)
        with explained(folder):
            self._path.parent.mkdir(exist_ok=True)
            if shared:
                where = lease_folder(self._path.parent, self._run_id)
                lease = Lease(where, self._run_id, self._on_lost)
                lease.acquire()
                self._lease = lease
                return
            taken = take(self._path)
            if taken is None:
                raise RunBusy(self._busy())
            self._file = taken
            os.ftruncate(taken, 0)
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
            os.write(taken, json.dumps(owner).encode())

    def release(self) -> None:
        """Free the run; does nothing where it is not held."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None
        if self._file >= 0:
            os.ftruncate(self._file, 0)
            free(self._file)
            self._file = -1

    def remove(self) -> None:
        """Remove the files of the lock, which must be held."""
        if self._lease is not None:
            self._lease.remove()
        else:
            self._path.unlink()

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _busy(self) -> str:
        owner = _read_owner(self._path)
        who = owner or "another process"
        return (
            f"Run {self._run_id} is in progress in {who}. Follow it with "
            f"tv.watch({self._run_id!r}), or end that process and resume the run."
        )


def run_owner(folder: str | os.PathLike[str], run_id: str) -> Owner | None:
    """Return who is at work on a run, None where nobody is (ended, or killed)."""
    path = _lock_path(folder, run_id)
    if not path.exists():
        return lease_owner(lease_folder(path.parent, run_id))
    with explained(path.parent.parent):
        try:
            taken = take(path)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES):
                raise
            taken = take(path, os.O_RDONLY | NO_LINKS)  # where one may look but not touch
    if taken is not None:
        free(taken)
        return None
    return _read_owner(path) or Owner(0, "unknown", 0.0)


def _lock_path(folder: str | os.PathLike[str], run_id: str) -> Path:
    if not _RUN_ID.fullmatch(run_id):
        raise RunError(
            f"{run_id!r} cannot be the id of a run. Use letters, digits, '-', '_' and '.'."
        )
    return absolute(folder) / "runs" / f"{run_id}.lock"


def _read_owner(path: Path) -> Owner | None:
    try:
        raw = json.loads(path.read_bytes()[:4096])
        return Owner(int(raw["pid"]), str(raw["host"]), float(raw["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # just taken, not written yet
