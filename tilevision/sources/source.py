"""What every image looks like to the rest of tilevision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import SourceError
from tilevision.geometry import Box

__all__ = [
    "ImageMetadata",
    "ImageSource",
    "Pixels",
    "ReadOptions",
    "SourceRef",
    "check_image_shape",
    "check_readable",
]

Pixels = NDArray[Any]

_MAX_BANDS = 4096
_USUAL_BANDS = 16
_LARGEST_SIDE = 2**31 - 1
_SAMPLE_SIDE = 64


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """What the file says of itself beyond its pixels.

    Parameters
    ----------
    format : str
        ``"JPEG"``, ``"TIFF"``, ``"SVS"``, ``"array"``, …
    mpp : tuple of float, optional
        Microns per pixel at full resolution in x and y, where the file (or the caller) says.
    crs : str, optional
        Coordinate reference system, as ``"EPSG:32617"`` or WKT.
    transform : tuple of float, optional
        Affine ``(a, b, c, d, e, f)``: x = a·col + b·row + c, y = d·col + e·row + f.
    nodata : float, optional
        Value that means no data, in every band; in each band another: see `band_nodata`.
    scaling : tuple of (float, float), optional
        Scale and offset of each band, where the file declares any (GDAL): what is meant is
        stored · scale + offset.
    frames : int
        Pages or frames in the file; only the first is this image unless a frame was asked for.
    orientation : int
        EXIF orientation found in the file and already applied to the pixels; 1 is upright.
    bounds : Box, optional
        Non-empty region of a slide (OpenSlide bounds), full-resolution pixels.
    levels : tuple of (int, int)
        Width and height of each stored resolution, full resolution first.
    notes : tuple of str
        What a user should know about the file, one line each.
    planes : tuple of (str, int)
        The axes along which the pages of a file of several planes lie and their lengths, as
        ``(("t", 3), ("z", 20))``; the last changes from page to page.
    channels : tuple of str
        What the file calls its bands; empty where it names none.
    band_nodata : tuple of (float or None), optional
        Value that means no data in each band, where the bands differ.
    """

    format: str = ""
    mpp: tuple[float, float] | None = None
    crs: str | None = None
    transform: tuple[float, ...] | None = None
    nodata: float | None = None
    scaling: tuple[tuple[float, float], ...] | None = None
    frames: int = 1
    orientation: int = 1
    bounds: Box | None = None
    levels: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()
    planes: tuple[tuple[str, int], ...] = ()
    channels: tuple[str, ...] = ()
    band_nodata: tuple[float | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class SourceRef:
    """How a worker finds the image: small and picklable, never pixels, never secrets.

    Parameters
    ----------
    opener : str
        ``"package.module:function"``; called as ``function(path, **options)``, returns the source.
    path : str
        Absolute path or URL.
    options : mapping
        Plain values for the opener.
    fingerprint : str
        Of the content; a worker that sees another refuses the file.
    """

    opener: str
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What turns stored values into what a model sees; part of each tile's key.

    Parameters
    ----------
    bands : tuple of int, optional
        Bands to read, from 0, in this order; None is all.
    dtype : str
        ``"uint8"``: RGB as displayed; ``"raw"``: values as stored; ``"scaled"``: float32, by
        the scale and offset that the file declares, no-data as NaN.
    stretch : tuple of (float, float), optional
        Low and high stored value per band that become 0 and 255; one rule for the whole
        image. None where the values are 8-bit already, or raw.
    nodata : float or tuple of (float or None), optional
        Stored value shown as 0, or scaled to NaN; of each band read where they differ.
    scaling : tuple of (float, float), optional
        Scale and offset of each band read, for ``"scaled"``.
    revision : str
        Names in what the values differ from those that earlier releases read of such a file;
        empty where they are the same.
    resampled : str
        The same for tiles that are enlarged or shrunk.
    """

    bands: tuple[int, ...] | None = None
    dtype: Literal["uint8", "raw", "scaled"] = "uint8"
    stretch: tuple[tuple[float, float], ...] | None = None
    nodata: float | tuple[float | None, ...] | None = None
    scaling: tuple[tuple[float, float], ...] | None = None
    revision: str = ""
    resampled: str = ""

    def identity(self, scale: float = 1.0) -> dict[str, Any]:
        """Return what the key of a tile at `scale` holds of these options, as plain types.

        The revisions are left out where they are empty, so that what was read rightly all
        along keeps its key.
        """
        facts: dict[str, Any] = {
            "bands": self.bands,
            "dtype": self.dtype,
            "stretch": self.stretch,
            "nodata": self.nodata,
            "scaling": self.scaling,
        }
        if self.revision:
            facts["revision"] = self.revision
        if self.resampled and scale != 1:
            facts["resampled"] = self.resampled
        return facts


