"""LERC-compressed tiles of TIFF files, with the mask that LERC keeps of what is not there.

As libtiff 4.6 has it (``tif_lerc.c``): holes of floats are NaN, and where the last sample is an
alpha of 0 and 255 alone it is not stored, but is the mask.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from tilevision.sources.source import Pixels

if TYPE_CHECKING:
    from tifffile import TiffPage

__all__ = ["LercTiles"]

_LERC = 34887
_PARAMETERS = 50674
_DEFLATE, _ZSTD = 1, 2
_HEADER_BYTES = 30


class LercTiles:
    """Decodes the tiles or strips of one page.

    Parameters
    ----------
    packing : int
        What compresses the LERC data again: 0 nothing, 1 deflate, 2 zstd.
    hole : float
        Stands where integers have no data.
    dtype : numpy.dtype
        Of the page's samples.

    """

    def __init__(self, packing: int, hole: float, dtype: np.dtype[np.generic]) -> None:
        self._packing = packing
        self._hole = np.nan if dtype.kind == "f" else hole

    @classmethod
    def of(cls, page: TiffPage) -> LercTiles | None:
        """Return what decodes a page; None if it is not compressed so."""
        if int(page.compression) != _LERC or page.dtype is None:
            return None
        parameters = page.tags.valueof(_PARAMETERS)
        packing = int(parameters[1]) if isinstance(parameters, tuple) and len(parameters) > 1 else 0
        return cls(packing, float(page.nodata), np.dtype(page.dtype))

    def decoded(self, data: bytes, shape: tuple[int, int, int]) -> Pixels:
        """Return a tile or strip ``(h, w, samples)``.

        Parameters
        ----------
        data : bytes
            As stored.
        shape : tuple of int
            Of a whole tile; the last strip of a page may be lower.

        Raises
        ------
        ValueError, imagecodecs.LercError
            If the data are damaged.
        """
        import imagecodecs

        values, mask = imagecodecs.lerc_decode(self._unpacked(data), masks=True)
        height, width, samples = values.shape[0], values.shape[1], shape[2]
        values = values.reshape(height, width, -1)
        if mask is not None:
            mask = np.asarray(mask, np.bool_).reshape(height, width, -1)
        if values.shape[2] == samples - 1:  # the alpha is the mask
            alpha = np.full((height, width), 255, values.dtype)
            if mask is not None:
                alpha[~mask[..., 0]] = 0
            values = np.concatenate([values, alpha[..., np.newaxis]], axis=2)
        elif mask is not None and not mask.all():
            values = np.where(mask, values, np.asarray(self._hole, values.dtype))
        if width != shape[1] or height > shape[0] or values.shape[2] != samples:
            raise ValueError(f"its LERC data are of shape {values.shape}, not {shape}")
        if height == shape[0]:
            return np.ascontiguousarray(values)
        whole = np.full(shape, self._hole, values.dtype)
        whole[:height] = values
        return whole

    def has_holes(self, data: bytes) -> bool:
        """Return True unless the header of a tile says that all of its pixels are there."""
        header = self._unpacked(data)[:_HEADER_BYTES]
        if not header.startswith(b"Lerc2 ") or len(header) < _HEADER_BYTES:
            return True
        version = int.from_bytes(header[6:10], "little")
        # Then from version 3 on a checksum, rows, columns, from version 4 on the depth, how many.
        start = 14 if version >= 3 else 10
        rows, columns, *more = struct.unpack_from("<4i", header, start)
        return bool(more[version >= 4] < rows * columns)

    def _unpacked(self, data: bytes) -> bytes:
        import imagecodecs

        if self._packing == _DEFLATE:
            return bytes(imagecodecs.zlib_decode(data))
        return bytes(imagecodecs.zstd_decode(data)) if self._packing == _ZSTD else data
