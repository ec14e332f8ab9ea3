"""Files that a result leaves in: the suffix decides the format.

Every file says what was not analysed, and none says when or by which run it was computed,
so that an interrupted and resumed run leaves the same bytes as a clean one. Files appear
whole or not at all, and are written detection by detection.
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tilevision.errors import RunError
from tilevision.exporting import coco, document, geojson, spreadsheet
from tilevision.exporting.atomic import check_folder, refusing, writing

if TYPE_CHECKING:
    from tilevision.result import Result

__all__ = ["SUFFIXES", "destination", "save"]

Writer = Callable[["Result", TextIO], None]

_WRITERS: dict[str, Writer] = {
    ".csv": spreadsheet.write,
    ".json": document.write,
    ".geojson": geojson.write,
    ".coco.json": coco.write,
}
SUFFIXES = tuple(sorted(_WRITERS))


def save(result: Result, path: str | PathLike[str]) -> Path:
    """Write `result` to `path`, replacing a file that is there; return the path.

    ``.csv`` is one row per detection (no outlines); ``.json`` is everything; ``.geojson``
    is for QuPath, in pixels; ``.coco.json`` is a COCO dataset of this one image.

    Raises
    ------
    RunError
        If the suffix is unknown or the file cannot be written.
    """
    target = destination(path)
    with writing(target) as stream:
        _WRITERS[_suffix(target)](result, stream)
    return target


def destination(path: str | PathLike[str]) -> Path:
    """Return `path` if a result could be saved there now.

    Raises
    ------
    RunError
        If the suffix is unknown, or the folder is missing or not writable.
    """
    target = Path(path).expanduser()
    if _suffix(target) not in _WRITERS:
        raise RunError(
            f"cannot save to {target}: the suffix decides the format; give one of "
            f"{', '.join(SUFFIXES)}"
        )
    with refusing(target):
        if target.is_dir():
            raise RunError(f"cannot save to {target}: it is a folder; give the name of a file")
        check_folder(target.parent)
    return target


def _suffix(path: Path) -> str:
    """Return the longest suffix that is known, else the last one."""
    name = path.name.lower()
    fits = [suffix for suffix in SUFFIXES if name.endswith(suffix) and name != suffix]
    return max(fits, key=len, default=path.suffix.lower())
