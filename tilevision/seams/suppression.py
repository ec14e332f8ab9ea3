"""The methods others use: suppression and fusion of whatever overlaps enough."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.findings import Findings
from tilevision.overlaps import METRICS, Bodies, keepers, meeting_chunks
from tilevision.seams.detections import Detections, mean_corners, shapes_of, united

__all__ = ["METRICS", "fuse", "suppress", "twice_named"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


def suppress(found: Detections, metric: str, threshold: float) -> Index:
    """Return for each detection ``(n,)`` the one that stands for it: itself if it stays.

    Greedy non-maximum suppression: the best ranked stays and takes all that overlap it
    by `threshold` or more, then the best of the rest, and so on. Equal scores stand in
    canonical order. Overlap is that of the shapes, where there are shapes.
    """
    order, place = _ranked(found)
    better, worse = _pairs(found, place, found.classes, metric, threshold)
    return _standing(order, better, worse)


def twice_named(found: Detections, metric: str, threshold: float) -> Mask:
    """Mark detections ``(n,)`` that their own tile saw better under the name of another class.

    They overlap by `threshold` or more what stands for them, as `suppress` has it.
    """
    order, place = _ranked(found)
    better, worse = _pairs(found, place, found.tile, metric, threshold)
    labels = found.columns["labels"]
    other = labels[order[better]] != labels[order[worse]]
    standing = _standing(order, better[other], worse[other])
    return np.asarray(standing != np.arange(len(found)))


def _ranked(found: Detections) -> tuple[Index, Index]:
    """Return the rows in order of rank, and each row's place in it."""
    n = len(found)
    order = np.lexsort((np.arange(n), -found.ranks))
    place = np.empty(n, dtype=np.int64)
    place[order] = np.arange(n)
    return order, place


def _standing(order: Index, better: Index, worse: Index) -> Index:
    standing = np.empty(len(order), dtype=np.int64)
    standing[order] = order[keepers(len(order), better, worse)]
    return standing


def _pairs(
    found: Detections, place: Index, apart: Index, metric: str, threshold: float
) -> tuple[Index, Index]:
    """Return the places of every two detections, equal in `apart`, that overlap enough."""
    boxes = found.bodies
    if not len(boxes):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    covered = Bodies(boxes, partial(shapes_of, found) if found.has_shapes else None)
    better, worse = [], []
    for one, two in meeting_chunks(boxes, boxes, apart, apart):
        once = place[two] < place[one]
        here, there = one[once], two[once]
        enough = covered.overlap(here, covered, there, metric) >= threshold
        better.append(place[there[enough]])
        worse.append(place[here[enough]])
    return np.concatenate(better), np.concatenate(worse)


def fuse(found: Detections, standing: Index, method: str) -> Findings:
    """Return what stays; `method` ``"nmm"`` unites it with what it took, ``"wbf"`` averages.

    Box and shapes stay one object: ``"nmm"`` unites the shapes as well; ``"wbf"`` averages rotated
    boxes and points, and leaves outlines out where it averaged, since their mean is none.
    """
    keep = np.flatnonzero(standing == np.arange(len(found)))
    if method == "nms" or not len(keep):
        return found.findings(keep)
    order = np.argsort(standing, kind="stable")
    start = np.searchsorted(standing[order], keep)
    count = np.diff(start, append=len(order))
    groups = _Groups(found, keep, order, start, count)
    return groups.united() if method == "nmm" else groups.averaged()


class _Groups:
    """What stays, and the rows that each takes: ``order[start[i] : start[i] + count[i]]``."""

    def __init__(
        self, found: Detections, keep: Index, order: Index, start: Index, count: Index
    ) -> None:
        self._found, self._keep = found, keep
        self._order, self._start, self._count = order, start, count

    def united(self) -> Findings:
        """Return each as the union of its group."""
        boxes = self._found.boxes[self._order]
        low = np.minimum.reduceat(boxes[:, :2], self._start)
        high = np.maximum.reduceat(boxes[:, 2:], self._start)
        shapes = united(self._found, self._keep, self._several())
        return self._found.findings(self._keep, boxes=np.hstack([low, high]), **shapes)

    def averaged(self) -> Findings:
        """Return each as the mean of its group, weighted by score."""
        ranks = self._found.ranks[self._order]
        weight = np.where(ranks > 0, ranks, 1e-6)
        boxes = self._mean(self._found.boxes[self._order], weight)
        scores = np.add.reduceat(ranks, self._start) / self._count
        shapes = self._averaged_shapes(weight)
        if (corners := shapes.get("oriented")) is not None:
            turned = np.isfinite(corners).all(axis=(1, 2)) & (self._count > 1)
            low, high = corners[turned].min(axis=1), corners[turned].max(axis=1)
            boxes[turned] = np.hstack([low, high])
        scores = np.where(scores < 0, np.nan, scores)
        return self._found.findings(self._keep, boxes=boxes, scores=scores, **shapes)

    def _mean(self, values: Floats, weight: Floats) -> Floats:
        shape = (-1,) + (1,) * (values.ndim - 1)
        total = np.add.reduceat(values * weight.reshape(shape), self._start)
        return np.asarray(total / np.add.reduceat(weight, self._start).reshape(shape))

    def _averaged_shapes(self, weight: Floats) -> dict[str, Any]:
        found, keep, several = self._found, self._keep, self._count > 1
        columns: dict[str, Any] = {}
        if "polygons" in found.columns:
            kept = found.in_image("polygons", keep)
            columns["polygons"] = [None if s else p for p, s in zip(kept, several, strict=True)]
        for name in ("points", "keypoints"):
            if name in found.columns:
                column = found.in_image(name, keep)
                mean = self._mean(found.in_image(name, self._order), weight)  # NaN if one has none
                column[several] = mean[several]
                columns[name] = column
        if "oriented" in found.columns:
            columns["oriented"] = found.in_image("oriented", keep)
            for place, rows in self._several():
                corners = found.in_image("oriented", rows)
                best = columns["oriented"][place]
                at = self._start[place]
                weights = weight[at : at + len(rows)]
                columns["oriented"][place] = mean_corners(best, corners, weights)
        return columns

    def _several(self) -> list[tuple[int, Index]]:
        """Return the places of groups of two rows or more, with their rows."""
        return [
            (place, self._order[self._start[place] : self._start[place] + self._count[place]])
            for place in np.flatnonzero(self._count > 1).tolist()
        ]
