"""What is known of each tile of a run, kept and told."""

from __future__ import annotations

import math
import time

from tilevision.checkpoint import Checkpoint, MemoryCheckpoint
from tilevision.codec import decode
from tilevision.errors import TilevisionError
from tilevision.events import BOXES_PER_EVENT, Bus, TileChanged
from tilevision.findings import TileFindings
from tilevision.grid import Tile
from tilevision.infer import TileOutcome
from tilevision.pipeline.planning import Plan
from tilevision.result import TileRow
from tilevision.schedule.happenings import Announce

__all__ = ["TileBook"]


class TileBook:
    """The account of a run's tiles; every entry is published on the bus.

    Parameters
    ----------
    plan : Plan
    bus : Bus

    Attributes
    ----------
    rows : dict of Tile to TileRow
        In the order of the plan.
    found : dict of Tile to TileFindings
        Of the tiles that are done or restored.
    restored_at : float or None
        When the oldest restored record was stored, seconds since the epoch.
    """

    def __init__(self, plan: Plan, bus: Bus) -> None:
        self.rows = {tile: TileRow(tile, "pending") for tile in plan.tiles}
        self.found: dict[Tile, TileFindings] = {}
        self.restored_at: float | None = None
        self._plan = plan
        self._model = plan.stages.tile
        self._bus = bus

    def pending(self) -> list[Tile]:
        """Return the tiles of which nothing is known yet."""
        return [tile for tile, row in self.rows.items() if row.status == "pending"]

    def restore(self, checkpoint: Checkpoint | MemoryCheckpoint) -> int:
        """Take over what is stored; return how many tiles that were.

        A record that cannot be read leaves its tile pending: it runs again and is replaced.

        Raises
        ------
        CheckpointCorrupt
            If the database itself is damaged.
        """
        tiles = {self._plan.keys[tile]: tile for tile in self._plan.tiles}
        wanted = [key for key, tile in tiles.items() if tile in self._plan.restored]
        for key, records in checkpoint.load(wanted):
            try:
                findings = decode(records)
            except (ValueError, KeyError, TypeError, TilevisionError):
                continue
            tile, most = tiles[key], self._model.max_detections
            full = most is not None and len(findings) >= most
            self.found[tile] = TileFindings(tile, findings, full)
            row = TileRow(tile, "restored", n_findings=len(findings), saturated=full)
            self._enter(row, self.found[tile])
        self.restored_at = min(checkpoint.stored_at(wanted).values(), default=None)
        return len(self.found)

    def keep(self, outcome: TileOutcome, attempt: int, worker: str) -> None:
        """Take over what a committed tile saw."""
        tile = outcome.tile
        self.found[tile] = TileFindings(tile, decode(outcome.records), outcome.saturated)
        row = TileRow(
            tile,
            "done",
            attempts=attempt,
            read_seconds=outcome.read_seconds,
            infer_seconds=outcome.infer_seconds,
            n_findings=outcome.n_findings,
            saturated=outcome.saturated,
            model=self._model.name,
            worker=worker,
        )
        self._enter(row, self.found[tile])

    def announce(self, change: Announce) -> None:
        """Take note of a tile's new status."""
        row = TileRow(
            change.tile,
            change.status,
            attempts=change.attempt,
            model=self._model.name,
            worker=change.worker,
            error=str(change.failure) if change.failure else "",
        )
        self._enter(row)

    def _enter(self, row: TileRow, seen: TileFindings | None = None) -> None:
        self.rows[row.tile] = row
        boxes, scores = ((), ()) if seen is None else _strongest(seen)
        self._bus.emit(
            TileChanged(
                time=time.time(),
                tile=row.tile,
                status=row.status,
                attempt=row.attempts,
                worker=row.worker,
                read_seconds=row.read_seconds,
                infer_seconds=row.infer_seconds,
                n_findings=row.n_findings,
                saturated=row.saturated,
                model=row.model,
                error=row.error,
                boxes=boxes,
                scores=scores,
            )
        )


def _strongest(
    seen: TileFindings,
) -> tuple[tuple[tuple[int, int, int, int, str], ...], tuple[float | None, ...]]:
    """Return the strongest detections in whole image pixels, for drawing, and their scores."""
    shown = seen.findings.take(range(min(BOXES_PER_EVENT, len(seen.findings))))
    image = TileFindings(seen.tile, shown).in_image()
    boxes = image.boxes.round().astype(int).tolist()
    scores = [None if math.isnan(score) else round(score, 3) for score in image.scores.tolist()]
    return (
        tuple((*box, str(label)) for box, label in zip(boxes, image.labels, strict=True)),
        tuple(scores) if any(score is not None for score in scores) else (),
    )
