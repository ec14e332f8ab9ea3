"""Where a checkpoint may lie: a local folder, made for its owner only."""

from __future__ import annotations

import os
from pathlib import Path

from tilevision.checkpoint.database import elsewhere, explained
from tilevision.checkpoint.filesystem import filesystem_type, is_network, nearest_existing
from tilevision.errors import CheckpointError

__all__ = ["absolute", "prepare"]


def prepare(folder: str | os.PathLike[str]) -> Path:
    """Return the absolute path of `folder`, created 0700 where it is missing.

    Raises
    ------
    CheckpointError
        If it is no local folder, lies on a network file system, or cannot be created.
    """
    path = absolute(folder)
    with explained(path):
        _check_place(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    return path


def absolute(folder: str | os.PathLike[str]) -> Path:
    """Return the absolute path of `folder`; `CheckpointError` if it cannot be one."""
    text = os.fspath(folder) if isinstance(folder, (str, os.PathLike)) else ""
    if not text or "://" in text or "\0" in text:
        raise CheckpointError(f"checkpoint={folder!r} is not a local folder. {elsewhere()}")
    try:
        return Path(text).expanduser().absolute()
    except (RuntimeError, OSError) as error:  # no such user; the working folder is gone
        raise CheckpointError(f"checkpoint={folder!r} cannot be found ({error}).") from error


def _check_place(path: Path) -> None:
    place = nearest_existing(path)
    if not place.is_dir():
        raise CheckpointError(
            f"The checkpoint {path} cannot be created: {place} is not a folder. {elsewhere()}"
        )
    if is_network(place):
        raise CheckpointError(
            f"The checkpoint {path} is on a network file system ({filesystem_type(place)}), "
            f"where a database loses data. {elsewhere()}"
        )
