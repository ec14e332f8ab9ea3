"""Masks as polygons."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["outline"]


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
    from skimage.measure import find_contours, label

    parts = []
    labelled, count = label(mask, return_num=True, connectivity=1)
    for number in range(1, count + 1):
        padded = np.pad(labelled == number, 1).astype(np.float32)
        rings = [
            ring[:-1, ::-1] - 0.5 + np.asarray(offset) for ring in find_contours(padded, 0.5)
        ]  # padding moves by 1, pixel centres by 0.5
        rings.sort(key=lambda ring: -abs(_signed_area(ring)))
        parts.append(rings)
    return parts or None


def _signed_area(ring: NDArray[Any]) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
