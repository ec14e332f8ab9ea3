"""The tally of a run: what is known about each tile, published as it changes."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import replace

from tilevision.codec import decode
from tilevision.events import BOXES_PER_EVENT, Bus, TileChanged
from tilevision.findings import TileFindings
from tilevision.grid import Tile
from tilevision.infer import TileOutcome
from tilevision.modelspec import Usage
from tilevision.pipeline.planning import Pass, Plan, Store, stored_findings
from tilevision.pipeline.spending import Spending
from tilevision.result import MergeSettings, TileRow
from tilevision.schedule.messages import Announce
from tilevision.status import TileStatus

__all__ = ["Tally"]

# Nobody knows what attempts used that ended like this: they are taken for one call.
_NEVER_BACK = ("timeout", "lost")


class Tally:
    """The account of a run's tiles. Every entry is published on the bus.

    Written on the run's thread only; other threads may read copies.

    Parameters
    ----------
    plan : Plan
    bus : Bus
    spending : Spending
        Charged with every attempt.
    shown : MergeSettings
        Scores and classes that are drawn and counted.

    Attributes
    ----------
    rows : dict of Tile to TileRow
        In the order of the plan.
    found : dict of Tile to TileFindings
        By the tiles that are done or restored.
    restored_at : float or None
        When the oldest restored record was stored, seconds since the epoch.
    """

    def __init__(self, plan: Plan, bus: Bus, spending: Spending, shown: MergeSettings) -> None:
        self.rows = {
            tile: TileRow(tile, TileStatus.SKIPPED if tile in plan.skipped else TileStatus.PENDING)
            for tile in plan.tiles
        }
        self.found: dict[Tile, TileFindings] = {}
        self.restored_at: float | None = None
        self._bus = bus
        self._shown = shown
        self.spending = spending

    def publish_skipped(self) -> None:
        """Publish which tiles lie outside the region."""
        for tile in [tile for tile, row in self.rows.items() if row.status == TileStatus.SKIPPED]:
            self._bus.emit(TileChanged(time=time.time(), tile=tile, status=TileStatus.SKIPPED))

    def restore(self, one: Pass, tiles: Collection[Tile], checkpoint: Store) -> int:
        """Take over what a pass has stored for `tiles`; return how many tiles that were.

        A record that cannot be read leaves its tile pending: it runs again and is replaced.

        Raises
        ------
        CheckpointCorrupt
            If the database itself is damaged.
        """
        count = 0
        for tile, seen in stored_findings(one, tiles, checkpoint):
            self.found[tile] = seen
            n, full = len(seen.findings), seen.saturated
            row = TileRow(tile, TileStatus.RESTORED, n_findings=n, saturated=full, model=one.label)
            self._enter(one, row, seen)
            count += 1
        stored = checkpoint.stored_at([one.keys[tile] for tile in tiles]).values()
        times = [*stored, *filter(None, [self.restored_at])]
        self.restored_at = min(times, default=None)
        return count

    def hand_on(self, tiles: Collection[Tile], one: Pass) -> None:
        """Take back what was seen in `tiles`: the model of another pass decides on them."""
        for tile in tiles:
            del self.found[tile]
            self._enter(one, TileRow(tile, TileStatus.PENDING, model=one.label))

    def back(self, one: Pass, outcome: TileOutcome) -> None:
        """Charge what an attempt used, whether it succeeded or not."""
        self.spending.charge(one.model, one.label, outcome.usage, outcome.tile)

    def keep(self, one: Pass, outcome: TileOutcome, attempt: int, worker: str) -> None:
        """Take over what a committed tile saw."""
        tile = self.rows[outcome.tile].tile  # ours: the outcome's has travelled, it is a copy
        self.found[tile] = TileFindings(tile, decode(outcome.records), outcome.saturated)
        row = TileRow(
            tile,
            TileStatus.DONE,
            attempts=attempt,
            read_seconds=outcome.read_seconds,
            infer_seconds=outcome.infer_seconds,
            n_findings=outcome.n_findings,
            saturated=outcome.saturated,
            model=one.label,
            worker=worker,
        )
        self._enter(one, row, self.found[tile])

    def announce(self, one: Pass, change: Announce) -> None:
        """Enter a tile's new status."""
        if change.failure is not None and change.failure.kind in _NEVER_BACK:
            self.spending.charge(one.model, one.label, Usage(calls=1), change.tile)
        row = TileRow(
            change.tile,
            change.status,
            attempts=change.attempt,
            model=one.label,
            worker=change.worker,
            error=str(change.failure) if change.failure else "",
        )
        self._enter(one, row)

    def _enter(self, one: Pass, row: TileRow, seen: TileFindings | None = None) -> None:
        if seen is not None:
            wanted = seen.findings.filter(self._shown.min_score, self._shown.classes)
            seen = replace(seen, findings=wanted)
            row = replace(row, n_findings=len(wanted))
        self.rows[row.tile] = row
        used = self.spending.tokens(one.label, row.tile)
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
                cost=self.spending.of(row.tile),
                input_tokens=used.input_tokens,
                output_tokens=used.output_tokens,
            )
        )


def _strongest(
    seen: TileFindings,
) -> tuple[tuple[tuple[int, int, int, int, str], ...], tuple[float | None, ...]]:
    """Return the strongest detections in whole image pixels, for drawing, and their scores."""
    if len(seen.findings) == 0:
        return (), ()
    if len(seen.findings) > BOXES_PER_EVENT:
        seen = TileFindings(seen.tile, seen.findings.take(range(BOXES_PER_EVENT)))
    image = seen.in_image()
    boxes = image.boxes.round().astype(int).tolist()
    scores = [None if math.isnan(score) else round(score, 3) for score in image.scores.tolist()]
    return (
        tuple((*box, str(label)) for box, label in zip(boxes, image.labels, strict=True)),
        tuple(scores) if any(score is not None for score in scores) else (),
    )
