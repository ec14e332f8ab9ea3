"""One tile with another model: a run of its own, so that what it costs is kept and paid once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tilevision.errors import RunError
from tilevision.findings import TileFindings
from tilevision.geometry import Box
from tilevision.grid import Grid, Tile
from tilevision.pipeline import Run, start
from tilevision.view.panel.jobs import Lane

__all__ = ["Trial", "Trials", "arguments_of_one"]

LOOK_SECONDS = 0.2
# Given the tile, the model's name, what it found or None, and words.
Tell = Callable[[Tile, str, TileFindings | None, str], None]
# What belongs to the run as a whole, and not to one tile of it.
_OF_A_RUN = ("min_score", "classes", "max_failures", "budget", "report", "full_image", "strict")


@dataclass(frozen=True, slots=True)
class Trial:
    """One tile's run with another model.

    Attributes
    ----------
    name : str
        Of the model, for people.
    image, arguments
        Of `tilevision.start`.
    """

    name: str
    image: Any
    arguments: dict[str, Any]


class Trials:
    """Runs single tiles, one after the other.

    Parameters
    ----------
    trial_of : callable
        ``trial_of(number of the model, tile)`` returns the trial.
    on_error : callable
        Given one line.
    """

    def __init__(
        self, trial_of: Callable[[int, Tile], Trial], on_error: Callable[[str], None]
    ) -> None:
        self._trial_of = trial_of
        self._lane = Lane("tilevision-panel-trial", on_error)
        self._closing = threading.Event()

    def put(self, number: int, tile: Tile, tell: Tell) -> None:
        """Run `tile` with model `number`; what comes of it is told on a thread."""
        self._lane.put("trial", lambda: self._run(number, tile, tell))

    def close(self) -> None:
        """Cancel the trial at work."""
        self._closing.set()
        self._lane.close()

    def _run(self, number: int, tile: Tile, tell: Tell) -> None:
        trial = self._trial_of(number, tile)
        tell(tile, trial.name, None, f"{trial.name} is at work on this tile…")
        try:
            run = start(trial.image, **trial.arguments)
            while not run.wait(LOOK_SECONDS):
                if self._closing.is_set():
                    run.cancel()
                    return
            seen = _seen(run, tile)
        except Exception as error:
            tell(tile, trial.name, None, f"{trial.name}: {error}")
            raise
        n = len(seen.findings)
        found = f"{trial.name} found {n:,} {'detection' if n == 1 else 'detections'}"
        tell(tile, trial.name, seen, f"{found}, shown dashed")


def arguments_of_one(run: Run, tile: Tile, arguments: dict[str, Any], model: Any) -> dict[str, Any]:
    """Return arguments of `tilevision.start` that run `model` on `tile` of `run` alone.

    Those given are kept where they make sense for one tile.
    """
    kept = {name: value for name, value in arguments.items() if name not in _OF_A_RUN}
    x, y = (tile.box.x0 + tile.box.x1) // 2, (tile.box.y0 + tile.box.y1) // 2
    whole = tile.id == "whole"
    return kept | {
        "model": model,
        "grid": Grid(1, 1) if whole else run.tiling.grid,
        "resolution": float(tile.scale),
        # The middle of a tile is, where they overlap by less than half, in no other one.
        "region": Box(x, y, x + 1, y + 1),
        "moderation": None,
        "synthesis": None,
    }


def _seen(run: Run, tile: Tile) -> TileFindings:
    result = run.result()
    for found in result.tile_findings:
        if found.tile == tile:
            return found
    raise RunError(result.first_failure or f"tile {tile.id} was not analysed")
