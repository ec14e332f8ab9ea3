"""Where a folder lies: SQLite on a network file system loses data, so it must be told apart."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = [
    "fallback_folder",
    "filesystem_type",
    "free_space",
    "is_local",
    "is_network",
    "names_in",
    "nearest_existing",
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
