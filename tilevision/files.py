"""How files are written: whole or not at all, JSON row by row, XML; and how they are locked.

Labels and texts are a model's words, and may hold anything.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import random
import re
import secrets
import shutil
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO
from xml.sax.saxutils import escape, quoteattr

from tilevision.errors import RunError

__all__ = [
    "MOST_UNZIPPED",
    "as_text",
    "check_folder",
    "draft_name",
    "drafting",
    "dumps",
    "element",
    "kind_of",
    "lock",
    "opening",
    "refusing",
    "reserve",
    "stream_json",
    "stream_list",
    "try_lock",
    "unzipped",
    "writing",
]

MOST_UNZIPPED = 1 << 30  # bytes: more is no text that anybody drew, and would fill the memory

_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


@contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """Open a UTF-8 stream that becomes `path` once the block ends well.

    Raises
    ------
    RunError
        If the file cannot be written; whatever stood at `path` before still stands there.
    """
    # A lone surrogate in a label has no UTF-8; it must not cost the file.
    with (
        drafting(path) as draft,
        draft.open("x", encoding="utf-8", errors="replace", newline="") as stream,
    ):
        yield stream


@contextmanager
def drafting(path: Path) -> Iterator[Path]:
    """Name a file, not yet there, that becomes `path` once the block ends well.

    Raises
    ------
    RunError
        If the file cannot be written; whatever stood at `path` before still stands there.
    """
    draft = draft_name(path)
    with refusing(path):
        try:
            yield draft
            with draft.open("rb+") as written:
                os.fsync(written.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def kind_of(path: Path) -> str:
    """Return the suffix of a file in small letters; of a compressed one both: ``.geojson.gz``."""
    last = path.suffix.lower()
    return f"{Path(path.stem).suffix.lower()}{last}" if last == ".gz" else last


def unzipped(path: Path, most: int = MOST_UNZIPPED) -> bytes:
    """Return the first `most` + 1 bytes that a file holds, compressed by gzip or not.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If what was compressed is damaged.
    """
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not zipped:
            return file.read(most + 1)
        try:
            with gzip.GzipFile(fileobj=file) as whole:
                return whole.read(most + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"what is compressed in it is damaged ({error})") from error


def draft_name(path: Path) -> Path:
    """Return a name beside `path` that nobody else uses."""
    return path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}.part")


def reserve(path: Path) -> None:
    """Take the room on the disk that a new file has the size for, and not yet.

    A disk that fills up under a memory map ends the process by SIGBUS.

    Raises
    ------
    OSError
        If there is not so much.
    """
    size = path.stat().st_size
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    elif shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


_NO_FOLDER = "; a file has the place of a folder above it: move that file away"
_NO_ROOM = "; free some space, then try again"
_NO_RIGHT = "; make its folder writable, or choose another"
_REMEDIES = {
    errno.EEXIST: _NO_FOLDER,
    errno.ENOTDIR: _NO_FOLDER,
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EROFS: _NO_RIGHT,
}


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn an error of the system while `path` is written into one line.

    Raises
    ------
    RunError
        In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        reason, remedy = str(error.strerror or error), _REMEDIES.get(error.errno or 0, "")
        raise RunError(f"Cannot write {path}: {reason.rstrip('.')}{remedy}.") from error


def check_folder(folder: Path) -> None:
    """Make sure files can be created in `folder`.

    Raises
    ------
    RunError
        If it is missing, not a folder, or not writable.
    """
    if not folder.exists():
        raise RunError(f"Cannot write to {folder}: there is no such folder; create it first.")
    if not folder.is_dir():
        raise RunError(f"Cannot write to {folder}: it is a file, not a folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RunError(f"Cannot write to {folder}: permission denied; choose another folder.")


# What XML 1.0 cannot hold, escaped or not.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REPLACEMENT = "\ufffd"


def element(tag: str, content: Any = "", **attributes: Any) -> str:
    """Return ``<tag …>content</tag>``, with `content` as text."""
    return f"{opening(tag, attributes)}{escape(_legal(content))}</{tag}>"


def opening(tag: str, attributes: Mapping[str, Any]) -> str:
    """Return ``<tag …>``."""
    said = "".join(f" {name}={quoteattr(_legal(value))}" for name, value in attributes.items())
    return f"<{tag}{said}>"


def _legal(value: Any) -> str:
    return _ILLEGAL.sub(_REPLACEMENT, str(value))


def as_text(value: Any) -> str | None:
    """Return `value` as JSON for a column of texts; None for nothing."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True) if value else None


def stream_json(stream: TextIO, head: dict[str, Any], rows: Iterable[Any], name: str) -> None:
    """Write the object `head` with one more member, a list: a line for each member and row."""
    stream.write("{\n")
    for key, value in head.items():
        stream.write(f"{dumps(key)}: {dumps(value)},\n")
    stream.write(f"{dumps(name)}: ")
    stream_list(stream, rows)
    stream.write("}\n")


def stream_list(stream: TextIO, rows: Iterable[Any]) -> None:
    """Write a list, a line for each row."""
    stream.write("[")
    separator = "\n"
    for row in rows:
        stream.write(separator + dumps(row))
        separator = ",\n"
    stream.write("\n]\n")


def dumps(value: Any) -> str:
    """Return strict JSON, readable as it is."""
    return _encoder.encode(value)


# Locks bind a handle, not a process, and only those who ask; whoever dies loses them to the
# kernel. On a system without `flock` (Windows) they lie on bytes far behind the content: a
# lock for oneself on all of them, a shared one on any one.
_FAR, _ROOM = 1 << 20, 1 << 10  # nobody reads there, and what is locked there need not exist
_PAUSE = 0.005

if sys.platform == "win32":
    import msvcrt

    _own: dict[int, tuple[int, int]] = {}

    def try_lock(file: int, *, shared: bool = False) -> bool:
        """Lock an open file, as `lock`, but do not wait; return False where it is taken."""
        if file in _own:
            with suppress(OSError):  # it was closed since, and the number is another file's
                _mark(file, msvcrt.LK_UNLCK, *_own.pop(file))
        for _ in range(16 if shared else 1):  # another reader may have the same byte
            # S311: any byte will do
            part = (random.randrange(_ROOM), 1) if shared else (0, _ROOM)  # noqa: S311
            try:
                _mark(file, msvcrt.LK_NBLCK, *part)
            except OSError:
                continue
            _own[file] = part
            return True
        return False

    def lock(file: int, *, shared: bool = False) -> None:
        """Lock an open file, for oneself or shared; a lock that one has is changed."""
        while not try_lock(file, shared=shared):
            time.sleep(_PAUSE)

    def _mark(file: int, mode: int, start: int, length: int) -> None:
        os.lseek(file, _FAR + start, os.SEEK_SET)
        try:
            msvcrt.locking(file, mode, length)
        finally:
            os.lseek(file, 0, os.SEEK_SET)

else:
    import fcntl

    def try_lock(file: int, *, shared: bool = False) -> bool:
        """Lock an open file, as `lock`, but do not wait; return False where it is taken."""
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def lock(file: int, *, shared: bool = False) -> None:
        """Lock an open file, for oneself or shared; a lock that one has is changed."""
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
