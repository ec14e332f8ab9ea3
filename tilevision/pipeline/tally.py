"""The tally of a run: what is known about each tile, published as it changes."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import replace

from tilevision.events import BOXES_PER_EVENT, Bus, TileChanged
from tilevision.events.journal import redact
from tilevision.findings import TileFindings
from tilevision.grid import Tile
from tilevision.infer import TileOutcome
from tilevision.modelspec import Usage
from tilevision.pipeline.estimate import Spending
from tilevision.pipeline.planning import Pass, Plan, Store, stored_findings
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
        now = time.time()
        self.rows = {tile: TileRow(now, tile, TileStatus.PENDING) for tile in plan.tiles}
        self.rows |= {tile: TileRow(now, tile, TileStatus.SKIPPED) for tile in plan.skipped}
        self.found: dict[Tile, TileFindings] = {}
        self.restored_at: float | None = None
        self._bus = bus
        self._shown = shown
        self.spending = spending

    def publish_skipped(self) -> None:
        """Publish which tiles lie outside the region."""
        for row in [row for row in self.rows.values() if row.status == TileStatus.SKIPPED]:
            self._bus.emit(row)

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
            self._enter(one, tile, TileStatus.RESTORED, seen, saturated=seen.saturated)
            count += 1
        stored = checkpoint.stored_at([one.keys[tile] for tile in tiles]).values()
        times = [*stored, *filter(None, [self.restored_at])]
        self.restored_at = min(times, default=None)
        return count

    def hand_on(self, tiles: Collection[Tile], one: Pass) -> None:
        """Take back what was seen in `tiles`: the model of another pass decides on them."""
        for tile in tiles:
            del self.found[tile]
            self._enter(one, tile, TileStatus.PENDING)

    def back(self, one: Pass, outcome: TileOutcome) -> None:
        """Charge what an attempt used, whether it succeeded or not."""
        self.spending.charge(one.model, one.label, outcome.usage, outcome.tile)

    def keep(
        self,
        one: Pass,
        outcome: TileOutcome,
        seen: TileFindings,
        attempt: int,
        worker: str,
    ) -> None:
        """Take over what a committed tile saw."""
        tile = self.rows[outcome.tile].tile  # ours: the outcome's has travelled, it is a copy
        self.found[tile] = replace(seen, tile=tile)
        self._enter(
            one,
            tile,
            TileStatus.DONE,
            self.found[tile],
            attempt=attempt,
            worker=worker,
            read_seconds=outcome.read_seconds,
            infer_seconds=outcome.infer_seconds,
            saturated=outcome.saturated,
        )

    def announce(self, one: Pass, change: Announce) -> None:
        """Enter a tile's new status."""
        if change.failure is not None and change.failure.kind in _NEVER_BACK:
            self.spending.charge(one.model, one.label, Usage(calls=1), change.tile)
        self._enter(
            one,
            change.tile,
            change.status,
            attempt=change.attempt,
            worker=change.worker,
            error=redact(str(change.failure)) if change.failure else "",
            details=redact(change.failure.traceback) if change.failure else "",
        )

    def _enter(
        self,
        one: Pass,
        tile: Tile,
        status: TileStatus,
        seen: TileFindings | None = None,
        *,
        attempt: int = 0,
        worker: str = "",
        read_seconds: float | None = None,
        infer_seconds: float | None = None,
        saturated: bool = False,
        error: str = "",
        details: str = "",
    ) -> None:
        """Make the record of a tile, publish it, and keep it as the tile's row."""
        if seen is not None and len(seen.findings):
            seen = self._shown_of(seen)
            boxes, scores = _strongest(seen)
        else:
            boxes, scores = (), ()
        used = self.spending.tokens(one.label, tile)
        change = TileChanged(
            time=time.time(),
            tile=tile,
            status=status,
            attempt=attempt,
            worker=worker,
            read_seconds=read_seconds,
            infer_seconds=infer_seconds,
            n_findings=0 if seen is None else len(seen.findings),
            saturated=saturated,
            model=one.label,
            error=error,
            boxes=boxes,
            scores=scores,
            cost=self.spending.of(tile),
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            details=details,
        )
        # The boxes are for drawing; a million rows must not hold them.
        self.rows[tile] = replace(change, boxes=(), scores=()) if boxes else change
        self._bus.emit(change)

    def _shown_of(self, seen: TileFindings) -> TileFindings:
        wanted = seen.findings.filter(self._shown.min_score, self._shown.classes)
        return replace(seen, findings=wanted)


def _strongest(
    seen: TileFindings,
) -> tuple[tuple[tuple[int, int, int, int, str], ...], tuple[float | None, ...]]:
    """Return the strongest detections in whole image pixels, for drawing, and their scores."""
    if len(seen.findings) == 0:  # none of those that are shown
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
