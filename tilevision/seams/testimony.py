"""What tiles testify about each other's finds, and what is left out for it.

Where two tiles saw the same place, each testifies for the other: a true object is found
by both as often as the detector finds things at all. Detections that lie upon a better
one of their class may be true (a crowd, a door on a car) or noise (a second box for one
object). In a crowd they are confirmed like any other; noise is not. So the share of
false ones among them can be estimated from the image itself, class by class, without
any truth, and where most are false, those that nobody confirmed are left out.

Near its edges a tile sees less, and a tile that saw the same place from further inside is the
better witness (`denied`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilevision.geometry import ios
from tilevision.overlaps import meeting_chunks
from tilevision.seams.detections import EDGE_PIXELS, Detections
from tilevision.seams.matching import Zones

__all__ = ["LEAST_WITNESSED", "Objects", "denied", "doubtful"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

# How far a detection lies upon a better one (intersection over the smaller); like is
# compared with like. Below the first, it stands on its own and is never doubted.
_COVERED = np.array([0.02, 0.1, 0.2, 0.3, 0.5, 0.8])

# From this share of false ones on, those without confirmation are left out.
_FALSE = 0.7

# Fewer witnesses, or a detector that mostly disagrees with itself, prove nothing.
LEAST_WITNESSED, _LEAST_UNCONFIRMED, _LEAST_FOUND = 50, 5, 0.5

# Shares are estimated from about this many confirmed detections, spread evenly.
_SAMPLE = 20_000


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
    seen : array (n,) of int
        Which tile has a view of which object: one number for both, ascending.
    """

    number: Index
    boxes: Floats
    ranks: Floats
    classes: Index
    seen: Index

    @classmethod
    def of(cls, found: Detections, number: Index, best: Index, boxes: Floats) -> Objects:
        """Return the objects that `number` tells apart, with their best views and boxes."""
        seen = np.sort(number * len(found.tile_boxes) + found.tile)
        return cls(number, boxes, found.ranks.take(best), found.classes.take(best), seen)


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
    if len(witnessed) < LEAST_WITNESSED or confirmed.all():
        return nothing
    no = objects.number[witnessed[~confirmed]]
    if not _kinds(objects, np.unique(no)).any():
        return nothing
    yes = objects.number[witnessed[confirmed]]
    step = max(1, len(yes) // _SAMPLE)
    yes = yes[::step]
    kinds = np.zeros(len(objects.boxes), dtype=np.int64)
    sample = np.unique(np.concatenate([yes, no]))
    kinds[sample] = _kinds(objects, sample)
    finds = _finds(found, witnessed, confirmed)
    of_all, of_unconfirmed = _false_shares(objects, kinds, yes, no, step, finds)
    suspect = np.bincount(objects.number) == 1
    suspect &= (np.maximum(of_all, of_unconfirmed).max(axis=1) >= _FALSE)[objects.classes]
    rows = np.flatnonzero(suspect)
    kind, classes = _kinds(objects, rows), objects.classes[rows]
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
    whole = np.flatnonzero(inside[:, 0] & inside[:, 1])
    row, other = row[whole], other[whole]
    return row, _confirmed(found, objects, row, other)


def _kinds(objects: Objects, rows: Index) -> Index:
    """Return into which part of `_COVERED` the objects `rows` fall; 0: they stand alone."""
    boxes, ranks, classes = objects.boxes, objects.ranks, objects.classes
    covered = np.zeros(len(rows))
    asked = boxes.take(rows, axis=0), boxes
    for at, other in meeting_chunks(*asked, classes.take(rows), classes):
        mine = rows.take(at)
        rank, rival = ranks.take(mine), ranks.take(other)
        better = np.flatnonzero((rival > rank) | ((rival == rank) & (other < mine)))
        under, above = mine.take(better), other.take(better)
        share = ios(boxes.take(under, axis=0), boxes.take(above, axis=0))
        np.maximum.at(covered, at.take(better), share)
    return np.searchsorted(_COVERED, covered, side="right").astype(np.int64)


def _false_shares(
    objects: Objects, kinds: Index, yes: Index, no: Index, step: int, finds: Floats
) -> tuple[Floats, Floats]:
    """Return the share of false ones ``(classes, kinds)``: of all, and of the unconfirmed.

    `yes` are confirmed objects, every `step`-th; `no` unconfirmed ones. `finds` says how
    often a true one is confirmed: what more is unconfirmed is false.
    """
    shape = (len(finds), len(_COVERED) + 1)
    counts = []
    for rows in (yes, no):
        cell = objects.classes[rows] * shape[1] + kinds[rows]
        counts.append(np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape))
    agreed, lone = counts[0] * step, counts[1]
    # One more than were confirmed, so that a few cases do not look like certainty.
    missed = (agreed + 1) * ((1 - finds) / np.maximum(finds, 0.01))[:, None]
    known = (finds >= _LEAST_FOUND) & ((agreed + lone).sum(axis=1) >= LEAST_WITNESSED)
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


