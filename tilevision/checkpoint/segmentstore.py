"""A checkpoint on a file system that promises little: segments are all it has and all it needs.

What is committed is on the disk, in a file of this process, before `commit` returns; other
processes, here or on other machines, see it by listing the folder. There is no lock: two that
compute the same key store it twice, and either record is right.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from tilevision.checkpoint.database import explained, replaced
from tilevision.checkpoint.filesystem import names_in
from tilevision.checkpoint.segmentfile import (
    GONE,
    Packed,
    SegmentWriter,
    frame_of,
    frames,
    number_of,
    open_segment,
    pack,
    read_grown,
    segment_name,
    sync_folder,
    unpack,
)
from tilevision.checkpoint.segmentindex import RecordPlace, SegmentIndex, deletions, digest
from tilevision.codec import check_records
from tilevision.errors import CheckpointError

__all__ = ["SegmentStore"]

SEGMENT_BYTES = 64 * 2**20
_CHUNK = 1000  # keys that are read together; bounds memory
_NEAR = 64 * 2**10  # bytes: reading on costs less than a request of its own
_SPAN = 8 * 2**20  # bytes that one request reads at most
_MOVED_AT_ONCE = 1000

_log = logging.getLogger("tilevision.checkpoint")


class SegmentStore:
    """The records in the segments of a checkpoint folder, by key.

    Parameters
    ----------
    folder : Path
        The checkpoint folder.
    check : callable
        Called before this process makes a segment; raises where that would be in vain.
    """

    def __init__(self, folder: Path, check: Callable[[], None]) -> None:
        self._folder = folder
        self._segments = folder / "segments"
        self._check = check
        self._index = SegmentIndex()
        self._read_to: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._damaged: dict[str, set[int]] = {}
        self._writer: SegmentWriter | None = None
        self._closed = False
        self._lock = threading.RLock()
        with explained(folder):
            self._refresh()

    def done(self, keys: Iterable[str]) -> set[str]:
        """Return those of `keys` that are stored."""
        with self._lock:
            self._look()
            return self._index.stored(keys)

    def load(self, keys: Sequence[str]) -> Iterator[tuple[str, tuple[bytes, ...]]]:
        """Yield key and records of those of `keys` that are stored, in the order given.

        What is damaged is not yielded, and not `done` any more: it is computed again.
        """
        with self._lock:
            self._look()
        for start in range(0, len(keys), _CHUNK):
            chunk = {key: digest(key) for key in keys[start : start + _CHUNK]}
            with self._lock:
                self._check_open()
                with explained(self._folder):
                    found = self._records(list(chunk.values()))
            yield from ((key, found[key_]) for key, key_ in chunk.items() if key_ in found)

    def stored_at(self, keys: Iterable[str]) -> dict[str, float]:
        """Return when each of `keys` was stored, seconds since the epoch."""
        with self._lock:
            self._look()
            times = ((key, self._index.time(digest(key))) for key in keys)
            return {key: when for key, when in times if when is not None}

    def commit(self, records: Mapping[str, Sequence[bytes]]) -> None:
        """Store all of `records` in one frame, or raise and store none of them."""
        checked = {key: check_records(key, rows) for key, rows in records.items()}
        now = time.time()
        self._append([(digest(key), now, len(rows), pack(rows)) for key, rows in checked.items()])

    def last_records(self) -> Iterator[bytes]:
        """Yield the last record of every key: the one that refers to arrays, where one does."""
        with self._lock:
            self._look()
            keys = self._index.older(math.inf)
            for start in range(0, len(keys), _CHUNK):
                with explained(self._folder):
                    found = self._records(keys[start : start + _CHUNK])
                yield from (records[-1] for records in found.values())

    def delete(self, keys: Iterable[str]) -> int:
        """Forget `keys`; return how many were there."""
        with self._lock:
            self._look()
            return self._delete([digest(key) for key in self._index.stored(keys)])

    def prune(self, before: float, *, idle: bool) -> int:
        """Forget what was stored before a time; return how many keys.

        Parameters
        ----------
        before : float
            Seconds since the epoch.
        idle : bool
            True if no other process is at work in the folder: then files that are mostly
            unused are written anew without that, so that the space is given back.
        """
        with self._lock:
            self._look()
            count = self._delete(self._index.older(before))
            if idle:
                with explained(self._folder):
                    self._compact()
            return count

    def close(self) -> None:
        """Close the file; using the store afterwards is an error."""
        with self._lock:
            self._closed = True
            self._drop()

    # Writing ------------------------------------------------------------------------------------

    def _append(self, rows: list[Packed]) -> None:
        if not rows:
            return
        frame = frame_of(rows)
        with self._lock, explained(self._folder):
            self._check_open()
            writer = self._writable([key for key, *_ in rows])
            try:
                begins = writer.append(frame)
            except FileNotFoundError:
                raise replaced(self._folder) from None
            self._index.enter(writer.path.name, begins, frame, len(rows))
            self._read_to[writer.path.name] = self._sizes[writer.path.name] = writer.size

    def _writable(self, keys: Iterable[bytes]) -> SegmentWriter:
        """Return the file to append to: one in which these keys are newer than anywhere else."""
        writer = self._writer
        if writer is not None and not (
            writer.usable
            and writer.mine()
            and writer.size < SEGMENT_BYTES
            and all(self._is_behind(key, writer.path.name) for key in keys)
        ):
            self._drop()
        if self._writer is None:
            self._writer = self._begin()
        return self._writer

    def _is_behind(self, key: bytes, name: str) -> bool:
        place = self._index.place(key)
        return place is None or place.segment <= name

    def _begin(self) -> SegmentWriter:
        self._check()
        numbers = [number_of(name) or 0 for name in names_in(self._segments)]
        name = segment_name(1 + max(numbers, default=0))
        writer = SegmentWriter(self._segments / name)
        sync_folder(self._segments)
        return writer

    def _drop(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _delete(self, keys: list[bytes]) -> int:
        now = time.time()
        for start in range(0, len(keys), _MOVED_AT_ONCE):
            self._append(deletions(keys[start : start + _MOVED_AT_ONCE], now))
        return len(keys)

    def _compact(self) -> None:
        """Write what is in use of mostly unused files into a new one, then remove them."""
        used = self._index.living()
        old = {name for name, size in self._sizes.items() if used.get(name, 0) < size / 2}
        if not old:
            return
        self._drop()
        kept = self._sizes.keys() - old
        first = min(kept, default="")
        keys = self._index.within(frozenset(old))
        for start in range(0, len(keys), _MOVED_AT_ONCE):
            self._append(self._moved(keys[start : start + _MOVED_AT_ONCE], first))
        for name in old:
            (self._segments / name).unlink(missing_ok=True)
        sync_folder(self._segments)
        self._refresh()

    def _moved(self, keys: list[bytes], first: str) -> list[Packed]:
        """Return the rows of keys; a deletion only if an older file may hold what it deletes."""
        places = {key: place for key in keys if (place := self._index.place(key)) is not None}
        rows = [
            (key, places[key].time, places[key].records, packed)
            for key, packed in self._data(places).items()
        ]
        gone = [key for key, at in places.items() if not at.records and first < at.segment]
        return rows + (deletions(gone, time.time()) if first else [])

    # Reading ------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._check_open()
        with explained(self._folder):
            self._refresh()

    def _refresh(self) -> None:
        """Read on in what has grown, and in what is new; forget what is gone."""
        names = {name for name in names_in(self._segments) if number_of(name) is not None}
        read_grown(self._segments, names, self._sizes, self._read_on)
        gone = self._read_to.keys() - names
        if gone:
            self._index.forget_segments(gone)
            for name in gone:
                self._read_to.pop(name)
                self._sizes.pop(name, None)

    def _read_on(self, name: str) -> None:
        damaged = self._damaged.setdefault(name, set())
        found: set[int] = set()
        start = self._read_to.get(name, 0)
        with open_segment(self._segments / name) as file:
            for frame in frames(file, start):
                if frame.table:
                    self._index.add(name, frame.data, frame.table)
                else:
                    found.add(frame.data)
                if frame.end > frame.data or frame.table:
                    start = frame.end
        self._read_to[name] = start
        if found - damaged:
            damaged |= found
            _log.warning(
                "%d part(s) of %s are damaged; what they held is computed again.",
                len(found),
                self._segments / name,
            )

    def _records(self, keys: Sequence[bytes]) -> dict[bytes, tuple[bytes, ...]]:
        places = {
            key: place
            for key in keys
            if (place := self._index.place(key)) is not None and place.records
        }
        records, bad = {}, 0
        for key, data in self._data(places).items():
            try:
                found = unpack(data, places[key].records)
                records[key] = check_records("", found)
            except (ValueError, CheckpointError):
                bad += 1
                self._index.forget(key, places[key])
        self._report(bad)
        return records

    def _report(self, bad: int) -> None:
        if bad:
            _log.warning(
                "%d record(s) in %s are damaged and will be computed again.", bad, self._segments
            )

    def _data(self, places: Mapping[bytes, RecordPlace]) -> dict[bytes, bytes]:
        """Return the data of keys, without those whose checksum differs."""
        try:
            data = self._fetch(places)
        except OSError as error:
            if error.errno not in GONE:
                raise
            self._refresh()  # another machine has moved what is in use into a new file
            now = {key: self._index.place(key) for key in places}
            data = self._fetch({key: place for key, place in now.items() if place is not None})
        return data

    def _fetch(self, places: Mapping[bytes, RecordPlace]) -> dict[bytes, bytes]:
        wanted = sorted((at.segment, at.offset, key) for key, at in places.items() if at.records)
        data: dict[bytes, bytes] = {}
        bad, start = 0, 0
        while start < len(wanted):
            name = wanted[start][0]
            stop = start
            while stop < len(wanted) and wanted[stop][0] == name:
                stop += 1
            with open_segment(self._segments / name) as file:
                mine = [(places[key], key) for _, _, key in wanted[start:stop]]
                for key, place, found in _read_rows(file, mine):
                    if zlib.crc32(found) == place.check and len(found) == place.size:
                        data[key] = found
                    else:
                        bad += 1
                        self._index.forget(key, place)
            start = stop
        self._report(bad)
        return data

    def _check_open(self) -> None:
        if self._closed:
            raise CheckpointError(f"The checkpoint {self._folder} was closed. Open it again.")


def _read_rows(
    file: BinaryIO, rows: Sequence[tuple[RecordPlace, bytes]]
) -> Iterator[tuple[bytes, RecordPlace, bytes]]:
    """Yield key, place and data of rows in the order of their places; neighbours together."""
    start = 0
    while start < len(rows):
        begin = rows[start][0].offset
        end, stop = begin, start
        while stop < len(rows):
            place = rows[stop][0]
            after = place.offset + place.size
            if stop > start and (place.offset > end + _NEAR or after - begin > _SPAN):
                break
            end, stop = max(end, after), stop + 1
        file.seek(begin)
        span = file.read(end - begin)
        for place, key in rows[start:stop]:
            at = place.offset - begin
            yield key, place, span[at : at + place.size]
        start = stop
