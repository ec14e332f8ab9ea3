"""Folders that appear whole or not at all, and replace nothing but an earlier export."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tilevision.errors import RunError
from tilevision.files import check_folder, draft_name, refusing

__all__ = ["MARK", "check_replaceable", "filling"]

MARK = "tilevision.json"


@contextmanager
def filling(folder: Path, said: Mapping[str, Any], keeps: Collection[str] = ()) -> Iterator[Path]:
    """Make a folder that becomes `folder` once the block ends well.

    It gets a file ``tilevision.json`` with what is `said` and the names of all files, by
    which the next export knows what it may replace. What `keeps` names at the top of the
    folder is the user's, and stays.

    Raises
    ------
    RunError
        If it cannot be written, or something else stands there; that then still stands.
    """
    check_replaceable(folder, keeps)
    draft = draft_name(folder)
    with refusing(folder):
        try:
            draft.mkdir()
            yield draft
            files = {"files": sorted(_files(draft))}
            text = json.dumps({**said, **files}, ensure_ascii=False, indent=1)
            (draft / MARK).write_text(text + "\n", "utf-8", errors="replace")
            _install(draft, folder, keeps)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def check_replaceable(folder: Path, keeps: Collection[str] = ()) -> None:
    """Make sure that `folder` can be created, or holds an earlier export and what it `keeps`.

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
        foreign = next((f for f in _files(folder, keeps) if f not in known), None)
    if foreign is not None:
        raise RunError(
            f"{folder} holds {foreign}, which no earlier export wrote; give a new folder, or move "
            "that away."
        )


def _known(folder: Path) -> frozenset[str]:
    """Return the files that the export in `folder` consists of; none where it is none."""
    try:
        files = json.loads((folder / MARK).read_text("utf-8"))["files"]
        return frozenset([MARK, *files])
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def _files(folder: Path, without: Collection[str] = ()) -> Iterator[str]:
    """Yield all files below `folder`, named from there; links are files."""
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if place.parts[0] not in without and (path.is_symlink() or not path.is_dir()):
            yield place.as_posix()


def _install(draft: Path, folder: Path, keeps: Collection[str]) -> None:
    if not folder.exists():
        draft.rename(folder)
        return
    check_replaceable(folder, keeps)
    old = draft_name(folder)
    folder.rename(old)
    try:
        draft.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    for name in keeps:
        if os.path.lexists(old / name):
            (old / name).rename(folder / name)
    shutil.rmtree(old)
