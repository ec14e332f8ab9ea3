"""What a Pillow image becomes: upright, opaque, grey or RGB, at the depth it was stored.

Palettes become RGB, bilevel 0 and 255, CMYK RGB; what is transparent is shown over white,
as a document viewer would. 16-bit values stay 16-bit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import SourceError
from tilevision.sources.capacity import check_decodes, too_big
from tilevision.sources.formats.picturebytes import NetpbmValues
from tilevision.sources.identity import row_blocks
from tilevision.sources.readerfaults import is_unsupported
from tilevision.sources.source import Pixels
from tilevision.sources.staging.jpegrows import JpegRows, has_decoder, in_one_pass
from tilevision.sources.staging.pngrows import SAMPLES, PngRows

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "PictureLayout",
    "YCbCrCoding",
    "damaged",
    "decode_picture",
    "over_white",
    "picture_rows",
    "to_rgb",
    "upright",
]

_ORIENTATION_TAG = 0x0112
_TURNED = 5  # EXIF orientations from here on swap width and height
_ODD_DEPTHS = {
    "I": "int32",
    "F": "float32",
    "I;16": "uint16",
    "I;16L": "uint16",
    "I;16B": "uint16",
    "I;16N": "uint16",
}
_GREY_WITH_ALPHA = 4  # a colour type of PNG
_GREY = ("1", "L", "LA", "La")
_SMALL_MODES = ("1", "L", "P")
# Pictures up to this are decoded whole: they are over before anybody looks.
_SMALL_PIXELS = 1 << 22
_ROW_BLOCKS = 4  # to a block of the usual size: several copies of each are in work at a time
_JPEG_ROWS, _JPEG_BYTES = 16, 1 << 20  # which a JPEG has in a row of its blocks; of rows at once
_EXTRA = "pip install 'tilevision[huge]' to have it decoded by rows, or "
_loading = threading.Lock()


@dataclass(frozen=True, slots=True)
class PictureLayout:
    """What the decoded picture will look like, known from its header alone.

    Parameters
    ----------
    width, height : int
        As stored, pixels.
    bands : int
    dtype : numpy.dtype
    orientation : int
        EXIF orientation; applied while decoding.
    deep_colour : bool
        16 bits a band in several bands: Pillow would keep only 8 of them.
    bytes_per_pixel : int
        That the decoder needs for the whole picture.
    by_rows : PngRows or JpegRows, optional
        Decodes it by rows, in little memory.
    remedy : str
        What would make that possible.
    stored : bool
        Whether pixels stay as the file stores them: class numbers, inks, alpha as a band.
    highest : int
        Of a grey sample of fewer than 8 bits, as it is stored; else 0.
    netpbm : NetpbmValues, optional
        Decodes what Pillow would spread or cut.
    """

    width: int
    height: int
    bands: int
    dtype: np.dtype[Any]
    orientation: int
    deep_colour: bool
    bytes_per_pixel: int
    by_rows: PngRows | JpegRows | None = None
    remedy: str = ""
    stored: bool = False
    highest: int = 0
    netpbm: NetpbmValues | None = None

    def as_stored(self, image: Image) -> PictureLayout:
        """Return the layout of `image` with pixels as its file stores them."""
        header, bands = _png_header(image), len(image.getbands())
        values = NetpbmValues.of(str(image.filename)) if image.format == "PPM" else None  # type: ignore[attr-defined]  # of files
        if values is not None and not values.kept_by_pillow:
            return replace(self, dtype=values.dtype, stored=True, netpbm=values)
        if self.deep_colour:  # where Pillow says RGBA of grey with alpha
            bands = SAMPLES[header[25]]
        few = image.mode == "L" and header and header[24] < 8
        highest = 2 ** header[24] - 1 if few else 0
        return replace(self, bands=bands, stored=True, highest=highest)

    @classmethod
    def of(cls, image: Image, path: str = "") -> PictureLayout:
        """Read the layout from `image` without loading its pixels.

        Parameters
        ----------
        image : PIL.Image.Image
        path : str
            Of the file that it is, where it is one as it was opened.
        """
        width, height = image.size
        deep_bands = _deep_bands(image)
        deep = deep_bands > 0
        bands = deep_bands or (1 if image.mode in _GREY or image.mode in _ODD_DEPTHS else 3)
        dtype = np.dtype("uint16" if deep else _ODD_DEPTHS.get(image.mode, "uint8"))
        cost = 1 if image.mode in _SMALL_MODES else 4
        layout = cls(width, height, bands, dtype, _orientation(image), deep, 8 if deep else cost)
        if not path or width * height <= _SMALL_PIXELS:
            return layout
        if image.format == "PNG":
            return replace(layout, by_rows=PngRows.of(path))
        if image.format != "JPEG":
            return layout
        if not in_one_pass(path):
            return replace(layout, bytes_per_pixel=cost + 2 * len(image.getbands()))
        if not has_decoder():
            return replace(layout, remedy=_EXTRA)
        return replace(layout, by_rows=JpegRows(width, height, image.mode))

    def check(self, name: str) -> None:
        """Check that the picture can be decoded here.

        Raises
        ------
        SourceError
            If it has no pixels, or needs more memory than there is.
        """
        if self.by_rows is None:
            check_decodes(name, self.width, self.height, self.bytes_per_pixel, self.remedy)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and bands, upright."""
        if self.orientation >= _TURNED:
            return self.width, self.height, self.bands
        return self.height, self.width, self.bands


