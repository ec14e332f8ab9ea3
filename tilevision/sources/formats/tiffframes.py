"""Which pages of a TIFF file are the picture: its frames, resolutions and channels."""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from tilevision.errors import SourceError, TilevisionError
from tilevision.sources.readerfaults import unreadable

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

__all__ = [
    "FramePages",
    "check_chain",
    "count_frames",
    "find_frame",
    "is_mask",
    "parsed",
    "plane_axes",
]

_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_PHOTOMETRIC_MASK = 4
# Only these are lists of equal pictures. In the others, what follows the first series are
# labels, macro photos (patient names!) and thumbnails, which are never read.
_PLAIN_KINDS = ("generic", "uniform", "shaped", "imagej", "geotiff")
_LISTED_KINDS = ("generic", "uniform", "shaped", "geotiff")  # whose pages say what kind they are


@contextmanager
def parsed(path: str, file: BinaryIO | None = None) -> Iterator[TiffFile]:
    """Have tifffile parse a file, errors told in one line.

    Parameters
    ----------
    path : str
        For errors, and read from where no `file` is given.
    file : file, optional
    """
    import tifffile

    # It logs what is odd about a file as errors; here that is an exception or nothing.
    logger = logging.getLogger("tifffile")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with tifffile.TiffFile(path if file is None else file) as tif:
            yield tif
    except TilevisionError:
        raise
    except MemoryError as error:
        raise SourceError(
            f"{path} describes more than fits in memory; get the file again."
        ) from error
    except Exception as error:
        raise unreadable(f"The TIFF file {path}", error, "tifffile", "imagecodecs") from error
    finally:
        logger.setLevel(level)


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
                "get the file again."
            )
        seen.add(offset)
        try:
            file.seek(offset)
            (count,) = struct.unpack(tiff.tagnoformat, file.read(tiff.tagnosize))
            file.seek(offset + tiff.tagnosize + count * tiff.tagsize)
            (offset,) = struct.unpack(tiff.offsetformat, file.read(tiff.offsetsize))
        except (struct.error, OSError, OverflowError, ValueError):
            return  # cut off: tifffile stops there as well


@dataclass(frozen=True, slots=True)
class FramePages:
    """The pages of one picture.

    Parameters
    ----------
    levels : list of list of TiffPage
        For each resolution, finest first, its channels in order.
    masks : list of (TiffPage or None)
        For each resolution the page that says where it has data.
    planes : tuple of int
        For each channel, which of those that follow one another under one directory, from 0.
    renumbered : bool
        Whether earlier releases gave this number to other pages.
    unlisted : list of TiffPage
        Its further resolutions, which tifffile takes for pictures of their own.
    """

    levels: list[list[TiffPage]]
    masks: list[TiffPage | None]
    planes: tuple[int, ...]
    renumbered: bool
    unlisted: list[TiffPage]


class _Place(NamedTuple):
    """Where the channels of a picture are: in which series, pages, and planes under a page."""

    series: int
    pages: tuple[int, ...]
    planes: tuple[int, ...]


def count_frames(tif: TiffFile) -> int:
    """Return how many pictures the file holds."""
    return len(_places(tif))


def find_frame(tif: TiffFile, frame: int, name: str) -> FramePages:
    """Return the pages of one picture.

    Raises
    ------
    SourceError
        If there is no such frame, or its pages are missing or in other files.
    """
    places = _places(tif)
    if not places:
        raise SourceError(f"{name} holds no image that can be read.")
    if frame >= len(places):
        raise SourceError(
            f"{name} has {len(places)} pages, counted from 1; there is no page {frame + 1}."
        )
    place = places[frame]
    before = _former_places(tif)
    levels = _resolutions(_series(tif)[place.series], place.pages, name)
    return FramePages(
        levels,
        _masks(tif, levels),
        place.planes,
        renumbered=frame < len(before) and before[frame] != place,
        unlisted=_unlisted(tif, levels) if _series(tif)[place.series].kind in _PLAIN_KINDS else [],
    )


def _series(tif: TiffFile) -> Sequence[TiffPageSeries]:
    """Return the series of a file, with axes of length 1 where tifffile leaves them out else."""
    listed: Any = tif.series  # a list before tifffile 2026.5
    found: Sequence[TiffPageSeries] = listed(squeeze=False) if callable(listed) else listed
    return found


def _dimensions(series: Any) -> tuple[str, tuple[int, ...]]:
    """Return the axes of a series and their lengths, those of length 1 included."""
    if hasattr(series, "get_axes"):  # before tifffile 2026.5
        return series.get_axes(squeeze=False), series.get_shape(squeeze=False)
    return series.axes, series.shape


def plane_axes(tif: TiffFile) -> tuple[tuple[str, int], ...]:
    """Return the axes along which the pages lie, and their lengths; empty if they have no order.

    The last changes from page to page.
    """
    picture = _picture_series(tif)
    if len(picture) != 1:
        return ()
    series = picture[0][1]
    axes, shape = _dimensions(series)
    grouped = len(_grouped(series)) < len(series.pages)
    inside = "YXSC" if grouped else "YXS"
    leading = [(axis.lower(), int(n)) for axis, n in zip(axes, shape, strict=True)]
    found = tuple((axis, n) for axis, n in leading if axis.upper() not in inside and n > 1)
    return found if found and math.prod(n for _, n in found) == count_frames(tif) else ()


