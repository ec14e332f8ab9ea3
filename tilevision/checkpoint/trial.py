"""What a file system really does, found out by trying: its name says little."""

from __future__ import annotations

import errno
import json
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tilevision.checkpoint.filesystem import names_in

__all__ = ["Promises", "try_out"]

_SECONDS = 20.0
# A full or failing disk says nothing about what the file system can do.
_NO_ANSWER = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
_FOR_SEGMENTS = ("exclusive", "sync", "listed")
_WORDS = {
    "maps": "shared memory maps",
    "locks": "locks between processes",
    "exclusive": "exclusive creation of files",
    "rename": "replacing a file by renaming",
    "sync": "syncing a file",
    "listed": "listing a new file",
}

# In a process of its own, while this one holds the file's lock and has written through its map.
_OTHER = """
import json, mmap, os, sys
found = {"maps": False, "locks": False}
with open(sys.argv[1], "r+b") as file:
    try:
        with mmap.mmap(file.fileno(), 8192) as view:
            found["maps"] = view[:5] == b"first"
            view[100:106] = b"second"
    except (OSError, ValueError):
        pass
    try:
        import fcntl
        found["locks"] = True
        for lock in (fcntl.lockf, fcntl.flock):
            try:
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found["locks"] = False  # the parent holds it
            except OSError:
                pass
    except ImportError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Promises:
    """What was seen to work in a folder.

    Parameters
    ----------
    maps : bool
        Two processes see each other's writes through memory maps of one file.
    locks : bool
        A file that one process has locked cannot be locked by another.
    exclusive : bool
        A file that is there cannot be created once more.
    rename : bool
        A file can take the place of another.
    sync : bool
        A file can be synced.
    listed : bool
        A new file is listed at once.
    """

    maps: bool
    locks: bool
    exclusive: bool
    rename: bool
    sync: bool
    listed: bool

    @property
    def database(self) -> bool:
        """Return True if a database that processes share can work."""
        return not self.lacking()

    @property
    def segments(self) -> bool:
        """Return True if files that one process appends to can work."""
        return not self.lacking_for_segments()

    def lacking(self, *names: str) -> str:
        """Return what of `names` (default: all) does not work, in words; empty where all does."""
        wanted = names or tuple(_WORDS)
        return ", ".join(_WORDS[name] for name in wanted if not getattr(self, name))

    def lacking_for_segments(self) -> str:
        """Return what segments rely on and does not work, in words."""
        return self.lacking(*_FOR_SEGMENTS)


def try_out(place: Path, *, shared: bool = True) -> Promises:
    """Try in a folder what checkpoints rely on; leaves nothing behind.

    Parameters
    ----------
    place : Path
        An existing folder.
    shared : bool
        Try maps and locks too, which takes a second process.

    Raises
    ------
    OSError
        If no file can be made there.
    """
    with tempfile.TemporaryDirectory(
        prefix=".tilevision-trial-", dir=place, ignore_cleanup_errors=True
    ) as scratch:
        folder = Path(scratch)
        listed = _works(lambda: _is_listed(folder / "new"))
        exclusive = _works(lambda: _is_exclusive(folder / "once"))
        rename = _works(lambda: _replaces(folder / "before", folder / "after"))
        sync = _works(lambda: _syncs(folder / "synced"))
        maps = locks = False
        if shared:
            maps, locks = _between_processes(folder / "shared")
    return Promises(maps, locks, exclusive, rename, sync, listed)


def _works(trial: Callable[[], bool]) -> bool:
    try:
        return trial()
    except OSError as error:
        if error.errno in _NO_ANSWER:
            raise
        return False


def _is_listed(path: Path) -> bool:
    path.write_bytes(b"new")
    return path.name in names_in(path.parent)


def _is_exclusive(path: Path) -> bool:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    os.close(os.open(path, flags, 0o600))
    try:
        os.close(os.open(path, flags, 0o600))
    except FileExistsError:
        return True
    return False


def _replaces(old: Path, new: Path) -> bool:
    old.write_bytes(b"newer")
    new.write_bytes(b"older")
    old.replace(new)
    return new.read_bytes() == b"newer" and old.name not in names_in(old.parent)


def _syncs(path: Path) -> bool:
    with path.open("wb") as file:
        file.write(b"synced")
        file.flush()
        os.fsync(file.fileno())
    return True


def _between_processes(path: Path) -> tuple[bool, bool]:
    """Return whether maps are shared, and locks respected, between this process and another."""
    path.write_bytes(b"\0" * 8192)
    with path.open("r+b") as file:
        locked = _works(lambda: _lock(file.fileno()))
        try:
            with mmap.mmap(file.fileno(), 8192) as view:
                view[:5] = b"first"
                other = _ask(path)
                return bool(other["maps"]) and view[100:106] == b"second", (
                    locked and bool(other["locks"])
                )
        except (OSError, ValueError):  # no maps at all
            return False, locked and bool(_ask(path)["locks"])


def _lock(file: int) -> bool:
    if sys.platform == "win32":
        return False
    import fcntl

    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


def _ask(path: Path) -> dict[str, bool]:
    """Return what another process sees of the file."""
    nothing = {"maps": False, "locks": False}
    try:
        # S603: this interpreter, with a program of ours
        answer = subprocess.run(  # noqa: S603
            [sys.executable, "-I", "-c", _OTHER, str(path)],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
        return nothing | dict(json.loads(answer.stdout))
    except (OSError, ValueError, subprocess.SubprocessError):
        return nothing
