"""Which pixels of a map lie in a region."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tilevision.regions import Region

__all__ = ["Window", "mask_within", "reaches"]

Window = tuple[int, int, int, int]


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
    if shapely.contains(region.geometry, _frame(window, scale)):
        return np.ones((len(down), len(across)), np.bool_)
    x, y = np.meshgrid((across + 0.5) / scale, (down + 0.5) / scale)
    return region.holds(np.column_stack([x.ravel(), y.ravel()])).reshape(x.shape)


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
