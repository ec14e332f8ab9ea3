"""Colours that people chose for classes: kept beside the checkpoint, used wherever classes are.

As a class has one colour for as long as a process lives, so has one that was chosen: it holds for
all results. Whatever is drawn or saved reads those of its own folder first, so that no file depends
on which other results were looked at before.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tilevision.errors import RunArgumentError, RunError
from tilevision.files import refusing, writing

__all__ = [
    "CHOSEN",
    "FILE",
    "choose",
    "chosen_colour",
    "chosen_colours",
    "colours_version",
    "load_colours",
]

FILE = "colours.json"
MOST = 1000  # classes
LONGEST = 200  # characters of a name
_LARGEST = 1 << 20  # bytes of the file
_HEX = re.compile("#[0-9a-fA-F]{6}")

_lock = threading.Lock()
CHOSEN: dict[str, str] = {}  # by class; for reading alone
_read: dict[Path, tuple[int, int, dict[str, str]]] = {}
_version = 0


def chosen_colour(label: str) -> str | None:
    """Return the colour ``#rrggbb`` that somebody chose for a class; None: its own."""
    return CHOSEN.get(label)


def chosen_colours(labels: Iterable[str]) -> dict[str, str]:
    """Return those of `labels` for which somebody chose a colour, and that."""
    return {label: CHOSEN[label] for label in labels if label in CHOSEN}


def colours_version() -> int:
    """Return a number that changes whenever a colour does."""
    return _version


def choose(colours: Any, folder: str | os.PathLike[str] | None) -> None:
    """Give classes colours, and keep them in a folder.

    Parameters
    ----------
    colours : mapping of str to (str or None)
        ``#rrggbb`` by class; None: the class has its own colour again.
    folder : path-like or None
        The checkpoint; None: they end with the process.

    Raises
    ------
    RunError
        If it is no such mapping, or cannot be written; then nothing has changed.
    """
    given = _checked(colours)
    with _lock:
        if folder is not None:
            path = Path(folder).expanduser().absolute() / FILE
            kept = {name: one for name, one in (_of_file(path) | given).items() if one is not None}
            if len(kept) > MOST:
                raise RunArgumentError(f"{path} would hold more than {MOST:,} classes.")
            with refusing(path):
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with writing(path) as file:
                json.dump({"colours": kept}, file, ensure_ascii=True, indent=1)
            stat = path.stat()
            _read[path] = (stat.st_mtime_ns, stat.st_size, kept)
        _take(given)


def load_colours(folder: str | os.PathLike[str] | None) -> None:
    """Take the colours that are kept in a folder, if there are any.

    Raises
    ------
    RunError
        If they cannot be read.
    """
    if folder is None:
        return
    path = Path(folder).expanduser().absolute() / FILE
    with _lock:
        try:
            stat = path.stat()
        except OSError:
            known = _read.pop(path, None)
            _take(dict.fromkeys(known[2] if known else ()))
            return
        stamp, known = (stat.st_mtime_ns, stat.st_size), _read.get(path)
        before = {} if known is None else known[2]
        found = before if known is not None and known[:2] == stamp else _of_file(path)
        _read[path] = (*stamp, found)
        _take(dict.fromkeys(before.keys() - found.keys()) | found)


def _take(given: Mapping[str, str | None]) -> None:
    global _version  # noqa: PLW0603  # of what the process shows
    if all(CHOSEN.get(name) == colour for name, colour in given.items()):
        return
    for name, colour in given.items():
        if colour is None:
            CHOSEN.pop(name, None)
        else:
            CHOSEN[name] = colour
    _version += 1


def _checked(colours: Any) -> dict[str, str | None]:
    if not isinstance(colours, Mapping):
        raise RunArgumentError(
            f"colours is {colours!r:.60}; give a mapping of class to colour, such as "
            '{"nucleus": "#ee1188"}.'
        )
    for name, colour in colours.items():
        if not isinstance(name, str) or len(name) > LONGEST:
            raise RunArgumentError(
                f"Class {name!r:.60} is no name of {LONGEST} characters or fewer."
            )
        if colour is not None and not (isinstance(colour, str) and _HEX.fullmatch(colour)):
            raise RunArgumentError(
                f"Colour {colour!r:.60} of class {name!r:.60} is not understood; give #rrggbb."
            )
    return {name: colour and colour.lower() for name, colour in colours.items()}


def _of_file(path: Path) -> dict[str, str]:
    """Return what a file holds; nothing where there is none."""
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        kept = json.loads(text)["colours"]
        return {name: colour for name, colour in _checked(kept).items() if colour is not None}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError, RunError) as error:
        raise RunError(
            f"The colours of classes in {path} cannot be read; mend or delete the file."
        ) from error
