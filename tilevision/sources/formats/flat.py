"""PNG, JPEG, WebP, AVIF, HEIC and the like: decoded once into a staging file.

By Pillow, HEIC by pillow-heif; both turn upright what the file says is turned.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import SourceError
from tilevision.sources.capacity import check_plausible
from tilevision.sources.formats.besidefiles import BandsBeside, MaskBeside, mask_beside
from tilevision.sources.formats.imageformat import PREFIX_BYTES, ImageFormat
from tilevision.sources.formats.picturebytes import is_jpeg_ls, mask_in_jpeg
from tilevision.sources.formats.pictures import PictureLayout, damaged, decode_picture, picture_rows
from tilevision.sources.formats.spatial import kept_beside, place_beside, with_place
from tilevision.sources.formats.tiffframes import parsed
from tilevision.sources.formats.tifflevels import BandMask, TableMask, TurnedLevel, ValueMask
from tilevision.sources.identity import file_options, fingerprint_of_file, known_fingerprint
from tilevision.sources.levels import Level, LevelReader
from tilevision.sources.source import ImageMetadata, Pixels, SourceRef
from tilevision.sources.staging.rows import OpenFile
from tilevision.sources.staging.staged import StagedSource, open_array, staged_note
from tilevision.sources.staging.stagingfile import StagedPixels, stage

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FORMAT", "FORMATS", "open_flat", "open_pillow", "picture_format"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "JPEG2000")
# Kinds of files in boxes (ISO/IEC 14496-12), by the brands that such a file names first.
_BOXED = {
    "AVIF": (b"avif", b"avis"),
    "HEIF": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"),
}
_AVIF_START = b"\0\0\0\x20ftypavif\0\0\0\0"
_BOXED_GENERAL = (b"mif1", b"msf1", b"miaf")
# Part of the staging file's name: another way of decoding must not find the old pixels.
_DECODER = "flat1"


@dataclass(frozen=True, slots=True)
class FlatFile:
    """What is known of a picture file before its pixels.

    Parameters
    ----------
    path : str
    fingerprint : str
        Of its content.
    changed : bool
        Whether other pixels are shown than it stores: colours of classes, and the like.
    classes : bool
        Whether it stores numbers of classes or colours.
    alpha : int, optional
        The stored band that says where it has data.
    mask : callable, optional
        ``mask(level)`` of its stored pixels returns the level that says where it has data.
    apart : bool
        Whether that is so for the pixels that are shown as well.
    said : BandsBeside, optional
    beside : MaskBeside, optional
    """

    path: str
    fingerprint: str
    changed: bool
    classes: bool
    alpha: int | None
    mask: Callable[[Level], Level] | None
    apart: bool
    said: BandsBeside | None
    beside: MaskBeside | None

    @classmethod
    def of(cls, path: str, fingerprint: str, image: Image, layout: PictureLayout) -> FlatFile:
        """Read it from an image that is not loaded yet."""
        stored = layout.as_stored(image)
        deep = layout.dtype != np.uint8
        clear = image.has_transparency_data and not (deep and "transparency" in image.info)
        changed = bool(clear or stored.bands != layout.bands or stored.highest or stored.netpbm)
        changed = changed or image.mode in ("1", "P")
        mask, alpha = _transparency(image, stored.bands) if clear else (None, None)
        if deep and "transparency" in image.info:  # a value or a colour, shown as any other
            value = image.info["transparency"]
            values = value if isinstance(value, tuple) else (value,)
            mask = partial(ValueMask, values=values)
        name = kept_beside(path, ".msk")
        beside = None
        if name is not None:
            with parsed(str(name)) as tif:
                beside = mask_beside(OpenFile(name), tif, stored.bands)
        apart: Level | None = None if beside is None else beside.of(image.size)
        if apart is None and image.format == "JPEG":
            apart = mask_in_jpeg(path, image.size)
        if apart is not None:
            mask, alpha = _upright_mask(apart, layout.orientation), None
        said = BandsBeside.of(kept_beside(path, ".aux.xml"), stored.bands)
        classes = image.mode == "P"
        own = apart is not None
        return cls(path, fingerprint, changed, classes, alpha, mask, own, said, beside)

    @property
    def identity(self) -> str:
        """The fingerprint of the picture: of its file, and of a mask beside it that hides some."""
        if self.beside is None or self.beside.hides_nothing():
            return self.fingerprint
        told = f"{self.fingerprint} revised: mask {fingerprint_of_file(self.beside.file.path)}"
        return sha256(told.encode()).hexdigest()


class FlatSource(StagedSource):
    """A picture as it is shown; what its file stores is decoded once it is asked for.

    Parameters
    ----------
    file : FlatFile
    staged : StagedPixels
    metadata : ImageMetadata
    reference : SourceRef
    """

    def __init__(
        self, file: FlatFile, staged: StagedPixels, metadata: ImageMetadata, reference: SourceRef
    ) -> None:
        said = file.said if not file.changed else None
        shown = metadata if said is None else said.added_to(metadata)
        mask = file.mask if file.apart or not file.changed else None
        super().__init__(file.path, staged, shown, reference, mask)
        self.nodata_later = said is not None and any(one is not None for one in said.nodata)
        self._file = file
        self._as_stored: StagedSource | None = None
        self._lock = threading.Lock()

    @property
    def stored(self) -> LevelReader:
        """The same picture with the values that the file stores: class numbers, inks, alpha."""
        if not self._file.changed:
            return self
        with self._lock:
            if self._as_stored is None:
                self._as_stored = self._decoded()
            return self._as_stored

    def data_share(self, max_side: int) -> NDArray[np.float32] | None:
        """Return the share of each cell that has data; see `LevelReader.data_share`."""
        file = self._file
        said = file.mask is not None or file.said is not None
        if not (file.changed and said):
            return super().data_share(max_side)
        return self.stored.data_share(max_side)

    def close(self) -> None:
        """Give up the staging files; they are removed when nobody else reads them."""
        super().close()
        if self._as_stored is not None:
            self._as_stored.close()
        if self._file.beside is not None:
            self._file.beside.file.close()

    def _decoded(self) -> StagedSource:
        file = self._file
        with _opened(file.path) as image:
            layout = PictureLayout.of(image, file.path).as_stored(image)
            staged = stage(
                f"{file.fingerprint}-{_DECODER}-stored",
                layout.shape,
                layout.dtype,
                lambda out: decode_picture(file.path, image, layout, out),
                lambda: layout.check(file.path),
            )
        metadata = self.metadata if file.said is None else file.said.added_to(self.metadata)
        found = StagedSource(file.path, staged, metadata, self.reference, file.mask, file.alpha)
        found.revision, found.classes = "stored", file.classes
        return found


def open_flat(
    path: str,
    *,
    mpp: tuple[float, float] | None = None,
    stamp: tuple[int, int] | None = None,
    fingerprint: str = "",
) -> FlatSource:
    """Open a picture file that has no windows, decoding it once for all processes here.

    Parameters
    ----------
    path : str
    mpp : tuple of float, optional
        Microns per pixel in x and y, where the caller knows them.
    stamp : tuple of int, optional
        Size and modification time under which the file had `fingerprint`.
    fingerprint : str

    Raises
    ------
    SourceError
        If the file is no picture, is damaged, or too big to be decoded here.
    """
    with _opened(path) as image:
        layout = PictureLayout.of(image, path)
        check_plausible(path, *image.size, Path(path).stat().st_size)
        fingerprint = known_fingerprint(path, stamp, fingerprint)
        file = FlatFile.of(path, fingerprint, image, layout)

        def write(out: Pixels) -> Iterator[int] | Iterator[Pixels]:
            if layout.orientation == 1:
                return picture_rows(path, image, layout)
            return decode_picture(path, image, layout, out)

        key = f"{fingerprint}-{_DECODER}"
        staged = stage(key, layout.shape, layout.dtype, write, lambda: layout.check(path))
        metadata = ImageMetadata(
            format=image.format or "",
            mpp=mpp,
            frames=_frames(image),
            orientation=layout.orientation,
            notes=(staged_note(staged),),
        )
        beside = place_beside(path)
        if beside is not None:
            metadata = with_place(metadata, beside, image.size)
    reference = SourceRef(
        opener="tilevision.sources.formats.flat:open_flat",
        path=path,
        options={"mpp": mpp, **file_options(path, fingerprint)},
        fingerprint=file.identity,
    )
    return FlatSource(file, staged, metadata, reference)


def _transparency(image: Image, bands: int) -> tuple[Callable[[Level], Level] | None, int | None]:
    """Return what says where the stored pixels have data: a mask, and the band that it is."""
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        alpha = bands - 1
        return lambda level: BandMask(level, alpha), alpha
    clear = image.info.get("transparency")
    if isinstance(clear, tuple):
        return lambda level: ValueMask(level, clear), None
    opacity = np.full(256, 255, np.uint8)
    if isinstance(clear, bytes):
        opacity[: len(clear)] = np.frombuffer(clear[:256], np.uint8)
    elif isinstance(clear, int) and clear < 256:
        opacity[clear] = 0
    else:
        return None, None
    return lambda level: TableMask(level, opacity), None


def _upright_mask(mask: Level, orientation: int) -> Callable[[Level], Level]:
    shown = mask if orientation == 1 else TurnedLevel(mask, orientation)
    return lambda level: shown  # noqa: ARG005 - it has pixels of its own


def open_pillow(image: Image, *, mpp: tuple[float, float] | None = None) -> StagedSource:
    """Open a Pillow image that is in memory, or that Pillow has yet to load.

    Raises
    ------
    SourceError
        If Pillow cannot load it, or it is empty.
    """
    name = f"the {image.format or image.mode} image"
    layout = PictureLayout.of(image)
    if 0 in image.size:
        raise SourceError(
            f"{name} is empty ({image.width}×{image.height} px); give an image with pixels."
        )
    layout.check(name)
    out = np.empty(layout.shape, layout.dtype)
    for _ in decode_picture(name, image, layout, out):
        pass
    return open_array(
        out, mpp=mpp, file_format=image.format or "PIL", orientation=layout.orientation
    )


def picture_format(prefix: bytes) -> str:
    """Return which of `FORMATS`, or AVIF or HEIF, a file is by its first bytes, or nothing."""
    from PIL import Image as Pillow

    boxed = _boxed_format(prefix)
    if boxed:
        return boxed
    Pillow.init()
    padded = prefix[:16].ljust(16, b"\0")
    for name in FORMATS:
        accepts = Pillow.OPEN[name][1]
        if accepts is not None and accepts(padded) is True:
            return name
    return ""


def _boxed_format(prefix: bytes) -> str:
    """Return "AVIF" or "HEIF" if a file that begins with this names their brands, or nothing."""
    if prefix[4:8] != b"ftyp":
        return ""
    brands = [prefix[8:12], *(prefix[n : n + 4] for n in range(16, int.from_bytes(prefix[:4]), 4))]
    for kind, own in _BOXED.items():
        if brands[0] in own:
            return kind
    if brands[0] not in _BOXED_GENERAL:
        return ""
    return next((kind for kind, own in _BOXED.items() if set(brands) & set(own)), "")


def _boxed_image(path: str, kind: str, file: BinaryIO) -> Image:
    from PIL import Image as Pillow

    if kind == "AVIF":
        Pillow.init()
        opener, accepts = Pillow.OPEN.get("AVIF", (None, None))
        if opener is None or accepts is None or accepts(_AVIF_START) is not True:
            raise SourceError(
                f"{path} is an AVIF picture, which needs Pillow 11.3 or later with AVIF; Pillow "
                "here has none: pip install -U pillow."
            )
        avif: Image = opener(file, path)
        return avif
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise SourceError(
            f"{path} is a HEIC picture, which needs pillow-heif: pip install 'tilevision[heif]'."
        ) from None
    heic: Image = HeifImageFile(file, path)
    return heic


@contextmanager
def _opened(path: str) -> Iterator[Image]:
    with Path(path).open("rb") as file:
        image = _identified(path, file)
        try:
            yield image
        finally:
            image.close()


def _identified(path: str, file: BinaryIO) -> Image:
    # Image.open refuses big pictures by a limit that is one global for the whole process;
    # here the memory there is decides what can be decoded.
    from PIL import Image as Pillow

    prefix = file.read(PREFIX_BYTES)
    name = picture_format(prefix)
    if not name:
        raise SourceError(
            f"{path} is not an image that tilevision reads (TIFF, SVS, {', '.join(FORMATS)}, "
            "AVIF, HEIC, JPEG XL)"
            f"{_looks_like(prefix)}"
        )
    if name == "JPEG" and is_jpeg_ls(prefix):
        raise SourceError(f"{path} is JPEG-LS, which is not read; convert it to PNG or TIFF.")
    file.seek(0)
    try:
        if name in _BOXED:
            return _boxed_image(path, name, file)
        image: Image = Pillow.OPEN[name][0](file, path)
    except SourceError:
        raise
    except Exception as error:
        raise damaged(path, error) from error
    return image


def _looks_like(prefix: bytes) -> str:
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in prefix[:16]):
        return ": it looks like text."
    return "; convert it to one of these."


def _frames(image: Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001  a broken later frame must not cost the first
        return 1


FORMAT = ImageFormat(
    "a picture",
    opener=open_flat,
    suffixes=frozenset(
        {
            *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp"),
            *(".avif", ".heic", ".heif", ".hif"),
            *(".j2k", ".jp2", ".pbm", ".pgm", ".pnm", ".ppm"),
        }
    ),
)
