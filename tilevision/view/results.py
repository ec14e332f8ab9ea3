"""Results of what is on the screen, without waiting and without running anything."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tilevision.analysis.account import RunFacts, TileRow
from tilevision.errors import RunError, TilevisionError
from tilevision.findings import Findings, TileFindings
from tilevision.grid import Tile
from tilevision.history import planned_result, stored_result
from tilevision.history.followedrun import JournaledRun
from tilevision.payloads import StoredArray
from tilevision.pipeline import Run
from tilevision.pipeline.manifest import find_manifest, stand_in
from tilevision.plot import STATUSES
from tilevision.result import Result
from tilevision.seams import LIMITS, MergeSettings
from tilevision.view.picture.subject import PlannedRun, Watched
from tilevision.view.picture.viewstate import ViewState

__all__ = ["ResultLookup", "result_of_events"]


class ResultLookup:
    """Finds results: what a run has so far, and what is stored of a past one or of a plan.

    Parameters
    ----------
    checkpoint : path-like or None
        Folder where tiles are stored.
    model_of : callable, optional
        Given a past run's id and its model's name, returns the model or None: the checkpoint
        does not keep the code of a function.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | None,
        model_of: Callable[[str, str], Any] = lambda *_: None,
    ) -> None:
        self._checkpoint = checkpoint
        self._model_of = model_of
        self._stored: tuple[Any, Result | None] = (None, None)
        self._maps: tuple[Any, dict[Tile, StoredArray] | None] = (None, None)

    def of(self, run: Watched | None, state: ViewState) -> Result | None:
        """Return the result of `run` as of now; None if it cannot be known here.

        Takes a while where much is stored.
        """
        if run is None or isinstance(run, Run):
            return None if run is None else run.so_far()
        if isinstance(run, PlannedRun) or (isinstance(run, JournaledRun) and state.ended):
            key, stored = (run, state.version), self._stored
            if stored[0] != key:  # several threads ask: each returns what it has read
                self._stored = stored = (key, self._read(run))
            if stored[1] is not None:
                return stored[1]
        found = result_of_events(run, state, self._merging(run))
        if found is None or not isinstance(run, JournaledRun) or not state.n_finished:
            return found
        return self._mapped(run, found)

    def of_tile(self, run: Watched | None, state: ViewState, tile: Tile) -> TileFindings | None:
        """Return the findings of one tile; None if they are not available."""
        known = self.of(run, state)
        found = () if known is None else known.tile_findings
        return next((seen for seen in found if seen.tile == tile), None)

    def _read(self, run: PlannedRun | JournaledRun) -> Result | None:
        try:
            if isinstance(run, PlannedRun):
                return planned_result(run.plan, self._checkpoint)
            if self._checkpoint is None:
                return None
            own = self._model_of(run.id, run.model.name)
            return self._read_stored(run, self._checkpoint, own)
        except (TilevisionError, OSError, KeyError):
            # Its model is not here, or another version wrote its journal: that has the boxes.
            return None

    def _read_stored(self, run: JournaledRun, checkpoint: Any, own: Any) -> Result:
        try:
            return stored_result(run, checkpoint, model=own, working=True)
        except RunError:
            function = stand_in(find_manifest(run.id, checkpoint))
            if own is not None or function is None:
                raise
            return stored_result(run, checkpoint, model=function, working=True)

    def _mapped(self, run: JournaledRun, found: Result) -> Result:
        """Return the result of events with the maps of its tiles, which are stored.

        A replay finds all of them at once. A run that is going is looked at again and again, if
        its first tiles have one.
        """
        known = self._maps[1] if self._maps[0] is run else None
        tiles = {seen.tile for seen in found.tile_findings}
        if known is None or (known and not tiles <= known.keys()):
            read = self._read(run)
            seen = () if read is None else read.tile_findings
            known = {one.tile: one.raster for one in seen if one.raster is not None}
            self._maps = (run, known)
        if not known:
            return found
        mapped = [replace(one, raster=known.get(one.tile)) for one in found.tile_findings]
        how = found.settings, found.facts, found.name, self._blending(run)
        return Result(found.source, found.rows, mapped, *how)

    def _blending(self, run: JournaledRun) -> Any:
        """Return how the maps of a run are blended."""
        from tilevision.rasters import MapSettings

        kept = find_manifest(run.id, self._checkpoint or "").get("settings", {})
        names = ("blend", "margin", "thresholds", "unsure")
        return MapSettings(**{name: kept[name] for name in names if name in kept})

    def _merging(self, run: Watched) -> MergeSettings:
        """Return how a run that is read from its journal merges."""
        if self._checkpoint is None or not isinstance(run, JournaledRun):
            return MergeSettings()
        kept = find_manifest(run.id, self._checkpoint).get("settings", {})
        classes = kept.get("classes")
        classes = (classes,) if isinstance(classes, str) else classes
        # Journals of earlier versions recorded fewer.
        same = ("min_score", "class_agnostic", "match_metric", "match_threshold")
        return MergeSettings(
            method=kept.get("merge", "seam"),
            classes=None if classes is None else tuple(classes),
            **{name: kept[name] for name in (*same, *LIMITS) if name in kept},
        )


def result_of_events(run: Watched, state: ViewState, settings: MergeSettings) -> Result | None:
    """Return the result as far as events tell it; None if they leave detections out.

    Events carry boxes in whole pixels, and at most 256 of a tile.
    """
    analysed = np.array([status.analysed for status in STATUSES])[state.status]
    seen = _by_tile(state)
    if any(state.n_findings[i] > len(seen.get(i, ())) for i in np.flatnonzero(analysed).tolist()):
        return None
    found = [
        TileFindings(state.tiles[i], _in_tile(seen.get(i, Findings()), state.tiles[i]))
        for i in np.flatnonzero(analysed).tolist()
    ]
    rows = [
        TileRow(float(when), tile, STATUSES[code], n_findings=int(n))
        for when, tile, code, n in zip(
            state.times, state.tiles, state.status, state.n_findings, strict=True
        )
    ]
    region = getattr(run, "region", None)
    status = str(state.run_status or "running")
    facts = RunFacts(run_id=run.id, status=status, model=run.model.name, region=region)
    return Result(run.source, rows, found, settings, facts, run.name)


def _by_tile(state: ViewState) -> dict[int, Findings]:
    """Return what events tell of each tile, in image pixels."""
    chunks = state.boxes.chunks
    if not chunks:
        return {}
    tiles = np.concatenate([chunk.tiles for chunk in chunks])
    labels = np.array(state.boxes.labels)[np.concatenate([chunk.labels for chunk in chunks])]
    boxes = np.concatenate([chunk.boxes for chunk in chunks])
    scores = np.concatenate([chunk.scores for chunk in chunks])
    order = np.argsort(tiles, kind="stable")
    numbers, starts = np.unique(tiles[order], return_index=True)
    parts = np.split(order, starts[1:])
    # Findings put their rows in an order of their own, so those of each tile are chosen before.
    return {
        int(i): Findings(boxes[rows], scores=scores[rows], labels=labels[rows].tolist())
        for i, rows in zip(numbers, parts, strict=True)
    }


def _in_tile(findings: Findings, tile: Tile) -> Findings:
    """Return findings in image pixels in the frame of a tile, as its model saw it."""
    width, height = tile.output_size
    factor = (width / tile.box.width, height / tile.box.height)
    moved = findings.mapped((1.0, 1.0), (-tile.box.x0, -tile.box.y0))
    return moved.mapped(factor, (0.0, 0.0))
