"""One tile with another model: a run of its own, so that its result is stored and paid once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from tilevision.errors import RunError
from tilevision.findings import TileFindings
from tilevision.geometry import Box
from tilevision.grid import Grid, Tile
from tilevision.pipeline import Run, start
from tilevision.pipeline.settings import Execution
from tilevision.view.jobs import JobQueue

__all__ = ["Trial", "Trials", "arguments_of_trial"]

LOOK_SECONDS = 0.2
# Given the tile, the model's name, its findings or None, and a sentence.
ShowTrial = Callable[[Tile, str, TileFindings | None, str], None]
# Arguments that a single tile is run with as well: how the work is done, without the limits of
# the run as a whole; and the pixel size, which the model's answer depends on.
_OF_A_TILE = {each.name for each in fields(Execution)} - {"max_failures", "budget"} | {"mpp"}


@dataclass(frozen=True, slots=True)
class Trial:
    """The run of one tile with another model.

    Attributes
    ----------
    name : str
        Name of the model.
    image, arguments
        Arguments of `tilevision.start`.
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
        self._jobs = JobQueue("tilevision-panel-trial", on_error)
        self._closing = threading.Event()

    def put(self, number: int, tile: Tile, show: ShowTrial) -> None:
        """Run `tile` with model `number`; `show` is called on a thread with what it found."""
        self._jobs.put("trial", lambda: self._run(number, tile, show))

    def close(self) -> None:
        """Cancel the trial that is running."""
        self._closing.set()
        self._jobs.close()

    def _run(self, number: int, tile: Tile, show: ShowTrial) -> None:
        trial = self._trial_of(number, tile)
        show(tile, trial.name, None, f"{trial.name} is analysing this tile…")
        try:
            run = start(trial.image, **trial.arguments)
            while not run.wait(LOOK_SECONDS):
                if self._closing.is_set():
                    run.cancel()
                    return
            seen = _seen(run, tile)
        except Exception as error:
            show(tile, trial.name, None, f"{trial.name}: {error}")
            raise
        n = len(seen.findings)
        found = f"{trial.name} found {n:,} {'detection' if n == 1 else 'detections'}"
        show(tile, trial.name, seen, f"{found}, shown dashed.")


def arguments_of_trial(
    run: Run, tile: Tile, arguments: dict[str, Any], model: Any
) -> dict[str, Any]:
    """Return arguments of `tilevision.start` that run `model` on just `tile` of `run`.

    The given `arguments` are kept where they make sense for a single tile.
    """
    kept = {name: value for name, value in arguments.items() if name in _OF_A_TILE}
    x, y = (tile.box.x0 + tile.box.x1) // 2, (tile.box.y0 + tile.box.y1) // 2
    whole = tile.id == "whole"
    return kept | {
        "model": model,
        "grid": Grid(1, 1) if whole else run.tiling.grid,
        "resolution": float(tile.scale),
        # Where tiles overlap by less than half, the middle of a tile lies in no other tile.
        "region": Box(x, y, x + 1, y + 1),
        "moderation": None,
        "synthesis": None,
    }


def _seen(run: Run, tile: Tile) -> TileFindings:
    result = run.result()
    for found in result.tile_findings:
        if found.tile == tile:
            return found
    raise RunError(result.first_failure or f"Tile {tile.id} was not analysed.")
