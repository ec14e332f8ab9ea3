"""What a TIFF file says about scale and place.

Microns per pixel are believed where a format defines them (Aperio SVS, OME). The plain
resolution tags are not: most writers leave 72 dpi or the printer's resolution there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from tilevision.sources.depth import declared_scaling

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

__all__ = ["geo_reference", "microns_per_pixel", "no_data", "scaling"]

_UNITS = {
    "nm": 1e-3,
    "µm": 1.0,
    "\u03bcm": 1.0,
    "um": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "Å": 1e-4,
}
_GDAL_METADATA = 42112
_PIXEL_SCALE, _TIEPOINT, _TRANSFORMATION, _NO_DATA = 33550, 33922, 34264, 42113
_KEYS = 34735
_USER_DEFINED = 32767
_PIXEL_IS_POINT = 2


def microns_per_pixel(tif: TiffFile) -> tuple[float, float] | None:
    """Return microns per pixel in x and y where an SVS or OME-TIFF says, else None."""
    if tif.is_svs:
        found = re.search(r"\bMPP\s*=\s*([0-9.]+)", tif.pages.first.description)
        return _both(found[1], found[1]) if found else None
    if tif.is_ome and tif.ome_metadata:
        pixels = re.search(r"<(?:\w+:)?Pixels\b([^>]*)>", tif.ome_metadata)
        attributes = dict(re.findall(r'(\w+)\s*=\s*"([^"]*)"', pixels[1])) if pixels else {}
        size = [
            _UNITS.get(attributes.get(f"PhysicalSize{axis}Unit", "µm"), np.nan)
            * _number(attributes.get(f"PhysicalSize{axis}"))
            for axis in "XY"
        ]
        return _both(*size)
    return None


def no_data(page: TiffPage) -> float | None:
    """Return the value that means no data (GDAL's tag), or None."""
    value = page.tags.valueof(_NO_DATA)
    if not isinstance(value, str):
        return None
    try:
        return float(value.strip("\0 ").replace(",", "."))
    except ValueError:
        return None


def scaling(page: TiffPage, bands: int) -> tuple[tuple[float, float], ...] | None:
    """Return scale and offset of each band (GDAL's tag), or None where none is declared."""
    text = page.tags.valueof(_GDAL_METADATA)
    found = {"scale": [1.0] * bands, "offset": [0.0] * bands}
    for attributes, value in re.findall(r"<Item\b([^>]*)>([^<]*)<", text if text else ""):
        said = dict(re.findall(r'(\w+)\s*=\s*"([^"]*)"', attributes))
        band, number = said.get("sample", ""), _number(value)
        if said.get("role") in found and band.isdecimal() and int(band) < bands:
            found[said["role"]][int(band)] = number
    return declared_scaling(found["scale"], found["offset"])


def geo_reference(page: TiffPage) -> tuple[str | None, tuple[float, ...] | None]:
    """Return CRS and affine transform from the GeoTIFF tags, each None where missing.

    The transform maps pixel corners (GDAL's convention), also where the file counts from
    pixel centres.
    """
    listed = page.tags.valueof(_KEYS)
    if not isinstance(listed, tuple) or len(listed) < 4 or 4 * listed[3] + 4 > len(listed):
        return None, None  # none, or damaged: tifffile would count up to any number
    try:
        tags = page.geotiff_tags or {}
    except Exception:  # noqa: BLE001  malformed keys must not cost the picture
        tags = {}
    if not tags:
        return None, None
    transform = _transform(page)
    if transform is not None and int(tags.get("GTRasterTypeGeoKey", 1)) == _PIXEL_IS_POINT:
        a, b, c, d, e, f = transform
        transform = (a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)
    for key in ("ProjectedCSTypeGeoKey", "GeographicTypeGeoKey"):
        code = tags.get(key)
        if code is not None and int(code) not in (0, _USER_DEFINED):
            return f"EPSG:{int(code)}", transform
    return None, transform


def _transform(page: TiffPage) -> tuple[float, ...] | None:
    matrix = page.tags.valueof(_TRANSFORMATION)
    if matrix is not None and len(matrix) == 16:
        values = [float(value) for value in matrix]
        return (values[0], values[1], values[3], values[4], values[5], values[7])
    scale, tie = page.tags.valueof(_PIXEL_SCALE), page.tags.valueof(_TIEPOINT)
    if scale is None or tie is None or len(scale) < 2 or len(tie) < 6:
        return None
    a, e = float(scale[0]), -float(scale[1])
    return (a, 0.0, float(tie[3]) - a * float(tie[0]), 0.0, e, float(tie[4]) - e * float(tie[1]))


def _both(x: float | str, y: float | str) -> tuple[float, float] | None:
    both = _number(x), _number(y)
    return both if all(np.isfinite(value) and value > 0 for value in both) else None


def _number(value: float | str | None) -> float:
    try:
        return float(value) if value is not None else np.nan
    except ValueError:
        return np.nan
