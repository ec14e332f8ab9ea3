"""Distributions of scores and sizes, in bins that a page can draw."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["area_histogram", "score_histogram"]

BINS = 32
WIDEST_LINEAR = 20.0  # times the least area: past that, bins are even on a logarithmic axis


def score_histogram(scores: NDArray[np.float64]) -> dict[str, Any]:
    """Return the distribution of scores ``(n,)`` from 0 to 1; empty if none has a score.

    Returns
    -------
    dict
        ``low``, ``high``: ends of the axis. ``log``: whether bins are even in the logarithm.
        ``counts``: number in each bin. ``unit``: of the axis, for people. ``without``: how many
        have no value.
    """
    known = scores[~np.isnan(scores)]
    if not len(known):
        return {}
    return _binned(known, 0.0, 1.0, log=False, unit="") | {"without": len(scores) - len(known)}


def area_histogram(areas: NDArray[np.float64], unit: str) -> dict[str, Any]:
    """Return the distribution of areas ``(n,)``, as `score_histogram` does; empty without any."""
    sized = areas[areas > 0]
    if not len(sized):
        return {}
    low, high = _outward(float(sized.min()), float(sized.max()))
    log = high > WIDEST_LINEAR * low
    low = low if log else 0.0
    return _binned(sized, low, high, log=log, unit=unit) | {"without": len(areas) - len(sized)}


def _outward(low: float, high: float) -> tuple[float, float]:
    """Return the range to two digits, so that an axis that grows stays still for a while."""
    step_low = 10 ** (np.floor(np.log10(low)) - 1)
    step_high = 10 ** (np.floor(np.log10(high)) - 1)
    least, most = np.floor(low / step_low) * step_low, np.ceil(high / step_high) * step_high
    return float(least), float(most if most > least else least + step_high)


def _binned(
    values: NDArray[np.float64], low: float, high: float, *, log: bool, unit: str
) -> dict[str, Any]:
    ends, seen = (low, high), values
    if log:
        ends, seen = (float(np.log(low)), float(np.log(high))), np.log(values)
    counts, _ = np.histogram(seen, bins=BINS, range=ends)
    return {"low": low, "high": high, "log": log, "unit": unit, "counts": counts.tolist()}
