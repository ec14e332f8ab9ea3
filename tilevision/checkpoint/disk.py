"""The database: diskcache set up so that it loses nothing and runs nothing.

As shipped it evicts past 1 GB, keeps large values in files it never syncs, and unpickles
whatever a file holds.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from diskcache import UNKNOWN, Cache, Disk
from diskcache.core import MODE_RAW

from tilevision.checkpoint.records import check_record
from tilevision.codec import RECORD_LIMIT
from tilevision.errors import CheckpointCorrupt, CheckpointError

__all__ = ["PATIENCE", "SETTINGS", "RecordDisk", "open_cache"]

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
    return Cache(str(directory), timeout=PATIENCE, disk=RecordDisk, **SETTINGS)
