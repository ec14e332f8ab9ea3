"""Says in one line what went wrong with the disk or the database, and what helps."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diskcache import Timeout

from tilevision.checkpoint.disk import PATIENCE
from tilevision.checkpoint.filesystem import fallback_folder, free_space
from tilevision.errors import CheckpointCorrupt, CheckpointError

__all__ = ["elsewhere", "explain", "explained", "move_away"]

_FULL_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_REFUSED = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
_TAKEN = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn errors of the disk and the database into `CheckpointError` naming `folder`."""
    try:
        yield
    except CheckpointCorrupt as error:
        raise CheckpointCorrupt(
            f"the checkpoint {folder} cannot be trusted: {error}; {move_away(folder)}"
        ) from error
    except (sqlite3.Error, OSError, Timeout) as error:
        raise explain(folder, error) from error


def explain(folder: Path, error: BaseException) -> CheckpointError:
    """Return the typed error for `error`: what, where, remedy."""
    cause = _cause(error)
    code = getattr(cause, "sqlite_errorcode", None)
    code = code & 0xFF if code is not None else None  # without the extended part
    number = getattr(cause, "errno", None)
    if code == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR or number in _FULL_ERRNO:
        return CheckpointError(
            f"the checkpoint {folder} cannot be written ({_words(cause)}; {_free(folder)} free on "
            "its disk); nothing that was stored is lost; free some space, then go on"
        )
    if code in _TAKEN or isinstance(cause, (Timeout, TimeoutError)):
        return CheckpointError(
            f"the checkpoint {folder} was in use by another process for {PATIENCE:.0f} s; wait "
            "for that process, or give this run a checkpoint folder of its own"
        )
    if code in _REFUSED or isinstance(cause, OSError):
        return CheckpointError(
            f"the checkpoint folder {folder} cannot be used ({_words(cause)}); {elsewhere()}"
        )
    if code in _BROKEN or isinstance(cause, sqlite3.DatabaseError):
        return CheckpointCorrupt(
            f"the checkpoint {folder} is damaged ({_words(cause)}); {move_away(folder)}"
        )
    return CheckpointError(f"the checkpoint {folder} cannot be used ({_words(cause)})")


def move_away(folder: Path) -> str:
    """Return what to do with a database that cannot be trusted."""
    return f"move {folder / 'cache'} and {folder / 'meta.json'} away, and run again"


def elsewhere() -> str:
    """Return where else a checkpoint can go."""
    return (
        f"give another one: checkpoint={str(fallback_folder())!r}, or None to keep nothing (in a "
        "shell: --checkpoint, --no-checkpoint)"
    )


def _cause(error: BaseException) -> BaseException:
    """Return the first error of a chain: diskcache reports others in its place.

    Any failure to begin becomes its `Timeout`, and a transaction that SQLite has already
    ended fails once more at ROLLBACK.
    """
    known = (sqlite3.Error, OSError)
    while isinstance(error, (Timeout, sqlite3.Error)) and isinstance(error.__context__, known):
        error = error.__context__
    return error


def _words(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _free(folder: Path) -> str:
    try:
        free = float(free_space(folder))
    except OSError:
        return "unknown space"
    for unit in ("B", "KB", "MB", "GB"):
        if free < 1000:
            return f"{free:.0f} {unit}"
        free /= 1000
    return f"{free:.1f} TB"
