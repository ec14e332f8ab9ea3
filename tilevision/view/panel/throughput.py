"""How fast a run analyses tiles, over time. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilevision.plot import STATUSES
from tilevision.status import TileStatus
from tilevision.view.picture.viewstate import ViewState

__all__ = ["throughput"]

BINS = 40
SHORTEST_BIN = 1.0  # s
_DONE = STATUSES.index(TileStatus.DONE)


def throughput(state: ViewState) -> dict[str, Any]:
    """Return throughput and latency over the time of the run, in plain JSON types.

    Restored tiles are left out: they say nothing about the speed.

    Returns
    -------
    dict
        ``width``: seconds of a bin; ``rate``: tiles per second, for each bin since the start;
        ``median``, ``p95``: seconds to read and analyse a tile, None for a bin without tiles;
        ``overall``: median and 95th percentile of all. Empty before two tiles are done.
    """
    done = (state.status == _DONE) & (state.times > 0)
    times, seconds = state.times[done], state.seconds[done]
    if len(times) < 2:
        return {}
    start = min(state.started or times.min(), times.min())
    width = max(SHORTEST_BIN, (times.max() - start) / BINS)
    number = np.minimum(((times - start) / width).astype(np.int64), BINS)
    rate = np.bincount(number) / width
    timed = ~np.isnan(seconds)
    bins: list[tuple[float, float] | None] = [None] * len(rate)
    order = np.argsort(number[timed], kind="stable")
    groups, starts = np.unique(number[timed][order], return_index=True)
    for group, part in zip(groups, np.split(seconds[timed][order], starts[1:]), strict=True):
        bins[group] = _percentiles(part)
    return {
        "width": round(float(width), 2),
        "rate": [round(float(value), 2) for value in rate],
        "median": [None if pair is None else pair[0] for pair in bins],
        "p95": [None if pair is None else pair[1] for pair in bins],
        "overall": _percentiles(seconds[timed]) if timed.any() else None,
    }


def _percentiles(seconds: Any) -> tuple[float, float]:
    median, p95 = np.percentile(seconds, (50, 95))
    return round(float(median), 4), round(float(p95), 4)
