"""Pages of a file that holds several pictures: ``scan.tif#page=3`` is a name like any other."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tilevision.errors import SourceError

__all__ = ["ALL_PAGES", "at_home", "file_of", "page_name", "pages_note", "split_page"]

ALL_PAGES = "#pages"
_PAGE = re.compile(r"(.+)#page=(\d+)", re.DOTALL)


def split_page(name: str) -> tuple[str, int | None]:
    """Return the file and the page, counted from 1, that `name` stands for.

    None where it names no page, or a file is really called so.

    Raises
    ------
    SourceError
        If it names page 0, or all pages at once.
    """
    if "#" not in name or os.path.lexists(name):
        return name, None
    if name.endswith(ALL_PAGES):
        path = name.removesuffix(ALL_PAGES)
        raise SourceError(
            f"{name} stands for every page of {path}: give one as {path}#page=1, or all to "
            "tv.analyze_many."
        )
    found = _PAGE.fullmatch(name)
    if found is None:
        return name, None
    if int(found[2]) == 0:
        raise SourceError(f"{name}: pages are counted from 1.")
    return found[1], int(found[2])


def at_home(name: str) -> str:
    """Return `name` with ``~`` for the home folder filled in, unless a file is called so."""
    return name if os.path.lexists(name) else os.path.expanduser(name)  # noqa: PTH111 - any text


def page_name(path: str | os.PathLike[str], page: int) -> str:
    """Return what stands for a page, counted from 1, wherever an image is asked for."""
    return f"{os.fspath(path)}#page={page}"


def file_of(name: str) -> Path:
    """Return the file that an image, or a page of one, is in."""
    return Path(split_page(at_home(name))[0])


def pages_note(path: str, count: int, *, named: bool) -> str:
    """Say of which of its `count` pages an image is that was given without one.

    Parameters
    ----------
    path : str
    count : int
    named : bool
        Whether the others have names that open them.
    """
    name = Path(path).name
    first = f"{name} holds {count:,} pages or frames, of which this is the first"
    if not named:
        return f"{first}; the others are not read"
    return f"{first}; another is {name}#page=2, and tv.analyze_many takes all as {name}{ALL_PAGES}"
