"""Where an image lies and how large its pixels are, as files of any format state it.

Lengths are numbers with a comma or an exponent, and units by symbol or by word. Places on Earth are
read as GDAL reads them: from the file, and from files beside it. GDAL lets what is beside a file
(``.aux.xml``) go before what is in it, and that before world files.
"""

from __future__ import annotations

import math
import re
import unicodedata
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilevision.sources.source import ImageMetadata

if TYPE_CHECKING:
    from rasterio.crs import CRS
    from rasterio.io import DatasetReader

__all__ = [
    "EarthPlace",
    "in_microns",
    "kept_beside",
    "microns_per_unit",
    "number",
    "pixel_size",
    "place_beside",
    "place_by_tags",
    "place_of",
    "with_place",
]

# By symbol, where upper and lower case differ: "Mm" is no "mm". These are OME's symbols.
_SYMBOLS = {
    "ym": 1e-18,
    "zm": 1e-15,
    "am": 1e-12,
    "fm": 1e-9,
    "pm": 1e-6,
    "nm": 1e-3,
    "\u03bcm": 1.0,
    "um": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "dm": 1e5,
    "m": 1e6,
    "dam": 1e7,
    "hm": 1e8,
    "km": 1e9,
    "Mm": 1e12,
    "thou": 25.4,
    "mil": 25.4,
    "in": 25_400.0,
    "ft": 304_800.0,
    "yd": 914_400.0,
    "mi": 1_609_344_000.0,
    "pt": 25_400.0 / 72,
    '"': 25_400.0,
}
_WORDS = {
    "angstrom": 1e-4,
    "\u00e5": 1e-4,
    "picometer": 1e-6,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "micron": 1.0,
    "\u03bc": 1.0,
    "\u03bcmeter": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "decimeter": 1e5,
    "meter": 1e6,
    "kilometer": 1e9,
    "inch": 25_400.0,
    "inches": 25_400.0,
    "foot": 304_800.0,
    "feet": 304_800.0,
    "yard": 914_400.0,
    "mile": 1_609_344_000.0,
}
_ESCAPED = re.compile(r"\\u([0-9A-Fa-f]{4})")
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")


def number(text: object) -> float:
    """Return the number that a text is, with a point or a comma; NaN where it is none."""
    if isinstance(text, (int, float)):
        return float(text)
    stripped = text.strip() if isinstance(text, str) else ""
    if _NUMBER.fullmatch(stripped) is None:
        return math.nan
    return float(stripped.replace(",", "."))


def microns_per_unit(unit: object) -> float:
    """Return how many microns a unit of length is; NaN for any other.

    Parameters
    ----------
    unit : str
        A symbol (``"µm"``, with either of Unicode's two signs, ``"um"``, ``"cm"``, ``"in"``) or a
        word in the singular or plural, British or American (``"micrometres"``).
    """
    if not isinstance(unit, str):
        return math.nan
    # ImageJ escapes the micro sign; some writers encode it twice.
    plain = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), unit).replace("\u00c2\u00b5", "µ")
    plain = unicodedata.normalize("NFKC", plain).strip().rstrip(".\0").strip()
    if plain in _SYMBOLS:
        return _SYMBOLS[plain]
    word = plain.lower()
    word = re.sub("metre", "meter", word)
    if word in _WORDS:
        return _WORDS[word]
    if word.removesuffix("s") in _WORDS:
        return _WORDS[word.removesuffix("s")]
    return _SYMBOLS.get(word, math.nan) if len(word) > 1 and plain != "Mm" else math.nan


def in_microns(text: object, unit: object) -> float:
    """Return a length in microns; NaN where its number or its unit is not understood."""
    return number(text) * microns_per_unit(unit)


def pixel_size(x: float, y: float) -> tuple[float, float] | None:
    """Return both as the size of a pixel, or None where one is no positive number."""
    both = float(x), float(y)
    return both if all(math.isfinite(value) and value > 0 for value in both) else None


_DRIVERS = ("GTiff", "PNG", "JPEG", "BMP", "GIF", "WEBP", "JP2OpenJPEG", "PNM")
_WORTH_OPENING = (b"<SRS", b"<GeoTransform", b"<GCPList", b'"RPC"')
_LARGEST_ERROR = 0.5  # pixels, by which control points may lie off the transform they become
_NEEDS = "which needs rasterio: pip install 'tilevision[geo]'."

Transform = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class EarthPlace:
    """Where an image lies.

    Parameters
    ----------
    crs : str, optional
        ``"EPSG:32617"``, ``"ESRI:102001"`` or WKT2.
    transform : tuple of float, optional
        Affine ``(a, b, c, d, e, f)`` from pixel corners, as in `ImageMetadata`.
    note : str
        Why more is said in the file than is known here; else empty.
    """

    crs: str | None = None
    transform: Transform | None = None
    note: str = ""


def kept_beside(path: str, suffix: str) -> Path | None:
    """Return the file beside an image that GDAL names by what it adds: ``".ovr"``, ``".msk"``."""
    places = (Path(f"{path}{one}") for one in (suffix, suffix.upper()))
    return next((place for place in places if place.is_file()), None)


def place_of(dataset: DatasetReader) -> EarthPlace:
    """Return where an open dataset of rasterio lies."""
    if not dataset.transform.is_identity:
        placed = tuple(float(value) for value in dataset.transform[:6])
        return EarthPlace(_name(dataset.crs), placed)
    points, crs = dataset.gcps
    if points:
        return _place_by_points(points, crs or dataset.crs)
    note = ""
    if dataset.rpcs is not None:
        note = (
            "Its place on Earth is given by rational polynomials (RPC), which need a terrain; "
            "orthorectify it, for example with gdalwarp -rpc, to have places in results."
        )
    return EarthPlace(_name(dataset.crs), None, note)


