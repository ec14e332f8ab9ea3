"""The checkpoint folder: whose it is, which version wrote it, and one opener at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tilevision.checkpoint import database
from tilevision.checkpoint.database import PATIENCE, explained
from tilevision.checkpoint.lock import locked
from tilevision.checkpoint.place import prepare
from tilevision.errors import CheckpointCorrupt, CheckpointError

__all__ = ["CHECKPOINT_SCHEMA", "opened"]

CHECKPOINT_SCHEMA = 1
FORMAT = "tilevision checkpoint"
_OURS = {".gitignore", "cache.new", "meta.json.new", "open.lock", "runs"}


@contextmanager
def opened(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the directory of a database that is safe to open, while no other process opens it.

    Creates folder and database where they are missing.

    Raises
    ------
    CheckpointError
        If the folder cannot be used, or a later version wrote it.
    CheckpointCorrupt
        If the folder is damaged or was not written by tilevision.
    """
    path = prepare(folder)
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
        raise CheckpointError(
            f"The checkpoint {path} was written by a later tilevision (schema {schema}, this one "
            f"knows {CHECKPOINT_SCHEMA}). Update tilevision, or use another folder."
        )


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
