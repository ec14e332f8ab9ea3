"""The TIFF family, read by the window: tiled and strip, BigTIFF, pyramids, OME, SVS, GeoTIFF."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, BinaryIO

from tilevision.errors import SourceError, TilevisionError
from tilevision.sources.capacity import check_decodes
from tilevision.sources.formats.imageformat import ImageFormat
from tilevision.sources.formats.segments import SegmentedPage
from tilevision.sources.formats.tiffframes import check_chain, count_frames, frame_pages
from tilevision.sources.formats.tiffgaps import FilledLevel, find_gaps
from tilevision.sources.formats.tifflevels import TiffLevel, TurnedLevel
from tilevision.sources.formats.tiffmetadata import (
    geo_reference,
    microns_per_pixel,
    no_data,
    scaling,
)
from tilevision.sources.identity import file_options, fingerprint_of_file, known_fingerprint
from tilevision.sources.levels import Level, LevelReader
from tilevision.sources.source import ImageMetadata, Pixels, SourceRef
from tilevision.sources.staging.rows import OpenFile
from tilevision.sources.staging.staged import MappedLevel, staged_note
from tilevision.sources.staging.stagingfile import StagedPixels, stage

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

__all__ = ["FORMAT", "TiffSource", "is_dear", "lay_out", "open_tiff", "parsed"]

_ORIENTATION = 274
# The window that is typical of a model; strips that make it this much dearer are staged.
_TYPICAL_SIDE = 1024
_DEAREST = 4.0
# Levels of one picture differ in shape by rounding only.
_SAME_SHAPE = 0.02
_DECODER = "tiff1"


class TiffSource(LevelReader):
    """A picture in a TIFF file.

    Parameters
    ----------
    file : OpenFile
    levels : sequence of TiffLevel
        Full resolution first, as stored.
    metadata : ImageMetadata
    options : dict
        What `open_tiff` was asked for, beyond the path.
    fingerprint : str
        Of the content where it is known already, else empty: found when asked for.
    staged : StagedPixels, optional
        The full resolution, where the file has no cheap windows.
    """

    def __init__(
        self,
        file: OpenFile,
        levels: Sequence[TiffLevel],
        metadata: ImageMetadata,
        options: dict[str, object],
        fingerprint: str = "",
        staged: StagedPixels | None = None,
    ) -> None:
        first = levels[0]
        shown: list[Level] = list(levels)
        if staged is not None:
            shown[0] = MappedLevel(file.path, staged)
        else:
            first.window(0, 0, 1, 1, None)  # an unknown compression shows now, not on a worker
        for number, gaps in find_gaps(levels).items():
            shown[number] = FilledLevel(levels[number], gaps, shown[number - 1])
        if metadata.orientation != 1:
            shown = [TurnedLevel(level, metadata.orientation) for level in shown]
        metadata = replace(metadata, levels=tuple(level.size for level in shown))
        super().__init__(file.path, shown, first.bands, first.dtype, metadata)
        self._file = file
        self._options = options
        self._fingerprint = fingerprint
        self._staged = staged
        self._revision = _revision(levels)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file's content, and past the first of which page; reads the file once."""
        content, frame = self._content, self._options["frame"]
        told = (f" frame {frame}" if frame else "") + self._revision
        return sha256(f"{content}{told}".encode()).hexdigest() if told else content

    @property
    def _content(self) -> str:
        if not self._fingerprint:
            self._fingerprint = fingerprint_of_file(self._file.path)
        return self._fingerprint

    @property
    def is_staged(self) -> bool:
        """Whether the full resolution was decoded into the temp folder."""
        return self._staged is not None

    @property
    def reference(self) -> SourceRef:
        """What a worker opens this picture again from."""
        path = self._file.path
        return SourceRef(
            opener="tilevision.sources.formats.tiff:open_tiff",
            path=path,
            options={**self._options, **file_options(path, self._content)},
            fingerprint=self.fingerprint,
        )

    def close(self) -> None:
        """Close the file, and give up the staging file where there is one."""
        self._file.close()
        if self._staged is not None:
            self._staged.close()


