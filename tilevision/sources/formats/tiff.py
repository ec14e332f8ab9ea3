"""The TIFF family, read by the window: tiled and strip, BigTIFF, pyramids, OME, SVS, GeoTIFF."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tilevision.errors import SourceError
from tilevision.sources.capacity import check_decodes
from tilevision.sources.filetree import FileWatch, tree_of
from tilevision.sources.formats.besidefiles import (
    BandsBeside,
    mask_beside,
    overviews_beside,
    values_of_all_bands,
)
from tilevision.sources.formats.imageformat import TIFF_MAGIC, ImageFormat
from tilevision.sources.formats.segments import SegmentedPage
from tilevision.sources.formats.spatial import kept_beside, place_beside, with_place
from tilevision.sources.formats.tiffframes import (
    check_chain,
    count_frames,
    find_frame,
    parsed,
    plane_axes,
)
from tilevision.sources.formats.tifflevels import (
    BandMask,
    FilledLevel,
    FinerMask,
    ShownLevel,
    TiffLevel,
    TurnedLevel,
    ValueMask,
    find_gaps,
)
from tilevision.sources.formats.tiffmetadata import (
    Interpretation,
    channel_names,
    colour_bands,
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

__all__ = [
    "FORMAT",
    "TiffPicture",
    "TiffSource",
    "is_dear",
    "lay_out",
    "open_tiff",
    "with_bands_beside",
    "with_mask_beside",
    "with_overviews_beside",
]

_ORIENTATION, _GDAL_METADATA = 274, 42112
_TURNED = 5  # orientations from here on swap width and height
# The window that is typical of a model; strips that make it this much dearer are staged.
_TYPICAL_SIDE = 1024
_DEAREST = 4.0
# Levels of one picture differ in shape by rounding only.
_SAME_SHAPE = 0.02
_DECODER, _STORED = "tiff1", "tiff2"


@dataclass(frozen=True, slots=True)
class FilesBeside:
    """The files beside an image that belong to its pixels.

    Parameters
    ----------
    files : tuple of OpenFile
    mask : str
        SHA-256 of the file with its mask; empty without one that hides anything.
    overviews : str
        The same of the file with its coarser levels.
    nodata : bool
        Whether one of the files says which values mean no data.
    """

    files: tuple[OpenFile, ...] = ()
    mask: str = ""
    overviews: str = ""
    nodata: bool = False


@dataclass(frozen=True, slots=True)
class TiffPicture:
    """The resolutions of one picture as they are stored, finest first.

    Parameters
    ----------
    levels : list of TiffLevel
    masks : list of (Level or None)
        Of each, where it has data.
    colours : tuple of int, optional
        The bands that are red, green and blue, where the file names them.
    renumbered : bool
        Whether earlier releases gave the number of this picture to another.
    together : tuple of float
        The value of each band that means no data where all bands have theirs; else empty.
    later : tuple of (int, int)
        The sizes of levels that earlier releases did not read.
    beside : FilesBeside
    """

    levels: list[TiffLevel]
    masks: list[Level | None]
    colours: tuple[int, int, int] | None = None
    renumbered: bool = False
    together: tuple[float, ...] = ()
    later: tuple[tuple[int, int], ...] = ()
    beside: FilesBeside = FilesBeside()


class TiffSource(LevelReader):
    """A picture in a TIFF file.

    Parameters
    ----------
    file : OpenFile
    picture : TiffPicture
        Its resolutions, as stored.
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
        picture: TiffPicture,
        metadata: ImageMetadata,
        options: dict[str, object],
        fingerprint: str = "",
        staged: StagedPixels | None = None,
    ) -> None:
        first = picture.levels[0]
        stored = _stored_levels(file, picture, metadata.orientation, staged)
        metadata = replace(metadata, levels=tuple(level.size for level in stored))
        masks = _masks(picture, stored, metadata.orientation)
        self._how = first.interpretation
        self._as_stored = _Layout(stored, first.bands, first.dtype, metadata, masks, first.alpha)
        shown = self._as_stored if self._how is None else _shown(self._as_stored, self._how, first)
        super().__init__(file.path, *shown)
        if self._how is not None:
            self.revision = self._how.revision
        else:
            self.colours = picture.colours
        self._file = file
        self._options = options
        self._fingerprint = fingerprint
        self._staged = staged
        self._revision = _revision(picture)
        self._beside = picture.beside
        turned_bits = self._how is not None and first.dtype.kind == "b"
        self.nodata_later = picture.beside.nodata or (turned_bits and metadata.nodata is not None)
        turned = metadata.orientation >= _TURNED
        self.later_levels = tuple((h, w) if turned else (w, h) for w, h in picture.later)
        if picture.beside.files and not file.expects:
            files = [Path(one.path) for one in (file, *picture.beside.files)]
            self.watch = FileWatch(file.path, lambda: files, tree_of(file.path, files))

    @property
    def stored(self) -> LevelReader:
        """The same picture with the values that the file stores."""
        if self._how is None:
            return self
        other = copy.copy(self)
        LevelReader.__init__(other, self._file.path, *self._as_stored)
        vars(other).update(revision=self._how.stored, classes=self._how.classes, _how=None)
        return other

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
    def resampled(self) -> str:
        """Names in what enlarged and shrunk values differ from those of earlier releases."""
        beside = self._beside.overviews
        overviews = [f"overviews {beside[:16]}"] if beside else []
        if self.later_levels and not beside:
            overviews = [f"{len(self.later_levels)} more overviews"]
        return "; ".join([super().resampled] * bool(super().resampled) + overviews)

    @property
    def is_staged(self) -> bool:
        """Return True if the full resolution was decoded into the temp folder."""
        return self._staged is not None

    @property
    def reference(self) -> SourceRef:
        """What a worker opens this picture again from."""
        path, beside = self._file.path, self._beside.overviews
        overviews = {"overviews": beside} if beside else {}
        return SourceRef(
            opener="tilevision.sources.formats.tiff:open_tiff",
            path=path,
            options={**self._options, **file_options(path, self._content), **overviews},
            fingerprint=self.fingerprint,
        )

    def close(self) -> None:
        """Close the file, and give up the staging file where there is one."""
        for file in (self._file, *self._beside.files):
            file.close()
        if self._staged is not None:
            self._staged.close()


