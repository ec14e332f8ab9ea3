"""Masks as polygons."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["outline", "ring"]


def outline(mask: NDArray[np.bool_], offset: tuple[float, float] = (0.0, 0.0)) -> Any:
    """Return the outline of a mask as parts of rings, or None where the mask is empty.

    Parameters
    ----------
    mask : array (h, w) of bool
    offset : tuple of float
        x, y of the mask's corner in the frame wanted.

    Returns
    -------
    list of list of array (k, 2), or None
        x, y in pixels, where pixel (0, 0) covers 0 to 1; the exterior first, then holes.
    """
    from skimage.measure import label

    labelled, count = label(mask, return_num=True, connectivity=1)
    return [_rings(labelled == number, offset) for number in range(1, count + 1)] or None


def ring(mask: NDArray[np.bool_], offset: tuple[float, float] = (0.0, 0.0)) -> NDArray[np.float64]:
    """Return the exterior of a mask in one piece ``(k, 2)``, holes filled; frame as `outline`."""
    return _rings(mask, offset)[0]


def _rings(mask: NDArray[np.bool_], offset: tuple[float, float]) -> list[NDArray[np.float64]]:
    """Return the rings of a mask in one piece, the exterior (the largest) first."""
    from skimage.measure import find_contours

    contours = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    # Padding moves everything by 1, and pixel centres lie at 0.5.
    rings = [contour[:-1, ::-1] - 0.5 + np.asarray(offset) for contour in contours]
    return sorted(rings, key=lambda ring: -abs(_signed_area(ring)))


def _signed_area(ring: NDArray[Any]) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
