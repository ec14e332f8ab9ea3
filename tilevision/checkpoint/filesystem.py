"""What a file system is and offers: its kind, its free space, and locks that a crash frees.

SQLite on a network file system loses data, so kinds must be told apart.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tilevision.errors import CheckpointError
from tilevision.files import try_lock

__all__ = [
    "BATCH_JOBS",
    "NO_LINKS",
    "fallback_folder",
    "filesystem_type",
    "free",
    "free_space",
    "is_local",
    "is_network",
    "locked",
    "lost_with_job",
    "names_in",
    "nearest_existing",
    "take",
]

# Of this machine's own disks; whatever else a mount calls itself is tried out.
_LOCAL = {
    "apfs", "aufs", "bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs",
    "fuseblk", "hfs", "hfsplus", "jfs", "msdos", "nilfs2", "ntfs", "ntfs3", "overlay",
    "overlayfs", "ramfs", "reiserfs", "rootfs", "squashfs", "tmpfs", "ufs", "vfat", "xfs", "zfs",
}  # fmt: skip
_NETWORK = {
    "acfs", "afpfs", "afs", "beegfs", "ceph", "cephfs", "cifs", "coda", "cvfs", "davfs",
    "fhgfs", "gfs", "gfs2", "glusterfs", "gpfs", "juicefs", "lustre", "ncpfs", "nfs", "nfs3",
    "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "vboxsf", "wekafs", "webdav",
}  # fmt: skip
_NETWORK_FUSE = {
    "blobfuse", "blobfuse2", "ceph", "ceph-fuse", "curlftpfs", "dav2fs", "davfs", "gcsfuse",
    "glusterfs", "goofys", "juicefs", "moosefs", "mount-s3", "mountpoint-s3", "rclone", "s3fs",
    "s3ql", "seaweedfs", "sshfs", "weed",
}  # fmt: skip
# What a batch system sets in its jobs: their number; Kubernetes tells a pod where its service is.
BATCH_JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
_POD = "KUBERNETES_SERVICE_HOST"
_TEMPORARY = ("TMPDIR", "SLURM_TMPDIR", "PBS_JOBDIR", "LSF_TMPDIR", "SGE_JOB_SPOOL_DIR")
_IN_MEMORY = {"ramfs", "tmpfs"}
_OF_CONTAINERS = {"aufs", "overlay", "overlayfs"}
NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_FLAGS = os.O_RDWR | os.O_CREAT | NO_LINKS
_held: set[int] = set()


def is_network(path: Path) -> bool:
    """Return True if `path` is on a file system of another machine, as far as its name says."""
    kind = filesystem_type(path)
    if kind.startswith(("fuse.", "osxfuse.", "macfuse.")):
        return kind.split(".", 1)[1] in _NETWORK_FUSE
    return kind in _NETWORK


def is_local(path: Path) -> bool:
    """Return True if `path` lies on a file system that is known to be this machine's own."""
    return sys.platform == "win32" or filesystem_type(path) in _LOCAL


def filesystem_type(path: Path, table: str | None = None) -> str:
    """Return the type of the file system that `path` lies on, ``""`` where unknown.

    Parameters
    ----------
    path : Path
        Need not exist.
    table : str, optional
        What is mounted where, as ``/proc/self/mountinfo`` says it (macOS: ``mount``).
        Default: this machine's.
    """
    table = _mounts() if table is None else table
    read = _mac_mounts if " (" in table and " on " in table else _linux_mounts
    real = path.resolve()
    best, kind = -1, ""
    for point, name in read(table):
        covers = real == Path(point) or Path(point) in real.parents
        if covers and len(point) >= best:  # a later mount hides an earlier one
            best, kind = len(point), name
    return kind


def nearest_existing(path: Path) -> Path:
    """Return `path`, or the first of its parents that exists."""
    return next(step for step in (path, *path.parents) if os.path.lexists(step))


