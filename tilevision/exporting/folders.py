"""Folders that appear whole or not at all, and replace nothing but an earlier export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tilevision.errors import RunError
from tilevision.exporting.atomic import check_folder, draft_name, refusing

__all__ = ["MARK", "check_replaceable", "filling"]

MARK = "tilevision.json"


@contextmanager
def filling(folder: Path, said: Mapping[str, Any]) -> Iterator[Path]:
    """Make a folder that becomes `folder` once the block ends well.

    It gets a file ``tilevision.json`` with what is `said` and the names of all files, by
    which the next export knows what it may replace.

    Raises
    ------
    RunError
        If it cannot be written, or something else stands there; that then still stands.
    """
    check_replaceable(folder)
    draft = draft_name(folder)
    with refusing(folder):
        try:
            draft.mkdir()
            yield draft
            files = {"files": sorted(_files(draft))}
            text = json.dumps({**said, **files}, ensure_ascii=False, indent=1)
            (draft / MARK).write_text(text + "\n", "utf-8", errors="replace")
            _install(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    """Make sure that `folder` can be created, or holds an earlier export and nothing else.

    Raises
    ------
    RunError
        If it is a file, holds anything else, or its parent cannot be written to.
    """
    with refusing(folder):
        check_folder(folder.parent)
        if not folder.exists():
            return
        check_folder(folder)
        known = _known(folder)
        foreign = next((name for name in _files(folder) if name not in known), None)
    if foreign is not None:
        raise RunError(
            f"{folder} holds {foreign}, which no earlier export wrote; give a new folder, or move "
            "that away"
        )


def _known(folder: Path) -> frozenset[str]:
    """Return the files that the export in `folder` consists of; none where it is none."""
    try:
        files = json.loads((folder / MARK).read_text("utf-8"))["files"]
        return frozenset([MARK, *files])
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def _files(folder: Path) -> Iterator[str]:
    """Yield all files below `folder`, named from there; links are files."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix()


def _install(draft: Path, folder: Path) -> None:
    if not folder.exists():
        draft.rename(folder)
        return
    check_replaceable(folder)
    old = draft_name(folder)
    folder.rename(old)
    try:
        draft.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)
