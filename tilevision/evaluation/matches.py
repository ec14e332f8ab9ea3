"""Which detections of two sets are the same, one to one."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.findings import Findings
from tilevision.geometry import iou
from tilevision.seams.matching import assign
from tilevision.seams.seamshapes import diagonals

__all__ = ["matched"]

Index = NDArray[np.int64]


def matched(a: Findings, b: Findings, threshold: float) -> tuple[Index, Index]:
    """Return rows of `a` and of `b` that are the same: as many as can be, then the most alike.

    Boxes of one label whose IoU is `threshold` or more.
    """
    if not len(a) or not len(b):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    here, there = shapely.STRtree(diagonals(b.boxes)).query(diagonals(a.boxes))
    same = a.labels[here] == b.labels[there]
    here, there = here[same], there[same]
    alike = iou(a.boxes[here], b.boxes[there])
    good = alike >= threshold
    here, there, alike = here[good], there[good], alike[good]
    # More than any gain in likeness, so that the number of pairs comes first.
    chosen = assign(here, there + len(a), np.asarray(1 + alike / (1 + len(a) + len(b))))
    return here[chosen], there[chosen]