def place_beside(path: str) -> EarthPlace | None:
    """Return where an image lies by the files beside it; None where there are none that say."""
    found = _file_beside(Path(path))
    if found is None:
        return None
    try:
        import rasterio
    except ImportError:
        return EarthPlace(note=f"{found.name} says where the image lies on Earth, {_NEEDS}")
    from rasterio.errors import RasterioError
    from rasterio.io import DatasetReader

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.Env(), DatasetReader(path, driver=list(_DRIVERS)) as dataset:
                return place_of(dataset)
    except (RasterioError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        return EarthPlace(note=f"GDAL does not read the place that {found.name} gives: {reason}.")


def place_by_tags(tags: Mapping[int, tuple[str, Any]]) -> EarthPlace:
    """Return what GDAL and PROJ make of the tags that place a GeoTIFF.

    Parameters
    ----------
    tags : mapping of int to (str, value)
        Each with the type that tifffile writes it with.
    """
    try:
        from rasterio.io import MemoryFile
    except ImportError:
        return EarthPlace(note=f"How the file says where it lies on Earth is for PROJ, {_NEEDS}")
    from io import BytesIO

    import tifffile
    from rasterio.errors import RasterioError

    small = BytesIO()
    extra = [
        (code, kind, 0 if kind == "s" else len(value), value, True)
        for code, (kind, value) in sorted(tags.items())
    ]
    tifffile.imwrite(small, np.zeros((1, 1), np.uint8), metadata=None, extratags=extra)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with MemoryFile(small.getvalue()) as memory, memory.open(driver="GTiff") as dataset:
                return place_of(dataset)
    except (RasterioError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        return EarthPlace(
            note=f"GDAL does not read where the file says it lies on Earth: {reason}."
        )


def with_place(metadata: ImageMetadata, place: EarthPlace, size: tuple[int, int]) -> ImageMetadata:
    """Return what is said of an image, with the place that is said beside it.

    Parameters
    ----------
    metadata : ImageMetadata
        Its orientation has been applied.
    place : EarthPlace
        Of the image as it is stored.
    size : tuple of int
        Width and height as it is stored.
    """
    transform = place.transform
    if transform is not None and metadata.orientation != 1:
        transform = _turned(transform, metadata.orientation, size)
    return replace(
        metadata,
        crs=place.crs or metadata.crs,
        transform=transform or metadata.transform,
        notes=(*metadata.notes, place.note) if place.note else metadata.notes,
    )


def _turned(transform: Transform, orientation: int, size: tuple[int, int]) -> Transform:
    """Return the transform from the pixels of the image as it is shown, upright."""
    width, height = size
    a, b, c, d, e, f = transform
    x = (-1.0, width) if orientation in (2, 3, 7, 8) else (1.0, 0)  # stored columns, by sign
    y = (-1.0, height) if orientation in (3, 4, 6, 7) else (1.0, 0)
    a, b, c = a * x[0], b * y[0], c + a * x[1] + b * y[1]
    d, e, f = d * x[0], e * y[0], f + d * x[1] + e * y[1]
    return (a, b, c, d, e, f) if orientation < 5 else (b, a, c, e, d, f)


def _name(crs: CRS | None) -> str | None:
    """Return the authority's code of a CRS where it means the same, else its definition."""
    from rasterio.crs import CRS
    from rasterio.enums import WktVersion
    from rasterio.errors import CRSError

    if not crs:
        return None
    try:
        code = crs.to_epsg()
        named = ("EPSG", str(code)) if code else crs.to_authority()
        if named is not None and CRS.from_user_input(":".join(named)) == crs:
            return ":".join(named)
        return str(crs.to_wkt(version=WktVersion.WKT2_2019))
    except CRSError:
        return str(crs.to_wkt())


def _place_by_points(points: Any, crs: CRS | None) -> EarthPlace:
    from rasterio.transform import from_gcps

    a, b, c, d, e, f = (float(value) for value in from_gcps(points)[:6])
    pixels = np.array([(point.col, point.row) for point in points])
    places = np.array([(point.x, point.y) for point in points])
    matrix = np.array([[a, d], [b, e]])
    if abs(np.linalg.det(matrix)) > 0:
        errors = (places - (c, f)) @ np.linalg.inv(matrix) - pixels
        if np.hypot(*errors.T).max() <= _LARGEST_ERROR:
            return EarthPlace(_name(crs), (a, b, c, d, e, f))
    return EarthPlace(
        note=f"Its place on Earth is given by {len(points)} ground control points that no "
        "straight transform meets; warp it, for example with gdalwarp, to have places in results."
    )


def _file_beside(path: Path) -> Path | None:
    """Return the file beside an image that says where it lies."""
    kept = path.with_name(f"{path.name}.aux.xml")
    try:
        if kept.is_file() and any(word in kept.read_bytes() for word in _WORTH_OPENING):
            return kept
        suffix = path.suffix[1:].lower()
        worlds = (f"{suffix[:1]}{suffix[-1:]}w", f"{suffix}w", "wld")
        names = [path.with_suffix(f".{one}") for world in worlds for one in (world, world.upper())]
        names += [path.with_suffix(one) for one in (".tab", ".TAB", ".rpb", ".RPB")]
        names += [path.with_name(f"{path.stem}{one}") for one in ("_rpc.txt", "_RPC.TXT")]
        return next((name for name in names if name.is_file()), None)
    except (OSError, ValueError):
        return None
