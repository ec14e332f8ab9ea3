"""The methods others use: suppression and fusion of whatever overlaps enough."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.findings import Findings
from tilevision.geometry import ios, iou
from tilevision.seams.detections import Detections
from tilevision.seams.seamshapes import diagonals

__all__ = ["METRICS", "fuse", "suppress"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

METRICS = {"iou": iou, "ios": ios}

_CHUNK = 100_000


def suppress(found: Detections, metric: str, threshold: float) -> Index:
    """Return for each detection ``(n,)`` the one that stands for it: itself if it stays.

    Greedy non-maximum suppression: the best ranked stays and takes all that overlap it
    by `threshold` or more, then the best of the rest, and so on. Equal scores stand in
    canonical order.
    """
    n = len(found)
    order = np.lexsort((np.arange(n), -found.ranks))
    place = np.empty(n, dtype=np.int64)
    place[order] = np.arange(n)
    better, worse = _pairs(found, place, metric, threshold)
    # Work with places, so that a smaller number is a better rank.
    by_worse = np.lexsort((better, worse))
    better, worse = better[by_worse], worse[by_worse]
    keeper = np.full(n, -1, dtype=np.int64)
    undecided = np.ones(n, dtype=bool)
    while undecided.any():
        blocked = np.zeros(n, dtype=bool)
        blocked[worse] = True
        stay = undecided & ~blocked
        keeper[stay] = np.flatnonzero(stay)
        undecided &= ~stay
        taken = stay[better]
        # Edges stand by `better`, so written backwards the best keeper is written last.
        keeper[worse[taken][::-1]] = better[taken][::-1]
        undecided[worse[taken]] = False
        left = undecided[better] & undecided[worse]
        better, worse = better[left], worse[left]
    standing = np.empty(n, dtype=np.int64)
    standing[order] = order[keeper]
    return standing


def _pairs(found: Detections, place: Index, metric: str, threshold: float) -> tuple[Index, Index]:
    """Return the places of every two detections of a class that overlap enough."""
    boxes = found.boxes
    if not len(boxes):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    lift = found.classes[:, None] * (boxes[:, 3].max() - boxes[:, 1].min() + 1) * (0, 1, 0, 1)
    geometry = diagonals(boxes + lift)
    tree = shapely.STRtree(geometry)
    better, worse = [], []
    for start in range(0, len(boxes), _CHUNK):
        here, there = tree.query(geometry[start : start + _CHUNK])
        here = here + start
        once = place[there] < place[here]
        here, there = here[once], there[once]
        enough = METRICS[metric](boxes[here], boxes[there]) >= threshold
        better.append(place[there[enough]])
        worse.append(place[here[enough]])
    return np.concatenate(better), np.concatenate(worse)


def fuse(found: Detections, standing: Index, method: str) -> Findings:
    """Return what stays; `method` ``"nmm"`` unites it with what it took, ``"wbf"`` averages."""
    keep = np.flatnonzero(standing == np.arange(len(found)))
    if method == "nms" or not len(keep):
        return found.findings(keep)
    order = np.argsort(standing, kind="stable")
    start = np.searchsorted(standing[order], keep)
    boxes = found.boxes[order]
    if method == "nmm":
        low = np.minimum.reduceat(boxes[:, :2], start)
        high = np.maximum.reduceat(boxes[:, 2:], start)
        return found.findings(keep, boxes=np.hstack([low, high]))
    ranks = found.ranks[order]
    weight = np.where(ranks > 0, ranks, 1e-6)
    mean = np.add.reduceat(boxes * weight[:, None], start) / np.add.reduceat(weight, start)[:, None]
    count = np.add.reduceat(np.ones(len(order)), start)
    scores = np.add.reduceat(ranks, start) / count
    return found.findings(keep, boxes=mean, scores=np.where(scores < 0, np.nan, scores))
