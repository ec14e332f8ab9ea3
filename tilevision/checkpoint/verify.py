"""Looks at a database before it is opened for work: it may have come with a download.

diskcache acts on whatever settings a database holds, and SQLite on its triggers. So the
schema and the settings must be exactly those of a database just created.
"""

from __future__ import annotations

import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

from diskcache.core import DBNAME, METADATA

from tilevision.checkpoint.disk import PATIENCE, open_cache
from tilevision.errors import CheckpointCorrupt

__all__ = ["connect", "create", "verify"]

Rows = dict[Any, Any]
_MANY = 100  # ours has some twenty entries; a hostile one could have millions


def create(directory: Path) -> None:
    """Create the database in `directory`: whole or not at all, however the process ends."""
    scratch = _scratch(directory)
    _build(scratch)
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
    open_cache(directory).close()


_known: list[tuple[Rows, Rows]] = []


def _expected(scratch: Path) -> tuple[Rows, Rows]:
    """Return schema and settings of a new database, created once per process."""
    if not _known:
        _build(scratch)
        with closing(connect(scratch)) as connection:
            _known.append((_schema(connection), _settings(connection)))
        shutil.rmtree(scratch)
    return _known[0]


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
