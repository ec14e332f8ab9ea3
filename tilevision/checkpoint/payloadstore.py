"""The side files of a checkpoint: arrays by the SHA-256 of their bytes, written once.

They are segments (see `segmentfile`) in the folder ``payloads``: a row's key is the digest, and
its data are the array's bytes. The table of each frame is the index, so nothing else says where an
array is. A process appends to files of its own only; whoever commits a record appends the arrays
it refers to first. What a crash leaves without a record is unused space.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tilevision.checkpoint.database import explained, replaced
from tilevision.checkpoint.filesystem import names_in
from tilevision.checkpoint.segmentfile import (
    GONE,
    SegmentWriter,
    frame_of,
    frames,
    number_of,
    open_segment,
    read_grown,
    segment_name,
    sync_folder,
)
from tilevision.checkpoint.segmentindex import SegmentIndex, deletions
from tilevision.errors import CheckpointCorrupt, CheckpointError
from tilevision.payloads import PackedArray, PayloadRef, unpack

__all__ = ["PayloadMemory", "PayloadStore"]

FOLDER = "payloads"
PACK_BYTES = 256 * 2**20
PLAIN = 1  # how a row's data are written; others are packed, or for later releases
WHOLE = 2**20  # bytes: up to here an array is read as a whole to see if it is sound
WHOLE_PACKED = 4 * 2**20  # the same for packed ones: a map of five classes has a tenth of that
_NEAR = 64 * 2**10  # bytes: reading on costs less than a request of its own
_SPAN = 8 * 2**20  # bytes that one request reads at most, where an array has no more
_AT_ONCE = 2000  # arrays that are looked at together
_HEADERS = 8 * 2**10  # bytes read for a frame's header and table: arrays are skipped

_log = logging.getLogger("tilevision.checkpoint")


class PayloadStore:
    """The arrays in the side files of a checkpoint folder.

    Safe to use from any thread. Reading needs no open checkpoint; files are opened for a read.

    Parameters
    ----------
    folder : Path
        The checkpoint folder.
    check : callable
        Called before this process makes a side file; raises where that would be in vain.
    """

    def __init__(self, folder: Path, check: Callable[[], None] = lambda: None) -> None:
        self._folder = folder
        self._packs = folder / FOLDER
        self._check = check
        self._index = SegmentIndex()
        self._read_to: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._sound: set[bytes] = set()  # read as a whole, and found undamaged
        self._bad: set[bytes] = set()
        self._writer: SegmentWriter | None = None
        self._room = bytearray()  # for what is read, one array after the other
        self._rooms: list[bytearray] = []  # that others were unpacked from
        self._lock = threading.RLock()
        with explained(folder):
            self._refresh()

    def __reduce__(self) -> tuple[type[PayloadStore], tuple[Path]]:
        return PayloadStore, (self._folder,)

    def add(self, payloads: Mapping[bytes, bytes | PackedArray]) -> None:
        """Store bytes by digest (of what they are unpacked); when it returns they are on the disk.

        What is stored already is not written again.

        Raises
        ------
        CheckpointError
            If the disk is full or refuses.
        """
        with self._lock, explained(self._folder):
            fresh = {key: data for key, data in payloads.items() if not self._has(key, data)}
            if not fresh:
                return
            now = time.time()
            rows = {key: _row(data) for key, data in fresh.items()}
            self._append([(key, now, kind, data) for key, (kind, data) in rows.items()])

    def sound(self, refs: Sequence[PayloadRef]) -> list[bool]:
        """Say for each array whether it is there, undamaged; warn once of those that are not.

        Arrays of more than 1 MiB (packed: 4 MiB) are not read for it: that they are there, and
        have their size, is looked at. `gather` reads them with their checksum, and notes damage.
        """
        with self._lock, explained(self._folder):
            self._refresh()
            found: list[bool] = []
            for start in range(0, len(refs), _AT_ONCE):
                found += self._look(refs[start : start + _AT_ONCE])
        if not all(found):
            _log.warning(
                "%d array(s) in %s are damaged or missing; their tiles are computed again.",
                len(found) - sum(found),
                self._packs,
            )
        return found

    def gather(
        self, digests: Sequence[bytes], size: int, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Return the bytes of arrays of `size` bytes each. See `ArrayStore.gather`.

        What is damaged is noted in the folder, as if it had been deleted: large arrays are read
        only now, and the next run is to miss them.
        """
        if out is None:
            out = np.empty((len(digests), size), dtype=np.uint8)
        if len(digests) == 1 and self._unpacked(digests[0], out[0]):
            return out
        with self._lock, explained(self._folder):
            bad = self._fill(digests, out)
            if bad:
                self._refresh()  # another process may have written it anew, or moved it
                bad = self._fill(digests, out)
            noted = not bad or self._note([digests[row] for row in bad], size)
        if bad:
            lost = f"{len(bad)} array(s) in {self._packs} are damaged or missing."
            raise CheckpointCorrupt(
                f"{lost} Run the analysis again: their tiles are computed again, and nothing else."
                if noted
                else f"{lost} Make the folder writable and read them again: then their tiles are "
                "computed again in the next run."
            )
        return out

    def sizes(self, digests: Sequence[bytes]) -> list[int]:
        """Return how many bytes each array takes as it is stored; 0 where it is not."""
        with self._lock:
            segment, _, sizes, _ = self._index.places(digests)
        found: list[int] = np.where(segment < 0, 0, sizes).tolist()
        return found

    def order(self, digests: Sequence[bytes]) -> NDArray[np.int64]:
        """Return the order in which arrays lie in the files: ``(n,)``."""
        with self._lock:
            segment, offset, _, _ = self._index.places(digests)
        return np.lexsort((offset, segment))

    def sweep(self, wanted: Collection[bytes], before: float) -> None:
        """Give back the space of arrays that no record refers to.

        Files of which less than half is wanted are written anew without the rest. No run may be at
        work in the folder: what it has appended has no record yet.

        Parameters
        ----------
        wanted : set of bytes
            Digests that records refer to.
        before : float
            Seconds since the epoch; what was stored later stays.
        """
        with self._lock, explained(self._folder):
            self._refresh()
            unused = set(self._index.older(before)).difference(wanted)
            if not unused:
                return
            self.close()
            used = self._index.living(unused)
            old = frozenset(name for name, n in self._sizes.items() if used.get(name, 0) < n / 2)
            moved = [key for key in self._index.within(old) if key not in unused]
            for key, kind, data in self._each(moved):
                self._append([(key, time.time(), kind, data)])
            self.close()
            for name in old:
                (self._packs / name).unlink(missing_ok=True)
            sync_folder(self._packs)
            self._refresh()

    def close(self) -> None:
        """Close the file that is written to; the store can still be read."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    # Writing ------------------------------------------------------------------------------------

    def _note(self, bad: Sequence[bytes], size: int) -> bool:
        """Write down that arrays are damaged; return False where the folder cannot be written.

        A plain one of another size than was asked for is none: the record that asks is wrong.
        """
        places = [(key, self._index.place(key)) for key in bad]
        damaged = [
            key
            for key, at in places
            if at and (at.records > PLAIN or (at.records and at.size == size))
        ]
        try:
            if damaged:
                self._append(deletions(damaged, time.time()))
                self.close()  # whoever only reads leaves no file open
        except (CheckpointError, OSError):
            return False
        return True

    def _append(self, rows: list[tuple[bytes, float, int, bytes | memoryview]]) -> None:
        frame = frame_of(rows)
        writer = self._writable([key for key, *_ in rows])
        try:
            begins = writer.append(frame)
        except FileNotFoundError:
            raise replaced(self._folder) from None
        name = writer.path.name
        self._index.enter(name, begins, frame, len(rows))
        self._read_to[name] = self._sizes[name] = writer.size
        self._bad.difference_update(key for key, *_ in rows)

    def _writable(self, keys: Sequence[bytes]) -> SegmentWriter:
        """Return the file to append to: of two of an array, the one in the later file counts."""
        writer = self._writer
        if writer is not None and writer.usable and writer.mine() and writer.size < PACK_BYTES:
            places = filter(None, map(self._index.place, keys))
            if all(place.segment <= writer.path.name for place in places):
                return writer
        self.close()
        self._writer = self._begin()
        return self._writer

    def _begin(self) -> SegmentWriter:
        self._check()
        if not self._packs.is_dir():
            self._packs.mkdir(mode=0o700, exist_ok=True)
            sync_folder(self._folder)
        numbers = [number_of(name) or 0 for name in names_in(self._packs)]
        writer = SegmentWriter(self._packs / segment_name(1 + max(numbers, default=0)))
        sync_folder(self._packs)
        return writer

    def _has(self, key: bytes, data: bytes | PackedArray) -> bool:
        """Return True if an array is stored; read once, so that no damaged one is taken for it."""
        place = self._index.place(key)
        if place is None or key in self._bad:
            return False
        if key in self._sound:
            return True
        if isinstance(data, PackedArray):  # however it is packed there
            return self._stored(key) is not None
        return not self._fill([key], np.empty((1, len(data)), dtype=np.uint8))

    # Reading ------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Read on in what has grown, and in what is new; forget what is gone."""
        names: set[str] = set()
        with contextlib.suppress(FileNotFoundError):  # none was ever written
            names.update(name for name in names_in(self._packs) if number_of(name) is not None)
        read_grown(self._packs, names, self._sizes, self._read_on)
        gone = self._read_to.keys() - names
        if gone:
            self._index.forget_segments(gone)
            self._sound.clear()
            for name in gone:
                self._read_to.pop(name)
                self._sizes.pop(name, None)

    def _read_on(self, name: str) -> None:
        """Enter the tables of new frames; a torn or damaged one holds nothing that is known."""
        start = self._read_to.get(name, 0)
        with open_segment(self._packs / name, _HEADERS) as file:
            for frame in frames(file, start):
                if frame.table:
                    self._index.add(name, frame.data, frame.table)
                if frame.end > frame.data or frame.table:
                    start = frame.end
        self._read_to[name] = start

    def _look(self, refs: Sequence[PayloadRef]) -> list[bool]:
        segment, _, sizes, kinds = self._index.places([ref.digest for ref in refs])
        wanted = np.array([ref.size for ref in refs], dtype=np.int64)
        packed = (segment >= 0) & (kinds > PLAIN)
        found = (segment >= 0) & (kinds == PLAIN) & (sizes == wanted)
        for size in np.unique(wanted[found & (wanted <= WHOLE)]):
            unread = [
                row
                for row in np.flatnonzero(found & (wanted == size)).tolist()
                if refs[row].digest not in self._sound
            ]
            step = max(1, _SPAN // int(size))
            for start in range(0, len(unread), step):
                few = unread[start : start + step]
                out = np.empty((len(few), int(size)), dtype=np.uint8)
                bad = self._fill([refs[row].digest for row in few], out)
                found[[few[row] for row in bad]] = False
        for row in np.flatnonzero(packed).tolist():
            key = refs[row].digest
            small = sizes[row] <= WHOLE_PACKED and key not in self._sound
            found[row] = not small or self._stored(key) is not None
        self._bad.update(ref.digest for ref, one in zip(refs, found, strict=True) if not one)
        return [bool(one) for one in found]

    def _fill(self, digests: Sequence[bytes], out: NDArray[np.uint8]) -> list[int]:
        """Read arrays into the rows of `out`; return the rows that are missing or damaged."""
        segment, offset, sizes, kinds = self._index.places(digests)
        packed = (segment >= 0) & (kinds > PLAIN)
        there = (segment >= 0) & (kinds == PLAIN) & (sizes == out.shape[1])
        rows = np.flatnonzero(there)
        rows = rows[np.lexsort((offset[rows], segment[rows]))]
        got = there.copy()
        for name, mine in self._by_file(segment, rows):
            try:
                _read_rows(self._packs / name, offset[mine], mine, out, got)
            except OSError as error:
                if error.errno not in GONE:
                    raise
                got[mine] = False
        for row in np.flatnonzero(got).tolist():
            key = digests[row]
            if key in self._sound:
                continue
            place = self._index.place(key)
            if place is not None and zlib.crc32(out[row]) == place.check:
                self._sound.add(key)
            else:
                got[row] = False
        for row in np.flatnonzero(packed).tolist():
            stored = self._stored(digests[row])
            got[row] = stored is not None and unpack(stored[1], stored[0], out[row])
        bad: list[int] = np.flatnonzero(~got).tolist()
        self._sound.difference_update(digests[row] for row in bad)
        return bad

    def _unpacked(self, key: bytes, out: NDArray[np.uint8]) -> bool:
        """Unpack an array into `out`, while others read; False if it is plain, damaged or missing.

        Unpacking takes by far the longest, and threads that blend side by side all need it.
        """
        with self._lock, explained(self._folder):
            place = self._index.place(key)
            if place is None or place.records <= PLAIN or (stored := self._stored(key)) is None:
                return False
            # What was read lies there until it is unpacked: others read into memory of their own.
            mine, self._room = self._room, self._rooms.pop() if self._rooms else bytearray()
        try:
            return unpack(stored[1], stored[0], out)
        finally:
            with self._lock:
                self._rooms.append(mine)

    def _by_file(
        self, segment: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Yield the name of each file, and the rows of it, which are sorted by file."""
        if not len(rows):
            return
        for mine in np.split(rows, np.flatnonzero(np.diff(segment[rows])) + 1):
            yield self._index.name(int(segment[mine[0]])), mine

    def _each(self, digests: Sequence[bytes]) -> Iterator[tuple[bytes, int, memoryview]]:
        """Yield arrays of any size; damaged ones are left out: their tiles are computed again."""
        for key in digests:
            if (stored := self._stored(key)) is not None:
                yield key, *stored

    def _stored(self, key: bytes) -> tuple[int, memoryview] | None:
        """Return how an array is written, and its bytes as they are; None if damaged or missing.

        The bytes hold until the next ones are read: memory that was used before is quicker to fill.
        """
        place = self._index.place(key)
        if place is None or not place.records:
            return None
        data = memoryview(b"")
        try:
            with open_segment(self._packs / place.segment, 0) as file:
                # A table may claim more than there is, and memory is taken for what is asked.
                if place.offset + place.size <= os.fstat(file.fileno()).st_size:
                    file.seek(place.offset)
                    data = self._read(file, place.size)
        except OSError as error:
            if error.errno not in GONE:
                raise
        if len(data) == place.size and _check(data) == place.check:
            self._sound.add(key)
            return place.records, data
        self._sound.discard(key)
        return None

    def _read(self, file: BinaryIO, size: int) -> memoryview:
        """Return the next `size` bytes of a file, or as many as it has."""
        if len(self._room) < size:
            self._room = bytearray(size)
        whole = memoryview(self._room)[:size]
        got = 0
        while got < size and (more := file.readinto(whole[got:])):  # type: ignore[attr-defined]  # without a buffer it is a RawIOBase
            got += more
        return whole[:got]


def _row(data: bytes | PackedArray) -> tuple[int, bytes]:
    """Return how bytes are written, and what is written."""
    return (data.kind, data.data) if isinstance(data, PackedArray) else (PLAIN, data)


def _check(data: memoryview) -> int:
    """Return ``zlib.crc32(data)``, in a tenth of the time; packed arrays need the library too."""
    from imagecodecs import deflate_crc32

    return int(deflate_crc32(data))  # type: ignore[arg-type]  # any buffer


def _read_rows(
    path: Path,
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    out: NDArray[np.uint8],
    got: NDArray[np.bool_],
) -> None:
    """Read what begins at `offsets`, ascending, into `rows` of `out`; neighbours together.

    Rows past the end of the file are marked in `got`. Plain reads into a buffer: the file is not
    ours, and a map on one that is cut short would kill the process.
    """
    size = out.shape[1]
    with open_segment(path, _HEADERS) as file:
        start = 0
        while start < len(rows):
            begin = int(offsets[start])
            near = np.diff(offsets[start:]) <= size + _NEAR
            within = offsets[start + 1 :] + size - begin <= _SPAN
            stop = start + 1 + int(np.argmin(np.append(near & within, False)))
            file.seek(begin)
            span = np.frombuffer(file.read(int(offsets[stop - 1]) + size - begin), dtype=np.uint8)
            at = offsets[start:stop] - begin
            whole = at + size <= len(span)
            mine = rows[start:stop]
            got[mine[~whole]] = False
            if whole.any():
                out[mine[whole]] = sliding_window_view(span, size)[at[whole]]
            start = stop


class PayloadMemory:
    """`PayloadStore` without a folder: arrays last as long as what refers to them."""

    def __init__(self) -> None:
        self._data: dict[bytes, bytes | PackedArray] = {}

    def add(self, payloads: Mapping[bytes, bytes | PackedArray]) -> None:
        """Keep bytes by digest."""
        self._data.update(payloads)

    def sound(self, refs: Sequence[PayloadRef]) -> list[bool]:
        """Say for each array whether it is there."""
        return [ref.digest in self._data for ref in refs]

    def gather(
        self, digests: Sequence[bytes], size: int, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Return the bytes of arrays of `size` bytes each. See `ArrayStore.gather`."""
        if out is None:
            out = np.empty((len(digests), size), dtype=np.uint8)
        for row, key in zip(out, digests, strict=True):
            kind, data = _row(self._data[key])
            if kind == PLAIN:
                row[:] = np.frombuffer(data, dtype=np.uint8)
            else:
                unpack(data, kind, row)
        return out

    def sizes(self, digests: Sequence[bytes]) -> list[int]:
        """Return how many bytes each array takes; 0 where it is not there."""
        return [len(_row(self._data[key])[1]) if key in self._data else 0 for key in digests]

    def order(self, digests: Sequence[bytes]) -> NDArray[np.int64]:
        """Return the order in which they were asked for."""
        return np.arange(len(digests))
