"""From a path on this machine to the image in the file: its format is found, then its page.

A new format is a file in `formats` that declares a ``FORMAT``, and its name in the list here.
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tilevision.errors import SourceError
from tilevision.sources.addresses import at_home, local_path, page_name, pages_note, split_page
from tilevision.sources.formats import (
    flat,
    georasters,
    jpegxl,
    pdf,
    slides,
    tiff,
    video,
)
from tilevision.sources.formats.arrays import numpyfile, zarrstore
from tilevision.sources.formats.imageformat import PREFIX_BYTES, ImageFile, ImageFormat
from tilevision.sources.levels import LevelReader

__all__ = ["FORMATS", "SUFFIXES", "format_of", "open_local"]

FORMATS: tuple[ImageFormat, ...] = (
    zarrstore.FORMAT,
    zarrstore.PACKED,
    pdf.FORMAT,
    slides.FORMAT,  # before TIFF, which some scanners' files are as well
    tiff.FORMAT,
    video.FORMAT,
    numpyfile.FORMAT,
    jpegxl.FORMAT,
    georasters.FORMAT,
    flat.FORMAT,  # accepts any file, and says what is wrong with it
)
SUFFIXES = frozenset().union(*(one.suffixes for one in FORMATS))


def format_of(file: ImageFile, *, page: bool = False) -> ImageFormat | None:
    """Return the first format that accepts a file; None where no format does.

    Parameters
    ----------
    file : ImageFile
    page : bool
        True if a page was asked for, so that only formats with pages count.
    """
    for one in FORMATS:
        if one.folders != (not file.prefix) or (page and not one.pages):
            continue
        if one.begins and not file.prefix.startswith(one.begins):
            continue
        if one.accepts is None or one.accepts(file):
            return one
    return None


def open_local(
    name: str,
    *,
    page: int | None = None,
    mpp: tuple[float, float] | None = None,
    dpi: float | None = None,
) -> LevelReader:
    """Open the image in a file, or in a folder that is one image.

    Parameters
    ----------
    name : str
        A path, also one that names its page as ``"scan.tif#page=3"``.
    page : int, optional
        From 1.
    mpp : tuple of float, optional
        Microns per pixel in x and y; overrides what the file says.
    dpi : float, optional
        Pixels per inch, for formats whose pages are drawn.

    Raises
    ------
    SourceError
        If there is no such file or page, or it is not an image that can be read.
    """
    whole = name if page is None else page_name(name, page)
    name, page = split_page(at_home(local_path(whole)))
    path = str(Path(name).absolute())
    file = ImageFile(path, b"")
    # Unlike pathlib, this takes a name that cannot be one for a folder that is not there.
    folder = os.path.isdir(path)  # noqa: PTH112
    kind = format_of(file, page=page is not None) if folder else None
    if kind is None:
        file = ImageFile(path, _first_bytes(name))
        kind = format_of(file, page=page is not None)
    if dpi is not None and not (kind is not None and kind.dpi):
        raise SourceError(f"{name} is not a PDF document; dpi= only applies to those.")
    if kind is None:
        raise SourceError(
            f"{name} has no pages that can be read one by one; only TIFF, PDF, video and Zarr "
            "files have."
        )
    options: dict[str, Any] = {"mpp": mpp}
    if kind.pages:
        options["frame"] = (page or 1) - 1
    if dpi is not None:
        options["dpi"] = _checked_dpi(dpi)
    source = kind.opener(path, **options)
    count = source.metadata.frames
    if page is None and count > 1:
        note = pages_note(name, count, named=kind.pages)
        source.metadata = replace(source.metadata, notes=(*source.metadata.notes, note))
    return source


def _first_bytes(name: str) -> bytes:
    if not name:
        raise SourceError("The image's path is empty; give the path of a file, or an address.")
    try:
        regular = stat.S_ISREG(Path(name).stat().st_mode)
        prefix = b""
        if regular:
            with Path(name).open("rb") as file:
                prefix = file.read(PREFIX_BYTES)
    except FileNotFoundError as error:
        if os.path.islink(name):  # noqa: PTH114 - any text
            raise SourceError(
                f"{name} is a link to {os.readlink(name)}, which does not exist; "  # noqa: PTH115
                "repair the link."
            ) from error
        where = "" if Path(name).is_absolute() else f" (looked in {Path.cwd()})"
        raise SourceError(f"{name} does not exist{where}; check the path.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(
            f"{name!r} cannot be read: {reason}; check the path and its permissions."
        ) from error
    if not regular:
        raise SourceError(
            f"{name} is a folder or a device and not a Zarr store; give one image file, or "
            "use tv.analyze_many for all images of a folder."
        )
    if not prefix:
        raise SourceError(f"{name} is empty (0 bytes): the copy or download did not finish.")
    return prefix


def _checked_dpi(dpi: float) -> float:
    if not (isinstance(dpi, (int, float)) and np.isfinite(dpi) and dpi > 0):
        raise SourceError(f"dpi={dpi!r} is not valid; give pixels per inch, for example 200.")
    return float(dpi)