def decode_picture(name: str, image: Image, layout: PictureLayout, out: Pixels) -> Iterator[int]:
    """Fill `out`, of ``layout.shape``, with the pixels of `image`, a band of rows at a time.

    Yields
    ------
    int
        Rows of `out` that are done, or as many as their share of the picture.

    Raises
    ------
    SourceError
        If the picture is damaged, or there is not enough memory to decode it.
    """
    target = upright(out, layout.orientation)
    start = 0
    for block in picture_rows(name, image, layout):
        target[start : start + len(block)] = block
        start += len(block)
        yield start * len(out) // layout.height


def picture_rows(name: str, image: Image, layout: PictureLayout) -> Iterator[Pixels]:
    """Yield the pixels of `image` as its file stores them, not turned, a band of rows at a time.

    Raises
    ------
    SourceError
        As `decode_picture`.
    """
    if layout.netpbm is not None:
        blocks = layout.netpbm.rows()
    elif layout.by_rows is not None:
        blocks = _by_rows(name, layout, layout.by_rows)
    elif layout.deep_colour:
        blocks = _deep(getattr(image, "filename", name), layout)
    else:
        blocks = _whole(image, layout)
    try:
        yield from blocks
    except MemoryError as error:
        raise too_big(name, layout.width, layout.height) from error
    except Exception as error:
        raise damaged(name, error) from error


def upright(array: Pixels, orientation: int) -> Pixels:
    """Return the view of an upright ``(h, w, c)`` array in the order a file stores it.

    What is written to the view at a stored position lands where EXIF `orientation` says.
    """
    turns: dict[int, Callable[[Pixels], Pixels]] = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[::-1],
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    }
    return turns[orientation](array) if orientation in turns else array


def damaged(name: str, error: BaseException) -> SourceError:
    """Return the error for a file whose content cannot be decoded."""
    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    if is_unsupported(reason):
        return SourceError(
            f"{name} has what Pillow does not read ({reason}); convert it to PNG or TIFF."
        )
    return SourceError(f"{name} is damaged or incomplete: {reason}; get the file again.")


def to_rgb(pixels: Pixels, mode: str) -> Pixels:
    """Return 8-bit pixels of one of Pillow's modes, as ``"YCbCr"``, in RGB."""
    from PIL import Image as Pillow

    height, width = pixels.shape[:2]
    image = Pillow.frombytes(mode, (width, height), np.ascontiguousarray(pixels).tobytes())
    return np.array(image.convert("RGB"))


@dataclass(frozen=True, slots=True)
class YCbCrCoding:
    """What the numbers of YCbCr stand for (TIFF 6.0, section 21).

    Parameters
    ----------
    luma : tuple of float
        The shares of red, green and blue in Y.
    black, white : tuple of float
        The code of each component for none and for all of it, of 0 to 255.
    """

    luma: tuple[float, ...] = (0.299, 0.587, 0.114)
    black: tuple[float, ...] = (0.0, 128.0, 128.0)
    white: tuple[float, ...] = (255.0, 255.0, 255.0)

    @classmethod
    def of(cls, coefficients: object, black_white: object) -> YCbCrCoding:
        """Read it from the values of two tags, numerators and denominators; None where missing."""
        luma, codes = _rationals(coefficients, 3), _rationals(black_white, 6)
        plain = cls()
        sensible = bool(codes) and all(np.diff(codes)[::2] > 0)
        return cls(
            luma if luma and all(luma) else plain.luma,
            codes[::2] if sensible else plain.black,
            codes[1::2] if sensible else plain.white,
        )

    @property
    def usual(self) -> bool:
        """Return True if it is that of JPEG files."""
        plain = YCbCrCoding()
        pairs = ((self.luma, plain.luma), (self.black, plain.black), (self.white, plain.white))
        return all(np.allclose(mine, its, atol=0.01) for mine, its in pairs)

    def rgb(self, pixels: Pixels) -> Pixels:
        """Return 8-bit codes ``(h, w, 3)`` in RGB."""
        black, white = np.array(self.black), np.array(self.white)
        full = (pixels - black) * np.array([255, 127, 127]) / (white - black)
        y, blue, red = np.moveaxis(full, -1, 0)
        share = self.luma
        r, b = y + red * (2 - 2 * share[0]), y + blue * (2 - 2 * share[2])
        g = (y - share[0] * r - share[2] * b) / share[1]
        shown: Pixels = np.rint(np.clip(np.stack([r, g, b], axis=-1), 0, 255)).astype(np.uint8)
        return shown


