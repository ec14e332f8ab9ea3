"""Which pages of a TIFF file are the picture: its frames, resolutions and channels."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tilevision.errors import SourceError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

__all__ = ["check_chain", "count_frames", "frame_pages"]

# Only these are lists of equal pictures. In the others, what follows the first series are
# labels, macro photos (patient names!) and thumbnails, which are never read.
_PLAIN_KINDS = ("generic", "uniform", "shaped", "imagej")


def check_chain(tif: TiffFile, name: str) -> None:
    """Check that the file's list of pages ends: tifffile follows one that runs in a circle.

    Raises
    ------
    SourceError
        If a page is followed by one that came before.
    """
    tiff, file = tif.tiff, tif.filehandle
    seen: set[int] = set()
    offset = int(tif.pages.first.offset)
    while 0 < offset < file.size:
        if offset in seen:
            raise SourceError(
                f"{name} is damaged: page {len(seen) + 1} of its list is one that came before; "
                "get the file again"
            )
        seen.add(offset)
        try:
            file.seek(offset)
            (count,) = struct.unpack(tiff.tagnoformat, file.read(tiff.tagnosize))
            file.seek(offset + tiff.tagnosize + count * tiff.tagsize)
            (offset,) = struct.unpack(tiff.offsetformat, file.read(tiff.offsetsize))
        except (struct.error, OSError, OverflowError, ValueError):
            return  # cut off: tifffile stops there as well


def count_frames(tif: TiffFile) -> int:
    """Return how many pictures the file holds."""
    return sum(len(_planes(series)) for series in _picture_series(tif))


def frame_pages(tif: TiffFile, frame: int, name: str) -> list[list[TiffPage]]:
    """Return the pages of one picture: a list per resolution, finest first.

    The pages of one resolution are its channels, in order.

    Raises
    ------
    SourceError
        If there is no such frame, or its pages are missing or in other files.
    """
    wanted = frame
    for series in _picture_series(tif):
        planes = _planes(series)
        if wanted < len(planes):
            return _resolutions(series, planes[wanted], name)
        wanted -= len(planes)
    if not tif.series:
        raise SourceError(f"{name} holds no image; it is damaged or incomplete")
    raise SourceError(
        f"{name} has {count_frames(tif)} pages, counted from 1; there is no page {frame + 1}"
    )


def _picture_series(tif: TiffFile) -> Sequence[TiffPageSeries]:
    series = tif.series
    return series if series and series[0].kind in _PLAIN_KINDS else series[:1]


def _planes(series: TiffPageSeries) -> list[list[int]]:
    """Return the numbers of the pages that make up each frame of a series."""
    axes, shape = series.get_axes(squeeze=False), series.get_shape(squeeze=False)
    leading = [(axis, n) for axis, n in zip(axes, shape, strict=True) if axis not in "YXS"]
    count = len(series.pages)
    channels = [place for place, (axis, _) in enumerate(leading) if axis == "C"]
    single = series.keyframe.samplesperpixel == 1
    if math.prod(n for _, n in leading) != count or not channels or not single:
        return [[page] for page in range(count)]
    numbers = np.arange(count).reshape([n for _, n in leading])
    numbers = np.moveaxis(numbers, channels[0], -1)
    frames: list[list[int]] = numbers.reshape(-1, numbers.shape[-1]).tolist()
    return frames


def _resolutions(series: TiffPageSeries, planes: list[int], name: str) -> list[list[TiffPage]]:
    levels = []
    for level in series.levels:
        if len(level.pages) != len(series.pages):
            continue
        pages = [level.pages[plane] for plane in planes]
        if any(page is None for page in pages):
            raise SourceError(f"{name} lacks some of the pages it lists; export it again")
        if series.is_multifile:
            raise SourceError(
                f"{name} is one of several files that make up an image; "
                "export it as a single OME-TIFF"
            )
        levels.append([page.aspage() for page in pages if page is not None])
    return levels