def names_in(folder: Path) -> set[str]:
    """Return the names in a folder.

    A share shows a new name at once where it lists a folder; one that was asked for in vain may
    stay missing for half a minute.
    """
    return {entry.name for entry in folder.iterdir()}


def free_space(path: Path) -> int:
    """Return the bytes that are free for this user where `path` lies or would lie."""
    return shutil.disk_usage(nearest_existing(path)).free


def fallback_folder() -> Path:
    """Return a folder on this machine for checkpoints: the user's cache, else temporary."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home()))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "tilevision"
    place = nearest_existing(folder)
    if not is_network(place) and os.access(place, os.W_OK):
        return folder
    return Path(tempfile.gettempdir()) / "tilevision"


def lost_with_job(folder: Path) -> str:
    """Return one line where a folder ends with this batch job or pod; else an empty text."""
    job = next((name for name in BATCH_JOBS if os.environ.get(name)), "")
    pod = not job and bool(os.environ.get(_POD))
    if not (job or pod):
        return ""
    real, kind = folder.resolve(), filesystem_type(folder)
    places = [os.environ.get(name, "") for name in _TEMPORARY] if job else []
    temporary = [Path(place).resolve() for place in (*places, tempfile.gettempdir()) if place]
    within = any(place == real or place in real.parents for place in temporary)
    if not (within or kind in _IN_MEMORY or (pod and kind in _OF_CONTAINERS)):
        return ""
    what = f"batch job ({job}={os.environ[job]})" if job else "Kubernetes pod"
    return (
        f"The checkpoint {folder} is in a temporary place that is removed with this {what}: what "
        "is done is lost then. Give checkpoint= (--checkpoint) a folder that stays."
    )


def _mounts() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        pass
    command = shutil.which("mount", path="/sbin:/bin:/usr/sbin:/usr/bin")
    if command is None:
        return ""
    # S603: a fixed program of the system's, without arguments
    found = subprocess.run([command], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    return found.stdout


def _linux_mounts(table: str) -> list[tuple[str, str]]:
    """Read ``id parent device root point options… - type source options``."""
    found = []
    for line in table.splitlines():
        before, dash, after = line.partition(" - ")
        if dash:
            point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), before.split()[4])
            found.append((point, after.split()[0]))
    return found


def _mac_mounts(table: str) -> list[tuple[str, str]]:
    """Read ``source on point (type, options)``."""
    return re.findall(r"^.+? on (.+) \((\w+)", table, re.MULTILINE)


# Locks that a crash frees ----------------------------------------------------------------


@contextmanager
def locked(path: Path, patience: float) -> Iterator[None]:
    """Hold the lock file `path`, waiting up to `patience` seconds for it.

    Raises
    ------
    TimeoutError
        If another process held it all that time.
    """
    until = time.monotonic() + patience
    while (taken := take(path)) is None:
        if time.monotonic() > until:
            raise TimeoutError(f"{path} is held by another process")
        time.sleep(0.01)
    try:
        yield
    finally:
        free(taken)


def take(path: Path, flags: int = _FLAGS) -> int | None:
    """Return the open, locked file, or None if another holds it."""
    while True:
        file = os.open(path, flags, 0o600)
        try:
            if not _try_lock(file):
                os.close(file)
                return None
            if _is_still_there(file, path):  # not removed by pruning before it was locked
                _held.add(file)
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def free(file: int) -> None:
    """Free and close what `take` returned."""
    _held.discard(file)
    os.close(file)


def _is_still_there(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _try_lock(file: int) -> bool:
    try:
        return try_lock(file)
    except OSError as error:
        raise CheckpointError(f"Files cannot be locked there ({error.strerror}).") from error


if sys.platform != "win32":

    def _forget_held() -> None:
        """Close what a fork copied: it would keep the lock after this process has died."""
        while _held:
            os.close(_held.pop())

    os.register_at_fork(after_in_child=_forget_held)
