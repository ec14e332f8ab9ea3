"""The merge: detections of all tiles become the objects of the image.

Detections that are views of one object form a group, which has no two detections of one tile; the
object is the best whole view, else all together.

Where two tiles saw the same place, each testifies for the other: a true object is found
by both as often as the detector finds things at all. Detections that lie upon a better
one of their class may be true (a crowd, a door on a car) or noise (a second box for one
object). In a crowd they are confirmed like any other; noise is not. So the share of
false ones among them can be estimated from the image itself, class by class, without
any truth, and where most are false, those that nobody confirmed are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.checks import is_number, names, share
from tilevision.errors import RunArgumentError
from tilevision.findings import Findings, TileFindings
from tilevision.geometry import area, ios
from tilevision.overlaps import meeting_chunks
from tilevision.seams.detections import EDGE_PIXELS, Detections, gather, united
from tilevision.seams.matching import Zones, components, enter, match
from tilevision.seams.suppression import METRICS, fuse, suppress, twice_named

__all__ = [
    "LIMITS",
    "METHODS",
    "MergeSettings",
    "Objects",
    "check_merge",
    "cut",
    "doubtful",
    "group",
    "join",
    "merge",
    "merged_by",
    "objects_of",
    "views",
]

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
    row, other = row[inside.all(axis=1)], other[inside.all(axis=1)]
    tiles = len(found.tile_boxes)
    seen = np.sort(objects.number * tiles + found.tile)
    asked = objects.number[row] * tiles + other
    at = np.minimum(np.searchsorted(seen, asked), len(seen) - 1)
    return row, seen[at] == asked


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


METHODS = ("seam", "nms", "nmm", "wbf", "none")


def merge(
    tile_findings: Sequence[TileFindings],
    method: str = "seam",
    class_agnostic: bool = False,
    match_metric: str = "iou",
    match_threshold: float = 0.5,
    *,
    size: tuple[int, int] | None = None,
) -> Findings:
    """Join the detections of all tiles to the detections of the image.

    ``"seam"`` matches, for every two tiles, what both saw of the zone they share, one to
    one; detections of one tile are never joined. An object that some tile saw whole
    keeps that tile's box (the best such), any other becomes the union of its views.
    ``"nms"``, ``"nmm"`` (greedy) and ``"wbf"`` suppress, unite or average whatever
    overlaps enough, wherever it comes from. ``"none"`` joins nothing. Box, outline, rotated
    box and area of what is merged are of one object; where ``"wbf"`` averages, outlines are
    left out.

    Parameters
    ----------
    tile_findings : sequence of TileFindings
        Each tile once, in any order; findings in the tile's frame.
    method : str
        ``"seam"``, ``"nms"``, ``"nmm"``, ``"wbf"`` or ``"none"``.
    class_agnostic : bool
        True if detections of different classes may be one object, within a tile as well: of what
        one tile saw under several names the best is kept.
    match_metric : str
        ``"iou"`` or ``"ios"`` (of the smaller), for nms, nmm and wbf, and for several names of one
        object. It is measured on outlines, else on rotated boxes, else on boxes; points are
        squares of 12 pixels of the model.
    match_threshold : float
        Overlap from which two are one, above 0, up to 1.
    size : tuple of int, optional
        Width and height of the image in pixels: tile edges inside it cut objects.
        Default: what the tiles span.

    Returns
    -------
    Findings
        Image frame, float64.

    Raises
    ------
    RunError
        If an argument is not among those listed.
    GridError
        If a tile is there twice, or lies outside `size`.
    """
    check_merge(method, match_metric, match_threshold)
    found = gather(tile_findings, class_agnostic, size)
    if method == "seam":
        return join(*objects_of(found, class_agnostic, match_metric, match_threshold))
    return merged_by(method, found, match_metric, match_threshold)


def merged_by(method: str, found: Detections, metric: str, threshold: float) -> Findings:
    """Return what `merge` does by any method but ``"seam"``."""
    if method == "none":
        return found.findings(np.arange(len(found)))
    return fuse(found, suppress(found, metric, threshold), method)


def objects_of(
    found: Detections, class_agnostic: bool, metric: str = "iou", threshold: float = 0.5
) -> tuple[Detections, Zones, Index]:
    """Return detections, their entries, and the number of the object that each shows."""
    if class_agnostic:
        found = found.without(twice_named(found, metric, threshold))
    zones = enter(found)
    return found, zones, group(len(found), found.tile, *match(found, zones))


def check_merge(method: str, metric: str, threshold: float) -> None:
    """Refuse what `merge` would refuse, before there is anything to merge.

    Raises
    ------
    RunError
        If an argument is not among those of `merge`.
    """
    if method not in METHODS:
        raise RunArgumentError(f"merge is {method!r:.80}; choose from {', '.join(METHODS)}.")
    if metric not in METRICS:
        raise RunArgumentError(f"match_metric is {metric!r:.80}; choose from {', '.join(METRICS)}.")
    share("match_threshold", threshold, zero=False)


def group(n: int, tile: Index, a: Index, b: Index, alike: Floats) -> Index:
    """Return the number ``(n,)`` of the object that each of the matched detections shows.

    Where matches would chain two detections of one tile into one object, the matches
    that are most alike are kept and those that would close the chain dropped.

    Parameters
    ----------
    n : int
        Number of detections.
    tile : array (n,) of int
        The tile each comes from.
    a, b, alike : array (e,)
        Matched detections and how alike they are.

    Returns
    -------
    array (n,) of int
        Numbers from 0, in the order of each object's first detection.
    """
    number = components(n, a, b)
    tiles = int(tile.max(initial=0)) + 1
    seen = np.sort(number * tiles + tile)
    twice = seen[1:][seen[1:] == seen[:-1]]
    if not len(twice):
        return _by_first(number)
    torn = np.zeros(n, dtype=bool)
    torn[twice // tiles] = True
    inside = torn[number[a]]
    fine = ~inside
    kept = _without_conflict(tile, a[inside], b[inside], alike[inside])
    keep = np.concatenate([np.flatnonzero(fine), np.flatnonzero(inside)[kept]])
    return _by_first(components(n, a[keep], b[keep]))


def _by_first(number: Index) -> Index:
    first = np.empty(number.max(initial=-1) + 1, dtype=np.int64)
    first[number[::-1]] = np.arange(len(number))[::-1]  # the last one written stays
    place = np.empty(len(first), dtype=np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    return place[number]


def _without_conflict(tile: Index, a: Index, b: Index, alike: Floats) -> Index:
    """Return the matches kept, the most alike first, as far as no tile is in a group twice."""
    parent: dict[int, int] = {}
    tiles: dict[int, set[int]] = {}

    def root(row: int) -> int:
        while parent.setdefault(row, row) != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    kept = []
    for edge in np.lexsort((b, a, -alike)).tolist():
        one, two = root(int(a[edge])), root(int(b[edge]))
        if one == two:
            kept.append(edge)
            continue
        mine = tiles.setdefault(one, {int(tile[one])})
        theirs = tiles.setdefault(two, {int(tile[two])})
        if mine.isdisjoint(theirs):
            parent[two] = one
            mine |= theirs
            kept.append(edge)
    return np.array(sorted(kept), dtype=np.int64)


def join(found: Detections, zones: Zones, number: Index) -> Findings:
    """Return one detection for each of the objects that `number` ``(n,)`` tells apart.

    Lone detections that the other tiles' testimony makes doubtful are left out.
    """
    if not len(found):
        return found.findings(np.empty(0, np.int64))
    best, boxes, pieces, partial = views(found, number)
    objects = Objects(number, boxes, found.ranks[best], found.classes[best])
    kept = ~doubtful(found, zones, objects, partial)
    shapes = _shapes(found, number, best, pieces) if found.has_shapes else {}
    shapes = {
        name: shape[kept]
        if isinstance(shape, np.ndarray)
        else [shape[i] for i in np.flatnonzero(kept)]
        for name, shape in shapes.items()
    }
    return found.findings(best[kept], boxes=boxes[kept], **shapes)


def views(found: Detections, number: Index) -> tuple[Index, Floats, Mask, Mask]:
    """Choose what stands for each object.

    Returns
    -------
    tuple
        The row of each object's best view; its box; whether that is a union of views,
        since none saw it whole; and for each detection, whether it is a partial view.
    """
    size = np.bincount(number)
    lone = (size == 1)[number]
    best = np.empty(len(size), dtype=np.int64)
    best[number] = np.arange(len(found))
    shared = np.flatnonzero(~lone)
    shared = shared.take(np.argsort(number.take(shared), kind="stable"))
    start = np.flatnonzero(np.diff(number.take(shared), prepend=-1))
    span = found.boxes.take(best, axis=0)
    _widen(span, found.boxes.take(shared, axis=0), number.take(shared), start)
    partial = _partial(found, span.take(number, axis=0), lone)
    # The best view: whole and clear of the edges, whole, partial; then by score, then the
    # finer tile, then the larger box.
    touching = _touching(found, 1.0, shared).any(axis=1)
    keys = (
        np.where(partial.take(shared), 2.0, touching),
        -found.ranks.take(shared),
        -found.scales.take(found.tile.take(shared)),
        -area(found.boxes.take(shared, axis=0)),
    )
    first = shared.take(_least(keys, start))
    best[number.take(first)] = first
    pieces = partial[best] & (size > 1)
    return best, np.where(pieces[:, None], span, found.boxes.take(best, axis=0)), pieces, partial


def cut(found: Detections) -> Mask:
    """Mark detections that touch an inner edge of their tile."""
    return np.asarray(_touching(found, EDGE_PIXELS).any(axis=1))


def _least(keys: Sequence[NDArray[Any]], start: Index) -> Index:
    """Return the place of the least of each group: by the first key, then the second, and so on.

    Groups follow each other from the places in `start`; of equals, the first is the least.
    """
    count = np.diff(start, append=len(keys[0]))
    alive = np.ones(len(keys[0]), dtype=bool)
    for key in keys:
        if len(start):
            left = np.where(alive, key, np.inf)
            alive &= left == np.repeat(np.minimum.reduceat(left, start), count)
    places = np.flatnonzero(alive)
    group = np.repeat(np.arange(len(start)), count).take(places)
    return places[np.diff(group, prepend=-1) > 0]


def _touching(found: Detections, pixels: float, rows: Index | None = None) -> Mask:
    """Mark the sides ``(n, 4)`` within `pixels` (of the model) of an inner tile edge."""
    tile, boxes = found.tile, found.boxes
    if rows is not None:
        tile, boxes = tile.take(rows), boxes.take(rows, axis=0)
    near = (pixels / found.scales).take(tile)[:, None]
    return np.asarray(np.abs(boxes - found.reach.take(tile, axis=0)) <= near)


def _partial(found: Detections, span: Floats, lone: Mask) -> Mask:
    """Mark views that show only a part of what all views together span.

    A view that ends at an inner edge is whole if no other saw the object go on there. One
    is partial, wherever it ends, if others saw the object reach out of its tile.
    """
    sign = np.array([-1.0, -1.0, 1.0, 1.0])
    further = span * sign > found.boxes * sign
    margin = np.tile(found.margins, 2)
    outside = span * sign > found.reach.take(found.tile, axis=0) * sign + margin
    ended = _touching(found, EDGE_PIXELS) & (further | lone[:, None])
    return np.asarray((ended | outside).any(axis=1))


def _widen(span: Floats, boxes: Floats, number: Index, start: Index) -> None:
    """Make the boxes `span` bound all views' `boxes`: object by object, from places `start` on."""
    if not len(number):
        return
    span[number[start], :2] = np.minimum.reduceat(boxes[:, :2], start)
    span[number[start], 2:] = np.maximum.reduceat(boxes[:, 2:], start)


