"""One resolution of an image in a Zarr store, read by the chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tilevision.errors import SourceError, TilevisionError
from tilevision.sources.levels import LevelPlacement
from tilevision.sources.source import Pixels

__all__ = ["ZarrLevel"]


class ZarrLevel:
    """One array of a store as ``(h, w, c)``.

    Parameters
    ----------
    array : zarr.Array
    axes : sequence of str
        What each axis is; ``"y"`` and ``"x"`` are among them, ``"c"`` are the bands.
    name : str
        For errors.
    plane : mapping of int to int, optional
        Index on each other axis, by its place among the axes; 0 where not given.
    placement : LevelPlacement, optional
        Where the level lies on the full resolution, if the store declares it.

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`.
    bands : int
    dtype : numpy.dtype
    array : zarr.Array
    placement : LevelPlacement or None
    """

    def __init__(
        self,
        array: Any,
        axes: Sequence[str],
        name: str,
        plane: Mapping[int, int] | None = None,
        placement: LevelPlacement | None = None,
    ) -> None:
        self.array = array
        self._axes = tuple(axes)
        self._name = name
        self._plane = plane or {}
        self.placement = placement
        x, y = self._axes.index("x"), self._axes.index("y")
        self.size = (int(array.shape[x]), int(array.shape[y]))
        self.chunk = (int(array.chunks[x]), int(array.chunks[y]))
        self.bands = int(array.shape[self._axes.index("c")]) if "c" in self._axes else 1
        self.dtype: np.dtype[Any] = np.dtype(array.dtype).newbyteorder("=")

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one decoded chunk, over all axes."""
        return int(np.prod(self.array.chunks, dtype=np.int64)) * self.dtype.itemsize

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:
        """Return the pixels ``(y1 - y0, x1 - x0, bands)`` of a window inside the level."""
        place: dict[str, slice] = {"x": slice(x0, x1), "y": slice(y0, y1), "c": slice(None)}
        if bands is not None and len(bands) == 1:
            place["c"] = slice(bands[0], bands[0] + 1)
        index = tuple(
            place.get(axis, self._plane.get(number, 0)) for number, axis in enumerate(self._axes)
        )
        try:
            found = np.asarray(self.array[index])
        except TilevisionError:  # a store elsewhere has its own errors
            raise
        except MemoryError as error:
            raise SourceError(
                f"{self._name}: there is not enough memory for a chunk of "
                f"{self.chunk_bytes / 1e9:,.1f} GB; store it again in smaller chunks."
            ) from error
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise SourceError(
                f"{self._name}: a chunk cannot be read ({reason}); get the store again."
            ) from error
        kept = [axis for axis in self._axes if axis in ("y", "x", "c")]
        if "c" not in kept:
            found, kept = found[..., np.newaxis], [*kept, "c"]
        pixels = found.transpose([kept.index(axis) for axis in "yxc"]).astype(
            self.dtype, copy=False
        )
        return pixels if bands is None or len(bands) == 1 else np.take(pixels, bands, axis=2)
