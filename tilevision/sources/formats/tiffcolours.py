"""From the samples that a TIFF page stores to the picture they stand for, by its photometric tag.

Sources: TIFF 6.0 (1992), sections 4, 5, 8, 20, 23; TIFF Technical Note 4 (ICC L*a*b*); DNG 1.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilevision.errors import SourceError
from tilevision.sources.formats.pictures import to_rgb
from tilevision.sources.source import Pixels

if TYPE_CHECKING:
    from tifffile import TiffPage

__all__ = ["Interpretation", "interpretation"]

_MIN_IS_WHITE, _PALETTE, _CMYK, _YCBCR, _CIELAB, _ICCLAB = 0, 3, 5, 6, 8, 9
_NOT_SHOWN = {
    10: "ITU L*a*b* colours",
    32803: "the raw mosaic of a camera's sensor (CFA)",
    32844: "LogL luminances",
    32845: "LogLuv colours",
    34892: "the raw, linear values of a camera's sensor (LinearRaw)",
}
_JPEG = (6, 7, 33007, 34892)
# From CIE XYZ under D50, of which TIFF's and ICC's L*a*b* are, to linear sRGB (ICC's profile).
_WHITE = np.array([0.96422, 1.0, 0.82521], np.float32)
_TO_SRGB = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ],
    np.float32,
)


@dataclass(frozen=True, slots=True)
class Interpretation:
    """How stored samples become what is shown.

    Parameters
    ----------
    show : callable
        ``show(stored (h, w, samples))`` returns ``(h, w, bands)``.
    mixed : bool
        Whether every sample is needed for each band; else band n is of sample n alone.
    value : callable, optional
        ``value(stored)`` returns as what one stored value is shown; None if as no single one.
    classes : bool
        Whether stored values are numbers of classes or colours, which have no average.
    revision : str
        Names in what the picture differs from what earlier releases showed; empty if in nothing.
    """

    show: Callable[[Pixels], Pixels]
    mixed: bool = True
    value: Callable[[float], float] | None = None
    classes: bool = False
    revision: str = ""


def interpretation(
    page: TiffPage, photometric: int, dtype: np.dtype[Any], samples: int, name: str
) -> Interpretation | None:
    """Return how a page's samples are shown; None where as they are stored.

    Parameters
    ----------
    page : TiffPage
    photometric : int
        As the file has it.
    dtype : numpy.dtype
    samples : int
    name : str
        What errors call the file.
    """
    if photometric in _NOT_SHOWN:
        return Interpretation(_refusal(name, _NOT_SHOWN[photometric]))
    if photometric == _PALETTE and page.colormap is not None and dtype.kind == "u":
        colours = np.asarray(page.colormap)
        table = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8).T.copy()
        return Interpretation(
            lambda pixels: table[np.minimum(pixels[..., 0], len(table) - 1)], classes=True
        )
    if photometric in (_CIELAB, _ICCLAB) and samples in (3, 4) and dtype in (np.uint8, np.uint16):
        signed = photometric == _CIELAB
        return Interpretation(lambda pixels: _from_lab(pixels, signed=signed), revision="L*a*b*")
    if photometric in (_CIELAB, _ICCLAB) and samples > 1:
        return Interpretation(_refusal(name, f"L*a*b* colours in {samples} samples of {dtype}"))
    if dtype == np.uint8 and photometric == _CMYK and samples == 4:
        return Interpretation(lambda pixels: to_rgb(pixels, "CMYK"))
    # A decoder of JPEG turns colours back, unless each is in a picture of its own.
    decoded = int(page.compression) in _JPEG and int(page.planarconfig) == 1
    if dtype == np.uint8 and photometric == _YCBCR and samples == 3 and not decoded:
        return Interpretation(lambda pixels: to_rgb(pixels, "YCbCr"))
    return _grey(photometric, dtype, page.bitspersample)


def _grey(photometric: int, dtype: np.dtype[Any], bits: int) -> Interpretation | None:
    inverted = photometric == _MIN_IS_WHITE and dtype.kind in "bu"
    if dtype.kind == "b":
        return Interpretation(np.logical_not, mixed=False) if inverted else None
    highest = 2**bits - 1
    # 2 and 4 bits are spread to 8, as every viewer does; other odd depths are stretched for
    # display like all that is not 8-bit.
    spread = 255 // highest if dtype == np.uint8 and bits in (2, 4) else 1
    if not inverted and spread == 1:
        return None

    def show(pixels: Pixels) -> Pixels:
        upright = dtype.type(highest) - pixels if inverted else pixels
        return upright * dtype.type(spread) if spread > 1 else upright

    def value(stored: float) -> float:
        return (highest - stored if inverted else stored) * spread

    return Interpretation(show, mixed=False, value=value)


def _refusal(name: str, what: str) -> Callable[[Pixels], Pixels]:
    def refuse(pixels: Pixels) -> Pixels:  # noqa: ARG001 - as they lie they are no picture
        raise SourceError(
            f"{name} stores {what}, which are not shown as a picture here; develop or convert it "
            "to RGB, or give a model that takes stored values (dtype='raw')."
        )

    return refuse


def _from_lab(pixels: Pixels, *, signed: bool) -> Pixels:
    """Return L*a*b* under D50 as 8-bit sRGB."""
    unit = 1 if pixels.dtype == np.uint8 else 256
    top = np.iinfo(pixels.dtype).max
    lightness = pixels[..., 0].astype(np.float32) * np.float32(100 / top)
    if signed:
        chroma = pixels[..., 1:3].view(np.int8 if unit == 1 else np.int16).astype(np.float32) / unit
    else:
        chroma = pixels[..., 1:3].astype(np.float32) / unit - 128
    y = (lightness + 16) / 116
    cubes = np.stack([y + chroma[..., 0] / 500, y, y - chroma[..., 1] / 200], axis=-1)
    xyz = np.where(cubes > 6 / 29, cubes**3, (cubes - 4 / 29) * np.float32(3 * (6 / 29) ** 2))
    linear = np.clip((xyz * _WHITE) @ _TO_SRGB.T, 0, 1)
    curved = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    shown: Pixels = np.rint(curved * 255).astype(np.uint8)
    return shown