def _rationals(value: object, count: int) -> tuple[float, ...]:
    """Return what a tag of so many rational numbers says; empty where it makes no sense."""
    if not isinstance(value, tuple) or len(value) != 2 * count or not all(value[1::2]):
        return ()
    return tuple(one / other for one, other in zip(value[::2], value[1::2], strict=True))


def _load(image: Image) -> None:
    from PIL import ImageFile

    # Other libraries switch this on for the whole process; half a picture would then pass
    # for a whole one.
    with _loading:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            image.load()
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _opaque(rows: Image, layout: PictureLayout) -> Pixels:
    from PIL import Image as Pillow

    if layout.dtype != np.uint8:
        return np.asarray(rows).reshape(rows.height, rows.width, 1)
    if layout.stored:
        return _as_stored(rows, layout)
    mode = "L" if layout.bands == 1 else "RGB"
    if rows.has_transparency_data:
        white = Pillow.new("RGBA", rows.size, "white")
        rows = Pillow.alpha_composite(white, rows.convert("RGBA"))
    if rows.mode != mode:
        rows = rows.convert(mode)
    return np.asarray(rows).reshape(rows.height, rows.width, layout.bands)


def _as_stored(rows: Image, layout: PictureLayout) -> Pixels:
    pixels = np.asarray(rows).astype(np.uint8).reshape(rows.height, rows.width, layout.bands)
    if rows.mode == "L" and layout.highest:
        return pixels // np.uint8(255 // layout.highest)  # to which Pillow spreads few bits
    return pixels


def _whole(image: Image, layout: PictureLayout) -> Iterator[Pixels]:
    from PIL import Image as Pillow

    _load(image)
    _, step = next(row_blocks(layout.height, layout.width * layout.height * 4))
    # The limit of the process is for what Pillow loads; here it would refuse parts of it.
    if Pillow.MAX_IMAGE_PIXELS is not None:
        step = max(1, min(step, Pillow.MAX_IMAGE_PIXELS // layout.width))
    if step >= layout.height:
        yield _opaque(image, layout)
        return
    for start in range(0, layout.height, step):
        stop = min(start + step, layout.height)
        yield _opaque(image.crop((0, start, layout.width, stop)), layout)


def _by_rows(path: str, layout: PictureLayout, decoder: PngRows | JpegRows) -> Iterator[Pixels]:
    row_bytes = layout.width * max(layout.bands * layout.dtype.itemsize, 4)
    if isinstance(decoder, JpegRows):  # in blocks that the processor's cache holds
        step = _JPEG_ROWS * max(1, _JPEG_BYTES // (row_bytes * _JPEG_ROWS))
    else:
        _, step = next(row_blocks(layout.height, layout.height * row_bytes * _ROW_BLOCKS))
    for rows in decoder.rows(path, step):
        if layout.deep_colour and isinstance(decoder, PngRows):
            deep = decoder.deep(rows)
            yield deep if layout.stored else over_white(deep)
        elif isinstance(decoder, JpegRows) and rows.shape[2] == layout.bands:
            yield rows  # as they are shown; a JPEG has nothing to see through
        else:
            yield _opaque(decoder.picture(rows), layout)


def _deep(path: str, layout: PictureLayout) -> Iterator[Pixels]:
    import imagecodecs

    stored: NDArray[np.uint16] = imagecodecs.png_decode(Path(path).read_bytes())
    for start, stop in row_blocks(stored.shape[0], stored.nbytes * 4):
        rows = stored[start:stop]
        yield rows if layout.stored else over_white(rows)


def over_white(pixels: Pixels) -> Pixels:
    """Return grey or RGB of pixels whose last band is their opacity; others as they are."""
    if pixels.shape[2] not in (2, 4):
        return pixels
    white = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1.0
    alpha = pixels[..., -1:] / white
    shown = pixels[..., :-1] * alpha + white * (1 - alpha)
    return (np.rint(shown) if pixels.dtype.kind == "u" else shown).astype(pixels.dtype)


def _deep_bands(image: Image) -> int:
    """Return the colour bands of a 16-bit PNG that Pillow would cut to 8 bits, else 0."""
    header = _png_header(image) if image.mode in ("RGB", "RGBA", "LA") else b""
    if header[24:25] != b"\x10":
        return 0
    return 1 if header[25] == _GREY_WITH_ALPHA else 3


def _png_header(image: Image) -> bytes:
    """Return the signature and header of the PNG file that an image is; empty for any other."""
    path = getattr(image, "filename", "")
    if image.format != "PNG" or not path:
        return b""
    with Path(path).open("rb") as file:
        header = file.read(26)
    return header if header[12:16] == b"IHDR" else b""


def _orientation(image: Image) -> int:
    # Asking a PNG for EXIF data that its header lacks would decode the whole picture.
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(image.info):
        return 1
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001  a broken EXIF block must not cost the picture
        return 1
    return value if value in range(1, 9) else 1
