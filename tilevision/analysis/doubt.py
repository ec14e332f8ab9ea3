"""Which tiles to look at first: where the model is in doubt, and where two tiles disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilevision.findings import Findings, TileFindings
from tilevision.overlaps import Bodies, meetings

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["doubt_table", "doubts"]

NEAR = 0.2  # a score this far from the limit is in no doubt
MIDDLE = 0.5  # the limit where none is set
ALIKE = 0.5  # IoU from which what two tiles saw is one object
INSIDE = 0.1  # of its sides: an object that comes nearer to another tile's edge was not whole there

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


def doubt_table(tile_findings: Sequence[TileFindings], min_score: float | None) -> pd.DataFrame:
    """Return one row per analysed tile, the one most in doubt first.

    ``uncertainty`` is about how many of a tile's detections a person may have to correct, the sum
    of:

    ``doubtful``
        For each detection 1 where its score is at the limit, falling to 0 where it is 0.2 away.
        The limit is `min_score`, or 0.5 where there is none; detections below it count too. For a
        tile classified as a whole, one minus the margin between its two likeliest classes.
    ``disagreements``
        Detections that lie whole within an overlapping tile too, which saw no object of the class
        there (IoU of boxes 0.5 or more), of any score; they count for both tiles. Those below
        `min_score` are left out.

    Parameters
    ----------
    tile_findings : sequence of TileFindings
        Of all scores.
    min_score : float, optional

    Returns
    -------
    DataFrame
        id, row, col, xmin, ymin, xmax, ymax, n_findings, uncertainty, doubtful, disagreements.
    """
    import pandas as pd

    doubtful = np.array([_doubt(seen.findings, min_score) for seen in tile_findings])
    against = _disagreements(tile_findings, min_score)
    table = pd.DataFrame(
        [
            (seen.tile.id, seen.tile.row, seen.tile.col, *seen.tile.box.as_tuple())
            for seen in tile_findings
        ],
        columns=["id", "row", "col", "xmin", "ymin", "xmax", "ymax"],
    )
    table["n_findings"] = [len(seen.findings) for seen in tile_findings]
    table["uncertainty"] = np.round(doubtful + against, 3)
    table["doubtful"] = np.round(doubtful, 3)
    table["disagreements"] = against
    # Equal ones stay in the order of the tiles.
    return table.sort_values("uncertainty", ascending=False, kind="stable", ignore_index=True)


def doubts(scores: Floats, min_score: float | None) -> Floats:
    """Return how doubtful each detection is, as `doubt_table` says; 0 without a score."""
    limit = MIDDLE if min_score is None else min_score
    return np.nan_to_num(np.clip(1 - np.abs(scores - limit) / NEAR, 0, None), nan=0.0)


def _doubt(found: Findings, min_score: float | None) -> float:
    doubt = float(doubts(found.scores, min_score).sum())
    if len(found.tile_scores) > 1:
        second, first = sorted(found.tile_scores.values())[-2:]
        doubt += 1 - (first - second)
    return doubt


def _disagreements(tile_findings: Sequence[TileFindings], min_score: float | None) -> Index:
    """Return for each tile how many objects it or its neighbour saw, and the other did not."""
    n = len(tile_findings)
    parts = [seen.in_image() for seen in tile_findings]
    owner = np.repeat(np.arange(n), [len(part) for part in parts])
    if n < 2 or not len(owner):
        return np.zeros(n, dtype=np.int64)
    # Not as findings of the image, which would be sorted: a row has to say whose it is.
    boxes = np.concatenate([part.boxes for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    shown = np.ones(len(boxes), bool) if min_score is None else ~(scores < min_score)
    tiles = np.array([seen.tile.box.as_tuple() for seen in tile_findings], dtype=np.float64)
    row, tile = _whole_in(boxes, tiles, owner)
    row, tile = row[shown[row]], tile[shown[row]]
    bodies = Bodies(boxes)
    a, b = meetings(boxes, boxes)
    other = (owner[a] != owner[b]) & (labels[a] == labels[b])
    a, b = a[other], b[other]
    same = bodies.overlap(a, bodies, b) >= ALIKE
    seen_too = np.unique(a[same] * n + owner[b[same]])
    missed = ~np.isin(row * n + tile, seen_too)
    counts = np.bincount(tile[missed], minlength=n) + np.bincount(owner[row[missed]], minlength=n)
    return counts.astype(np.int64)


def _whole_in(boxes: Floats, tiles: Floats, owner: Index) -> tuple[Index, Index]:
    """Return detections, and the other tiles that each lies in with room to its edges."""
    row, tile = meetings(boxes, tiles)
    keep = owner[row] != tile
    row, tile = row[keep], tile[keep]
    room = np.tile(INSIDE * (boxes[row, 2:] - boxes[row, :2]), 2) * (-1, -1, 1, 1)
    wanted = boxes[row] + room
    inside = (wanted[:, :2] >= tiles[tile, :2]).all(axis=1)
    inside &= (wanted[:, 2:] <= tiles[tile, 2:]).all(axis=1)
    return row[inside], tile[inside]
