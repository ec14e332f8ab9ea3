"""What the tags of a TIFF file say: colours, scale and place.

Colours are those of the photometric tag. Sources: TIFF 6.0 (1992), sections 4, 5, 8, 20, 23; TIFF
Technical Note 4 (ICC L*a*b*); DNG 1.4. Microns per pixel are read where a format defines them
(Aperio SVS, OME, ImageJ). The plain resolution tags count where only a microscope can have written
them, and a note says so: most writers leave 72 dpi or a printer's resolution there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree
from xml.sax.saxutils import unescape

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import SourceError
from tilevision.sources.depth import declared_scaling
from tilevision.sources.formats.pictures import YCbCrCoding, to_rgb
from tilevision.sources.formats.spatial import (
    EarthPlace,
    in_microns,
    microns_per_unit,
    number,
    pixel_size,
    place_by_tags,
)
from tilevision.sources.source import Pixels
from tilevision.sources.staging.rows import OpenFile

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

__all__ = [
    "AperioColours",
    "Interpretation",
    "channel_names",
    "colour_bands",
    "few_bits_spread",
    "geo_reference",
    "interpretation",
    "is_grey_ramp",
    "microns_per_pixel",
    "no_data",
    "scaling",
]

_APERIO_YCBCR, _APERIO_RGB = 33003, 33005
_PHOTOMETRIC_RGB, _PHOTOMETRIC_YCBCR = 2, 6
_START = b"\xff\x4f\xff\x51"  # of a codestream, with the sizes of its components
_COMPONENTS = 42  # where those are listed: three bytes each, the last two their subsampling


class AperioColours:
    """What one page's tiles, once decoded, have to go through.

    Parameters
    ----------
    file : OpenFile
    page : TiffPage
        The key frame; its photometric tag is put right.

    Attributes
    ----------
    revision : str
        Names what earlier releases read wrongly in this page; empty if nothing.
    """

    def __init__(self, file: OpenFile, page: TiffPage) -> None:
        self._ycbcr = int(page.compression) == _APERIO_YCBCR
        tagged = int(page.photometric) == _PHOTOMETRIC_YCBCR
        # Then samples were converted if the tag said so, and by imagecodecs if subsampled.
        start = _first_bytes(file, page) if self._ycbcr else b""
        once = (_is_subsampled(start) != tagged) if self._ycbcr else not tagged
        self.revision = "" if once else "jpeg2000 colours"
        page.photometric = _PHOTOMETRIC_RGB
        page.subsampling = (1, 1)

    @classmethod
    def of(cls, file: OpenFile, page: TiffPage) -> AperioColours | None:
        """Return what a page needs; None if its compression says nothing of colours."""
        named = int(page.compression) in (_APERIO_YCBCR, _APERIO_RGB)
        return cls(file, page) if named and int(page.samplesperpixel) == 3 else None

    def rgb(self, segment: Pixels, data: bytes) -> Pixels:
        """Return a decoded tile in RGB.

        Parameters
        ----------
        segment : ndarray, ``(h, w, 3)`` uint8
        data : bytes
            It was decoded from.
        """
        stored = self._ycbcr and not _is_subsampled(data[: _COMPONENTS + 9])
        return to_rgb(segment, "YCbCr") if stored else segment


def _first_bytes(file: OpenFile, page: TiffPage) -> bytes:
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if count > _COMPONENTS + 9 and 0 < offset <= file.size - count:
            return bytes(file.read(int(offset), _COMPONENTS + 9))
    return b""


def _is_subsampled(data: bytes) -> bool:
    """Return True if the second component of a codestream is coarser than its first."""
    components = data[_COMPONENTS : _COMPONENTS + 6]
    return data.startswith(_START) and components[4:6] != components[1:3]


_MIN_IS_WHITE, _MIN_IS_BLACK, _PALETTE, _CMYK, _YCBCR, _CIELAB, _ICCLAB = 0, 1, 3, 5, 6, 8, 9
_NOT_SHOWN = {
    10: "ITU L*a*b* colours",
    32803: "the raw mosaic of a camera's sensor (CFA)",
    32844: "LogL luminances",
    32845: "LogLuv colours",
    34892: "the raw, linear values of a camera's sensor (LinearRaw)",
}
_JPEG = (6, 7, 33007, 34892)
_CODING = (529, 532)  # YCbCrCoefficients, ReferenceBlackWhite
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
    stored : str
        The same of stored values.
    """

    show: Callable[[Pixels], Pixels]
    mixed: bool = True
    value: Callable[[float], float] | None = None
    classes: bool = False
    revision: str = ""
    stored: str = "stored"


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
    # GDAL has colours wherever there is a table; rasterio may write it without the tag.
    tagged = photometric == _PALETTE
    table = page.colormap if tagged or (photometric == _MIN_IS_BLACK and samples == 1) else None
    if table is not None and dtype.kind in "bu":
        colours = _eight_bits(np.asarray(table))
        if tagged or not is_grey_ramp(colours):
            return _colour_table(colours, tagged=tagged)
    if photometric in (_CIELAB, _ICCLAB) and samples in (3, 4) and dtype in (np.uint8, np.uint16):
        signed = photometric == _CIELAB
        return Interpretation(lambda pixels: _from_lab(pixels, signed=signed), revision="L*a*b*")
    if photometric in (_CIELAB, _ICCLAB) and samples > 1:
        return Interpretation(_refusal(name, f"L*a*b* colours in {samples} samples of {dtype}"))
    # A decoder of JPEG turns colours back, unless each is in a picture of its own.
    decoded = int(page.compression) in _JPEG and int(page.planarconfig) == 1
    if photometric == _CMYK and samples >= 4:
        return _mixture("CMYK", 4, dtype, samples, name)
    if photometric == _YCBCR and samples >= 3 and not decoded:
        coding = YCbCrCoding.of(*(page.tags.valueof(tag) for tag in _CODING))
        return _mixture("YCbCr", 3, dtype, samples, name, None if coding.usual else coding)
    return _grey(photometric, dtype, page.bitspersample)