def _shapes(found: Detections, number: Index, best: Index, pieces: Mask) -> dict[str, Any]:
    """Return the shape columns, with the union of all views where `pieces` says so."""
    order = np.argsort(number, kind="stable")
    start = np.searchsorted(number[order], np.arange(len(best) + 1))
    groups = (
        (place, order[start[place] : start[place + 1]]) for place in np.flatnonzero(pieces).tolist()
    )
    return united(found, best, groups)


# Limits of merged objects: they came later than the others, and are named only where they are set.
LIMITS = ("max_score", "min_area", "max_area")


@dataclass(frozen=True, slots=True)
class MergeSettings:
    """What turns tile findings into findings of the image; changing it costs no inference.

    Parameters
    ----------
    method : str
        ``"seam"``, ``"nms"``, ``"nmm"``, ``"wbf"`` or ``"none"``.
    class_agnostic : bool
        True if detections of different classes may be one object.
    match_metric : str
        ``"iou"`` or ``"ios"``.
    match_threshold : float
        From which two detections are one object, above 0, up to 1.
    min_score : float, optional
        Lower scores are dropped before the merge; rows without a score stay.
    classes : tuple of str, optional
        Other classes are dropped before the merge.
    max_score : float, optional
        Higher scores are dropped after the merge; rows without a score stay.
    min_area, max_area : float, optional
        Smaller and larger objects are dropped after the merge, when they are whole; in the units
        of the image's areas: µm², m² or px².

    Raises
    ------
    RunError
        If a name is unknown, a number lies outside 0 to 1, or limits exclude each other.
    """

    method: str = "seam"
    class_agnostic: bool = False
    match_metric: str = "iou"
    match_threshold: float = 0.5
    min_score: float | None = None
    classes: tuple[str, ...] | None = None
    max_score: float | None = None
    min_area: float | None = None
    max_area: float | None = None

    def __post_init__(self) -> None:
        # What the merge refuses is refused before any tile is run.
        check_merge(self.method, self.match_metric, self.match_threshold)
        for name in ("min_score", "max_score"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(share(name, getattr(self, name))))
        if self.classes is not None:
            object.__setattr__(self, "classes", names("classes", self.classes))
        for name in ("min_area", "max_area"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _area(name, value))
        for low, high in (("min_score", "max_score"), ("min_area", "max_area")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise RunArgumentError(
                    f"{low}={least:g} is above {high}={most:g}, so nothing is left; swap them."
                )

    @property
    def limits(self) -> dict[str, float]:
        """The limits of merged objects that are set."""
        values = {name: getattr(self, name) for name in LIMITS}
        return {name: value for name, value in values.items() if value is not None}

    def within(self, scores: NDArray[np.float64], areas: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which merged objects ``(n,)`` keep the limits, by their scores and areas."""
        keep = np.ones(len(scores), dtype=bool)
        if self.max_score is not None:
            keep &= ~(scores > self.max_score)
        if self.min_area is not None:
            keep &= areas >= self.min_area
        if self.max_area is not None:
            keep &= areas <= self.max_area
        return keep

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, in the order of the fields; limits only where they are set."""
        return {
            "method": self.method,
            "class_agnostic": self.class_agnostic,
            "match_metric": self.match_metric,
            "match_threshold": self.match_threshold,
            "min_score": self.min_score,
            "classes": None if self.classes is None else list(self.classes),
            **self.limits,
        }


def _area(name: str, value: Any) -> float:
    if not is_number(value) or value < 0:
        raise RunArgumentError(f"{name} is {value!r:.80}; give an area of 0 or more.")
    return float(value)
