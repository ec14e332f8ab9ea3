"""Decoded pixels in files in the temp folder that all workers of a host share.

One such file is ``<key>.<suffix>`` beside ``<key>.lock``. Whoever reads it holds a shared
lock on the lock file, whoever writes it an exclusive one; the last reader to leave takes
both away. A crashed process loses its locks to the kernel, so what it left is recognised
(nobody holds it) and swept when the next file is made.
"""

from __future__ import annotations

import atexit
import math
import mmap
import os
import shutil
import stat
import sys
import tempfile
import time
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tilevision.errors import SourceError
from tilevision.files import lock as lock_file
from tilevision.files import try_lock
from tilevision.sources.source import Pixels

__all__ = [
    "StagedPixels",
    "StagingProgress",
    "following",
    "hold",
    "is_followed",
    "join",
    "leave",
    "open_staged",
    "stage",
    "staging_folder",
    "sweep",
    "unusable",
]

_PAUSE = 0.005


def staging_folder() -> Path:
    """Return this user's private staging folder, made where it is missing.

    Raises
    ------
    SourceError
        If there is no usable temp folder, or the folder belongs to somebody else.
    """
    try:
        folder = _place()
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as error:
        raise SourceError(
            f"No temp folder can be used for decoded images ({error}); set TMPDIR to a folder "
            "that you may write to."
        ) from error
    if not _is_private(found):
        raise SourceError(
            f"{folder} is not a private folder of yours (mode 0700); remove it, or set TMPDIR."
        )
    return folder


def hold(path: Path, make: Callable[[], None]) -> int:
    """Return a share in the file at `path`, having `make` write it where nobody has yet.

    Several processes may ask at once: one writes, the others wait for it.

    Parameters
    ----------
    path : Path
        In the staging folder.
    make : callable
        Writes the file, to ``.part`` first; what it raises is passed on, and nothing is left.

    Returns
    -------
    int
        To be handed to `leave`.

    Raises
    ------
    SourceError
        If the temp folder cannot be used.
    """
    sweep()
    while True:
        share = join(path)
        if share is not None:
            return share
        lock = _locked(path)
        if lock is None:
            # Never wait here: whoever is ahead becomes a reader, who may stay for hours.
            time.sleep(_PAUSE)
            continue
        try:
            if not path.exists():
                make()
        except BaseException:
            _remove(path)
            os.close(lock)
            _remove_closed(path)
            raise
        # Turning the lock into a shared one may let somebody in between, to sweep the file.
        lock_file(lock, shared=True)
        if _is_current(lock, path) and path.exists():
            return lock
        os.close(lock)


def join(path: Path) -> int | None:
    """Return a share in the file at `path`, or None where there is none (any more)."""
    if not path.parent.is_dir():
        return None
    lock = _locked(path, shared=True)
    assert lock is not None
    if path.exists():
        return lock
    leave(path, lock)
    return None


def leave(path: Path, lock: int, owner: int | None = None) -> None:
    """Give up a share; the last one to do so removes the file.

    Parameters
    ----------
    path : Path
    lock : int
        As `hold` and `join` return it.
    owner : int, optional
        Id of the process whose share it is; another one leaves it alone.
    """
    if owner not in (None, os.getpid()):
        # A forked child shares its parent's lock, which is not its to give up. It may have closed
        # its copy, as daemons do, and have given the number to another file.
        with suppress(OSError):
            if _is_current(lock, path):
                os.close(lock)
        return
    last = False
    # OSError: somebody closed all files, as `os.closerange` does.
    with suppress(OSError):
        # Where others still read it, the last of them removes it.
        last = try_lock(lock) and _is_current(lock, path)
        if last:
            _remove(path)
    with suppress(OSError):
        os.close(lock)
    if last:
        _remove_closed(path)


def sweep() -> None:
    """Remove what processes that were killed have left in the staging folder."""
    with suppress(OSError, SourceError):  # who needs the folder will hear of it
        for name in staging_folder().glob("*.lock") if _place().exists() else ():
            with suppress(OSError):
                lock = os.open(name, os.O_RDWR)
                leave(name, lock)


def unusable(path: Path, error: OSError, needed: int = 0) -> SourceError:
    """Return the error for a file that cannot be made in the temp folder.

    Parameters
    ----------
    path : Path
    error : OSError
    needed : int
        Bytes; 0 where space is not the matter.
    """
    space = ""
    if needed:
        free = shutil.disk_usage(path.parent).free
        space = f" ({needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free)"
    return SourceError(
        f"The image cannot be kept in {path.parent}{space}: {error.strerror or error}; "
        "free some space, or set TMPDIR to a folder with more."
    )


