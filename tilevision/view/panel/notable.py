"""Tiles that somebody should look at: failed, throttled, retried, saturated or slow; pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilevision.plot import STATUSES, shown
from tilevision.view.picture.viewstate import ViewState

__all__ = ["MOST_ROWS", "notable"]

MOST_ROWS = 300
SLOW = 3.0  # times the median
ENOUGH_TIMED = 8  # fewer tiles say little about what is usual
_TOLD = ("failed", "throttled", "retrying")


def notable(state: ViewState, limit: int = MOST_ROWS) -> dict[str, Any]:
    """Return the tiles worth a look, the worst kind first, in plain JSON types.

    Returns
    -------
    dict
        ``rows``: at most `limit` of number, id, kind, seconds or None, attempts, detections,
        error. ``counts``: all there are, by kind.
    """
    kinds = [(name, state.status == STATUSES.index(name)) for name in _TOLD]
    kinds.append(("saturated", state.saturated))
    kinds.append(("slow", _slow(state)))
    rows: list[list[Any]] = []
    listed: set[int] = set()
    for kind, marked in kinds:
        for i in np.flatnonzero(marked).tolist():
            if len(rows) >= limit:
                break
            if i not in listed:
                listed.add(i)
                rows.append(_row(state, i, kind))
    return {
        "rows": rows,
        "counts": {kind: int(marked.sum()) for kind, marked in kinds if marked.any()},
    }


def _slow(state: ViewState) -> Any:
    timed = state.seconds[~np.isnan(state.seconds)]
    if len(timed) < ENOUGH_TIMED:
        return np.zeros(len(state.tiles), dtype=bool)
    return np.nan_to_num(state.seconds) > SLOW * np.median(timed)


def _row(state: ViewState, i: int, kind: str) -> list[Any]:
    seconds = float(state.seconds[i])
    return [
        i,
        state.tiles[i].id,
        kind,
        None if np.isnan(seconds) else round(seconds, 3),
        int(state.attempts[i]),
        int(state.n_findings[i]),
        shown(state.errors.get(i, ""), 200),
    ]