@runtime_checkable
class ImageSource(Protocol):
    """An image read by the window."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height at full resolution, after orientation, pixels."""
        ...

    @property
    def bands(self) -> int:
        """Number of bands."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what `read` returns."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of the content, not of the path: hexadecimal."""
        ...

    @property
    def metadata(self) -> ImageMetadata:
        """What the file says of itself beyond its pixels."""
        ...

    @property
    def reference(self) -> SourceRef:
        """What a worker opens this image again from."""
        ...

    def read(self, box: Box, scale: float = 1.0, bands: Sequence[int] | None = None) -> Pixels:
        """Return the pixels of `box` as ``(h, w, c)``, at `scale` output pixels per image pixel.

        Reads from the best stored level and costs the window, not the image. `box` is in
        whole full-resolution pixels, half-open, inside the image. The output is
        ``max(1, round(height * scale))`` by ``max(1, round(width * scale))``. `bands` are
        numbered from 0; None is all. Safe to call from several threads.
        """
        ...

    def thumbnail(self, max_side: int) -> Pixels:
        """Return the whole image as ``(h, w, c)``, its longer side at most `max_side`."""
        ...

    def close(self) -> None:
        """Release file handles, and the staging file where this source made one."""
        ...


def check_image_shape(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
    """Check that values of `dtype` in `shape` are an image ``(h, w, c)``.

    Raises
    ------
    SourceError
        If it is empty, of objects, of another number of axes, or has its bands first.
    """
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise SourceError(
            f"{name} is of {dtype}; an image is of booleans, integers or floats up to 64 bit."
        )
    if len(shape) != 3:
        raise SourceError(
            f"{name} has shape {shape}; give (height, width) or (height, width, bands)."
        )
    if not all(shape):
        raise SourceError(f"{name} is empty (shape {shape}); give at least one pixel.")
    bands = shape[2]
    if bands > _MAX_BANDS or (shape[0] <= _USUAL_BANDS < bands and shape[1] > 1):
        raise SourceError(
            f"{name} has shape {shape}, so {bands} bands; if bands come first, "
            "pass np.moveaxis(array, 0, -1)."
        )


def check_readable(source: ImageSource) -> str:
    """Check that the image can be cut and read: its dimensions, and samples of its pixels.

    Returns
    -------
    str
        What was found, in a few words.

    Raises
    ------
    SourceError
        If it has no pixels, absurd dimensions, or a sample cannot be read.
    """
    width, height = source.size
    if width < 1 or height < 1 or source.bands < 1:
        raise SourceError(f"The image is empty: {width}×{height} pixels in {source.bands} bands.")
    if max(width, height) > _LARGEST_SIDE:
        raise SourceError(
            f"The image claims {width:,}×{height:,} pixels, more than {_LARGEST_SIDE:,} on a side; "
            "the file is damaged, or not an image."
        )
    side_x, side_y = min(_SAMPLE_SIDE, width), min(_SAMPLE_SIDE, height)
    # From the middle on, not around it: there blocks of a file meet, and four would be decoded.
    for x in {0, min(width // 2, width - side_x), width - side_x}:
        for y in {0, min(height // 2, height - side_y), height - side_y}:
            source.read(Box(x, y, x + side_x, y + side_y))
    return f"{width:,}×{height:,} px, {source.bands} bands of {source.dtype}"