if sys.platform == "win32":  # a user's temp folder is his own there

    def _place() -> Path:
        return Path(tempfile.gettempdir()) / "tilevision"

    def _is_private(found: os.stat_result) -> bool:
        return stat.S_ISDIR(found.st_mode)

    def _remove_closed(path: Path) -> None:
        """Remove the lock file: while it was open, the system refused."""
        with suppress(OSError):
            path.with_suffix(".lock").unlink()

else:

    def _place() -> Path:
        return Path(tempfile.gettempdir()) / f"tilevision-{os.getuid()}"

    def _is_private(found: os.stat_result) -> bool:
        private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
        return private and found.st_uid == os.getuid()

    def _remove_closed(path: Path) -> None:
        """Do nothing: it was removed while it was open, so that no reader found it."""


def _locked(path: Path, *, shared: bool = False) -> int | None:
    """Lock the image at `path`: a shared lock is waited for; None where another one is taken."""
    # The lock file may be removed between opening and locking it: then the lock is on a
    # file that nobody else will ever find, and the next one must be taken.
    name = path.with_suffix(".lock")
    while True:
        try:
            lock = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise unusable(path, error) from error
        try:
            if shared:
                lock_file(lock, shared=True)
            elif not try_lock(lock):
                os.close(lock)
                return None
        except OSError as error:
            os.close(lock)
            raise unusable(path, error) from error
        if _is_current(lock, path):
            return lock
        os.close(lock)


def _is_current(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.with_suffix(".lock").stat())
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    for name in path.parent.glob(f"{path.stem}.*"):
        if name.suffix != ".lock":
            name.unlink(missing_ok=True)
    path.with_suffix(".lock").unlink(missing_ok=True)


# The workers of a local cluster are ended before this runs, and not asked to let go.
atexit.register(sweep)


# Left free on the disk of the temp folder: other programs need it too.
_SPARE_BYTES = 64 << 20
# Of rows that may stay mapped: windows side by side find them so. The kernel maps whole runs of
# pages around those that are read, so rows count in full.
_MAPPED_BYTES = 80 << 20


@dataclass(frozen=True, slots=True)
class StagingProgress:
    """A staging file that is being written.

    Parameters
    ----------
    done, total : int
        Bytes.
    folder : str
        Where it is.
    """

    done: int
    total: int
    folder: str

    def __str__(self) -> str:
        """Return one line for people."""
        share = self.done / max(1, self.total)
        return f"preparing the image: {share:.0%} of {self.total / 1e6:,.0f} MB in {self.folder}"


Listener = Callable[[StagingProgress], None]
_listener: ContextVar[weakref.ref[Listener] | None] = ContextVar("preparation", default=None)


@contextmanager
def following(listener: Listener) -> Iterator[None]:
    """Within the block, tell `listener` of images that are being prepared in this thread."""
    # Only weakly: what is started within the block, such as the timers of an event loop, copies
    # its context and may keep that for ever; the listener shall not live as long.
    bound = isinstance(listener, types.MethodType)
    token = _listener.set(weakref.WeakMethod(listener) if bound else weakref.ref(listener))
    try:
        yield
    finally:
        _listener.reset(token)


def is_followed() -> bool:
    """Return True if there is a listener."""
    return _followed_by() is not None


def _tell(preparation: StagingProgress) -> None:
    """Tell the listener, where there is one."""
    listener = _followed_by()
    if listener is not None:
        listener(preparation)


def _followed_by() -> Listener | None:
    known = _listener.get()
    return None if known is None else known()


