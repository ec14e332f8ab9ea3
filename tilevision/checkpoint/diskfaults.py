"""Says in one line what failed on the disk or in the database, and what helps.

One code of SQLite may have several causes: an I/O error is a full disk only where the disk is
full.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diskcache import Timeout

from tilevision.checkpoint.disk import PATIENCE
from tilevision.checkpoint.filesystem import fallback_folder, filesystem_type, free_space
from tilevision.errors import CheckpointCorrupt, CheckpointError

__all__ = ["elsewhere", "explain", "explained", "move_away"]

_FULL_ERRNO = {errno.ENOSPC, errno.EDQUOT}
_FULL_BELOW = 32 * 2**20  # bytes: the database's own files may need more than that at once
# Extended codes of what SQLite does with the memory that processes share: their low byte is
# that of any I/O error.
_SHARED_MEMORY = {
    *(sqlite3.SQLITE_IOERR_SHMMAP, sqlite3.SQLITE_IOERR_SHMOPEN),
    *(sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMLOCK),
}
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
            f"The checkpoint {folder} cannot be trusted. {error} {move_away(folder)}"
        ) from error
    except (sqlite3.Error, OSError, Timeout) as error:
        raise explain(folder, error) from error


def explain(folder: Path, error: BaseException) -> CheckpointError:
    """Return the typed error for `error`: what, where, remedy."""
    cause = _cause(error)
    extended = getattr(cause, "sqlite_errorcode", None)
    code = extended & 0xFF if extended is not None else None
    if _is_full(folder, cause, code):
        return CheckpointError(
            f"The checkpoint {folder} cannot be written ({_words(cause)}; {_free(folder)} free on "
            "its disk). Nothing that was stored is lost. Free some space, then run it again."
        )
    if code in _TAKEN or isinstance(cause, (Timeout, TimeoutError)):
        return CheckpointError(
            f"The checkpoint {folder} was in use by another process for {PATIENCE:.0f} s. Wait "
            "for that process, or give this run a checkpoint folder of its own."
        )
    if extended in _SHARED_MEMORY:
        return CheckpointError(
            f"The checkpoint {folder} is on a file system ({_kind(folder)}) without the shared "
            f"memory that its database needs ({_words(cause)}). {elsewhere()}"
        )
    if code == sqlite3.SQLITE_IOERR or getattr(cause, "errno", None) == errno.EFBIG:
        return CheckpointError(
            f"The checkpoint {folder} cannot be written ({_words(cause)}; file system "
            f"{_kind(folder)}, {_free(folder)} free). Nothing that was stored is lost. The disk, a "
            f"quota or a limit on the size of files may be the cause. {elsewhere()}"
        )
    if code in _REFUSED or isinstance(cause, OSError):
        return CheckpointError(
            f"The checkpoint folder {folder} cannot be used ({_words(cause)}). {elsewhere()}"
        )
    if code in _BROKEN or isinstance(cause, sqlite3.DatabaseError):
        return CheckpointCorrupt(
            f"The checkpoint {folder} is damaged ({_words(cause)}). {move_away(folder)}"
        )
    return CheckpointError(f"The checkpoint {folder} cannot be used ({_words(cause)}).")


def move_away(folder: Path) -> str:
    """Return what to do with a database that cannot be trusted."""
    return f"Move {folder / 'cache'} and {folder / 'meta.json'} away, then run it again."


def elsewhere() -> str:
    """Return where else a checkpoint can go."""
    return (
        f"Use a local folder: checkpoint={str(fallback_folder())!r}, or None to keep nothing (in "
        "a shell: --checkpoint, --no-checkpoint)."
    )


def _is_full(folder: Path, cause: BaseException, code: int | None) -> bool:
    """Return True if it failed for want of space; an I/O error only where there is next to none."""
    if code == sqlite3.SQLITE_FULL or getattr(cause, "errno", None) in _FULL_ERRNO:
        return True
    if code != sqlite3.SQLITE_IOERR:
        return False
    try:
        return free_space(folder) < _FULL_BELOW
    except OSError:
        return False


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
    """Return what the system or SQLite calls it, SQLite's extended name included."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    name = getattr(error, "sqlite_errorname", "")
    return f"{words}, {name}" if name.count("_") > 1 else words


def _kind(folder: Path) -> str:
    return filesystem_type(folder) or "of unknown type"


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
