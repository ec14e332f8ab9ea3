"""Masked arrays, as ``rasterio.read(masked=True)`` gives them: what is masked is no data."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilevision.errors import SourceError
from tilevision.sources.source import Pixels

__all__ = ["filled_with_nan", "unmasked"]

_COUNTED = 2  # bytes of whole numbers of which each is looked for
_LIKELY = (0, -9999, -1, -32768, 65535, -(2**31), 2**31 - 1, 2**32 - 1)


def unmasked(array: Pixels) -> tuple[Pixels, dict[str, Any]]:
    """Return an array without its mask, and what its metadata then says: the value of no data.

    Floats are NaN there, whole numbers have a value that no pixel has.

    Raises
    ------
    SourceError
        If there is no such value.
    """
    if not isinstance(array, np.ma.MaskedArray):
        return array, {}
    if not np.ma.is_masked(array):
        return np.asarray(array), {}
    if array.dtype.kind == "f":
        return filled_with_nan(array, "array"), {}
    value = _unused(array) if array.dtype.kind in "iu" else None
    if value is None:
        raise SourceError(
            f"The masked array of {array.dtype} has every value, so none is free to mean no data; "
            "give array.astype('float32').filled(numpy.nan)."
        )
    return np.asarray(array.filled(value)), {"nodata": float(value)}


def filled_with_nan(array: Pixels, name: str) -> Pixels:
    """Return floats with NaN where they are masked; what has no mask as it is.

    Raises
    ------
    SourceError
        If others are masked.
    """
    if not np.ma.is_masked(array):
        return np.asarray(array)
    if array.dtype.kind != "f":
        raise SourceError(
            f"The {name} is masked and of {array.dtype}, which has no NaN; give "
            "array.astype('float32').map_blocks(numpy.ma.filled, numpy.nan)."
        )
    return np.asarray(np.ma.filled(array, np.nan))


def _unused(array: np.ma.MaskedArray[Any, Any]) -> int | None:
    """Return a value that occurs nowhere, else one that only the mask hides; None if all are there.

    So what is masked differs from what lies below, and is not taken for what was read without.
    """
    limits = np.iinfo(array.dtype)
    likely = [one for one in _LIKELY if limits.min <= one <= limits.max]
    if array.dtype.itemsize <= _COUNTED:
        likely += range(int(limits.min), int(limits.max) + 1)
    for hidden in (True, False):
        free = _free(array, likely, hidden=hidden)
        if free is not None:
            return free
    return None


def _free(array: np.ma.MaskedArray[Any, Any], likely: list[int], *, hidden: bool) -> int | None:
    """Return the first of `likely` that no pixel has; with `hidden`, none below the mask either."""
    if array.dtype.itemsize > _COUNTED:
        shown = array.data if hidden else array.compressed()
        return next((one for one in likely if not (shown == one).any()), None)
    unsigned = f"u{array.dtype.itemsize}"
    seen = np.zeros(1 << 8 * array.dtype.itemsize, bool)
    for row in np.ma.atleast_2d(array):
        values = row.data if hidden else row.compressed()
        seen[np.ascontiguousarray(values, array.dtype.newbyteorder("=")).view(unsigned)] = True
    bits = np.array(likely).astype(array.dtype.newbyteorder("=")).view(unsigned)
    free = np.flatnonzero(~seen[bits])
    return likely[int(free[0])] if len(free) else None
