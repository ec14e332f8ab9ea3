"""Pixels: tiles as the built-in detectors want them, and whether boxes are in pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["are_shares", "brightness", "rgb"]

_SHARES = (-0.1, 1.1)  # from 0 to 1, and a little beyond, as networks give them
_LUMA = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)


def are_shares(boxes: NDArray[Any]) -> bool:
    """Return True if boxes ``(n, 4)`` are shares of a tile's sides, which pixels cannot be.

    Then all of them lie in the first pixel. A sliver of what the tile's corner cuts off may lie
    there as well, and points may lie anywhere.
    """
    wide = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
    if not len(wide) or wide.min() < _SHARES[0] or wide.max() > _SHARES[1]:
        return False
    return bool((wide % 1 > 0).any() and (wide[:, :2] > 0).any())


def brightness(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the brightness ``(h, w)``, 0 to 1, of a tile ``(h, w, c)``; one rule for all tiles."""
    values = _unit(pixels)
    grey = values @ _LUMA if values.shape[2] == 3 else values.mean(axis=2)
    return grey.astype(np.float32, copy=False)


def rgb(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return a tile ``(h, w, c)`` as three colours ``(h, w, 3)``, 0 to 1; grey is repeated."""
    values = _unit(pixels)
    return values[..., :3] if values.shape[2] >= 3 else np.repeat(values[..., :1], 3, axis=2)


def _unit(pixels: NDArray[Any]) -> NDArray[np.float32]:
    values = pixels.astype(np.float32)
    if pixels.dtype.kind in "iu":
        values /= np.iinfo(pixels.dtype).max
    return values