def _mixture(
    mode: str,
    bands: int,
    dtype: np.dtype[Any],
    samples: int,
    name: str,
    coding: YCbCrCoding | None = None,
) -> Interpretation:
    """Return how inks or YCbCr, the first `bands` of all samples, are shown in RGB of 8 bits."""
    usual = samples == bands and dtype == np.uint8
    if dtype not in (np.uint8, np.uint16):
        return Interpretation(_refusal(name, f"{mode} colours in samples of {dtype}"))

    def show(pixels: Pixels) -> Pixels:
        deep = pixels[..., :bands]
        eight = deep if dtype == np.uint8 else (deep >> 8).astype(np.uint8)
        return to_rgb(eight, mode) if coding is None else coding.rgb(eight)

    # Earlier releases showed others as they lie, and knew one coding of YCbCr.
    known = usual and coding is None
    return Interpretation(
        show, revision="" if known else f"{mode} of {samples}", stored="stored" if usual else ""
    )


def _eight_bits(colours: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the colours ``(n, 3)`` of a tag ``(3, n)``, which some write in 8 bits."""
    return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8).T.copy()


def is_grey_ramp(table: NDArray[np.uint8]) -> bool:
    """Return True if the colours ``(n, 3)`` of n values lead evenly from black to white."""
    return bool((table == np.rint(np.linspace(0, 255, len(table)))[:, np.newaxis]).all())


def _colour_table(table: NDArray[np.uint8], *, tagged: bool) -> Interpretation:
    """Return how numbers of classes are shown in the colours of their `table` ``(n, 3)``."""
    return Interpretation(
        lambda pixels: table[np.minimum(pixels[..., 0], len(table) - 1)],
        classes=True,
        revision="" if tagged else "colour table",
        stored="stored" if tagged else "",
    )


def _grey(photometric: int, dtype: np.dtype[Any], bits: int) -> Interpretation | None:
    inverted = photometric == _MIN_IS_WHITE and dtype.kind in "bu"
    if dtype.kind == "b":
        turned = Interpretation(np.logical_not, mixed=False, value=lambda stored: 1 - stored)
        return turned if inverted else None
    highest = 2**bits - 1
    # Few bits are spread to 8, as every viewer does.
    few = dtype == np.uint8 and 1 < bits < 8
    if not inverted and not few:
        return None
    table = few_bits_spread(highest) if few else None

    def show(pixels: Pixels) -> Pixels:
        upright = dtype.type(highest) - pixels if inverted else pixels
        return upright if table is None else table[upright]

    def value(stored: float) -> float:
        upright = highest - stored if inverted else stored
        whole = table is not None and upright in range(256)
        return float(table[int(upright)]) if table is not None and whole else upright

    if few and 255 % highest:  # which were shown as they are stored
        kept = "stored" if inverted else ""
        return Interpretation(show, mixed=False, value=value, revision="few bits", stored=kept)
    return Interpretation(show, mixed=False, value=value)


def few_bits_spread(highest: int) -> NDArray[np.uint8]:
    """Return for each value of a byte, of 0 to `highest`, what it is of 0 to 255."""
    values = np.minimum(np.arange(256), highest)
    return np.rint(values * (255 / highest)).astype(np.uint8)


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


_GDAL_METADATA = 42112
_PIXEL_SCALE, _TIEPOINT, _TRANSFORMATION, _NO_DATA = 33550, 33922, 34264, 42113
_KEYS = 34735
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
# Microns per pixel; above it are printers and scanners for paper (2,540 pixels per inch).
_COARSEST_MICROSCOPE = 10.0
_USER_DEFINED = 32767
_GEOGRAPHIC, _DEGREES, _METRES = 2, 9102, 9001
_RPC, _ORIENTATION = 50844, 274
_PLACING = {
    _PIXEL_SCALE: "d",
    _TIEPOINT: "d",
    _TRANSFORMATION: "d",
    _KEYS: "H",
    34736: "d",
    34737: "s",
    _RPC: "d",
}
_DEFINING = {
    *("GTModelTypeGeoKey", "ProjectedCSTypeGeoKey", "GeographicTypeGeoKey"),
    "GTCitationGeoKey",  # of a local system nothing else is said
}
_HEIGHTS = {"VerticalCSTypeGeoKey", "VerticalGeoKey"}
_PIXEL_IS_POINT = 2


def microns_per_pixel(tif: TiffFile, page: TiffPage) -> tuple[tuple[float, float] | None, str]:
    """Return microns per pixel in x and y, where the file says them, and a note or nothing.

    Parameters
    ----------
    tif : TiffFile
    page : TiffPage
        The finest of the picture.
    """
    if tif.is_svs:
        return _aperio(tif.pages.first.description), ""
    declared = _ome(tif.ome_metadata) if tif.is_ome and tif.ome_metadata else None
    declared = declared or (_imagej(tif, page) if tif.is_imagej else None)
    if declared is not None or page.tags.valueof(_KEYS) is not None:
        return declared, ""
    if tif.is_ome and (named := _elements(tif.ome_metadata or "", "BinaryOnly")):
        return None, (
            "The size of its pixels and the names of its channels stand in another file, "
            f"{named[0].get('MetadataFile')}, which is not read; give mpp=."
        )
    unit = {2: "inch", 3: "cm"}.get(page.tags.valueof(_RESOLUTION_UNIT, 2))
    found = _by_resolution(page, microns_per_unit(unit))
    if found is None or max(found) > _COARSEST_MICROSCOPE:
        return None, ""
    x, y = found
    return found, (
        f"The size of a pixel, {x:.4g} × {y:.4g} µm, is from the file's resolution tags (per "
        f"{unit}); give mpp= if they are wrong."
    )


def _aperio(description: str) -> tuple[float, float] | None:
    """Return what the entry MPP says, the last where there are several, as OpenSlide does."""
    entries = (entry.partition("=") for entry in description.split("|")[1:])
    said = {key.strip(): value.split() for key, _, value in entries}.get("MPP")
    if not said or len(said) > 2:
        return None
    micron = in_microns(said[0], said[1] if len(said) > 1 else "µm")
    return pixel_size(micron, micron)


def _ome(text: str) -> tuple[float, float] | None:
    for pixels in _elements(text, "Pixels")[:1]:
        x, y = (
            in_microns(
                pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
            )
            for axis in "XY"
        )
        return pixel_size(x, y)
    return None


def _imagej(tif: TiffFile, page: TiffPage) -> tuple[float, float] | None:
    said = tif.imagej_metadata or {}
    found = _by_resolution(page, microns_per_unit(said.get("unit")))
    # A photo that passed through ImageJ has its printer's resolution, in inches or centimetres.
    printed = str(said.get("unit")).strip().lower() in ("inch", "inches", "in", "cm")
    return None if found and printed and max(found) > _COARSEST_MICROSCOPE else found


def _by_resolution(page: TiffPage, unit: float) -> tuple[float, float] | None:
    sizes = []
    for tag in (_X_RESOLUTION, _Y_RESOLUTION):
        value = page.tags.valueof(tag)
        if not isinstance(value, tuple) or len(value) != 2 or not value[0]:
            return None
        sizes.append(unit * value[1] / value[0])
    return pixel_size(*sizes)


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
    for item in _elements(text if isinstance(text, str) else "", "Item"):
        role, band = item.get("role"), item.get("sample", "")
        if role in found and band.isdecimal() and int(band) < bands:
            found[role][int(band)] = number(item.text)
    return declared_scaling(found["scale"], found["offset"])


def colour_bands(page: TiffPage, bands: int) -> tuple[int, int, int] | None:
    """Return which bands GDAL's tag calls red, green and blue; None where not all are named."""
    text = page.tags.valueof(_GDAL_METADATA)
    named: dict[str, int] = {}
    for item in _elements(text if isinstance(text, str) else "", "Item"):
        band = item.get("sample", "")
        if item.get("role") == "colorinterp" and band.isdecimal() and int(band) < bands:
            named[(item.text or "").strip().lower()] = int(band)
    if not {"red", "green", "blue"} <= named.keys():
        return None
    return named["red"], named["green"], named["blue"]


def channel_names(tif: TiffFile, pages: Sequence[TiffPage], bands: int) -> tuple[str, ...]:
    """Return what the file calls its bands (OME-XML, QPTIFF, GDAL's tag); empty if it does not.

    Parameters
    ----------
    tif : TiffFile
    pages : sequence of TiffPage
        Of the picture's full resolution.
    bands : int
    """
    if tif.is_ome and tif.ome_metadata:
        names = []
        for pixels in _elements(tif.ome_metadata, "Pixels")[:1]:
            for channel in pixels.iterfind("{*}Channel"):
                samples = channel.get("SamplesPerPixel", "1")
                names += [channel.get("Name", "")] * (int(samples) if samples.isdecimal() else 1)
    elif len(pages) == bands > 1:  # a page each, as PerkinElmer's scanners write them
        parts = (_elements(page.description, "Name") for page in pages)
        names = [(part[0].text or "").strip() if part else "" for part in parts]
    else:
        text = pages[0].tags.valueof(_GDAL_METADATA)
        names = [""] * bands
        for item in _elements(text if isinstance(text, str) else "", "Item"):
            band = item.get("sample", "")
            if item.get("role") == "description" and band.isdecimal() and int(band) < bands:
                names[int(band)] = unescape((item.text or "").strip())  # GDAL escapes twice
    return tuple(names) if len(names) == bands and any(names) else ()


def _elements(text: str, name: str) -> list[ElementTree.Element]:
    """Return the elements called `name` of an XML document; none where it is damaged."""
    try:
        # tifffile has parsed it, too, or it is GDAL's, which has no document type.
        return list(ElementTree.fromstring(text.strip("\0 \r\n\t")).iterfind(f".//{{*}}{name}"))  # noqa: S314
    except (ElementTree.ParseError, ValueError):
        return []


def geo_reference(page: TiffPage) -> EarthPlace:
    """Return where the tags of a GeoTIFF place it.

    The transform maps pixel corners (GDAL's convention), also where the file counts from
    pixel centres. A CRS that is one EPSG code is read here, all others by PROJ.
    """
    keys = _geo_keys(page)
    transform = _transform(page)
    if not keys and (transform is None or page.tags.valueof(_ORIENTATION, 1) != 1):
        transform = None  # what is turned by its orientation is no map
    if transform is not None and int(keys.get("GTRasterTypeGeoKey", 1)) == _PIXEL_IS_POINT:
        a, b, c, d, e, f = transform
        transform = (a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)
    code = _epsg(keys)
    points = page.tags.valueof(_TIEPOINT)
    defined = bool(keys.keys() & _DEFINING)
    placed = transform is not None or not (
        (isinstance(points, tuple) and len(points) > 6) or page.tags.valueof(_RPC) is not None
    )
    whole = code is not None and not keys.keys() & _HEIGHTS
    if placed and (whole or not defined):
        return EarthPlace(code, transform)
    kinds = {code: kind for code, kind in _PLACING.items() if page.tags.valueof(code) is not None}
    values = {code: page.tags.valueof(code) for code in kinds}
    tags = {
        code: (kinds[code], value if isinstance(value, (tuple, str)) else (value,))
        for code, value in values.items()
    }
    found = place_by_tags(tags)
    return EarthPlace(found.crs or code, transform or found.transform, found.note)


def _geo_keys(page: TiffPage) -> dict[str, Any]:
    listed = page.tags.valueof(_KEYS)
    if not isinstance(listed, tuple) or len(listed) < 4 or 4 * listed[3] + 4 > len(listed):
        return {}  # none, or damaged: tifffile would count up to any number
    try:
        return dict(page.geotiff_tags or {})
    except Exception:  # noqa: BLE001  malformed keys must not cost the picture
        return {}


def _epsg(keys: dict[str, Any]) -> str | None:
    """Return the EPSG code of the horizontal CRS; None where it is not that code alone."""
    model = int(keys.get("GTModelTypeGeoKey", 0))
    projected, geographic = (
        int(keys.get(name, 0)) for name in ("ProjectedCSTypeGeoKey", "GeographicTypeGeoKey")
    )
    if model == _GEOGRAPHIC or (not model and not projected):
        code, unit = geographic, keys.get("GeogAngularUnitsGeoKey", _DEGREES)
        plain = int(unit) == _DEGREES
    else:
        code, unit = projected, keys.get("ProjLinearUnitsGeoKey", _METRES)
        plain = int(unit) == _METRES
    return f"EPSG:{code}" if plain and code not in (0, _USER_DEFINED) else None


def _transform(page: TiffPage) -> tuple[float, ...] | None:
    """Return what maps pixels onto the Earth; as GDAL 3.10, the scale goes before the matrix."""
    scale, tie = page.tags.valueof(_PIXEL_SCALE), page.tags.valueof(_TIEPOINT)
    complete = scale is not None and tie is not None and len(scale) >= 2 and len(tie) >= 6
    if complete and all(scale[:2]):
        a, e = float(scale[0]), -abs(float(scale[1]))  # north is up, whatever its sign
        c, f = float(tie[3]) - a * float(tie[0]), float(tie[4]) - e * float(tie[1])
        return (a, 0.0, c, 0.0, e, f)
    matrix = page.tags.valueof(_TRANSFORMATION)
    if matrix is None or len(matrix) != 16:
        return None
    values = [float(value) for value in matrix]
    return (values[0], values[1], values[3], values[4], values[5], values[7])
