"""What GDAL keeps of an image in files beside it: ``.aux.xml``, ``.msk`` and ``.ovr``.

Facts of its bands, masks and overviews; the place on Earth is in `spatial`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from tilevision.sources.depth import declared_scaling, same_in_all
from tilevision.sources.formats.spatial import number
from tilevision.sources.formats.tiffframes import is_mask
from tilevision.sources.formats.tifflevels import BandMask, BandsMask, TiffLevel
from tilevision.sources.levels import Level
from tilevision.sources.source import ImageMetadata
from tilevision.sources.staging.rows import OpenFile

if TYPE_CHECKING:
    from tifffile import TiffFile

__all__ = ["BandsBeside", "MaskBeside", "mask_beside", "overviews_beside", "values_of_all_bands"]

_LARGEST = 64 << 20  # bytes of an .aux.xml: histograms and tables of attributes are in it as well
_GDAL_METADATA = 42112
_CHECKED_PIXELS = 1 << 23
_BLOCK_PIXELS = 1 << 20
_OF_ALL_BANDS = 2  # among the flags of a mask in GDAL: one for all bands


@dataclass(frozen=True, slots=True)
class BandsBeside:
    """What the ``.aux.xml`` beside an image says of its bands; it goes before the image itself.

    Parameters
    ----------
    nodata : tuple of (float or None)
        For each band.
    scales, offsets : tuple of float
        For each band; 1 and 0 where there is none.
    channels : tuple of str
        The name of each band; empty where none has one.
    colours : tuple of int, optional
        The bands that are red, green and blue.
    together : tuple of float
        The value of each band that means no data where all bands have theirs; else empty.
    """

    nodata: tuple[float | None, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    channels: tuple[str, ...] = ()
    colours: tuple[int, int, int] | None = None
    together: tuple[float, ...] = ()

    @classmethod
    def of(cls, path: Path | None, bands: int) -> BandsBeside | None:
        """Read it from its file; None where there is none, or it says nothing of the bands."""
        root = None if path is None else _auxiliary(path)
        if root is None:
            return None
        said: list[dict[str, str]] = [{} for _ in range(bands)]
        for band in root.iterfind("PAMRasterBand"):
            place = band.get("band", "")
            if place.isdecimal() and 1 <= int(place) <= bands:
                said[int(place) - 1] = {part.tag: (part.text or "").strip() for part in band}
        kinds = [one.get("ColorInterp", "").lower() for one in said]
        rgb = [kinds.index(kind) for kind in ("red", "green", "blue") if kind in kinds]
        names = tuple(one.get("Description", "") for one in said)
        found = cls(
            tuple(_value(one.get("NoDataValue")) for one in said),
            tuple(number(one.get("Scale", "1")) for one in said),
            tuple(number(one.get("Offset", "0")) for one in said),
            names if any(names) else (),
            (rgb[0], rgb[1], rgb[2]) if len(rgb) == 3 else None,
            _together(root, bands),
        )
        nothing = cls((None,) * bands, (1.0,) * bands, (0.0,) * bands)
        return None if found == nothing else found

    def added_to(self, metadata: ImageMetadata) -> ImageMetadata:
        """Return what an image says of itself, with what is said beside it."""
        count = len(self.nodata)
        own = metadata.band_nodata or (metadata.nodata,) * count
        nodata = same_in_all(
            [mine if said is None else said for said, mine in zip(self.nodata, own, strict=True)]
        )
        scaling = declared_scaling(self.scales, self.offsets)
        return replace(
            metadata,
            nodata=None if isinstance(nodata, tuple) else nodata,
            band_nodata=nodata if isinstance(nodata, tuple) else None,
            scaling=scaling or metadata.scaling,
            channels=self.channels or metadata.channels,
        )


@dataclass(frozen=True, slots=True)
class MaskBeside:
    """The mask in the ``.msk`` file beside an image.

    Parameters
    ----------
    file : OpenFile
        To be closed with the image.
    levels : list of TiffLevel
        Its resolutions, finest first.
    shared : bool
        Whether its one band is of all bands of the image.
    """

    file: OpenFile
    levels: list[TiffLevel]
    shared: bool

    def of(self, size: tuple[int, int]) -> Level | None:
        """Return the mask of a resolution of the image; None where there is none of this size."""
        found = next((level for level in self.levels if level.size == size), None)
        if found is None:
            return None
        return BandMask(found, 0) if self.shared else BandsMask(found)

    def hides_nothing(self) -> bool:
        """Return True if it says of every pixel that it is there, as far as it may be read."""
        level = self.levels[0]
        width, height = level.size
        if self.file.expects or width * height > _CHECKED_PIXELS:
            return False
        step = max(1, _BLOCK_PIXELS // width)
        return all(
            level.window(0, y0, width, min(y0 + step, height), None).all()
            for y0 in range(0, height, step)
        )


def mask_beside(file: OpenFile, tif: TiffFile, bands: int) -> MaskBeside:
    """Return the mask in a file beside an image of so many bands.

    Parameters
    ----------
    file : OpenFile
    tif : TiffFile
        The same file.
    bands : int
    """
    pages = [page.aspage() for page in tif.pages]
    levels = [TiffLevel(file, [page]) for page in pages]
    text = pages[0].tags.valueof(_GDAL_METADATA)
    levels = [level for level in levels if level.bands == levels[0].bands]
    items = _items(text if isinstance(text, str) else "")
    flags = items.get("INTERNAL_MASK_FLAGS_1", "")
    each = levels[0].bands == bands > 1 and flags.isdecimal() and not int(flags) & _OF_ALL_BANDS
    return MaskBeside(file, levels, not each)


def overviews_beside(file: OpenFile, tif: TiffFile) -> list[TiffLevel]:
    """Return the pages of a file of overviews beside an image that are no masks; see above."""
    pages = [page.aspage() for page in tif.pages]
    return [TiffLevel(file, [page]) for page in pages if not is_mask(page)]


def values_of_all_bands(text: str, bands: int) -> tuple[float, ...]:
    """Return GDAL's NODATA_VALUES out of the text of its tag; empty where there are none."""
    return _values(_items(text).get("NODATA_VALUES", ""), bands)


def _auxiliary(path: Path) -> ElementTree.Element | None:
    """Return the document in an ``.aux.xml``; None where there is none that can be read."""
    try:
        if path.stat().st_size > _LARGEST:
            return None
        text = path.read_bytes()
        # GDAL's has no document type, so no entities either.
        return None if b"<!DOCTYPE" in text else ElementTree.fromstring(text)  # noqa: S314
    except (OSError, ValueError, ElementTree.ParseError):
        return None


def _together(root: ElementTree.Element, bands: int) -> tuple[float, ...]:
    for group in root.iterfind("Metadata"):
        if group.get("domain", "") == "":
            for item in group.iterfind("MDI"):
                if item.get("key") == "NODATA_VALUES":
                    return _values(item.text or "", bands)
    return ()


def _items(text: str) -> dict[str, str]:
    """Return what GDAL's tag says of the whole image."""
    try:
        root = ElementTree.fromstring(text.strip("\0 \r\n\t"))  # noqa: S314 - as `_auxiliary`
    except (ElementTree.ParseError, ValueError):
        return {}
    found = (item for item in root.iterfind("Item") if item.get("sample") is None)
    return {item.get("name", ""): (item.text or "").strip() for item in found}


def _value(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _values(text: str, bands: int) -> tuple[float, ...]:
    try:
        values = tuple(float(value) for value in text.split())
    except ValueError:
        return ()
    return values if len(values) == bands else ()
