"""What a person corrected, in a result: applied to its detections, told, and in its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tilevision.corrections import Applied, CorrectionLayer, Shown, origins

if TYPE_CHECKING:
    from tilevision.findings import Findings, TileFindings
    from tilevision.regions import Region
    from tilevision.seams import MergeSettings

__all__ = ["applied", "free_scores", "in_tile", "with_classes", "with_origins"]


def applied(
    layer: CorrectionLayer,
    merged: Findings,
    tiles: Sequence[TileFindings],
    region: Region | None,
    how: MergeSettings,
) -> Applied:
    """Return the merged detections as a person corrected them, where `tiles` were analysed."""
    boxes = np.array([seen.tile.box.as_tuple() for seen in tiles], dtype=np.float64)
    within = None if region is None else region.holds
    return layer.apply(merged, Shown(boxes.reshape(-1, 4), within, how.min_score, how.classes))


def in_tile(layer: CorrectionLayer, seen: TileFindings, how: MergeSettings) -> Findings:
    """Return what one tile saw, in its own frame, as a person corrected it.

    A correction is of a merged object: a tile has the part of it that lies in the tile.
    """
    found = seen.findings.filter(how.min_score, how.classes)
    mine = layer.within(seen.tile.box)
    if not mine.entries:
        return found
    shown = Shown(None, None, how.min_score, how.classes)
    done = mine.apply(replace(seen, findings=found).in_image(), shown).findings
    box, (width, height) = seen.tile.box, seen.tile.output_size
    factor = (width / box.width, height / box.height)
    return done.mapped(factor, (-box.x0 * factor[0], -box.y0 * factor[1]))


def free_scores(found: Findings) -> NDArray[np.float64]:
    """Return scores ``(n,)``, none for what a person decided: limits of score do not ask it."""
    scores: NDArray[np.float64] = np.where(origins(found) == "model", found.scores, np.nan)
    return scores


def with_classes(table: dict[str, int], layer: CorrectionLayer) -> dict[str, int]:
    """Return class name to number, those that only a person gave behind the model's."""
    first = max(table.values(), default=-1) + 1
    more = sorted(layer.labels - table.keys())
    return table | {label: first + i for i, label in enumerate(more)}


def with_origins(table: pd.DataFrame, found: Findings) -> pd.DataFrame:
    """Return a table of detections with a column ``origin``."""
    table = table.drop(columns="attributes.by_hand", errors="ignore")
    table.insert(list(table.columns).index("area"), "origin", origins(found))
    return table