def open_tiff(
    path: str,
    *,
    frame: int = 0,
    mpp: tuple[float, float] | None = None,
    stamp: tuple[int, int] | None = None,
    fingerprint: str = "",
    overviews: str = "",
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
    overviews : str
        SHA-256 of the overviews beside it that it had with this fingerprint.

    Raises
    ------
    SourceError
        If the file is damaged, incomplete, or of a kind that cannot be read.
    """
    wanted = overviews if fingerprint else None
    if fingerprint:
        fingerprint = known_fingerprint(path, stamp, fingerprint)
    file = OpenFile(path)
    with parsed(path) as tif:
        picture, metadata = lay_out(tif, file, frame, mpp)
    if not frame:
        picture, metadata = _with_files_beside(path, picture, metadata, wanted)
    first, staged = picture.levels[0], None
    if is_dear(first.pages[0]):
        fingerprint = fingerprint or fingerprint_of_file(path)
        revised = _revision(picture).replace(" ", "-").replace(":", "")
        decoder = _DECODER if first.interpretation is None else _STORED
        staged = _stage(path, first, f"{fingerprint}-{decoder}-{frame}{revised}")
        metadata = replace(metadata, notes=(*metadata.notes, staged_note(staged)))
    options: dict[str, object] = {"frame": frame, "mpp": mpp}
    return TiffSource(file, picture, metadata, options, fingerprint, staged)


def lay_out(
    tif: TiffFile, file: OpenFile, frame: int, mpp: tuple[float, float] | None
) -> tuple[TiffPicture, ImageMetadata]:
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
    found = find_frame(tif, frame, file.path)
    page = found.levels[0][0]
    every = [TiffLevel(file, pages, found.planes) for pages in found.levels]
    masks = [None if page is None else BandMask(TiffLevel(file, [page]), 0) for page in found.masks]
    first = every[0]
    kept = [n for n, level in enumerate(every) if not n or _belongs(level, first)]
    picture = TiffPicture(
        [every[n] for n in kept],
        [masks[n] for n in kept],
        colour_bands(page, first.bands),
        renumbered=found.renumbered,
    )
    if found.unlisted:
        picture = _with_more_levels(picture, [TiffLevel(file, [one]) for one in found.unlisted])
    metadata = replace(
        _metadata(tif, page, mpp),
        scaling=scaling(page, first.bands),
        planes=plane_axes(tif),
        channels=channel_names(tif, found.levels[0], first.bands),
    )
    said = page.tags.valueof(_GDAL_METADATA)
    together = values_of_all_bands(said, first.bands) if isinstance(said, str) else ()
    return replace(picture, together=together), metadata


def _with_more_levels(picture: TiffPicture, more: list[TiffLevel]) -> TiffPicture:
    """Return `picture` with those of `more` that are levels of it, which have no masks."""
    sizes = {level.size for level in picture.levels}
    fitting = [level for level in more if _belongs(level, picture.levels[0])]
    fresh = {level.size: level for level in fitting if level.size not in sizes}
    masks = dict(zip(picture.levels, picture.masks, strict=True))
    levels = sorted([*picture.levels, *fresh.values()], key=lambda one: -one.size[0])
    return replace(
        picture,
        levels=levels,
        masks=[masks.get(level) for level in levels],
        later=tuple(sorted(fresh, reverse=True)),
    )


def _metadata(tif: TiffFile, page: TiffPage, mpp: tuple[float, float] | None) -> ImageMetadata:
    place = geo_reference(page)
    declared, note = (mpp, "") if mpp else microns_per_pixel(tif, page)
    slide = bool(tif.is_svs)
    kind = (
        "SVS" if slide else "OME-TIFF" if tif.is_ome else "GeoTIFF" if place.transform else "TIFF"
    )
    # Slides and maps are placed by their own coordinates: turning them would break those.
    orientation = 1 if slide or place.transform else page.tags.valueof(_ORIENTATION, 1)
    return ImageMetadata(
        format=kind,
        mpp=declared,
        crs=place.crs,
        transform=place.transform,
        nodata=no_data(page),
        frames=count_frames(tif),
        orientation=int(orientation) if orientation in range(1, 9) else 1,
        notes=tuple(one for one in (note, place.note) if one),
    )


def _revision(picture: TiffPicture) -> str:
    """Return what sets a picture's identity apart from that under which it was read wrongly."""
    facts = sorted(set[str]().union(*(level.revisions for level in picture.levels)))
    facts += ["tiles left out"] * bool(find_gaps(picture.levels))
    facts += ["pages by their kind"] * picture.renumbered
    facts += [f"mask {picture.beside.mask}"] * bool(picture.beside.mask)
    return "".join(f" revised: {fact}" for fact in facts)


class _Layout(NamedTuple):
    """What `LevelReader` is made of, beyond the name."""

    levels: Sequence[Level]
    bands: int
    dtype: np.dtype[Any]
    metadata: ImageMetadata
    masks: Sequence[Level | None]
    alpha: int | None


def _stored_levels(
    file: OpenFile, picture: TiffPicture, orientation: int, staged: StagedPixels | None
) -> list[Level]:
    levels: list[Level] = list(picture.levels)
    if staged is not None:
        levels[0] = MappedLevel(file.path, staged)
    else:
        levels[0].window(0, 0, 1, 1, None)  # an unknown compression shows now, not on a worker
    for number, gaps in find_gaps(picture.levels).items():
        levels[number] = FilledLevel(picture.levels[number], gaps, levels[number - 1])
    return levels if orientation == 1 else [TurnedLevel(level, orientation) for level in levels]


def _shown(stored: _Layout, how: Interpretation, first: TiffLevel) -> _Layout:
    levels = [ShownLevel(level, how, first) for level in stored.levels]
    metadata, masks = stored.metadata, stored.masks
    value = metadata.nodata
    if how.classes and value is not None:
        masks = [ValueMask(level, [value]) for level in stored.levels]
    shown = None if value is None or how.value is None else how.value(value)
    return _Layout(
        levels,
        levels[0].bands,
        levels[0].dtype,
        replace(metadata, nodata=shown),
        masks,
        None if how.mixed else stored.alpha,
    )


def _masks(picture: TiffPicture, stored: Sequence[Level], orientation: int) -> list[Level | None]:
    """Return for each level what says where it has data: a page, values, or its alpha."""
    found: list[Level | None] = []
    alpha = picture.levels[0].alpha
    if picture.together and not any(picture.masks):
        return [ValueMask(level, picture.together) for level in stored]
    for level, mask in zip(stored, picture.masks, strict=True):
        if mask is not None:
            found.append(mask if orientation == 1 else TurnedLevel(mask, orientation))
        elif found and found[0] is not None and alpha is None:
            found.append(FinerMask(found[0], level))
        else:
            found.append(None if alpha is None else BandMask(level, alpha))
    return found


def _with_files_beside(
    path: str, picture: TiffPicture, metadata: ImageMetadata, wanted: str | None
) -> tuple[TiffPicture, ImageMetadata]:
    """Return a picture with all that GDAL keeps of it in files beside it."""
    place = place_beside(path)
    if place is not None:
        metadata = with_place(metadata, place, picture.levels[0].size)
    picture, metadata = with_bands_beside(kept_beside(path, ".aux.xml"), picture, metadata)
    overviews = kept_beside(path, ".ovr")
    if len(picture.levels) == 1 and overviews is not None and wanted != "":
        try:
            with parsed(str(overviews)) as tif:
                digest = fingerprint_of_file(overviews)
                picture = with_overviews_beside(OpenFile(overviews), tif, digest, picture)
        except SourceError as error:
            note = f"The overviews beside it are not read: {error}"
            metadata = replace(metadata, notes=(*metadata.notes, note))
    if wanted and picture.beside.overviews != wanted:
        raise SourceError(
            f"The overviews beside {path} have changed since it was opened; open it again."
        )
    mask = None if any(picture.masks) else kept_beside(path, ".msk")
    if mask is not None:
        with parsed(str(mask)) as tif:
            picture = with_mask_beside(OpenFile(mask), tif, fingerprint_of_file(mask), picture)
    return picture, metadata


def with_bands_beside(
    auxiliary: Path | None, picture: TiffPicture, metadata: ImageMetadata
) -> tuple[TiffPicture, ImageMetadata]:
    """Return a picture with what the ``.aux.xml`` beside it says of its bands."""
    said = None if auxiliary is None else BandsBeside.of(auxiliary, picture.levels[0].bands)
    if said is None:
        return picture, metadata
    picture = replace(
        picture,
        colours=said.colours or picture.colours,
        together=said.together or picture.together,
        beside=replace(picture.beside, nodata=any(one is not None for one in said.nodata)),
    )
    return picture, said.added_to(metadata)


def with_overviews_beside(
    file: OpenFile, tif: TiffFile, digest: str, picture: TiffPicture
) -> TiffPicture:
    """Return `picture` with the coarser levels that GDAL keeps in a file beside it.

    Parameters
    ----------
    file : OpenFile
    tif : TiffFile
        The same file.
    digest : str
        Of its content.
    picture : TiffPicture

    Raises
    ------
    SourceError
        If the file is damaged, or holds none.
    """
    picture = _with_more_levels(picture, overviews_beside(file, tif))
    if not picture.later:
        raise SourceError(f"{file.path} holds no smaller picture of the same kind; build it again.")
    for level in picture.levels[1:]:
        level.window(0, 0, 1, 1, None)  # what cannot be decoded shows now
    files = (*picture.beside.files, file)
    return replace(picture, beside=replace(picture.beside, files=files, overviews=digest))


def with_mask_beside(
    file: OpenFile, tif: TiffFile, digest: str, picture: TiffPicture
) -> TiffPicture:
    """Return `picture`, which has no mask, with that in a file beside it; see above."""
    mask = mask_beside(file, tif, picture.levels[0].bands)
    files = (*picture.beside.files, file)
    masks = [mask.of(level.size) for level in picture.levels]
    # A picture of which it hides nothing was read rightly without it, and keeps its identity.
    told = "" if mask.hides_nothing() else digest
    beside = replace(picture.beside, files=files, mask=told)
    return replace(picture, masks=masks, beside=beside)


def _belongs(level: TiffLevel, first: TiffLevel) -> bool:
    wide = first.size[0] / level.size[0]
    high = first.size[1] / level.size[1]
    # One pixel of rounding is much of a very small level.
    slack = _SAME_SHAPE + 1 / min(level.size)
    same = level.bands == first.bands and level.dtype == first.dtype
    return same and wide > 1 and abs(wide / high - 1) <= slack


def is_dear(page: SegmentedPage) -> bool:
    """Return True if a window makes so much more be decoded that decoding once pays."""
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
    begins=TIFF_MAGIC,
    opener=open_tiff,
    suffixes=frozenset({".btf", ".svs", ".tf2", ".tf8", ".tif", ".tiff"}),
    pages=True,
)
