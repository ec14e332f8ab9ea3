"""Which lone detections are doubtful, by what other tiles say of detections like them.

Where two tiles saw the same place, each testifies for the other: a true object is found
by both as often as the detector finds things at all. Detections that lie upon a better
one of their class may be true (a crowd, a door on a car) or noise (a second box for one
object). In a crowd they are confirmed like any other; noise is not. So the share of
false ones among them can be estimated from the image itself, class by class, without
any truth, and where most are false, those that nobody confirmed are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.geometry import ios
from tilevision.overlaps import diagonals
from tilevision.seams.detections import Detections
from tilevision.seams.matching import Zones

__all__ = ["Objects", "doubtful"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

# How far a detection lies upon a better one (intersection over the smaller); like is
# compared with like. Below the first, it stands on its own and is never doubted.
_COVERED = np.array([0.02, 0.1, 0.2, 0.3, 0.5, 0.8])

# From this share of false ones on, those without confirmation are left out.
_FALSE = 0.7

# Fewer witnesses, or a detector that mostly disagrees with itself, prove nothing.
_LEAST_WITNESSED, _LEAST_UNCONFIRMED, _LEAST_FOUND = 50, 5, 0.5

# Shares are estimated from about this many confirmed detections, spread evenly.
_SAMPLE = 20_000

_CHUNK = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """What the detections were joined to, ``g`` objects.

    Attributes
    ----------
    number : array (n,) of int
        The object each detection shows.
    boxes : array (g, 4)
    ranks : array (g,)
    classes : array (g,) of int
    """

    number: Index
    boxes: Floats
    ranks: Floats
    classes: Index


def doubtful(found: Detections, zones: Zones, objects: Objects, partial: Mask) -> Mask:
    """Mark the objects ``(g,)`` that are most likely false.

    Parameters
    ----------
    found : Detections
    zones : Zones
    objects : Objects
    partial : array (n,) of bool
        Detections that their tile saw only in part.
    """
    nothing = np.zeros(len(objects.boxes), dtype=bool)
    witnessed, confirmed = _testimony(found, zones, objects, partial)
    if len(witnessed) < _LEAST_WITNESSED or confirmed.all():
        return nothing
    no = objects.number[witnessed[~confirmed]]
    cover = _Cover(objects)
    if not cover.kind(np.unique(no)).any():
        return nothing
    yes = objects.number[witnessed[confirmed]]
    step = max(1, len(yes) // _SAMPLE)
    yes = yes[::step]
    finds = _finds(found, witnessed, confirmed)
    of_all, of_unconfirmed = _false_shares(objects, cover, yes, no, step, finds)
    suspect = np.bincount(objects.number) == 1
    suspect &= (np.maximum(of_all, of_unconfirmed).max(axis=1) >= _FALSE)[objects.classes]
    rows = np.flatnonzero(suspect)
    kind, classes = cover.kind(rows), objects.classes[rows]
    contradicted = nothing.copy()
    contradicted[no] = True
    share = np.where(contradicted[rows], of_unconfirmed[classes, kind], of_all[classes, kind])
    nothing[rows[(kind > 0) & (share >= _FALSE)]] = True
    return nothing


def _testimony(
    found: Detections, zones: Zones, objects: Objects, partial: Mask
) -> tuple[Index, Mask]:
    """Return detections that another tile could see whole, and whether it did see them."""
    row, other = zones.detection, zones.other
    whole = np.flatnonzero(~partial[row])
    row, other = row[whole], other[whole]
    room, boxes = found.margins.take(row, axis=0), found.boxes.take(row, axis=0)
    reach = found.reach.take(other, axis=0)
    inside = (boxes[:, :2] - room >= reach[:, :2]) & (boxes[:, 2:] + room <= reach[:, 2:])
    row, other = row[inside.all(axis=1)], other[inside.all(axis=1)]
    tiles = len(found.tile_boxes)
    seen = np.sort(objects.number * tiles + found.tile)
    asked = objects.number[row] * tiles + other
    at = np.minimum(np.searchsorted(seen, asked), len(seen) - 1)
    return row, seen[at] == asked


class _Cover:
    """Answers into which part of `_COVERED` objects fall; 0: they stand on their own."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        boxes = objects.boxes
        pitch = boxes[:, 3].max() - boxes[:, 1].min() + 1
        self._geometry = diagonals(boxes + objects.classes[:, None] * pitch * (0, 1, 0, 1))
        self._tree = shapely.STRtree(self._geometry)

    def kind(self, rows: Index) -> Index:
        """Return the kind of each of the objects `rows`."""
        boxes, ranks = self._objects.boxes, self._objects.ranks
        covered = np.zeros(len(rows))
        for start in range(0, len(rows), _CHUNK):
            at, other = self._tree.query(self._geometry[rows[start : start + _CHUNK]])
            mine = rows[start + at]
            better = (ranks[other] > ranks[mine]) | ((ranks[other] == ranks[mine]) & (other < mine))
            at, mine, other = at[better], mine[better], other[better]
            np.maximum.at(
                covered, start + at, ios(boxes.take(mine, axis=0), boxes.take(other, axis=0))
            )
        return np.searchsorted(_COVERED, covered, side="right").astype(np.int64)


def _false_shares(
    objects: Objects, cover: _Cover, yes: Index, no: Index, step: int, finds: Floats
) -> tuple[Floats, Floats]:
    """Return the share of false ones ``(classes, kinds)``: of all, and of the unconfirmed.

    `yes` are confirmed objects, every `step`-th; `no` unconfirmed ones. `finds` says how
    often a true one is confirmed: what more is unconfirmed is false.
    """
    shape = (len(finds), len(_COVERED) + 1)
    counts = []
    for rows in (yes, no):
        each, at = np.unique(rows, return_inverse=True)
        cell = objects.classes[rows] * shape[1] + cover.kind(each)[at]
        counts.append(np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape))
    agreed, lone = counts[0] * step, counts[1]
    # One more than were confirmed, so that a few cases do not look like certainty.
    missed = (agreed + 1) * ((1 - finds) / np.maximum(finds, 0.01))[:, None]
    known = (finds >= _LEAST_FOUND) & ((agreed + lone).sum(axis=1) >= _LEAST_WITNESSED)
    false = np.where(known[:, None], np.maximum(lone - missed, 0), 0)
    of_all = np.where(lone >= _LEAST_UNCONFIRMED, false / np.maximum(agreed + lone, 1), 0)
    return of_all, false / np.maximum(lone, 1)


def _finds(found: Detections, witnessed: Index, confirmed: Mask) -> Floats:
    """Return per class how often a tile finds what another found, among the better half.

    By score: hardly any of the better half are false.
    """
    ranks, classes = found.ranks[witnessed], found.classes[witnessed]
    finds = np.zeros(int(found.classes.max()) + 1)
    for name in np.unique(classes):
        mine = classes == name
        better = mine & (ranks >= np.median(ranks[mine]))
        finds[name] = confirmed[better].mean()
    return finds
