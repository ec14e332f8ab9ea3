"""Masks as outlines at the tile's resolution.

Prototypes cover the input at a quarter of its resolution; a detection's mask is their sum by
its coefficients (Bolya et al., YOLACT: Real-time Instance Segmentation, arXiv:1904.02689).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.onnx.preparation import Placement
from tilevision.adapters.outlines import outline

__all__ = ["from_prototypes", "from_raster"]


def from_prototypes(
    coefficients: NDArray[Any],
    prototypes: NDArray[Any],
    boxes: NDArray[np.float64],
    place: Placement,
) -> list[Any]:
    """Return the outline of each detection within its box, in pixels of the tile.

    Parameters
    ----------
    coefficients : array (n, k)
    prototypes : array (k, h, w)
        Over the whole input.
    boxes : array (n, 4)
        In pixels of the tile.
    place : Placement

    Returns
    -------
    list
        For each an outline as `outlines.outline` makes it, or None where the mask is empty.
    """
    return [
        _traced(np.tensordot(weights, prototypes, axes=1), box, place, 0.0)
        for weights, box in zip(coefficients, boxes, strict=True)
    ]


def from_raster(masks: NDArray[Any], boxes: NDArray[np.float64], place: Placement) -> list[Any]:
    """Return the outline of each mask ``(n, h, w)`` of probabilities over the whole input."""
    return [_traced(mask, box, place, 0.5) for mask, box in zip(masks, boxes, strict=True)]


def _traced(field: NDArray[Any], box: NDArray[np.float64], place: Placement, level: float) -> Any:
    """Outline where `field`, laid over the input, passes `level`, at pixels of the tile."""
    low = np.clip(np.floor(box[:2]), 0, place.tile).astype(int)
    high = np.clip(np.ceil(box[2:]), 0, place.tile).astype(int)
    if (high <= low).any():
        return None
    ratio = np.array(field.shape[::-1]) / np.array(place.input)
    axes = []
    for axis in (0, 1):
        centres = np.arange(low[axis], high[axis]) + 0.5
        within = centres * place.scale[axis] + place.offset[axis]
        axes.append(within * ratio[axis] - 0.5)
    inside = _between(_between(field, axes[1], 0), axes[0], 1) > level
    return outline(inside, (float(low[0]), float(low[1])))


def _between(field: NDArray[Any], at: NDArray[np.float64], axis: int) -> NDArray[Any]:
    """Interpolate linearly along one axis, at fractional positions."""
    at = np.clip(at, 0, field.shape[axis] - 1)
    below = np.floor(at).astype(int)
    above = np.minimum(below + 1, field.shape[axis] - 1)
    share = (at - below).reshape((-1, 1) if axis == 0 else (1, -1))
    return np.asarray(field.take(below, axis) * (1 - share) + field.take(above, axis) * share)
