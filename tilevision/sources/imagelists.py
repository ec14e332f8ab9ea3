"""The images of a folder, and the pages of a file."""

from __future__ import annotations

import os
from pathlib import Path

from tilevision.errors import SourceError
from tilevision.sources.formats.georasters import SUFFIXES as RASTERS
from tilevision.sources.formats.slides import SLIDE_LISTS, listed_files
from tilevision.sources.formats.video import SUFFIXES as VIDEOS
from tilevision.sources.formats.zarrstore import is_zarr
from tilevision.sources.opening import open_source
from tilevision.sources.pagenames import page_name

__all__ = ["SUFFIXES", "images_in", "pages"]

# DICOM is left out: a slide is many such files, and each of them would stand for all.
SUFFIXES = frozenset(
    {
        *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp"),
        *(".j2k", ".jp2", ".npy", ".pbm", ".pdf", ".pgm", ".pnm", ".ppm"),
        *(".btf", ".svs", ".tf2", ".tf8", ".tif", ".tiff"),
        *(".bif", ".czi", ".mrxs", ".ndpi", ".scn", ".svslide", *SLIDE_LISTS),
        *(".dt0", ".dt1", ".dt2", ".kro", ".mpr", ".nitf", ".sdat"),
        *RASTERS,
        *VIDEOS,
    }
)


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
    try:
        seen = [path for path in Path(folder).iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"cannot read the folder {os.fspath(folder)}: {error.strerror}") from None
    lists = [path for path in seen if path.suffix.lower() in SLIDE_LISTS]
    parts = {part for slide in lists for part in listed_files(slide, macro=True)}
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
    return is_zarr(path) if path.is_dir() else path.suffix.lower() in SUFFIXES
