"""The checkpoint folder: where it may lie, whose it is, which form and version it has."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tilevision.checkpoint import database
from tilevision.checkpoint.database import PATIENCE, elsewhere, explained, replaced
from tilevision.checkpoint.filesystem import (
    filesystem_type,
    is_local,
    is_network,
    locked,
    names_in,
    nearest_existing,
)
from tilevision.checkpoint.segmentfile import sync_folder
from tilevision.checkpoint.trial import try_out
from tilevision.errors import CheckpointCorrupt, CheckpointError

__all__ = [
    "CHECKPOINT_SCHEMA",
    "FORMAT",
    "absolute",
    "check_segments",
    "has_segments",
    "note_arrays",
    "open_segments",
    "opened",
    "prepare",
    "read_meta",
]

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
        os.fsencode(text)
        return Path(text).expanduser().absolute()
    except (RuntimeError, ValueError, OSError) as error:
        # No such user; letters that the system has not; the working folder is gone.
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


CHECKPOINT_SCHEMA = 1
SEGMENTS_SCHEMA = 2
ARRAYS_SCHEMA = 3  # of either, once a record refers to arrays: earlier releases cannot read those
_OURS = {
    *(".gitignore", "cache.new", "corrections", "meta.json.new", "open.lock", "payloads"),
    *("runs", "segments"),
}
_BEGINNING_SECONDS = 5.0  # in which whoever makes a folder has written its meta.json


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Yield the directory of a database that is safe to open, while no other process opens it.

    Creates the database where it is missing.

    Parameters
    ----------
    path : Path
        The checkpoint folder, as `prepare` returns it.

    Raises
    ------
    CheckpointError
        If the folder cannot be used, or a later version wrote it.
    CheckpointCorrupt
        If the folder is damaged or was not written by tilevision.
    """
    with explained(path), locked(path / "open.lock", PATIENCE):
        _check_version(path)
        cache = path / "cache"
        if os.path.lexists(cache):
            database.verify(cache)
        else:
            database.create(cache)
        yield cache


def _check_version(path: Path) -> None:
    meta = path / "meta.json"
    try:
        text = meta.read_bytes()[:65536]
    except FileNotFoundError:
        if os.path.lexists(path / "cache"):
            raise CheckpointCorrupt("It holds a cache but no meta.json.") from None
        _hide_from_git(path)
        _write_version(meta)
        return
    try:
        raw = json.loads(text)
        schema = raw["schema"] if raw["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError, RecursionError):
        schema = None
    if type(schema) is not int or schema < 1:
        raise CheckpointCorrupt("Its meta.json was not written by tilevision.")
    if schema not in (CHECKPOINT_SCHEMA, ARRAYS_SCHEMA):
        raise _later(path, schema)


def _later(path: Path, schema: int) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint {path} was written by a later tilevision (schema {schema}, this one "
        f"knows {ARRAYS_SCHEMA}). Update tilevision, or use another folder."
    )


def open_segments(path: Path) -> str:
    """Return the id of a checkpoint made of segments; create what is missing of it.

    Nothing is locked: of several processes that create it, one writes meta.json, and all read it.

    Parameters
    ----------
    path : Path
        The checkpoint folder, as `prepare` returns it.

    Raises
    ------
    CheckpointError
        If the folder cannot be used, or a later version wrote it.
    CheckpointCorrupt
        If its meta.json was not written by tilevision.
    """
    with explained(path):
        if "meta.json" not in names_in(path):
            if os.path.lexists(path / "segments") and names_in(path / "segments"):
                raise CheckpointCorrupt("It holds segments but no meta.json.")
            _hide_from_git(path)
            _write_identity(path)
        until = time.monotonic() + _BEGINNING_SECONDS
        while not (meta := read_meta(path)) and time.monotonic() < until:
            if (path / "meta.json").stat().st_size:
                break
            time.sleep(0.05)
        schema = meta.get("schema") if meta.get("format") == FORMAT else None
        if type(schema) is not int or schema < SEGMENTS_SCHEMA or "id" not in meta:
            raise CheckpointCorrupt("Its meta.json was not written by tilevision.")
        if schema > ARRAYS_SCHEMA:
            raise _later(path, schema)
        if "segments" not in names_in(path):
            (path / "segments").mkdir(mode=0o700, exist_ok=True)
            sync_folder(path)
        return str(meta["id"])


def note_arrays(path: Path) -> None:
    """Make sure that a checkpoint says that its records may refer to arrays.

    Releases that know no arrays would run such tiles again, and write over them: so they refuse
    the folder instead.

    Raises
    ------
    CheckpointError
        If its meta.json cannot be written.
    """
    with explained(path):
        meta = read_meta(path)
        if meta.get("format") == FORMAT and meta["schema"] < ARRAYS_SCHEMA:
            _write_meta(path / "meta.json", meta | {"schema": ARRAYS_SCHEMA})


def check_segments(path: Path, identity: str) -> None:
    """Raise unless segments may be made in a checkpoint folder.

    Parameters
    ----------
    path : Path
    identity : str
        As `open_segments` returned it: another folder may have taken its place.

    Raises
    ------
    CheckpointError
        If the folder was replaced, or its file system does not do what segments rely on.
    """
    if read_meta(path).get("id") != identity:
        raise replaced(path)
    promises = try_out(path, shared=False)
    if not promises.segments:
        raise CheckpointError(
            f"The checkpoint {path} is on a file system where results cannot be kept safely: "
            f"{promises.lacking_for_segments()} does not work there. {database.elsewhere()}"
        )


def _write_identity(path: Path) -> None:
    """Write meta.json, unless another process does."""
    text = json.dumps(
        {
            "format": FORMAT,
            "schema": SEGMENTS_SCHEMA,
            "store": "segments",
            "id": secrets.token_hex(16),
        }
    )
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        file = os.open(path / "meta.json", flags, 0o600)
    except FileExistsError:
        return
    try:
        os.write(file, text.encode())
        os.fsync(file)
    finally:
        os.close(file)
    sync_folder(path)


def _hide_from_git(path: Path) -> None:
    """Hide a folder that is ours alone; in another's it would hide the owner's files too."""
    if all(entry.name in _OURS for entry in path.iterdir()):
        (path / ".gitignore").write_text("*\n")


def _write_version(meta: Path) -> None:
    _write_meta(meta, {"format": FORMAT, "schema": CHECKPOINT_SCHEMA})


def _write_meta(meta: Path, said: dict[str, Any]) -> None:
    scratch = meta.with_name(f"meta.json.{secrets.token_hex(4)}.new")  # of several, each its own
    with scratch.open("w") as file:
        json.dump(said, file)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(meta)
