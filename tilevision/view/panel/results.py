"""Results of the run on the screen, without waiting for it and without running anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tilevision.errors import TilevisionError
from tilevision.findings import TileFindings
from tilevision.grid import Tile
from tilevision.history import stored_result
from tilevision.pipeline import Run
from tilevision.result import Result

__all__ = ["ResultLookup"]


class ResultLookup:
    """Finds results: what a running run has so far, and what is stored of a past one.

    Parameters
    ----------
    checkpoint : path-like or None
        Folder where past runs are stored.
    model_of : callable
        Given a past run's id and its model's name, returns the panel's model or None: the
        checkpoint does not keep the code of a function.
    """

    def __init__(self, checkpoint: Any, model_of: Callable[[str, str], Any]) -> None:
        self._checkpoint = checkpoint
        self._model_of = model_of
        self._past: tuple[Any, Result | None] = (None, None)

    def of(self, run: Any) -> Result | None:
        """Return the result of `run` as of now; None if it is not available here.

        Takes a while where much is stored.
        """
        if run is None or isinstance(run, Run):
            return None if run is None else run.so_far()
        key = (run, run.status)
        if self._past[0] != key:
            self._past = (key, self._stored(run))
        return self._past[1]

    def of_tile(self, run: Any, tile: Tile) -> TileFindings | None:
        """Return the findings of one tile; None if they are not available."""
        known = self.of(run)
        found = () if known is None else known.tile_findings
        return next((seen for seen in found if seen.tile == tile), None)

    def _stored(self, run: Any) -> Result | None:
        try:
            own = self._model_of(run.id, run.model.name)
            return stored_result(run, self._checkpoint, model=own)
        except (TilevisionError, OSError):
            return None  # its picture is in the journal, and is shown all the same
