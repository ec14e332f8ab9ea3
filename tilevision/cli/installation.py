"""The lines of ``tilevision doctor`` on this machine: packages, folders, processors."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

__all__ = ["GIB", "Check", "check_installation", "check_temporary"]

GIB = 2**30
LITTLE_SPACE = 2 * GIB
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)[^;]*(?:;.*extra == ['\"](?P<extra>[\w-]+)['\"])?")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the diagnosis.

    Parameters
    ----------
    subject, finding : str
    fine : bool or None
        None where it is neither: something optional that is not there.
    given : bool
        Whether it is about what the user named: an image, a model.
    """

    subject: str
    finding: str
    fine: bool | None = True
    given: bool = False


def check_installation(checkpoint: Path) -> Iterator[Check]:
    """Look at what every run needs here.

    Parameters
    ----------
    checkpoint : Path
        Absolute; need not exist.
    """
    yield Check("python", f"{platform.python_version()} in {sys.prefix}")
    yield Check("machine", f"{platform.system()} {platform.machine()}, {_processors()} processors")
    yield from _packages()
    yield _checkpoint(checkpoint)
    folder = tempfile.gettempdir()
    yield check_temporary("temporary files", folder, shutil.disk_usage(folder).free)


def check_temporary(subject: str, folder: str, free: int) -> Check:
    """Judge the folder where images without windows are decoded.

    Parameters
    ----------
    subject, folder : str
    free : int
        Bytes; negative where the folder cannot be used.
    """
    if free < 0:
        return Check(subject, f"{folder} cannot be used; set TMPDIR to a folder that can", False)
    note = f"{folder} ({free / GIB:.1f} GiB free)"
    if free < LITTLE_SPACE:
        note += ": too little to stage a big JPEG or PNG; set TMPDIR to a larger disk"
    return Check(subject, note, fine=free >= LITTLE_SPACE)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _packages() -> Iterator[Check]:
    """Look for each core package, then for each extra as a whole."""
    extras: dict[str, list[str]] = {}
    yield Check("tilevision", version("tilevision"))
    for requirement in requires("tilevision") or ():
        match = _REQUIREMENT.match(requirement)
        assert match is not None  # every requirement begins with a name
        name, extra = match["name"], match["extra"]
        if extra is not None:
            extras.setdefault(extra, []).append(name)
            continue
        found = _version(name)
        yield Check(name, found or f"missing; pip install {name}", fine=found is not None)
    for extra, names in sorted(extras.items()):
        missing = [name for name in names if _version(name) is None]
        note = ", ".join(f"{name} {_version(name)}" for name in names if name not in missing)
        if missing:
            note = f"not installed: {', '.join(missing)}; pip install 'tilevision[{extra}]'"
        yield Check(f"extra {extra}", note, fine=None if missing else True)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _checkpoint(folder: Path) -> Check:
    """Look where the checkpoint is or would be, without making it."""
    from tilevision.checkpoint import filesystem

    place = filesystem.nearest_existing(folder)
    kind = filesystem.filesystem_type(place) or "unknown file system"
    where = f"{folder} ({kind}, {shutil.disk_usage(place).free / GIB:.1f} GiB free)"
    if filesystem.is_network(place):
        fallback = filesystem.fallback_folder()
        return Check("checkpoint", f"{where}: a network share; use --checkpoint {fallback}", False)
    if not os.access(place, os.W_OK):
        return Check(
            "checkpoint", f"{where}: not writable; choose another with --checkpoint", False
        )
    return Check("checkpoint", where)