def open_tiff(
    path: str,
    *,
    frame: int = 0,
    mpp: tuple[float, float] | None = None,
    stamp: tuple[int, int] | None = None,
    fingerprint: str = "",
) -> TiffSource:
    """Open one picture of a TIFF file.

    Parameters
    ----------
    path : str
    frame : int
        Which of the file's pictures, from 0.
    mpp : tuple of float, optional
        Microns per pixel in x and y; overrides what the file says.
    stamp : tuple of int, optional
        Size and modification time under which the file had `fingerprint`.
    fingerprint : str

    Raises
    ------
    SourceError
        If the file is damaged, incomplete, or of a kind that cannot be read.
    """
    if fingerprint:
        fingerprint = known_fingerprint(path, stamp, fingerprint)
    file = OpenFile(path)
    with parsed(path) as tif:
        levels, metadata = lay_out(tif, file, frame, mpp)
    first, staged = levels[0], None
    if is_dear(first.pages[0]):
        fingerprint = fingerprint or fingerprint_of_file(path)
        revised = _revision(levels).replace(" ", "-").replace(":", "")
        staged = _stage(path, first, f"{fingerprint}-{_DECODER}-{frame}{revised}")
        metadata = replace(metadata, notes=(*metadata.notes, staged_note(staged)))
    options: dict[str, object] = {"frame": frame, "mpp": mpp}
    return TiffSource(file, levels, metadata, options, fingerprint, staged)


def lay_out(
    tif: TiffFile, file: OpenFile, frame: int, mpp: tuple[float, float] | None
) -> tuple[list[TiffLevel], ImageMetadata]:
    """Return the resolutions of one picture, finest first, and what the file says of it.

    Parameters
    ----------
    tif : TiffFile
    file : OpenFile
        The same file, to read the pixels from.
    frame : int
        Which of the file's pictures, from 0.
    mpp : tuple of float, optional
        Microns per pixel in x and y; overrides what the file says.
    """
    check_chain(tif, file.path)
    pages = frame_pages(tif, frame, file.path)
    metadata = _metadata(tif, pages[0][0], mpp)
    levels = [TiffLevel(file, level) for level in pages]
    first = levels[0]
    metadata = replace(metadata, scaling=scaling(pages[0][0], first.bands))
    return [first, *(level for level in levels[1:] if _belongs(level, first))], metadata


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
        raise SourceError(f"{path} describes more than fits in memory: it is damaged") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SourceError(
            f"{path} is a damaged or incomplete TIFF file ({reason}); get the file again"
        ) from error
    finally:
        logger.setLevel(level)


def _metadata(tif: TiffFile, page: TiffPage, mpp: tuple[float, float] | None) -> ImageMetadata:
    crs, transform = geo_reference(page)
    declared, note = (mpp, "") if mpp else microns_per_pixel(tif, page)
    slide = bool(tif.is_svs)
    kind = "SVS" if slide else "OME-TIFF" if tif.is_ome else "GeoTIFF" if transform else "TIFF"
    # Slides and maps are placed by their own coordinates: turning them would break those.
    orientation = 1 if slide or transform else page.tags.valueof(_ORIENTATION, 1)
    return ImageMetadata(
        format=kind,
        mpp=declared,
        crs=crs,
        transform=transform,
        nodata=no_data(page),
        frames=count_frames(tif),
        orientation=int(orientation) if orientation in range(1, 9) else 1,
        notes=(note,) if note else (),
    )


def _revision(levels: Sequence[TiffLevel]) -> str:
    """Return what sets a picture's identity apart from that under which it was read wrongly."""
    facts = sorted(set[str]().union(*(level.revisions for level in levels)))
    facts += ["tiles left out"] * bool(find_gaps(levels))
    return "".join(f" revised: {fact}" for fact in facts)


def _belongs(level: TiffLevel, first: TiffLevel) -> bool:
    wide = first.size[0] / level.size[0]
    high = first.size[1] / level.size[1]
    # One pixel of rounding is much of a very small level.
    slack = _SAME_SHAPE + 1 / min(level.size)
    same = level.bands == first.bands and level.dtype == first.dtype
    return same and wide > 1 and abs(wide / high - 1) <= slack


def is_dear(page: SegmentedPage) -> bool:
    """Say whether a window makes so much more be decoded that decoding once pays."""
    if page.free_rows or (page.across > 1 and page.segment_bytes < 1 << 26):
        return False
    wide, high = (min(_TYPICAL_SIDE, side) for side in page.size)
    decoded = page.size[0] * min(page.size[1], high + page.segment[1])
    return decoded > _DEAREST * wide * high


def _stage(path: str, level: TiffLevel, key: str) -> StagedPixels:
    width, height = level.size
    rows = max(page.segment[1] for page in level.pages)

    def write(out: Pixels) -> Iterator[int]:
        for start in range(0, height, rows):
            stop = min(start + rows, height)
            out[start:stop] = level.window(0, start, width, stop, None)
            yield stop

    def check() -> None:
        # The strip as stored, decoded, and as its bands are put together.
        check_decodes(path, width, min(rows, height), 3 * level.bands * level.dtype.itemsize)

    return stage(key, (height, width, level.bands), level.dtype, write, check)


FORMAT = ImageFormat(
    "a TIFF file",
    accepts=lambda file: file.is_tiff,
    opener=open_tiff,
    suffixes=frozenset({".btf", ".svs", ".tf2", ".tf8", ".tif", ".tiff"}),
    pages=True,
)