class StagedPixels:
    """A staged ``(h, w, c)`` array and this process's share in it.

    Windows are copied from a map, which takes a third of the time of the quickest plain reads.
    Unlike with other people's files (`rows`), the space is taken and the folder private.

    Attributes
    ----------
    path : Path
        Of the staging file.
    shape : tuple of int
        Height, width, bands.
    dtype : numpy.dtype
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._leave = weakref.finalize(self, leave, path, lock, os.getpid())
        try:
            self._pixels: Pixels | None
            self._mapped, self._pixels = _map(path)
        except (OSError, ValueError, EOFError, SourceError) as error:
            self._leave()
            raise SourceError(
                f"Staging file {path} is damaged ({error}); remove it and open the image again."
            ) from error
        self._touched = 0, 0  # rows, since the map was let go
        self.shape = self._pixels.shape
        self.dtype = self._pixels.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def closed(self) -> bool:
        """Return True if `close` was called."""
        return not self._leave.alive

    def window(self, x0: int, y0: int, x1: int, y1: int) -> Pixels:
        """Return the pixels ``(y1 - y0, x1 - x0, c)`` of a window inside the image."""
        pixels = self._pixels
        if pixels is None:
            raise SourceError(f"{self.path} is closed; open the image again to read it.")
        if self._mapped.size() < len(self._mapped):  # to read on would end the process
            raise SourceError(f"Staging file {self.path} was cut short; open the image again.")
        out = np.empty((y1 - y0, x1 - x0, self.shape[2]), self.dtype)
        most = max(1, _MAPPED_BYTES // pixels[:1].nbytes)
        for start in range(y0, y1, most):
            stop = min(start + most, y1)
            first, last = min(start, self._touched[0]), max(stop, self._touched[1])
            if last - first > most:
                _let_go(self._mapped)
                first, last = start, stop
            self._touched = first, last
            out[start - y0 : stop - y0] = pixels[start:stop, x0:x1]
        return out

    def close(self) -> None:
        """Give up this share; the last one to do so removes the file."""
        self._pixels = None
        with suppress(BufferError):  # a window is being copied just now, and holds the map
            self._mapped.close()  # it would keep a removed file on the disk until it is collected
        self._leave()


def stage(
    key: str,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    write: Callable[[Pixels], Iterable[int | Pixels]],
    check: Callable[[], None] = lambda: None,
) -> StagedPixels:
    """Return the staged image `key`, having `write` fill it where nobody has yet.

    Several processes may ask at once: one writes, the others wait for it.

    Parameters
    ----------
    key : str
        Names the content and the way it was decoded.
    shape : tuple of int
        Height, width, bands.
    dtype : numpy.dtype
    write : callable
        Fills the writable array it is handed, yielding the rows done now and then so that
        their memory can be given back; or yields the rows themselves, from the first to the last,
        which takes less time. What it raises is passed on.
    check : callable
        Called before any space is taken; raises where `write` would fail.

    Raises
    ------
    SourceError
        If the temp folder is full or cannot be written.
    """
    path = staging_folder() / f"{key}.npy"

    def fill() -> None:
        check()
        _write(path, shape, dtype, write)

    return StagedPixels(path, hold(path, fill))


def open_staged(path: Path) -> StagedPixels | None:
    """Return the staged image at `path`, or None where there is none (any more)."""
    lock = join(path)
    return None if lock is None else StagedPixels(path, lock)


def _write(
    path: Path,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    write: Callable[[Pixels], Iterable[int | Pixels]],
) -> None:
    part = path.with_suffix(".part")
    total, done = math.prod(shape) * dtype.itemsize, 0
    try:
        begin = _reserve(part, shape, dtype)
        file = part.open("r+b")
    except OSError as error:
        raise unusable(path, error, total) from error
    with file:
        mapped = mmap.mmap(file.fileno(), 0)
        file.seek(begin)
        _tell(StagingProgress(0, total, str(path.parent)))
        for rows in write(np.ndarray(shape, dtype, mapped, begin)):
            if isinstance(rows, np.ndarray):
                _append(file, path, np.ascontiguousarray(rows, dtype))
                done += len(rows)
            else:
                _let_go(mapped)
                done = rows
            _tell(StagingProgress(done * total // shape[0], total, str(path.parent)))
    part.replace(path)


def _append(file: BinaryIO, path: Path, rows: Pixels) -> None:
    """Write rows at the file's position: pages of a map would be cleared and mapped first."""
    try:
        file.write(rows.data)
    except OSError as error:
        raise unusable(path, error, rows.nbytes) from error


def _map(path: Path) -> tuple[mmap.mmap, Pixels]:
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        height, width, bands = shape
        end = file.tell() + height * width * bands * dtype.itemsize
        size = os.fstat(file.fileno()).st_size
        if end != size:
            raise ValueError(f"it has {size} of {end} bytes")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return mapped, np.ndarray((height, width, bands), dtype, mapped, file.tell())


def _let_go(mapped: mmap.mmap) -> None:
    """Give the memory of mapped pages back: it counts as this process's, as if it leaked."""
    if sys.platform != "win32":
        mapped.madvise(mmap.MADV_DONTNEED)


def _reserve(part: Path, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> int:
    """Write the header, take all the space, and return where the pixels begin.

    A disk that fills up under a memory map would kill the process.
    """
    needed = math.prod(shape) * dtype.itemsize
    if shutil.disk_usage(part.parent).free < needed + _SPARE_BYTES:
        raise OSError("not enough space")
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    with part.open("wb") as file:
        part.chmod(0o600)
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        begin = file.tell()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), begin, needed)
            return begin
        zeros = bytes(1 << 20)
        for done in range(0, needed, len(zeros)):
            file.write(zeros[: needed - done])
        return begin
