"""The Tiles tab: a chart of the speed, and the tiles that need a look."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets

from tilevision.grid import Tile
from tilevision.plot import STATUSES, shown
from tilevision.status import TileStatus
from tilevision.view.panel.throughput import throughput
from tilevision.view.picture.viewstate import ViewState

__all__ = ["MOST_ROWS", "TileList", "notable_tiles"]

_FOLDER = Path(__file__).parent
EVERY_SECONDS = 1.0
MOST_ROWS = 300
SLOW, SLOWER_BY = 3.0, 0.5  # times the median, and seconds above it that anybody would notice
ENOUGH_TIMED = 8  # fewer tiles do not show what is usual
_LISTED = (TileStatus.FAILED, TileStatus.THROTTLED, TileStatus.RETRYING)


class TileList(anywidget.AnyWidget):
    """A chart of throughput and latency, and a list that can be sorted.

    Attributes
    ----------
    throughput : dict
        See `tilevision.view.panel.throughput.throughput`.
    notable : dict
        See `notable_tiles`.
    picked : list of int
        Number of the tile that was clicked in the list, and how many clicks there were. Set
        by the page.
    """

    _esm = (_FOLDER / "tilelist.js").read_text(encoding="utf-8")
    _css = (_FOLDER / "tilelist.css").read_text(encoding="utf-8")

    throughput = traitlets.Dict({}).tag(sync=True)
    notable = traitlets.Dict({}).tag(sync=True)
    picked = traitlets.List(traitlets.Int(), []).tag(sync=True)

    _updated = 0.0
    _doubt: Sequence[tuple[Tile, str]] = ()

    def tell_doubt(self, doubt: Sequence[tuple[Tile, str]]) -> None:
        """List these tiles too, where they are shown: each with its doubt, the greatest first."""
        self._doubt = doubt

    def update(self, state: ViewState, *, now: bool) -> None:
        """Show `state` if the last update is a while ago, or `now`; only changes are sent."""
        if not now and time.monotonic() - self._updated < EVERY_SECONDS:
            return
        self._updated = time.monotonic()
        speed, tiles = throughput(state), notable_tiles(state, doubt=self._doubt)
        with self.hold_sync():
            if speed != self.throughput:
                self.throughput = speed
            if tiles != self.notable:
                self.notable = tiles


def notable_tiles(
    state: ViewState, limit: int = MOST_ROWS, doubt: Sequence[tuple[Tile, str]] = ()
) -> dict[str, Any]:
    """Return the tiles that need a look, the worst kind first, in plain JSON types.

    Those in `doubt` (with the reason) come last, as they are ordered.

    Returns
    -------
    dict
        ``rows``: at most `limit` rows of number, id, kind, seconds or None, attempts,
        detections, error. ``counts``: the number of all such tiles, by kind.
    """
    kinds = [(str(name), state.status == STATUSES.index(name)) for name in _LISTED]
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
    counts = {kind: int(marked.sum()) for kind, marked in kinds if marked.any()}
    for tile, words in doubt[: limit - len(rows)]:
        place = state.index.get(tile)  # another run, or plan, may be shown by now
        if place is not None and place not in listed:
            rows.append([*_row(state, place, "uncertain")[:-1], words])
            counts["uncertain"] = counts.get("uncertain", 0) + 1
    return {"rows": rows, "counts": counts}


def _slow(state: ViewState) -> Any:
    timed = state.seconds[~np.isnan(state.seconds)]
    if len(timed) < ENOUGH_TIMED:
        return np.zeros(len(state.tiles), dtype=bool)
    usual = np.median(timed)
    return np.nan_to_num(state.seconds) > max(SLOW * usual, usual + SLOWER_BY)


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
