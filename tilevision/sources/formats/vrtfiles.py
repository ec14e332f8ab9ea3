"""The files that a VRT is made of, however deep they lie: they are what the image is.

GDAL lists those that a VRT names by their path alone. It lists neither what a VRT among them is
made of, nor a container of which one part is named, nor an archive.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from html import unescape
from pathlib import Path
from typing import Any

from tilevision.errors import SourceError

__all__ = ["files_of_vrt"]

_ARCHIVE = re.compile(r"/vsi(?:zip|tar|gzip|7z|rar)/")


def files_of_vrt(
    vrt: Path,
    listed: set[Path],
    opened: Callable[[str], AbstractContextManager[Any]],
    seen: frozenset[Path] = frozenset(),
) -> set[Path]:
    """Return the files that a VRT is made of, and those that VRTs among them are made of.

    Parameters
    ----------
    vrt : Path
    listed : set of Path
        Those that GDAL lists.
    opened : callable
        Opens another VRT.
    seen : frozenset of Path
        VRTs that this one is a part of.

    Raises
    ------
    SourceError
        If one of them is missing.
    """
    _check_named(vrt)
    seen |= {vrt}
    found = listed | _containers(vrt)
    for one in sorted(found - seen):
        if one.suffix.lower() == ".vrt" and one.is_file():
            with opened(str(one)) as inner:
                named = set(map(Path, inner.files))
            found |= files_of_vrt(one, named, opened, seen)
    return found


def _check_named(vrt: Path) -> None:
    # GDAL shows a file that is missing as zeros.
    for name in _named(vrt, "SourceFilename"):
        place = vrt.parent / name
        if ":" not in name and not name.startswith("/vsi") and not place.exists():
            raise SourceError(f"{vrt} names {place}, which is missing; put it back.")


def _containers(vrt: Path) -> set[Path]:
    """Return the files that a VRT names by more than their path: ``NETCDF:"a.nc":heights``."""
    found = set()
    for name in _named(vrt, "SourceFilename|SourceDataset"):
        words = [
            *name.split('"')[1::2],
            *name.split(":"),
            name.removeprefix("vrt://").split("?")[0],
        ]
        if archive := _ARCHIVE.match(name):
            inside = Path(name[archive.end() :])
            words += map(str, (inside, *inside.parents))
        places = [vrt.parent / word for word in words if word and word != name]
        found |= {place for place in places if place.is_file()}
    return found


def _named(vrt: Path, tags: str) -> list[str]:
    text = vrt.read_text(encoding="utf-8", errors="replace")
    return [unescape(one.strip()) for one in re.findall(rf"<(?:{tags})[^>]*>([^<]+)</", text)]
