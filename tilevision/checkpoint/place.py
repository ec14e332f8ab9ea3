"""Where a checkpoint may lie, and which of the two forms it has there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tilevision.checkpoint.database import elsewhere, explained
from tilevision.checkpoint.filesystem import (
    filesystem_type,
    is_local,
    is_network,
    nearest_existing,
)
from tilevision.checkpoint.trial import try_out
from tilevision.errors import CheckpointError

__all__ = ["FORMAT", "absolute", "has_segments", "prepare", "read_meta"]

FORMAT = "tilevision checkpoint"
_MOST = 65536  # bytes of meta.json that are read
_tried: dict[tuple[int, str], bool] = {}


def prepare(folder: str | os.PathLike[str]) -> Path:
    """Return the absolute path of `folder`, created 0700 where it is missing.

    Raises
    ------
    CheckpointError
        If it is no folder of a file system, or cannot be created.
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


def has_segments(path: Path) -> bool:
    """Return True if the checkpoint in `path` is, or would be, made of segments.

    A folder says so itself, wherever it has been copied to; a new one gets them where a database
    would lose data.

    Raises
    ------
    CheckpointError
        If it has a database, and lies where a database would lose data.
    """
    with explained(path):
        meta = read_meta(path)
        if meta.get("format") == FORMAT and meta.get("store") == "segments":
            return True
        if not meta and not os.path.lexists(path / "cache"):
            return _needs_segments(nearest_existing(path))
        if is_network(path):
            raise CheckpointError(
                f"The checkpoint {path} was made on a local disk and now is on a network file "
                f"system ({filesystem_type(path)}), where its database would lose data. Use a new "
                f"folder there, or move this one back to a local disk. {elsewhere()}"
            )
    return False


def read_meta(path: Path) -> dict[str, Any]:
    """Return what the meta.json of a checkpoint says; empty if there is none, or it is not ours.

    Raises
    ------
    OSError
        If it is there and cannot be read.
    """
    try:
        found = json.loads((path / "meta.json").read_bytes()[:_MOST])
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _needs_segments(place: Path) -> bool:
    if is_network(place):
        return True
    if is_local(place):
        return False
    known = (place.stat().st_dev, filesystem_type(place))
    if known not in _tried:
        try:
            _tried[known] = not try_out(place).database
        except OSError:  # nothing can be made there, and that is said when it is needed
            return False
    return _tried[known]


def _check_place(path: Path) -> None:
    place = nearest_existing(path)
    if not place.is_dir():
        raise CheckpointError(
            f"The checkpoint {path} cannot be created: {place} is not a folder. {elsewhere()}"
        )
