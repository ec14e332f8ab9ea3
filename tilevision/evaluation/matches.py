"""Which detections of two sets are the same, one to one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilevision.findings import Findings
from tilevision.overlaps import Bodies, meetings
from tilevision.seams.matching import assign

__all__ = ["candidates", "matched"]

Index = NDArray[np.int64]
Floats = NDArray[np.float64]


def matched(a: Findings, b: Findings, threshold: float) -> tuple[Index, Index]:
    """Return rows of `a` and of `b` that are the same: as many as can be, then the most alike.

    Detections of one label whose IoU is `threshold` or more: of their shapes where both have one
    (outline or rotated box), else of their boxes; points are squares of 12 px.
    """
    here, there, alike = candidates(a, b)
    good = (alike >= threshold) & (alike > 0)
    here, there, alike = here[good], there[good], alike[good]
    # More than any gain in likeness, so that the number of pairs comes first.
    chosen = assign(here, there + len(a), np.asarray(1 + alike / (1 + len(a) + len(b))))
    return here[chosen], there[chosen]


def candidates(a: Findings, b: Findings) -> tuple[Index, Index, Floats]:
    """Return rows of `a` and of `b` of one label that meet, and their IoU, pair by pair."""
    if not len(a) or not len(b):
        none = np.empty(0, np.int64)
        return none, none, np.empty(0)
    mine, theirs = Bodies.of(a), Bodies.of(b)
    here, there = meetings(mine.boxes, theirs.boxes)
    same = a.labels[here] == b.labels[there]
    here, there = here[same], there[same]
    return here, there, mine.overlap(here, theirs, there, both=True)
