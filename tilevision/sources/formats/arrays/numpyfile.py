"""NumPy's ``.npy`` files, read by the window where their rows lie one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tilevision.errors import SourceError
from tilevision.sources.formats.imageformat import ImageFormat
from tilevision.sources.identity import file_options, fingerprint_of_file, known_fingerprint
from tilevision.sources.levels import LevelReader
from tilevision.sources.source import ImageMetadata, Pixels, SourceRef
from tilevision.sources.staging.rows import OpenFile, RowFile
from tilevision.sources.staging.staged import as_image, open_array

__all__ = ["FORMAT", "NumpySource", "open_npy"]

_MAGIC = b"\x93NUMPY"


class NumpySource(LevelReader):
    """An array ``(h, w)`` or ``(h, w, c)`` in a ``.npy`` file; its own only level.

    Parameters
    ----------
    file : OpenFile
    rows : RowFile
    metadata : ImageMetadata
    mpp : tuple of float, optional
        As `open_npy` was given it.
    fingerprint : str
    """

    chunk = (1, 1)

    def __init__(
        self,
        file: OpenFile,
        rows: RowFile,
        metadata: ImageMetadata,
        mpp: tuple[float, float] | None,
        fingerprint: str,
    ) -> None:
        height, width, bands = rows.shape
        self.size = (width, height)
        super().__init__(file.path, [self], bands, rows.dtype.newbyteorder("="), metadata)
        self._file = file
        self._rows = rows
        self._mpp = mpp
        self._fingerprint = fingerprint

    @property
    def reference(self) -> SourceRef:
        """What a worker opens this array again from."""
        path = self._file.path
        return SourceRef(
            opener="tilevision.sources.formats.arrays.numpyfile:open_npy",
            path=path,
            options={"mpp": self._mpp, **file_options(path, self._fingerprint)},
            fingerprint=self._fingerprint,
        )

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:
        """Return the pixels ``(y1 - y0, x1 - x0, bands)`` of a window inside the array."""
        pixels = self._rows.window(x0, y0, x1, y1)
        return pixels if bands is None else np.take(pixels, bands, axis=2)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_npy(
    path: str,
    *,
    mpp: tuple[float, float] | None = None,
    stamp: tuple[int, int] | None = None,
    fingerprint: str = "",
) -> LevelReader:
    """Open an array in a ``.npy`` file.

    Parameters
    ----------
    path : str
    mpp : tuple of float, optional
        Microns per pixel in x and y.
    stamp : tuple of int, optional
        Size and modification time under which the file had `fingerprint`.
    fingerprint : str

    Raises
    ------
    SourceError
        If it is damaged, holds Python objects, or is no image.
    """
    try:
        # Nothing is read yet; a header that asks for pickled objects is refused.
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # its header is a Python literal, parsed as one
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SourceError(
            f"NumPy cannot read a plain array from {path} ({reason}); save it again with "
            "np.save(path, array)."
        ) from error
    image = as_image(array, Path(path).name)
    if not image.flags.c_contiguous:
        return open_array(image, mpp=mpp)
    fingerprint = known_fingerprint(path, stamp, fingerprint) if fingerprint else ""
    height, width, bands = image.shape
    file = OpenFile(path)
    rows = RowFile(file, int(array.offset), (height, width, bands), array.dtype)
    metadata = ImageMetadata(format="NumPy", mpp=mpp, levels=((width, height),))
    return NumpySource(file, rows, metadata, mpp, fingerprint or fingerprint_of_file(path))


FORMAT = ImageFormat(
    "a NumPy file",
    begins=(_MAGIC,),
    opener=open_npy,
    suffixes=frozenset({".npy"}),
)
