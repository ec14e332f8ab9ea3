"""Where a picture is detailed: what an adaptive grid follows."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import GridError

__all__ = ["Detail", "DetailMap", "Picture", "edge_strength"]

Floats = NDArray[np.float64]
Detail = float | Callable[[NDArray[Any]], NDArray[Any]]

THUMBNAIL_SIDE = 2048
# A map is kept in the journal of its run: no finer than this.
_LONGEST_SIDE = 512
_WINDOW = 9  # px of the thumbnail over which edges are averaged
# Detailed is what has a quarter of the edges that the most detailed places have; sensor
# noise and compression stay below the floor (edges of 0 to 1).
_SHARE, _PERCENTILE, _FLOOR = 0.25, 95, 0.01


class Picture(Protocol):
    """What can show itself small: an `ImageSource`, for one."""

    def thumbnail(self, max_side: int) -> NDArray[Any]:
        """Return the whole image as ``(h, w, c)``, its longer side at most `max_side`."""
        ...


@dataclass(frozen=True, slots=True)
class DetailMap:
    """Which places of an image are detailed, at a small resolution.

    Parameters
    ----------
    rows, cols : int
        Of the map, which covers the whole image.
    bits : bytes
        A bit a place, row by row, as `numpy.packbits` packs them.
    """

    rows: int
    cols: int
    bits: bytes

    @classmethod
    def of(cls, marked: NDArray[np.bool_]) -> DetailMap:
        """Return the map of ``(h, w)``; of a large array a smaller one, marked where any is."""
        times = -(-max(marked.shape) // _LONGEST_SIDE)
        if times > 1:
            # Blocks of unlike size, so that those at the edge cover the same share as others.
            rows, cols = (
                np.arange(-(-side // times)) * side // -(-side // times) for side in marked.shape
            )
            across = np.logical_or.reduceat(marked, cols, axis=1)
            marked = np.logical_or.reduceat(across, rows, axis=0)
        return cls(marked.shape[0], marked.shape[1], np.packbits(marked).tobytes())

    @classmethod
    def measured(cls, values: Any, threshold: float | None = None, floor: float = 0.0) -> DetailMap:
        """Return where `values` ``(h, w)`` are detailed.

        Parameters
        ----------
        values : array (h, w) of bool or numbers
            At any resolution over the whole image.
        threshold : float, optional
            From which a place is detailed. Default: a quarter of the 95th percentile, but
            more than `floor`; True, where the values are bool.

        Raises
        ------
        GridError
            If they are no such array, or not finite.
        """
        array = np.asarray(values)
        if array.ndim != 2 or not array.size or array.dtype.kind not in "biuf":
            raise GridError(
                f"Detail is {array.dtype} of shape {array.shape}; give an array (h, w) of numbers "
                "or bool over the whole image."
            )
        if array.dtype == np.bool_:
            return cls.of(array)
        if not np.isfinite(array).all():
            raise GridError("Detail holds a value that is not finite.")
        if threshold is None:
            threshold = max(floor, _SHARE * float(np.percentile(array, _PERCENTILE)))
            return cls.of(array > threshold)
        return cls.of(array >= threshold)

    @classmethod
    def seen(cls, picture: Picture, detail: Detail | None = None) -> DetailMap:
        """Look at a thumbnail of `picture`; `detail` is a threshold, or measures in its place."""
        small = picture.thumbnail(THUMBNAIL_SIDE)
        if callable(detail):
            return cls.measured(detail(small))
        return cls.measured(edge_strength(small), detail, _FLOOR)

    def marked(self) -> NDArray[np.bool_]:
        """Return the map as an array ``(rows, cols)``."""
        flat = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=self.rows * self.cols)
        return flat.reshape(self.rows, self.cols).astype(bool)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; `from_dict` reads them back."""
        packed = base64.b64encode(zlib.compress(self.bits)).decode("ascii")
        return {"rows": self.rows, "cols": self.cols, "bits": packed}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> DetailMap:
        """Read what `to_dict` wrote.

        Raises
        ------
        GridError
            If it is damaged.
        """
        rows, cols = int(raw["rows"]), int(raw["cols"])
        expected = (rows * cols + 7) // 8
        try:
            packed = base64.b64decode(raw["bits"], validate=True)
            bits = zlib.decompressobj().decompress(packed, expected + 1)
        except (ValueError, TypeError, zlib.error):
            bits = b""
        if min(rows, cols) < 1 or max(rows, cols) > _LONGEST_SIDE or len(bits) != expected:
            raise GridError("The stored detail of an adaptive grid is damaged.")
        return cls(rows, cols, bits)


def edge_strength(pixels: NDArray[Any]) -> Floats:
    """Return how strong the edges are around each pixel, about 0 to 1.

    The Sobel magnitude of the grey picture, averaged over 9 × 9 pixels. Values that are not
    8-bit are first stretched between their 1st and 99th percentile.

    Parameters
    ----------
    pixels : array (h, w, c)

    Returns
    -------
    array (h, w) of float64
    """
    from scipy.ndimage import uniform_filter
    from skimage.filters import sobel

    grey = np.nan_to_num(pixels.astype(np.float64)).mean(axis=-1)
    if pixels.dtype == np.uint8:
        grey /= 255
    else:
        low, high = np.percentile(grey, [1, 99])
        grey = np.clip((grey - low) / (high - low or 1.0), 0, 1)
    return np.asarray(uniform_filter(sobel(grey), _WINDOW, mode="nearest"))
