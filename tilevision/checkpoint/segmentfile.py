"""The segment: a file of finished work that one process appends to and every machine can read.

A segment begins with `MAGIC`; frames follow. A frame is a commit: a header (see `_HEADER`), a
table with a row for each key (see `ROW`), then the data of the rows. A row's data is each of its
records with its length before it, compressed one by one. A row without records says that its key
was deleted. What a crash cut short is unused space at the end; what was damaged later costs the
frames it touches.

Nothing here needs a lock, a memory map or a second writer: network file systems promise none of
them. A file has one writer, which never takes up again what failed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import socket
import stat
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tilevision.codec import RECORD_LIMIT

__all__ = [
    "GONE",
    "MAGIC",
    "ROW",
    "SegmentFrame",
    "SegmentWriter",
    "data_of",
    "frame_of",
    "frames",
    "number_of",
    "open_segment",
    "pack",
    "read_grown",
    "segment_name",
    "sync_folder",
    "unpack",
]

MAGIC = b"TVSEG\x01\r\n"
GONE = {errno.ENOENT, errno.ESTALE}  # of a file that another process has removed
FRAME = b"\xf1tvframe"
_HEADER = struct.Struct("<8sIQII")  # FRAME, rows, bytes of data, CRC of the table, CRC of this
ROW = struct.Struct("<32sdIII")  # key, time, records, bytes of data, CRC of the data
_LENGTH = struct.Struct("<I")
_MOST_RECORDS = 1000
_BUFFER = 1 << 20  # reading on in large pieces costs a share less than skipping in small ones
_NAME = re.compile(r"(\d{8,})-[A-Za-z0-9._-]{1,200}\.seg")
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_READ |= getattr(os, "O_BINARY", 0)
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_sync = getattr(os, "fdatasync", os.fsync)

Packed = tuple[bytes, float, int, bytes | memoryview]


@dataclass(frozen=True, slots=True)
class SegmentFrame:
    """A commit as it lies in a file.

    Parameters
    ----------
    table : bytes
        Its rows; empty where the bytes up to `end` are damaged.
    data : int
        Where the data of the first row begin.
    end : int
        Where the next frame begins.
    """

    table: bytes
    data: int
    end: int


# Rows and frames --------------------------------------------------------------------------------


def pack(records: Sequence[bytes]) -> bytes:
    """Return the data of a row; each record can be read without those of other rows."""
    parts: list[bytes] = []
    for record in records:
        small = zlib.compress(record, 1)
        parts += (_LENGTH.pack(len(small)), small)
    return b"".join(parts)


def unpack(data: bytes, count: int) -> tuple[bytes, ...]:
    """Return the records of a row.

    Raises
    ------
    ValueError
        If `data` are not those of `count` records, or one is longer than a record may be.
    """
    if count > _MOST_RECORDS:
        raise ValueError("It has more records than a tile can have.")
    records, at = [], 0
    for _ in range(count):
        if at + _LENGTH.size > len(data):
            raise ValueError("It ends early.")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        records.append(_expand(data[at : at + length]))
        at += length
    if at != len(data):
        raise ValueError("Its length differs.")
    return tuple(records)


def data_of(begins: int, rows: int) -> int:
    """Return where the data begin of a frame with so many rows that begins there."""
    return begins + _HEADER.size + rows * ROW.size


def _expand(small: bytes) -> bytes:
    reader = zlib.decompressobj()
    try:
        record = reader.decompress(small, RECORD_LIMIT + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not reader.eof or reader.unused_data or len(record) > RECORD_LIMIT:
        raise ValueError("It is no whole record.")
    return record


def frame_of(rows: Iterable[Packed]) -> bytes:
    """Return the frame of rows: key, time, number of records, data (as `pack` returns them)."""
    table, data = [], []
    for key, time, count, packed in rows:
        table.append(ROW.pack(key, time, count, len(packed), zlib.crc32(packed)))
        data.append(packed)
    joined = b"".join(table)
    size = sum(map(len, data))
    header = _HEADER.pack(FRAME, len(table), size, zlib.crc32(joined), 0)[: -_LENGTH.size]
    return b"".join((header, _LENGTH.pack(zlib.crc32(header)), joined, *data))


# Reading ----------------------------------------------------------------------------------------


def open_segment(path: Path, buffer: int = _BUFFER) -> BinaryIO:
    """Open a segment for reading; `OSError` if it is no plain file.

    Parameters
    ----------
    path : Path
    buffer : int
        Bytes that are read ahead.
    """
    file = os.open(path, _READ)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is not a plain file", str(path))
    return os.fdopen(file, "rb", buffering=buffer)


def frames(file: BinaryIO, start: int) -> Iterator[SegmentFrame]:
    """Yield the frames of a segment from `start`, and what is damaged between them.

    Ends where the file ends or a frame is not complete (yet). Damage at the end of the file is
    yielded with an empty table and an `end` equal to its beginning: the writer may be at it.
    """
    size = os.fstat(file.fileno()).st_size
    at = start
    if at == 0 and size >= len(MAGIC):
        file.seek(0)
        at = len(MAGIC) if file.read(len(MAGIC)) == MAGIC else 0
    file.seek(at)
    while at + _HEADER.size <= size:
        head = file.read(_HEADER.size)
        found = _shape(head)
        if found is None:
            after = _next_frame(file, at + 1, size)
            if after is None:
                if any(head):  # zeros are room that a crash left, not damage
                    yield SegmentFrame(b"", at, at)
                return
            yield SegmentFrame(b"", at, after)
            at = after
            file.seek(at)
            continue
        rows, length, check = found
        data = data_of(at, rows)
        if data + length > size:
            return
        table = file.read(rows * ROW.size)
        end = data + length
        if zlib.crc32(table) == check:
            yield SegmentFrame(table, data, end)
        else:
            yield SegmentFrame(b"", at, at if end == size else end)
            if end == size:
                return
        file.seek(length, os.SEEK_CUR)
        at = end


def _shape(head: bytes) -> tuple[int, int, int] | None:
    """Return rows, bytes of data and the table's CRC as a header has them; None if it is none."""
    if len(head) != _HEADER.size:
        return None
    magic, rows, length, check, own = _HEADER.unpack(head)
    if magic != FRAME or zlib.crc32(head[: -_LENGTH.size]) != own:
        return None
    return rows, length, check


