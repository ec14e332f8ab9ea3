"""What an image is: a fingerprint of its content, never of its path."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tilevision.errors import SourceError
from tilevision.sources.source import Pixels

__all__ = [
    "FileStamp",
    "file_options",
    "fingerprint_of_array",
    "fingerprint_of_file",
    "known_fingerprint",
    "remembering",
    "row_blocks",
]

_BLOCK_BYTES = 1 << 24
_known: dict[tuple[str, FileStamp], str] = {}

# Asked for the fingerprint of a path; calls the function where it does not know.
Memory = Callable[[str, Callable[[str], str]], str]
WORTH_REMEMBERING = 1 << 25  # bytes: smaller files are read about as fast as they are looked up
_memory: ContextVar[Memory | None] = ContextVar("memory", default=None)


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells cheaply that a file may have changed.

    Parameters
    ----------
    size : int
        Bytes.
    mtime_ns : int
        Time of the last change, nanoseconds.
    inode : int
        Differs between hosts; compared only within one.
    """

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: str | Path) -> FileStamp:
        """Stamp the file at `path`.

        Raises
        ------
        SourceError
            If the file is gone.
        """
        try:
            found = Path(path).stat()
        except OSError as error:
            raise SourceError(
                f"{path} cannot be opened any more ({error.strerror}): it was moved or removed "
                "while in use; put it back and run again."
            ) from error
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


def fingerprint_of_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, remembered while its stamp stays the same.

    Beyond this process within `remembering`.

    Raises
    ------
    SourceError
        If the file cannot be read, or changes while it is being read.
    """
    stamp = FileStamp.of(path)
    key = (os.fspath(path), stamp)
    if key not in _known:
        memory = _memory.get() if stamp.size >= WORTH_REMEMBERING else None
        name = os.fspath(path)
        _known[key] = _digest(name) if memory is None else memory(name, _digest)
    return _known[key]


@contextmanager
def remembering(memory: Memory) -> Iterator[None]:
    """Within the block, look fingerprints of large files up in `memory`, which keeps new ones."""
    token = _memory.set(memory)
    try:
        yield
    finally:
        _memory.reset(token)


def _digest(path: str) -> str:
    stamp = FileStamp.of(path)
    try:
        with Path(path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    if FileStamp.of(path) != stamp:
        raise SourceError(
            f"{path} is being written: it changed while it was read; wait until it is complete."
        )
    return digest


def fingerprint_of_array(array: Pixels) -> str:
    """Return the SHA-256 over dtype, shape and values of an ``(h, w, c)`` array.

    Memory order and byte order do not matter: equal arrays, equal fingerprint.
    """
    native = array.dtype.newbyteorder("=")
    digest = hashlib.sha256(f"{native.name} {array.shape} ".encode())
    for start, stop in row_blocks(array.shape[0], array.nbytes):
        block = np.ascontiguousarray(array[start:stop]).astype(native.newbyteorder("<"), copy=False)
        digest.update(block.view(np.uint8).data)
    return digest.hexdigest()


def row_blocks(rows: int, total_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield ``(start, stop)`` rows so that one block is about 16 MiB."""
    step = max(1, rows * _BLOCK_BYTES // max(1, total_bytes))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def file_options(path: str, fingerprint: str) -> dict[str, Any]:
    """Return what an opener elsewhere needs to know this file again: see `known_fingerprint`."""
    stamp = FileStamp.of(path)
    return {"stamp": (stamp.size, stamp.mtime_ns), "fingerprint": fingerprint}


def known_fingerprint(path: str, stamp: tuple[int, int] | None, fingerprint: str) -> str:
    """Return the fingerprint of `path`, reading the file only if its stamp is not the known one.

    Parameters
    ----------
    path : str
    stamp : tuple of int, optional
        Size and modification time (ns) under which the content had `fingerprint`.
    fingerprint : str
    """
    found = FileStamp.of(path)
    if fingerprint and stamp is not None and tuple(stamp) == (found.size, found.mtime_ns):
        return fingerprint
    return fingerprint_of_file(path)
