"""Files in the temp folder that all workers of a host share, and that the last takes away.

One such file is ``<key>.<suffix>`` beside ``<key>.lock``. Whoever reads it holds a shared
lock on the lock file, whoever writes it an exclusive one; the last reader to leave takes
both away. A crashed process loses its locks to the kernel, so what it left is recognised
(nobody holds it) and swept when the next file is made.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tilevision.errors import SourceError

__all__ = ["hold", "join", "leave", "staging_folder", "sweep", "unusable"]

_PAUSE = 0.005


def staging_folder() -> Path:
    """Return this user's private staging folder, made where it is missing.

    Raises
    ------
    SourceError
        If there is no usable temp folder, or the folder belongs to somebody else.
    """
    try:
        folder = _place()
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as error:
        raise SourceError(
            f"No temp folder can be used for decoded images ({error}); set TMPDIR to a folder "
            "that you may write to."
        ) from error
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    if not private or found.st_uid != os.getuid():
        raise SourceError(
            f"{folder} is not a private folder of yours (mode 0700); remove it, or set TMPDIR."
        )
    return folder


def hold(path: Path, make: Callable[[], None]) -> int:
    """Return a share in the file at `path`, having `make` write it where nobody has yet.

    Several processes may ask at once: one writes, the others wait for it.

    Parameters
    ----------
    path : Path
        In the staging folder.
    make : callable
        Writes the file, to ``.part`` first; what it raises is passed on, and nothing is left.

    Returns
    -------
    int
        To be handed to `leave`.

    Raises
    ------
    SourceError
        If the temp folder cannot be used.
    """
    sweep()
    while True:
        share = join(path)
        if share is not None:
            return share
        lock = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lock is None:
            # Never wait here: whoever is ahead becomes a reader, who may stay for hours.
            time.sleep(_PAUSE)
            continue
        try:
            if not path.exists():
                make()
        except BaseException:
            _remove(path)
            os.close(lock)
            raise
        # Turning the lock into a shared one may let somebody in between, to sweep the file.
        fcntl.flock(lock, fcntl.LOCK_SH)
        if _is_current(lock, path) and path.exists():
            return lock
        os.close(lock)


def join(path: Path) -> int | None:
    """Return a share in the file at `path`, or None where there is none (any more)."""
    if not path.parent.is_dir():
        return None
    lock = _lock(path, fcntl.LOCK_SH)
    assert lock is not None
    if path.exists():
        return lock
    leave(path, lock)
    return None


def leave(path: Path, lock: int, owner: int | None = None) -> None:
    """Give up a share; the last one to do so removes the file.

    Parameters
    ----------
    path : Path
    lock : int
        As `hold` and `join` return it.
    owner : int, optional
        Id of the process whose share it is; another one leaves it alone.
    """
    try:
        if owner not in (None, os.getpid()):
            return  # a forked child shares its parent's lock, which is not its to give up
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_current(lock, path):
            _remove(path)
    except OSError:
        return  # others still read it: the last of them removes it
    finally:
        os.close(lock)


def sweep() -> None:
    """Remove what processes that were killed have left in the staging folder."""
    with suppress(OSError, SourceError):  # who needs the folder will hear of it
        for name in staging_folder().glob("*.lock") if _place().exists() else ():
            with suppress(OSError):
                lock = os.open(name, os.O_RDWR | os.O_CLOEXEC)
                leave(name, lock)


def unusable(path: Path, error: OSError, needed: int = 0) -> SourceError:
    """Return the error for a file that cannot be made in the temp folder.

    Parameters
    ----------
    path : Path
    error : OSError
    needed : int
        Bytes; 0 where space is not the matter.
    """
    space = ""
    if needed:
        free = shutil.disk_usage(path.parent).free
        space = f" ({needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free)"
    return SourceError(
        f"The image cannot be kept in {path.parent}{space}: {error.strerror or error}; "
        "free some space, or set TMPDIR to a folder with more."
    )


def _place() -> Path:
    return Path(tempfile.gettempdir()) / f"tilevision-{os.getuid()}"


def _lock(path: Path, kind: int) -> int | None:
    """Lock the image at `path`; None where it is taken and `kind` says not to wait."""
    # The lock file may be removed between opening and locking it: then the lock is on a
    # file that nobody else will ever find, and the next one must be taken.
    name = path.with_suffix(".lock")
    while True:
        try:
            lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(path, error) from error
        try:
            fcntl.flock(lock, kind)
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError as error:
            os.close(lock)
            raise unusable(path, error) from error
        if _is_current(lock, path):
            return lock
        os.close(lock)


def _is_current(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.with_suffix(".lock").stat())
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    for name in path.parent.glob(f"{path.stem}.*"):
        if name.suffix != ".lock":
            name.unlink(missing_ok=True)
    path.with_suffix(".lock").unlink(missing_ok=True)


# The workers of a local cluster are ended before this runs, and not asked to let go.
atexit.register(sweep)
