"""Which pixels of a map lie in a region."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tilevision.regions import Region

__all__ = ["Window", "mask_within", "reaches"]

Window = tuple[int, int, int, int]
_BLOCK = 64  # pixels along a side that are looked at together


def mask_within(
    region: Region | None, window: Window, scale: float, step: int = 1
) -> NDArray[np.bool_] | None:
    """Return which pixels of a window have their middle in a region ``(h, w)``; None: none has.

    Parameters
    ----------
    region : Region or None
        None: the whole image.
    window : tuple of int
        ``x0, y0, x1, y1`` in pixels of the map.
    scale : float
        Pixels of the map per pixel of the image.
    step : int
        Takes each so many-th pixel.
    """
    import shapely

    if not reaches(region, window, scale):
        return None
    x0, y0, x1, y1 = window
    across, down = np.arange(x0, x1, step), np.arange(y0, y1, step)
    if region is None:
        return np.ones((len(down), len(across)), np.bool_)
    mask = np.zeros((len(down), len(across)), np.bool_)
    rows, columns = (range(0, side, _BLOCK) for side in mask.shape)
    # Blocks that are wholly within or without need no look at each pixel.
    frames = shapely.box(
        across[columns] / scale,
        down[rows][:, None] / scale,
        (_lasts(across) + 1) / scale,
        (_lasts(down) + 1)[:, None] / scale,
    )
    whole = shapely.contains(region.geometry, frames)
    part = shapely.intersects(region.geometry, frames) & ~whole
    for row, column in np.argwhere(whole | part).tolist():
        here = tuple(slice(n * _BLOCK, (n + 1) * _BLOCK) for n in (row, column))
        if whole[row, column]:
            mask[here] = True
            continue
        x, y = np.meshgrid((across[here[1]] + 0.5) / scale, (down[here[0]] + 0.5) / scale)
        mask[here] = region.holds(np.column_stack([x.ravel(), y.ravel()])).reshape(x.shape)
    return mask


def _lasts(pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the last pixel of each block."""
    return pixels[
        np.minimum(np.arange(_BLOCK - 1, len(pixels) + _BLOCK - 1, _BLOCK), len(pixels) - 1)
    ]


def reaches(region: Region | None, window: Window, scale: float) -> bool:
    """Return True if a region has a part in a window of the map; None is the whole image."""
    import shapely

    if region is None:
        return True
    pair = region.geometry, _frame(window, scale)
    return bool(shapely.intersects(*pair)) and not shapely.touches(*pair)


def _frame(window: Window, scale: float) -> Any:
    """Return a window as a polygon in pixels of the image."""
    import shapely

    return shapely.box(*(edge / scale for edge in window))
