"""The checkpoint folder: whose it is, which version wrote it, and one opener at a time."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tilevision.checkpoint import database
from tilevision.checkpoint.database import PATIENCE, explained, replaced
from tilevision.checkpoint.filesystem import names_in
from tilevision.checkpoint.lock import locked
from tilevision.checkpoint.place import FORMAT, read_meta
from tilevision.checkpoint.segmentfile import sync_folder
from tilevision.checkpoint.trial import try_out
from tilevision.errors import CheckpointCorrupt, CheckpointError

__all__ = ["CHECKPOINT_SCHEMA", "check_segments", "open_segments", "opened"]

CHECKPOINT_SCHEMA = 1
SEGMENTS_SCHEMA = 2
_OURS = {".gitignore", "cache.new", "meta.json.new", "open.lock", "runs", "segments"}
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
    if schema > CHECKPOINT_SCHEMA:
        raise _later(path, schema)


def _later(path: Path, schema: int) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint {path} was written by a later tilevision (schema {schema}, this one "
        f"knows {SEGMENTS_SCHEMA}). Update tilevision, or use another folder."
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
        if schema > SEGMENTS_SCHEMA:
            raise _later(path, schema)
        if "segments" not in names_in(path):
            (path / "segments").mkdir(mode=0o700, exist_ok=True)
            sync_folder(path)
        return str(meta["id"])


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
    scratch = meta.with_name("meta.json.new")
    with scratch.open("w") as file:
        json.dump({"format": FORMAT, "schema": CHECKPOINT_SCHEMA}, file)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(meta)
