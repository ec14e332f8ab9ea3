"""The formats of image files, in the order in which a file is offered to them.

A new format is a file in this folder that declares a ``FORMAT``, and its name in this list.
"""

from __future__ import annotations

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
from tilevision.sources.formats.imageformat import ImageFile, ImageFormat

__all__ = ["FORMATS", "SUFFIXES", "format_of"]

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
        Whether a page was asked for, so that only formats with pages count.
    """
    asked = (one for one in FORMATS if one.folders == (not file.prefix))
    return next((one for one in asked if (one.pages or not page) and one.accepts(file)), None)
