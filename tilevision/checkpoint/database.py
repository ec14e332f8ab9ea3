"""The database: diskcache set up so that it loses nothing and runs nothing.

As shipped it evicts past 1 GB, keeps large values in files it never syncs, and unpickles
whatever a file holds; it acts on whatever settings a database holds, and SQLite on its triggers.
So a database, which may have come with a download, is looked at before it is opened: schema and
settings must be exactly those of one just created. What fails is said in one line, with what
helps; one code of SQLite may have several causes.
"""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from diskcache import UNKNOWN, Cache, Disk, Timeout
from diskcache.core import DBNAME, METADATA, MODE_RAW

from tilevision.checkpoint.filesystem import fallback_folder, filesystem_type, free_space
from tilevision.codec import RECORD_LIMIT, check_record
from tilevision.errors import CheckpointCorrupt, CheckpointError

__all__ = [
    "PATIENCE",
    "SETTINGS",
    "RecordDisk",
    "connect",
    "create",
    "elsewhere",
    "explain",
    "explained",
    "insert",
    "move_away",
    "open_cache",
    "replaced",
    "stored",
    "verify",
]

_FULL_ERRNO = {errno.ENOSPC, errno.EDQUOT}
_UNREACHED = {
    *(errno.EFBIG, errno.EIO, errno.ETIMEDOUT),
    *(getattr(errno, name) for name in ("ESTALE", "EREMOTEIO") if hasattr(errno, name)),
}
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
    if getattr(cause, "errno", None) in _FULL_ERRNO and not _next_to_nothing(folder):
        return CheckpointError(
            f"The checkpoint {folder} cannot be written ({_words(cause)}), although its disk has "
            f"{_free(folder)} free: a quota or the number of files is used up. Nothing that was "
            f"stored is lost. Remove what you do not need there, or: {elsewhere()}"
        )
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
    if code == sqlite3.SQLITE_IOERR or getattr(cause, "errno", None) in _UNREACHED:
        return CheckpointError(
            f"The checkpoint {folder} cannot be written ({_words(cause)}; file system "
            f"{_kind(folder)}, {_free(folder)} free). Nothing that was stored is lost. The disk or "
            "its server, a quota or a limit on the size of files may be the cause. "
            f"{elsewhere()}"
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
    """Return what to do with a checkpoint that cannot be trusted."""
    form = "segments" if (folder / "segments").exists() else "cache"
    return f"Move {folder / form} and {folder / 'meta.json'} away, then run it again."


def replaced(folder: Path) -> CheckpointError:
    """Return the error for a folder in which nobody could find again what is written now."""
    return CheckpointError(
        f"The checkpoint {folder} was removed or replaced while in use. Put it back, or start "
        "again."
    )


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
    return code == sqlite3.SQLITE_IOERR and _next_to_nothing(folder)


def _next_to_nothing(folder: Path) -> bool:
    """Return True if the disk is known to have next to no room."""
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


Rows = dict[Any, Any]
_MANY = 100  # ours has some twenty entries; a hostile one could have millions


def create(directory: Path) -> None:
    """Create the database in `directory`: whole or not at all, however the process ends."""
    scratch = _scratch(directory)
    _build(scratch)
    _learn(scratch)
    scratch.rename(directory)


def verify(directory: Path) -> None:
    """Compare the database in `directory` with one just created.

    Nothing of it is run: its schema is read before anything that the schema defines.

    Raises
    ------
    CheckpointCorrupt
        If they differ in anything but the records.
    sqlite3.Error
        If it cannot be read.
    """
    database = directory / DBNAME
    try:
        kind = database.lstat().st_mode
    except FileNotFoundError:
        raise CheckpointCorrupt(f"{database.name} is missing.") from None
    if not stat.S_ISREG(kind):
        raise CheckpointCorrupt(f"{database.name} is not a plain file.")
    schema, settings = _expected(_scratch(directory))
    with closing(connect(directory)) as connection:
        _compare("schema", _schema(connection), schema)
        found = _settings(connection)
    for name in METADATA:  # counters may hold any number: nothing acts on them
        if found.get(name, ("", 0))[0] == "int":
            found[name] = settings[name]
    _compare("settings", found, settings)


def connect(directory: Path) -> sqlite3.Connection:
    """Open the database in `directory` for reading only, trusting nothing in its schema."""
    address = f"{(directory / DBNAME).absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(address, uri=True, timeout=PATIENCE, isolation_level=None)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def _scratch(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.new")


def _build(directory: Path) -> None:
    if directory.exists():  # left by a process that was killed here
        shutil.rmtree(directory)
    directory.mkdir(mode=0o700)
    # Some forty statements, each of which would wait for the disk: until the last one, none does.
    # Nobody sees the database before it has its name, and closing it waits for all of it.
    unsynced = SETTINGS | {"sqlite_synchronous": 0}
    cache = Cache(str(directory), timeout=PATIENCE, disk=RecordDisk, **unsynced)
    cache.reset("sqlite_synchronous", SETTINGS["sqlite_synchronous"])
    cache.close()


_known: list[tuple[Rows, Rows]] = []


def _expected(scratch: Path) -> tuple[Rows, Rows]:
    """Return schema and settings of a new database, created once per process."""
    if not _known:
        _build(scratch)
        _learn(scratch)
        shutil.rmtree(scratch)
    return _known[0]


