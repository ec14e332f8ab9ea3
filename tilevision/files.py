"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tilevision.errors import RunError

__all__ = ["check_folder", "draft_name", "drafting", "refusing", "writing"]


@contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """Open a UTF-8 stream that becomes `path` once the block ends well.

    Raises
    ------
    RunError
        If the file cannot be written; whatever stood at `path` before still stands there.
    """
    # A lone surrogate in a label has no UTF-8; it must not cost the file.
    with (
        drafting(path) as draft,
        draft.open("x", encoding="utf-8", errors="replace", newline="") as stream,
    ):
        yield stream


@contextmanager
def drafting(path: Path) -> Iterator[Path]:
    """Name a file, not yet there, that becomes `path` once the block ends well.

    Raises
    ------
    RunError
        If the file cannot be written; whatever stood at `path` before still stands there.
    """
    draft = draft_name(path)
    with refusing(path):
        try:
            yield draft
            with draft.open("rb+") as written:
                os.fsync(written.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def draft_name(path: Path) -> Path:
    """Return a name beside `path` that nobody else uses."""
    return path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}.part")


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn an error of the system while `path` is written into one line.

    Raises
    ------
    RunError
        In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"Cannot write {path}: {error.strerror or error}") from error


def check_folder(folder: Path) -> None:
    """Make sure files can be created in `folder`.

    Raises
    ------
    RunError
        If it is missing, not a folder, or not writable.
    """
    if not folder.exists():
        raise RunError(f"Cannot write to {folder}: there is no such folder; create it first.")
    if not folder.is_dir():
        raise RunError(f"Cannot write to {folder}: it is a file, not a folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RunError(f"Cannot write to {folder}: permission denied; choose another folder.")
