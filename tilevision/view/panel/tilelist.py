"""The board beside the picture: how fast it goes, and which tiles need a look."""

from __future__ import annotations

import time
from pathlib import Path

import anywidget
import traitlets

from tilevision.view.panel.notable import notable
from tilevision.view.panel.throughput import pace
from tilevision.view.picture.viewstate import ViewState

__all__ = ["Board"]

_FOLDER = Path(__file__).parent
EVERY_SECONDS = 1.0


class Board(anywidget.AnyWidget):
    """A chart of throughput and latency, and a list that can be sorted.

    Attributes
    ----------
    pace : dict
        See `tilevision.view.panel.throughput.pace`.
    notable : dict
        See `tilevision.view.panel.notable.notable`.
    picked : list of int
        Number of the tile that was clicked in the list, and how many clicks there were. Set
        by the page.
    """

    _esm = (_FOLDER / "board.js").read_text(encoding="utf-8")
    _css = (_FOLDER / "board.css").read_text(encoding="utf-8")

    pace = traitlets.Dict({}).tag(sync=True)
    notable = traitlets.Dict({}).tag(sync=True)
    picked = traitlets.List(traitlets.Int(), []).tag(sync=True)

    _told = 0.0

    def tell(self, state: ViewState, *, now: bool) -> None:
        """Show `state`, if the last was a while ago or `now`; what is the same is not sent."""
        if not now and time.monotonic() - self._told < EVERY_SECONDS:
            return
        self._told = time.monotonic()
        speed, tiles = pace(state), notable(state)
        with self.hold_sync():
            if speed != self.pace:
                self.pace = speed
            if tiles != self.notable:
                self.notable = tiles
