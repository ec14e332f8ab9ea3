"""The images of a folder, and the pages of a file."""

from __future__ import annotations

import os
from pathlib import Path

from tilevision.errors import SourceError
from tilevision.sources.addresses import page_name
from tilevision.sources.formats.imageformat import ImageFile
from tilevision.sources.opening import open_source

__all__ = ["images_in", "pages"]


def images_in(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the images of a folder, by their suffix, and its Zarr stores; sorted by name.

    Hidden files are left out, what belongs to a slide beside it (its macro photo shows the
    patient's name), and folders are not searched. A file of several pages or frames is one
    image, its first: `pages` and `frames` name the others.

    Raises
    ------
    SourceError
        If the folder cannot be read.
    """
    from tilevision.sources.localfiles import FORMATS

    try:
        seen = [path for path in Path(folder).iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise SourceError(
            f"The folder {os.fspath(folder)} cannot be read: {error.strerror}."
        ) from None
    asked = [one.companions for one in FORMATS if one.companions is not None]
    parts = {part for companions in asked for path in seen for part in companions(path)}
    return sorted(path for path in seen if path not in parts and _is_image(path))


def pages(path: str | os.PathLike[str]) -> list[str]:
    """Return a name for each page of a file, as ``"scan.tif#page=1"``; a file of one has one.

    Such a name stands for the page wherever an image is asked for.

    Parameters
    ----------
    path : str or PathLike
        Pages are read of TIFF and PDF files, and the frames of videos.

    Raises
    ------
    SourceError
        If the file cannot be opened.
    """
    source = open_source(path)
    count = source.metadata.frames
    source.close()
    return [page_name(path, page) for page in range(1, count + 1)]


def _is_image(path: Path) -> bool:
    from tilevision.sources.localfiles import SUFFIXES, format_of

    if path.is_dir():
        return format_of(ImageFile(str(path), b"")) is not None
    return path.suffix.lower() in SUFFIXES
