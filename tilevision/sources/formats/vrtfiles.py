"""The files that a VRT is made of, however deep they lie: they are what the image is.

GDAL lists those that a VRT names by their path alone. It lists neither what a VRT among them is
made of, nor a container of which one part is named, nor an archive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from html import unescape
from pathlib import Path
from typing import Any

from tilevision.errors import SourceError

__all__ = ["VrtFailures", "files_of_vrt"]

_ARCHIVE = re.compile(r"/vsi(?:zip|tar|gzip|7z|rar)/")


_unreadable: set[Path] = set()  # of which GDAL may read zeros from now on


class VrtFailures:
    """Remembers which files of VRTs could not be read in this process.

    GDAL tells that once. As long as any VRT is open it then reads zeros in their place, by every
    dataset and also when they can be read again (3.10).

    Parameters
    ----------
    path : str
        Of a raster.
    files : iterable of Path
        All that it is made of.
    """

    def __init__(self, path: str, files: Iterable[Path]) -> None:
        self._path = path
        self._files = {Path(path), *files}

    def add(self, dataset: Any) -> None:
        """Note that `dataset` could not be read."""
        if dataset.driver == "VRT":
            _unreadable.update(self._files)

    def check(self) -> None:
        """Raise SourceError if a file of the raster could not be read before."""
        if self._files & _unreadable:
            raise SourceError(
                f"A file of {self._path} could not be read before, and GDAL reads zeros in its "
                "place from then on; once it can be read, resume in a new process."
            )


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