def denied(found: Detections, zones: Zones, objects: Objects) -> Mask:
    """Mark the objects ``(g,)`` seen near edges alone that tiles which looked further deny.

    A model sees less around what lies near a tile's edge, and may take a piece for what it would
    not report whole. So the tile that saw a place from further inside is the better witness. It
    may have missed an object all the same: as often as tiles miss each other's finds elsewhere.
    Only where more are denied, by far, are the denied ones left out.

    Parameters
    ----------
    found : Detections
    zones : Zones
    objects : Objects
    """
    row, other, kind = _further_in(found, zones)
    confirmed = _confirmed(found, objects, row, other)
    if len(row) < LEAST_WITNESSED or confirmed.all():
        return np.zeros(len(objects.boxes), dtype=bool)
    classes = found.classes.take(row)
    bad = _mostly_false(classes, kind, confirmed, found)
    out = np.zeros(len(found), dtype=bool)
    out[row[~confirmed & bad[classes, kind]]] = True
    every = np.ones(len(objects.boxes), dtype=bool)
    every[objects.number[~out]] = False
    return every


# How far from its tile's edge a detection lies (model pixels); like is compared with like.
_NEAR = np.array([EDGE_PIXELS, 8.0, 16.0, 32.0])


def _further_in(found: Detections, zones: Zones) -> tuple[Index, Index, Index]:
    """Return detections, tiles that saw them from further inside, and their part of `_NEAR`."""
    scale = found.scales.take(found.tile)
    depth = _depth(found.boxes, found.reach.take(found.tile, axis=0)) * scale
    mine = depth.take(zones.detection)
    asked = mine < _NEAR[-1]
    asked[:: max(1, len(asked) // _SAMPLE)] = True
    row, other, mine = zones.detection[asked], zones.other[asked], mine[asked]
    theirs = _depth(found.boxes.take(row, axis=0), found.reach.take(other, axis=0))
    theirs *= scale.take(row)
    better = np.flatnonzero((theirs > mine) & (theirs > EDGE_PIXELS))
    kind = np.searchsorted(_NEAR, mine.take(better)).astype(np.int64)
    return row[better], other[better], kind


def _mostly_false(classes: Index, kind: Index, confirmed: Mask, found: Detections) -> Mask:
    """Mark the parts of `_NEAR` ``(classes, parts)`` whose denied detections are mostly false.

    How often true ones are confirmed is seen from those furthest inside, of which there are
    enough.
    """
    parts = len(_NEAR) + 1
    shape = (int(found.classes.max()) + 1, parts)
    cell = classes * parts + kind
    agreed, lone = (
        np.bincount(cell[confirmed == said], minlength=shape[0] * parts).reshape(shape)
        for said in (True, False)
    )
    deep = np.cumsum((agreed + lone)[:, ::-1], axis=1)[:, ::-1]
    least = parts - 1 - np.argmax(deep[:, ::-1] >= LEAST_WITNESSED, axis=1)
    known = deep[:, 0] >= LEAST_WITNESSED
    inner = np.arange(parts) >= least[:, None]
    finds = (agreed * inner).sum(axis=1) / np.maximum(((agreed + lone) * inner).sum(axis=1), 1)
    # One more than were confirmed, so that a few cases do not look like certainty.
    missed = (agreed + 1) * ((1 - finds) / np.maximum(finds, 0.01))[:, None]
    false = (lone - missed) / np.maximum(lone, 1)
    return np.asarray(
        (false >= _FALSE)
        & (lone >= _LEAST_UNCONFIRMED)
        & (known & (finds >= _LEAST_FOUND))[:, None]
        & (np.arange(parts) < len(_NEAR))
    )


def _depth(boxes: Floats, reach: Floats) -> Floats:
    """Return how far `boxes` ``(n, 4)`` lie inside of `reach`."""
    inside = np.minimum(boxes[:, 0] - reach[:, 0], boxes[:, 1] - reach[:, 1])
    for side in (2, 3):
        np.minimum(inside, reach[:, side] - boxes[:, side], out=inside)
    return np.asarray(inside)


def _confirmed(found: Detections, objects: Objects, row: Index, other: Index) -> Mask:
    """Return whether tiles `other` have a view of the objects that `row` show."""
    asked = objects.number.take(row) * len(found.tile_boxes) + other
    at = np.minimum(np.searchsorted(objects.seen, asked), len(objects.seen) - 1)
    return np.asarray(objects.seen.take(at) == asked)
