"""Pictures at another size, as the models that get them were trained to see them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["resized"]


def resized(tile: NDArray[Any], size: tuple[int, int], antialias: bool = True) -> NDArray[Any]:
    """Return a tile ``(h, w, c)`` at another size (width, height); whole numbers are rounded.

    Without `antialias` each pixel lies between the four that are nearest, as in OpenCV's
    INTER_LINEAR; with it a smaller picture is an average, as in Pillow.
    """
    if (tile.shape[1], tile.shape[0]) == size:
        return tile
    if not antialias:
        return _sampled(tile, size)
    from PIL import Image

    how = Image.Resampling.BILINEAR
    if tile.dtype == np.uint8 and tile.shape[2] == 3:
        picture = Image.fromarray(np.ascontiguousarray(tile))
        return np.asarray(picture.resize(size, how))
    bands = [
        np.asarray(Image.fromarray(band.astype(np.float32)).resize(size, how))
        for band in np.moveaxis(tile, 2, 0)
    ]
    values: NDArray[Any] = np.stack(bands, axis=2)
    if tile.dtype.kind != "f":
        values = np.rint(values).astype(tile.dtype)
    return values


def _sampled(tile: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Interpolate linearly between neighbouring pixels, rows first, then columns."""
    values = tile.astype(np.float32)
    for axis, wanted in ((0, size[1]), (1, size[0])):
        have = tile.shape[axis]
        at = np.clip((np.arange(wanted) + 0.5) * (have / wanted) - 0.5, 0, have - 1)
        below = np.floor(at).astype(np.int64)
        share = (at - below).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        upper = values.take(np.minimum(below + 1, have - 1), axis)
        values = values.take(below, axis) * (1 - share) + upper * share
    return values if tile.dtype.kind == "f" else np.rint(values).astype(tile.dtype)
