"""The checkpoint: finished work by key, committed before it is published."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from diskcache import Cache
from diskcache.core import DBNAME

from tilevision.checkpoint import database
from tilevision.checkpoint.database import explained, insert, open_cache, stored
from tilevision.checkpoint.folder import (
    check_segments,
    has_segments,
    note_arrays,
    open_segments,
    opened,
    prepare,
)
from tilevision.checkpoint.lease import is_leased
from tilevision.checkpoint.segmentstore import SegmentStore
from tilevision.codec import RECORD_LIMIT, canonical_json, check_records, label, matches
from tilevision.errors import CheckpointCorrupt, CheckpointError
from tilevision.payloads import PREFIX, PackedArray, arrays_of

if TYPE_CHECKING:
    from tilevision.checkpoint.payloadstore import PayloadStore

__all__ = ["Checkpoint"]

_CHUNK, _CHUNK_AT_MOST = 200, 5000  # keys a query loads; bounds memory
_CHUNK_BYTES = 8 << 20
_SHORT = 128  # bytes of a record: as most tiles of most images have it, and often the same one
_DELETED_AT_ONCE = 1000  # bounds how long other writers wait
_RACY = 2.0  # seconds: a file changed that lately may change again within its clock's tick

# diskcache has no bulk reads; these see each row's form before anything reads its value.
_ANY = "SELECT 1 FROM Cache LIMIT 1"
_KEYS = "SELECT key FROM Cache WHERE raw = 1 AND key IN (SELECT value FROM json_each(?))"
_ROWS = f"""SELECT key, mode, filename, substr(tag, 1, 40),
    CASE WHEN typeof(value) = 'blob' AND length(value) <= {RECORD_LIMIT} THEN value END
    FROM Cache WHERE raw = 1 AND key IN (SELECT value FROM json_each(?))"""  # noqa: S608 - a number
_TIMES = """SELECT key, store_time FROM Cache
    WHERE raw = 1 AND key IN (SELECT value FROM json_each(?))"""
_REFERRING = "SELECT value FROM Cache WHERE substr(value, 1, length(?)) = ?"
_REFERS = memoryview(PREFIX)
_OLD = "SELECT key FROM Cache WHERE raw = 1 AND store_time < ? AND tag IS NOT NULL"


class Checkpoint:
    """A folder of finished work: a tile's findings, a stage's record, by key.

    What `commit` has stored when it returns survives the process, the machine's power and a full
    disk. Safe to use from any thread; commit from one, since writers wait for each other.

    On a local disk it is a database. On a file system that machines share, or that cannot carry a
    database, it is a folder of segments (see `SegmentStore`): the methods mean the same.

    Attributes
    ----------
    folder : Path
    """

    folder: Path
    _payloads: PayloadStore | None = None
    _noted = False  # that there are arrays

    def __init__(self, folder: Path, directory: Path, cache: Cache) -> None:
        self.folder = folder
        self._directory = directory
        self._cache: Cache | None = cache
        self._database = (directory / DBNAME).stat()
        self._closed = False
        self._lock = threading.RLock()

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Checkpoint:
        """Open the checkpoint in `folder`; create it where it is missing.

        Raises
        ------
        CheckpointError
            If the folder cannot be written, is a file, is held by another process, or was
            written by a later version; if it has a database and lies on a network file system.
        CheckpointCorrupt
            If the folder is damaged, or not exactly what tilevision writes.
        """
        path = prepare(folder)
        if has_segments(path):
            return _SegmentCheckpoint(path)
        with opened(path) as directory:
            cache = open_cache(directory)
            cache.close()  # each thread that writes opens a connection of its own
            return cls(directory.parent, directory, cache)

    def done(self, keys: Iterable[str]) -> set[str]:
        """Return those of `keys` that are stored; one query, however many."""
        if not self._query(_ANY, ""):  # as of each new checkpoint: nothing has to be looked up
            return set()
        return {key for (key,) in self._query(_KEYS, json.dumps(list(keys)))}

    def load(self, keys: Sequence[str]) -> Iterator[tuple[str, tuple[bytes, ...]]]:
        """Yield key and records of those of `keys` that are stored, in the order given.

        Raises
        ------
        CheckpointCorrupt
            If a record is damaged, or was not written by tilevision.
        """
        start, size = 0, _CHUNK
        while start < len(keys):
            chunk = keys[start : start + size]
            start += size
            rows = self._rows(chunk)
            several = ((k, row) for k, row in rows.items() if not str(row[2]).startswith("1 "))
            more = [name for key, row in several for name in _further(key, row)]
            rows |= self._rows(more) if more else {}
            # Small records come more at a time, since every query opens the database anew.
            held = sum(len(row[3] or b"") for row in rows.values())
            size = max(_CHUNK, min(_CHUNK_AT_MOST, _CHUNK_BYTES * len(chunk) // max(1, held)))
            yield from ((key, self._records(key, rows)) for key in chunk if key in rows)

    def stored_at(self, keys: Iterable[str]) -> dict[str, float]:
        """Return when each of `keys` was stored, seconds since the epoch."""
        return dict(self._query(_TIMES, json.dumps(list(keys))))

    def commit(
        self,
        records: Mapping[str, Sequence[bytes]],
        payloads: Mapping[bytes, bytes | PackedArray] = MappingProxyType({}),
    ) -> None:
        """Store all of `records` in one transaction, or raise and store none of them.

        Parameters
        ----------
        records : mapping of str to sequence of bytes
            Canonical JSON by key; up to 256 KiB of UTF-8 each. Replaces what is stored.
        payloads : mapping of bytes to bytes or PackedArray
            The arrays they refer to, by digest: on the disk before any record is. What is written
            of them where this raises is unused space.

        Raises
        ------
        CheckpointTooLarge
            If a record passes the limit; see `check_records`.
        CheckpointError
            If the disk is full or refuses, or another process holds the database.
        """
        checked = {key: check_records(key, rows) for key, rows in records.items()}
        if payloads:
            if not self._noted:
                note_arrays(self.folder)
                self._noted = True
            self.payloads.add(payloads)
        self._commit(checked)

    @property
    def payloads(self) -> PayloadStore:
        """The arrays that records refer to; they can be read after `close`."""
        if self._payloads is not None:
            return self._payloads
        from tilevision.checkpoint.payloadstore import PayloadStore

        with self._lock:
            if self._payloads is None:
                self._payloads = PayloadStore(self.folder, self._check_in_place)
            return self._payloads

    def _commit(self, checked: Mapping[str, tuple[bytes, ...]]) -> None:
        with self._writing() as cache:
            known, new = stored(cache, list(checked)), []
            for key, rows in checked.items():
                if key not in known and len(rows) == 1:
                    new.append((key, rows[0], label(rows)))
                    continue
                _, before = cache.get(key, tag=True)
                for old in _numbered(key, _count(before))[len(rows) :]:
                    cache.delete(old)
                for name, row in zip(_numbered(key, len(rows)), rows, strict=True):
                    cache.set(name, row, tag=label(rows) if name == key else None)
            insert(cache, new)

    def delete(self, keys: Iterable[str]) -> int:
        """Forget `keys`; return how many were there."""
        names, deleted = list(keys), 0
        for start in range(0, len(names), _DELETED_AT_ONCE):
            with self._writing() as cache:
                for key in names[start : start + _DELETED_AT_ONCE]:
                    _, tag = cache.get(key, tag=True)
                    gone = [cache.delete(name) for name in _numbered(key, max(1, _count(tag)))]
                    deleted += gone[0]
        return deleted

    def prune(self, before: float) -> int:
        """Forget what was stored before `before` (epoch); return how many keys.

        The space is given back to the disk, that of arrays that no record refers to as well: call
        it while no run is at work in the folder.
        """
        count = self.delete([key for (key,) in self._query(_OLD, before)])
        self._sweep(before, lambda: (row for (row,) in self._query(_REFERRING, _REFERS)))
        return count

    def _sweep(self, before: float, referring: Callable[[], Iterable[bytes]]) -> None:
        """Remove arrays that were stored before a time and stand in no record of `referring`."""
        if not (self.folder / "payloads").is_dir():
            return
        wanted: set[bytes] = set()
        for record in referring():
            with suppress(ValueError, KeyError, TypeError):  # a damaged record refers to nothing
                wanted.update(ref.digest for ref in arrays_of((b"", record)).values())
        self.payloads.sweep(wanted, before)

    def put_json(self, key: str, value: Any) -> None:
        """Store the record of a stage: a dict or a list of plain JSON types, up to 256 KiB."""
        self.commit({key: (canonical_json(value),)})

    def get_json(self, key: str) -> Any:
        """Return what `put_json` stored, None where there is nothing."""
        for _, (record, *_) in self.load((key,)):
            try:
                return json.loads(record)
            except (ValueError, RecursionError):
                with explained(self.folder):
                    raise CheckpointCorrupt(f"The record {key} is damaged.") from None
        return None

    def file_fingerprint(self, path: str, compute: Callable[[str], str]) -> str:
        """Return the fingerprint of a file, computed only if the file has changed.

        A file is the same if its path, size, modification time and inode are.

        Parameters
        ----------
        path : str
        compute : callable
            Reads the file at `path` and returns its fingerprint.
        """
        real = os.path.realpath(path)
        key = f"file:{hashlib.sha256(os.fsencode(real)).hexdigest()}"
        now = _identity(real)
        known: Any = None
        with suppress(CheckpointCorrupt):
            known = self.get_json(key)
        if isinstance(known, dict) and known.get("file") == now and "fingerprint" in known:
            return str(known["fingerprint"])
        fingerprint = compute(path)
        if now == _identity(real) and time.time() - now[1] / 1e9 > _RACY:
            with suppress(CheckpointError):  # then it is computed again: no reason to fail
                self.put_json(key, {"file": now, "fingerprint": fingerprint})
        return fingerprint

    def close(self) -> None:
        """Close the database; using the checkpoint afterwards is an error."""
        with self._lock:
            self._closed = True
            self._drop()
            if self._payloads is not None:
                self._payloads.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[Cache]:
        """Hold one transaction; after a failure start with a new connection.

        SQLite may have ended the failed transaction or not, and diskcache believes the one
        or the other; a new connection knows.
        """
        with self._lock, explained(self.folder):
            self._check_open()
            self._check_in_place()
            try:
                if self._cache is None:
                    self._cache = open_cache(self._directory)
                with self._cache.transact():
                    yield self._cache
            except BaseException:
                self._drop()
                raise

    def _drop(self) -> None:
        cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()

    def _query(self, query: str, argument: str | float | memoryview) -> list[Any]:
        """Fetch all rows: an open reader would keep the log of writes from being folded in."""
        self._check_open()
        given = (argument,) * query.count("?")
        with explained(self.folder), closing(database.connect(self._directory)) as connection:
            return connection.execute(query, given).fetchall()

    def _rows(self, keys: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        return {key: row for key, *row in self._query(_ROWS, json.dumps(list(keys)))}

    def _records(self, key: str, rows: Mapping[str, tuple[Any, ...]]) -> tuple[bytes, ...]:
        row = rows[key]
        value = row[3]
        short = type(value) is bytes and len(value) < _SHORT
        if single := _same_single(*row) if short else _single(*row):
            return single
        tag = row[2]
        with explained(self.folder):
            try:
                found = [_value(rows[name]) for name in _numbered(key, max(1, _count(tag)))]
                records = check_records(key, found)
            except (KeyError, CheckpointError) as error:
                raise CheckpointCorrupt(f"The record {key} is damaged. {error}") from None
            if not matches(tag, records):
                raise CheckpointCorrupt(f"The record {key} is damaged (its checksum differs).")
            return records

    def _check_in_place(self) -> None:
        """Refuse to write into a database that nobody could find again."""
        path = self._directory / DBNAME
        if not path.exists() or not os.path.samestat(path.stat(), self._database):
            raise CheckpointError(
                f"The checkpoint {self.folder} was removed or replaced while in use. Put it back, "
                "or start again."
            )

    def _check_open(self) -> None:
        if self._closed:
            raise CheckpointError(f"The checkpoint {self.folder} was closed. Open it again.")


class _SegmentCheckpoint(Checkpoint):
    """A checkpoint made of segments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._identity = open_segments(folder)
        self._store = SegmentStore(folder, self._check_in_place)
        self._lock = threading.RLock()

    def done(self, keys: Iterable[str]) -> set[str]:
        return self._store.done(keys)

    def load(self, keys: Sequence[str]) -> Iterator[tuple[str, tuple[bytes, ...]]]:
        return self._store.load(keys)

    def stored_at(self, keys: Iterable[str]) -> dict[str, float]:
        return self._store.stored_at(keys)

    def _commit(self, checked: Mapping[str, tuple[bytes, ...]]) -> None:
        self._store.commit(checked)

    def delete(self, keys: Iterable[str]) -> int:
        return self._store.delete(keys)

    def prune(self, before: float) -> int:
        idle = not is_leased(self.folder)
        count = self._store.prune(before, idle=idle)
        if idle:
            self._sweep(before, self._store.last_records)
        return count

    def close(self) -> None:
        self._store.close()
        if self._payloads is not None:
            self._payloads.close()

    def _check_in_place(self) -> None:
        check_segments(self.folder, self._identity)


def _numbered(key: str, count: int) -> list[str]:
    """Return the names of the rows of `key`: the key itself, then the further ones."""
    return [key, *(f"{key}/{number}" for number in range(1, count))][:count]


def _further(key: str, row: Sequence[Any]) -> list[str]:
    return _numbered(key, _count(row[2]))[1:]


def _count(tag: object) -> int:
    """Return how many records a label tells of; 0 where there is none."""
    number = str(tag).partition(" ")[0]
    return min(int(number), 1000) if number.isdecimal() and len(number) < 5 else 0


def _single(mode: Any, filename: Any, tag: Any, value: Any) -> tuple[bytes, ...]:
    """Return what a row holds that is a whole set of records and undamaged; else nothing."""
    try:
        records = check_records("", (_value((mode, filename, tag, value)),))
    except CheckpointError:  # whoever reads on says what is wrong
        return ()
    return records if matches(tag, records) else ()


_same_single = lru_cache(maxsize=256)(_single)


def _value(row: Sequence[Any]) -> bytes:
    mode, filename, _, value = row
    if mode != 1 or filename is not None or type(value) is not bytes:
        raise CheckpointError("It was not written by tilevision.")
    return value


def _identity(path: str) -> list[int]:
    status = Path(path).stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]