def _learn(fresh: Path) -> None:
    """Remember what a database is like that this process has just created."""
    if not _known:
        with closing(connect(fresh)) as connection:
            _known.append((_schema(connection), _settings(connection)))


def _schema(connection: sqlite3.Connection) -> Rows:
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT ?"
    rows = connection.execute(query, (_MANY,)).fetchall()
    return {(kind, name): (table, sql) for kind, name, table, sql in rows}


def _settings(connection: sqlite3.Connection) -> Rows:
    rows = connection.execute("SELECT key, value FROM Settings LIMIT ?", (_MANY,)).fetchall()
    return {key: (type(value).__name__, value) for key, value in rows}


def _compare(what: str, found: Rows, expected: Rows) -> None:
    for name in [*expected, *found]:
        if name not in found or name not in expected or found[name] != expected[name]:
            wrong = "missing" if name not in found else "not ours"
            raise CheckpointCorrupt(f"The {what} of the database differ: {name!r:.80} is {wrong}.")


PATIENCE = 60.0

# All of diskcache's settings, so that no default of another version slips in.
SETTINGS: dict[str, int | str] = {
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "none",
    "size_limit": 2**62,
    "cull_limit": 0,
    "sqlite_auto_vacuum": 1,
    "sqlite_cache_size": 2**13,
    "sqlite_journal_mode": "wal",
    "sqlite_mmap_size": 0,  # a file cut short under a memory map ends the process by SIGBUS
    "sqlite_synchronous": 2,
    "disk_min_file_size": 2 * RECORD_LIMIT,
    "disk_pickle_protocol": 4,  # never used; pinned, since it is stored and compared
}


class RecordDisk(Disk):  # type: ignore[misc]  # diskcache ships no types
    """Keys are text, values canonical JSON bytes, all inside the database."""

    def put(self, key: Any) -> tuple[str, bool]:
        """Refuse keys that diskcache would pickle."""
        if type(key) is not str:
            raise CheckpointError(f"A key must be text, not {type(key).__name__}.")
        return key, True

    def get(self, key: Any, raw: Any) -> str:
        """Refuse keys that diskcache would unpickle."""
        if raw != 1 or type(key) is not str:
            raise CheckpointCorrupt("The database holds a key that tilevision did not write.")
        return key

    def store(
        self, value: Any, read: bool, key: Any = UNKNOWN
    ) -> tuple[int, int, None, memoryview]:
        """Refuse values that are no records; see `check_record`."""
        if read:
            raise CheckpointError(f"A record must be canonical JSON bytes, not a file ({key}).")
        check_record(str(key), value)
        return 0, MODE_RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: Any, filename: Any, value: Any, read: bool) -> bytes:
        """Refuse values that diskcache would unpickle, or read from a file."""
        if mode != MODE_RAW or filename is not None or read:
            raise CheckpointCorrupt("The database holds a value that tilevision did not write.")
        try:
            check_record("", value)
        except CheckpointError as error:
            raise CheckpointCorrupt(f"The database holds a bad value. {error}") from None
        return bytes(value)

    def remove(self, file_path: str) -> None:
        """Do nothing: no row of ours has a file, and another's may name any file."""


def open_cache(directory: Path) -> Cache:
    """Open or create the database in `directory`.

    Only for a directory that is new or was verified: opening acts on stored settings.
    """
    return _Records(str(directory), timeout=PATIENCE, disk=RecordDisk, **SETTINGS)


class _Records(Cache):  # type: ignore[misc]  # diskcache ships no types
    """A cache that is opened without a write: diskcache writes each setting twice, and syncs."""

    @property
    def _sql_retry(self) -> Callable[..., Any]:
        """Run a statement, unless it stores a setting that is stored as it is."""
        run = super()._sql_retry

        def needed(statement: str, values: Sequence[Any] = ()) -> Any:
            if statement in _STORES_A_SETTING:
                key, value = values if statement.startswith("INSERT") else values[::-1]
                found = self._sql("SELECT value FROM Settings WHERE key = ?", (key,)).fetchall()
                if found == [(value,)] and type(found[0][0]) is type(value):
                    return None
            return run(statement, values)

        return needed


_STORES_A_SETTING = {
    "INSERT OR REPLACE INTO Settings VALUES (?, ?)",
    "UPDATE Settings SET value = ? WHERE key = ?",
}

# diskcache has no bulk writes: it takes three statements a record, half of what a commit costs.


def stored(cache: Cache, keys: Sequence[str]) -> set[str]:
    """Return those of `keys` that are stored, as a transaction at hand sees it."""
    query = """SELECT key FROM Cache
        WHERE raw = 1 AND key IN (SELECT value FROM json_each(?))"""
    found = cache._sql(query, (json.dumps(keys),)).fetchall()  # noqa: SLF001 no public way
    return {key for (key,) in found}


def insert(cache: Cache, entries: Iterable[tuple[str, bytes, str]]) -> None:
    """Store records under keys that are new, within a transaction, as diskcache does.

    Parameters
    ----------
    cache : Cache
    entries : iterable of (str, bytes, str)
        Key, record and label; checked by the caller.
    """
    now = time.time()
    cache._con.executemany(  # noqa: SLF001 there is no public way
        "INSERT INTO Cache(key, raw, store_time, expire_time, access_time, access_count, tag, "
        "size, mode, filename, value) VALUES (?, 1, ?, NULL, ?, 0, ?, 0, ?, NULL, ?)",
        ((key, now, now, tag, MODE_RAW, record) for key, record, tag in entries),
    )