def _next_frame(file: BinaryIO, start: int, size: int) -> int | None:
    """Return where the next whole header begins, looking at every byte."""
    at, kept = start, b""
    file.seek(start)
    while chunk := file.read(_BUFFER):
        window = kept + chunk
        place = window.find(FRAME)
        while place >= 0:
            begins = at - len(kept) + place
            file.seek(begins)
            if begins + _HEADER.size <= size and _shape(file.read(_HEADER.size)) is not None:
                return begins
            place = window.find(FRAME, place + 1)
        at += len(chunk)
        kept = window[-(len(FRAME) - 1) :]
        file.seek(at)
    return None


# Writing ----------------------------------------------------------------------------------------


def segment_name(number: int) -> str:
    """Return a name that no other process gives: hosts and processes may be called alike."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40] or "host"
    return f"{number:08}-{host}-{os.getpid()}-{secrets.token_hex(4)}.seg"


def number_of(name: str) -> int | None:
    """Return the number that a segment's name begins with; None if it is no segment's name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def read_grown(
    folder: Path, names: Iterable[str], sizes: dict[str, int], read_on: Callable[[str], None]
) -> None:
    """Call `read_on` with each of `names` whose size has changed, in order; note its size.

    Files that another process removes meanwhile are passed over.
    """
    for name in sorted(names):
        try:
            size = (folder / name).stat().st_size
            if size != sizes.get(name):
                read_on(name)
                sizes[name] = size
        except OSError as error:
            if error.errno not in GONE:
                raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last; does nothing where a folder cannot be synced."""
    try:
        opened = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(opened)
    except OSError:
        pass
    finally:
        os.close(opened)


class SegmentWriter:
    """Appends frames to a new segment.

    After anything has failed the file is never written to again: what a failed write or sync has
    left on the disk is unknown, and a later one says nothing about it.

    Parameters
    ----------
    path : Path
        Must not exist.

    Attributes
    ----------
    path : Path
    size : int
        Bytes that are on the disk for certain.
    usable : bool
        Return True if another frame may be appended.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.usable = True
        self._process = os.getpid()
        self._file = os.open(path, _WRITE, 0o600)

    def append(self, frame: bytes) -> int:
        """Write a frame and wait until it is on the disk; return where it begins."""
        begins = self.size or len(MAGIC)
        data = frame if self.size else MAGIC + frame
        try:
            whole = self._write(data)
            _sync(self._file)
            self._check_in_place(self.size + len(data))
        except BaseException:
            self.close()
            if not self.size:  # nothing was acknowledged: a full disk would gather such files
                _remove(self.path)
            raise
        self.size += len(data)
        self.usable = whole
        return begins

    def mine(self) -> bool:
        """Return True if this process made the file: a forked child must not append to it."""
        return self._process == os.getpid()

    def close(self) -> None:
        """Close the file; nothing more can be appended."""
        self.usable = False
        if self._file >= 0:
            file, self._file = self._file, -1
            with contextlib.suppress(OSError):  # nothing was acknowledged after the last sync
                os.close(file)

    def _write(self, data: bytes) -> bool:
        """Write all of `data`; return True if one call did.

        After a short write the next one says what is in the way.
        """
        written = os.write(self._file, data)
        whole = written == len(data)
        while written < len(data):
            more = os.write(self._file, data[written:])
            if not more:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written += more
        return whole

    def _check_in_place(self, size: int) -> None:
        """Refuse a file that nobody could find again: its folder was moved away or replaced."""
        try:
            there = self.path.stat().st_size
        except FileNotFoundError:
            there = -1
        if there < size:
            raise FileNotFoundError(errno.ENOENT, "it was removed or replaced", str(self.path))


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
