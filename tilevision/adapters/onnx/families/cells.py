"""The cells that one-stage detectors lay over their input: one row of output for each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import ModelError

__all__ = ["STRIDES", "cells", "count", "stride_sets"]

# Usual pyramids of strides: three levels, with a coarser one, with a finer one, two levels.
STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))


def count(size: tuple[int, int], strides: tuple[int, ...]) -> int:
    """Return the number of cells over an input of `size` (width, height)."""
    return sum(-(-size[0] // s) * -(-size[1] // s) for s in strides)


def stride_sets(size: tuple[int, int], rows: int, each: int = 1) -> list[tuple[int, ...]]:
    """Return which of the usual pyramids have `rows` rows, with `each` rows to a cell."""
    return [strides for strides in STRIDES if count(size, strides) * each == rows]


def cells(
    size: tuple[int, int], rows: int, family: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return column and row ``(n, 2)`` and stride ``(n, 1)`` of each cell, finest level first.

    Raises
    ------
    ModelError
        If no usual pyramid has so many.
    """
    found = stride_sets(size, rows)
    if not found:
        raise ModelError(
            f"{rows} rows are not those of family {family!r} for an input of {size[0]}×{size[1]} "
            "px; leave family out, or pass decode=."
        )
    where, stride = [], []
    for step in found[0]:
        y, x = np.mgrid[: -(-size[1] // step), : -(-size[0] // step)]
        where.append(np.column_stack([x.ravel(), y.ravel()]))
        stride.append(np.full((x.size, 1), step))
    return np.concatenate(where).astype(np.float64), np.concatenate(stride).astype(np.float64)
