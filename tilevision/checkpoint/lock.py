"""Locks that a crash frees: one worker on a run, one opener of a database at a time.

Where locks cannot be trusted a run has a lease in place of its lock; see `Lease`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from tilevision.checkpoint.database import explained
from tilevision.checkpoint.lease import Lease, Owner, lease_folder, lease_owner
from tilevision.checkpoint.place import absolute, has_segments, prepare
from tilevision.errors import CheckpointError, RunBusy, RunError

__all__ = ["Owner", "RunLock", "locked", "run_owner"]

_RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_FLAGS = os.O_RDWR | os.O_CREAT | _NO_LINKS
_held: set[int] = set()


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
            taken = _take(self._path)
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
            _free(self._file)
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
            taken = _take(path)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES):
                raise
            taken = _take(path, os.O_RDONLY | _NO_LINKS)  # where one may look but not touch
    if taken is not None:
        _free(taken)
        return None
    return _read_owner(path) or Owner(0, "unknown", 0.0)


@contextmanager
def locked(path: Path, patience: float) -> Iterator[None]:
    """Hold the lock file `path`, waiting up to `patience` seconds for it.

    Raises
    ------
    TimeoutError
        If another process held it all that time.
    """
    until = time.monotonic() + patience
    while (taken := _take(path)) is None:
        if time.monotonic() > until:
            raise TimeoutError(f"{path} is held by another process")
        time.sleep(0.01)
    try:
        yield
    finally:
        _free(taken)


def _lock_path(folder: str | os.PathLike[str], run_id: str) -> Path:
    if not _RUN_ID.fullmatch(run_id):
        raise RunError(
            f"{run_id!r} cannot be the id of a run. Use letters, digits, '-', '_' and '.'."
        )
    return absolute(folder) / "runs" / f"{run_id}.lock"


def _take(path: Path, flags: int = _FLAGS) -> int | None:
    """Return the open, locked file, or None if another holds it."""
    while True:
        file = os.open(path, flags, 0o600)
        try:
            if not _try_lock(file):
                os.close(file)
                return None
            if _is_still_there(file, path):  # not removed by pruning before it was locked
                _held.add(file)
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _free(file: int) -> None:
    _held.discard(file)
    os.close(file)


def _is_still_there(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _read_owner(path: Path) -> Owner | None:
    try:
        raw = json.loads(path.read_bytes()[:4096])
        return Owner(int(raw["pid"]), str(raw["host"]), float(raw["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # just taken, not written yet


try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    def _try_lock(file: int) -> bool:
        os.lseek(file, 1 << 20, os.SEEK_SET)  # past the text, which others must read
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # Windows only
        except OSError:
            return False
        finally:
            os.lseek(file, 0, os.SEEK_SET)
        return True
else:

    def _try_lock(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise CheckpointError(f"Files cannot be locked there ({error.strerror}).") from error
        return True

    def _forget_held() -> None:
        """Close what a fork copied: it would keep the lock after this process has died."""
        while _held:
            os.close(_held.pop())

    os.register_at_fork(after_in_child=_forget_held)
