"""Opens tiles in the inspector: what was clicked, what is known of it, and what to do with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import TilevisionError
from tilevision.events import TileChanged
from tilevision.findings import TileFindings
from tilevision.grid import Tile
from tilevision.pipeline import Run
from tilevision.plot import STATUSES
from tilevision.sources import display_options, read_pixels
from tilevision.view.panel.inspector import Inspector, encoded, tile_facts, tile_rows
from tilevision.view.panel.jobs import Lane
from tilevision.view.panel.tiletrials import Trials
from tilevision.view.picture.screen import Screen
from tilevision.view.picture.subject import Watched

__all__ = ["TileView", "tile_at"]

LONGEST_SIDE = 1600  # px sent of a tile


def tile_at(tiles: Sequence[Tile], x: float, y: float) -> int | None:
    """Return the number of the tile at a point of the image: where several are, the nearest.

    A tile that holds a smaller one comes after it.
    """
    boxes = np.array([tile.box.as_tuple() for tile in tiles], dtype=np.float64).reshape(-1, 4)
    inside = (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])
    at = np.flatnonzero(inside)
    if not len(at):
        return None
    sides = boxes[at, 2:] - boxes[at, :2]
    away = np.abs((boxes[at, :2] + boxes[at, 2:]) / 2 - (x, y)).max(axis=1)
    return int(at[np.lexsort((away, sides.prod(axis=1)))[0]])


class TileView:
    """The inspector, and the tile it shows.

    Parameters
    ----------
    screen : Screen
        Where the tile is picked out.
    lane : Lane
        Where pixels are read.
    known : callable
        Returns the findings of a tile, or None.
    retry : callable
        ``retry(tile)`` gives it fresh attempts.
    trials : Trials
        Run it with other models.
    """

    def __init__(
        self,
        screen: Screen,
        lane: Lane,
        known: Callable[[Tile], TileFindings | None],
        retry: Callable[[Tile], None],
        trials: Trials,
    ) -> None:
        self.widget: Any = Inspector()
        self._screen = screen
        self._lane = lane
        self._known = known
        self._retry = retry
        self._trials = trials
        self._number: int | None = None
        self._run: Watched | None = None
        self._shown: tuple[Any, ...] = ()
        self.widget.observe(lambda change: self._asked(change["new"]), names="asked")

    def pick(self, run: Watched, x: float, y: float) -> None:
        """Open the tile of `run` at a point of the image; close the inspector beside all tiles."""
        self._lane.put("inspect", lambda: self._open(run, tile_at(run.tiles, x, y)))

    def open(self, run: Watched, number: int) -> None:
        """Open a tile by its number in the run."""
        self._lane.put("inspect", lambda: self._open(run, number))

    def close(self) -> None:
        """End it, and the trial at work."""
        self._trials.close()
        self.widget.close()

    def clear(self) -> None:
        """Show no tile."""
        self._number = None
        self._screen.canvas.outline_of(None)
        self.widget.clear()

    def follow(self, run: Watched) -> None:
        """Bring what is shown up to date if the tile has changed, and drop it with its run."""
        number, state = self._number, self._screen.state
        if number is None or state is None:
            return
        if run is not self._run:
            self._lane.put("inspect", self.clear)
        elif self._shown != (state.status[number], state.times[number]):
            self._lane.put("inspect", lambda: self._open(run, number))

    def _compare(self, tile: Tile, name: str, seen: TileFindings | None, words: str) -> None:
        """Show what another model found in the tile, if it is still open."""
        if self._number is not None and self._run and self._run.tiles[self._number] == tile:
            rows = {} if seen is None else tile_rows(seen, self._labels)
            self.widget.other = rows | {"model": name, "words": words}

    def _open(self, run: Watched, number: int | None) -> None:
        if number is None or number >= len(run.tiles):
            self.clear()
            return
        tile, state = run.tiles[number], self._screen.state
        fresh = number != self._number or run is not self._run
        self._number, self._run = number, run
        self._screen.canvas.outline_of(tile.box)
        if state is not None and number < len(state.status):
            self._shown = (state.status[number], state.times[number])
        event = _latest(run, tile)
        seen = self._known(tile)
        facts = tile_facts(event, seen)
        steered = isinstance(run, Run)
        facts |= {"can_retry": steered and event.status == "failed", "can_run": steered}
        picture = self._pixels(run, tile) if fresh else None
        with self.widget.hold_sync():
            self.widget.facts = facts
            self.widget.rows = {} if seen is None else tile_rows(seen, self._labels)
            if picture is not None:
                self.widget.picture, self.widget.other = picture, {}

    @property
    def _labels(self) -> tuple[str, ...]:
        state = self._screen.state
        return () if state is None else state.boxes.labels

    def _pixels(self, run: Watched, tile: Tile) -> bytes:
        source = run.source
        scale = min(tile.scale, LONGEST_SIDE / max(tile.box.width, tile.box.height))
        try:
            pixels: NDArray[np.uint8] = read_pixels(
                source, tile.box, scale, display_options(source)
            )
        except (TilevisionError, OSError, ValueError):
            return b""
        return encoded(pixels)

    def _asked(self, asked: list[Any]) -> None:
        number, run = self._number, self._run
        if len(asked) != 3 or number is None or run is None:
            return
        tile = run.tiles[number]
        what, which, _ = asked
        if what == "close":
            self._lane.put("inspect", self.clear)
        elif what == "retry":
            self._retry(tile)
        elif what == "run" and which in range(len(self.widget.models)):
            self._trials.put(which, tile, self._compare)


def _latest(run: Watched, tile: Tile) -> TileChanged:
    """Return the tile's latest event; one that says so where nothing was heard of it."""
    for event in run.events():
        if isinstance(event, TileChanged) and event.tile == tile:
            return event
    return TileChanged(0.0, tile, STATUSES[0])
