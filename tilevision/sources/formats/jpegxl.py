"""JPEG XL pictures: decoded once, by imagecodecs (libjxl), into a staging file.

The decoder turns them upright. What is transparent is shown over white, as in other pictures.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import SourceError
from tilevision.sources.capacity import check_decodes
from tilevision.sources.formats.imageformat import ImageFormat
from tilevision.sources.formats.pictures import over_white
from tilevision.sources.formats.tifflevels import BandMask
from tilevision.sources.identity import file_options, known_fingerprint
from tilevision.sources.levels import LevelReader
from tilevision.sources.source import ImageMetadata, Pixels, SourceRef
from tilevision.sources.staging.staged import StagedSource, staged_note
from tilevision.sources.staging.stagingfile import StagedPixels, stage

__all__ = ["FORMAT", "JpegXlSource", "open_jpegxl"]

_CODESTREAM = b"\xff\x0a"
_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_DECODER = "jxl1"
_HEADER_BYTES = 1 << 16  # in which the boxes before the codestream are expected
# Width over height, by the number that stands for it in the codestream (ISO/IEC 18181-1, 9.2.2).
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_WITH_ALPHA = (2, 4)  # bands
_BYTES_PER_PIXEL = 16  # that the decoder needs at most: four samples of 32 bits

Layout = tuple[int, int, int, str]


class JpegXlSource(StagedSource):
    """A picture as it is shown; what its file stores beside its colours is decoded when asked for.

    Parameters
    ----------
    path : str
    clear : bool
        Whether the file stores where the picture is transparent.
    staged : StagedPixels
    metadata : ImageMetadata
    reference : SourceRef
    """

    def __init__(
        self,
        path: str,
        clear: bool,
        staged: StagedPixels,
        metadata: ImageMetadata,
        reference: SourceRef,
    ) -> None:
        super().__init__(path, staged, metadata, reference)
        self._clear = clear
        self._as_stored: StagedSource | None = None
        self._lock = threading.Lock()

    @property
    def stored(self) -> LevelReader:
        """The same picture with the band that says where it is transparent."""
        if not self._clear:
            return self
        with self._lock:
            if self._as_stored is None:
                self._as_stored = self._decoded()
            return self._as_stored

    def data_share(self, max_side: int) -> NDArray[np.float32] | None:
        """Return the share of each cell that has data; see `LevelReader.data_share`."""
        return self.stored.data_share(max_side) if self._clear else super().data_share(max_side)

    def close(self) -> None:
        """Give up the staging files; they are removed when nobody else reads them."""
        super().close()
        if self._as_stored is not None:
            self._as_stored.close()

    def _decoded(self) -> StagedSource:
        picture, _ = _decoded(self._name)

        def write(out: Pixels) -> Iterator[int]:
            out[...] = picture
            yield len(picture)

        height, width, bands = picture.shape
        key = f"{self.fingerprint}-{_DECODER}-stored"
        staged = stage(key, (height, width, bands), picture.dtype, write)
        alpha, metadata, reference = bands - 1, self.metadata, self.reference
        found = StagedSource(
            self._name, staged, metadata, reference, lambda level: BandMask(level, alpha), alpha
        )
        found.revision = "stored"
        return found


def open_jpegxl(
    path: str,
    *,
    mpp: tuple[float, float] | None = None,
    layout: Layout | None = None,
    clear: bool = False,
    stamp: tuple[int, int] | None = None,
    fingerprint: str = "",
) -> JpegXlSource:
    """Open a JPEG XL picture; of an animation, its first frame.

    Parameters
    ----------
    path : str
    mpp : tuple of float, optional
        Microns per pixel in x and y, where the caller knows them.
    layout : tuple, optional
        Height, width, bands and dtype of the picture as shown, where they are known already.
    clear : bool
        Then: whether it stores where it is transparent.
    stamp : tuple of int, optional
        Size and modification time under which the file had `fingerprint`.
    fingerprint : str

    Raises
    ------
    SourceError
        If the picture cannot be decoded.
    """
    fingerprint = known_fingerprint(path, stamp, fingerprint)
    frames, decoded = 1, None
    if layout is None:
        decoded, frames = _decoded(path)
        clear = decoded.shape[2] in _WITH_ALPHA
        decoded = over_white(decoded)
        layout = (*decoded.shape, decoded.dtype.name)
    height, width, bands, dtype = layout

    def write(out: Pixels) -> Iterator[int]:
        out[...] = over_white(_decoded(path)[0]) if decoded is None else decoded
        yield height

    staged = stage(f"{fingerprint}-{_DECODER}", (height, width, bands), np.dtype(dtype), write)
    metadata = ImageMetadata(format="JPEG XL", mpp=mpp, frames=frames, notes=(staged_note(staged),))
    known: dict[str, Any] = {"layout": layout, "clear": clear}
    options = {"mpp": mpp, **known, **file_options(path, fingerprint)}
    reference = SourceRef(
        "tilevision.sources.formats.jpegxl:open_jpegxl", path, options, fingerprint
    )
    return JpegXlSource(path, clear, staged, metadata, reference)


def _decoded(path: str) -> tuple[Pixels, int]:
    """Return the picture ``(h, w, c)`` as stored, and how many frames the file has."""
    import imagecodecs

    if not imagecodecs.JPEGXL.available:
        raise SourceError(
            f"{path} is a JPEG XL picture, and the imagecodecs installed here was built without "
            "it; install imagecodecs from PyPI or conda-forge."
        )
    data = Path(path).read_bytes()
    check_decodes(path, *_size(path, data), _BYTES_PER_PIXEL)
    try:
        array: Pixels = imagecodecs.jpegxl_decode(data)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SourceError(
            f"{path} cannot be decoded by libjxl ({reason}); get the file again."
        ) from error
    frames = 1
    width, height = _size(path, data)
    if array.ndim == 4 or (array.ndim == 3 and array.shape[-1] > 4):
        array, frames = array[0], len(array)
    if array.ndim == 2:
        array = array[..., np.newaxis]
    if array.ndim != 3 or sorted(array.shape[:2]) != sorted((width, height)):
        raise SourceError(
            f"{path} has a layout that tilevision does not read {array.shape}; "
            "convert it to PNG or TIFF."
        )
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    return array, frames


def _size(path: str, data: bytes) -> tuple[int, int]:
    """Return width and height as the codestream's header says them."""
    start = data.find(_CODESTREAM, 0, _HEADER_BYTES)
    if data.startswith(_CONTAINER):
        box = max(data.find(b"jxlc", 0, _HEADER_BYTES), data.find(b"jxlp", 0, _HEADER_BYTES))
        start = data.find(_CODESTREAM, box, _HEADER_BYTES) if box > 0 else -1
    if start < 0 or len(data) < start + 12:
        raise SourceError(f"{path} is incomplete: its header is missing; get the file again.")
    bits = int.from_bytes(data[start + 2 : start + 14], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    small = take(1)
    height = side()
    ratio = take(3)
    if ratio:
        return height * _RATIOS[ratio][0] // _RATIOS[ratio][1], height
    return side(), height


FORMAT = ImageFormat(
    "a JPEG XL picture",
    begins=(_CODESTREAM, _CONTAINER),
    opener=open_jpegxl,
    suffixes=frozenset({".jxl"}),
)