def _places(tif: TiffFile) -> list[_Place]:
    """Return where the pictures are: masks, thumbnails and previews are none of them."""
    every = [
        (place, kind)
        for number, series in _picture_series(tif)
        for place, kind in _places_in(number, series)
    ]
    pictures = [place for place, kind in every if not kind & (_MASK | _REDUCED)]
    return pictures or [place for place, kind in every if not kind & _MASK]


def _former_places(tif: TiffFile) -> list[_Place]:
    """Return the same by the rule of releases up to 0.1.0: every page of every size."""
    return [
        _Place(number, tuple(pages), (0,) * len(pages))
        for number, series in _picture_series(tif)
        for pages in _grouped(series)
    ]


def _picture_series(tif: TiffFile) -> list[tuple[int, TiffPageSeries]]:
    numbered = list(enumerate(_series(tif)))
    return numbered if numbered and numbered[0][1].kind in _PLAIN_KINDS else numbered[:1]


def _places_in(number: int, series: TiffPageSeries) -> Iterator[tuple[_Place, int]]:
    """Yield each picture of a series, and what kind its first page says that it is."""
    page, count = series.keyframe, len(series.pages)
    planes = math.prod(series.shape) // max(1, math.prod(page.shape))
    if count == 1 and planes > 1 and page.is_final:
        # As ImageJ writes beyond 4 GB: one directory, and all planes after one another. Each is a
        # picture, channels too: the first was one all along.
        for plane in range(planes):
            yield _Place(number, (0,), (plane,)), 0
        return
    listed = series.kind in _LISTED_KINDS
    for pages in _grouped(series):
        kind = _kind(series.pages[pages[0]]) if listed else 0
        yield _Place(number, tuple(pages), (0,) * len(pages)), kind


def _kind(page: TiffPage | TiffFrame | None) -> int:
    """Return what a page says it is, as NewSubfileType (TIFF 6.0, section 8) numbers it."""
    if not isinstance(page, _with_tags()):
        return 0
    mask = _MASK if int(page.photometric) == _PHOTOMETRIC_MASK else 0
    return int(page.subfiletype) | mask


def _masks(tif: TiffFile, levels: list[list[TiffPage]]) -> list[TiffPage | None]:
    """Return for each resolution the mask that follows it, before the next page of its size."""
    found: dict[int, TiffPage] = {}
    owner: dict[tuple[int, int], int] = {}
    for page in _every_page(tif) if any(is_mask(s.keyframe) for s in _series(tif)) else ():
        size = int(page.imagewidth), int(page.imagelength)
        if not is_mask(page):
            owner[size] = int(page.offset)
        elif size in owner:
            found.setdefault(owner[size], page)
    return [found.get(int(level[0].offset)) for level in levels]


def _unlisted(tif: TiffFile, levels: list[list[TiffPage]]) -> list[TiffPage]:
    """Return the smaller pictures that follow a page and are no levels for tifffile.

    It wants each level to be 2, 3 or 4 times smaller than the one before (2026.3.3).
    """
    if len(levels[0]) > 1 or len(_series(tif)) == 1:
        return []
    listed = {int(level[0].offset) for level in levels}
    found, here = [], False
    for page in _every_page(tif):
        kind = _kind(page)
        if not kind & (_REDUCED | _MASK):
            here = int(page.offset) == int(levels[0][0].offset)
        elif here and not kind & _MASK and int(page.offset) not in listed:
            found.append(page)
    return found


def is_mask(page: TiffPage) -> bool:
    """Return True if a page says where another has data."""
    return bool(_kind(page) & _MASK)


def _every_page(tif: TiffFile) -> Iterator[TiffPage]:
    seen: dict[int, TiffPage] = {}
    for series in _series(tif):
        for level in series.levels:
            seen |= {int(page.offset): page.aspage() for page in level.pages if page is not None}
    # Those of the main list come in the order of their numbers, whatever their place in the file.
    yield from sorted(seen.values(), key=lambda page: page.treeindex)


def _with_tags() -> type[TiffPage]:
    from tifffile import TiffPage

    return TiffPage


def _grouped(series: TiffPageSeries) -> list[list[int]]:
    """Return which of the pages of a series make up each frame."""
    count = len(series.pages)
    axes, shape = _dimensions(series)
    leading = [(axis, n) for axis, n in zip(axes, shape, strict=True) if axis not in "YXS"]
    channels = [place for place, (axis, _) in enumerate(leading) if axis == "C"]
    single = series.keyframe.samplesperpixel == 1
    if math.prod(n for _, n in leading) != count or not channels or not single:
        return [[page] for page in range(count)]
    numbers = np.arange(count).reshape([n for _, n in leading])
    numbers = np.moveaxis(numbers, channels[0], -1)
    frames: list[list[int]] = numbers.reshape(-1, numbers.shape[-1]).tolist()
    return frames


def _resolutions(series: TiffPageSeries, planes: Sequence[int], name: str) -> list[list[TiffPage]]:
    levels = []
    for level in series.levels:
        if len(level.pages) != len(series.pages):
            continue
        pages = [level.pages[plane] for plane in planes]
        if any(page is None for page in pages):
            raise SourceError(f"{name} lacks some of the pages it lists; export it again.")
        if series.is_multifile:
            raise SourceError(
                f"{name} is one of several files that make up an image; "
                "export it as a single OME-TIFF."
            )
        levels.append([page.aspage() for page in pages if page is not None])
    return levels
