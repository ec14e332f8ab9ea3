"""The merge: detections of all tiles become the objects of the image.

Detections that are views of one object form a group, which has two detections of one tile only
where these are pieces of it; the object is the best whole view, else all together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.checks import flag, is_number, is_whole, names, one_of, share
from tilevision.errors import RunArgumentError
from tilevision.findings import Findings, TileFindings
from tilevision.geometry import area
from tilevision.overlaps import METRICS
from tilevision.seams.detections import (
    EDGE_PIXELS,
    Detections,
    any_side,
    cut,
    gather,
    touching,
    united,
)
from tilevision.seams.matching import Zones, components, enter, match, parts_of
from tilevision.seams.testimony import LEAST_WITNESSED, Objects, denied, doubtful

__all__ = [
    "LIMITS",
    "METHODS",
    "MergeSettings",
    "Views",
    "check_merge",
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
Views = tuple[Index, Floats, Mask, Mask]

METHODS = ("seam", "nms", "nmm", "wbf", "none")


def merge(
    tile_findings: Iterable[TileFindings],
    method: str = "seam",
    class_agnostic: bool = False,
    match_metric: str = "iou",
    match_threshold: float = 0.5,
    *,
    size: tuple[int, int] | None = None,
) -> Findings:
    """Join the detections of all tiles to the detections of the image.

    ``"seam"`` matches, for every two tiles, what both saw of the zone they share, one to
    one; detections of one tile are joined only as pieces, cut by its edge, of what another tile
    saw hang together. An object that some tile saw whole keeps that tile's box (the best such),
    any other becomes the union of its views.
    ``"nms"``, ``"nmm"`` (greedy) and ``"wbf"`` suppress, unite or average whatever
    overlaps enough, wherever it comes from. ``"none"`` joins nothing. Box, outline, rotated
    box and area of what is merged are of one object; where ``"wbf"`` averages, outlines are
    left out.

    Parameters
    ----------
    tile_findings : iterable of TileFindings
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
    if not isinstance(tile_findings, Iterable):
        given = type(tile_findings).__name__
        raise RunArgumentError(
            f"Merge takes the TileFindings of each tile, not {given}; give a list of them."
        )
    flag("class_agnostic", class_agnostic)
    found = gather(list(tile_findings), class_agnostic, None if size is None else _pair(size))
    if method == "seam":
        seen, zones, number = objects_of(found, class_agnostic, match_metric, match_threshold)
        return join(seen, zones, number, views(seen, number))
    return merged_by(method, found, match_metric, match_threshold)


def _pair(size: Any) -> tuple[int, int]:
    found = tuple(size) if isinstance(size, Iterable) else ()
    if len(found) != 2 or not all(is_whole(side) and side > 0 for side in found):
        raise RunArgumentError(f"size is {size!r:.80}; give width and height in whole pixels.")
    return found


def merged_by(method: str, found: Detections, metric: str, threshold: float) -> Findings:
    """Return what `merge` does by any method but ``"seam"``."""
    if method == "none":
        return found.findings(np.arange(len(found)))
    from tilevision.seams.suppression import fuse, suppress

    return fuse(found, suppress(found, metric, threshold), method)


def objects_of(
    found: Detections, class_agnostic: bool, metric: str = "iou", threshold: float = 0.5
) -> tuple[Detections, Zones, Index]:
    """Return detections, their entries, and the number of the object that each shows."""
    if class_agnostic:
        from tilevision.seams.suppression import twice_named

        found = found.without(twice_named(found, metric, threshold))
    zones = enter(found)
    number = group(len(found), found.tile, *match(found, zones))
    return found, zones, parts_of(found, zones, number)


def check_merge(method: str, metric: str, threshold: float) -> None:
    """Refuse what `merge` would refuse, before there is anything to merge.

    Raises
    ------
    RunError
        If an argument is not among those of `merge`.
    """
    one_of("merge", method, METHODS)
    one_of("match_metric", metric, METRICS)
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


def join(found: Detections, zones: Zones, number: Index, chosen: Views) -> Findings:
    """Return one detection for each of the objects that `number` ``(n,)`` tells apart.

    `chosen` are their `views`. What the other tiles' testimony makes doubtful is left out.
    """
    if not len(found):
        return found.findings(np.empty(0, np.int64))
    best, boxes, pieces, partial = chosen
    kept = np.ones(len(best), dtype=bool)
    if len(zones.detection) >= LEAST_WITNESSED:
        objects = Objects.of(found, number, best, boxes)
        kept = ~(doubtful(found, zones, objects, partial) | denied(found, zones, objects))
    shapes = _shapes(found, number, best, pieces) if found.has_shapes else {}
    shapes = {
        name: shape[kept]
        if isinstance(shape, np.ndarray)
        else [shape[i] for i in np.flatnonzero(kept)]
        for name, shape in shapes.items()
    }
    return found.findings(best[kept], boxes=boxes[kept], **shapes)


def views(found: Detections, number: Index) -> Views:
    """Choose what stands for each object.

    Returns
    -------
    tuple
        The row of each object's best view; its box; whether that is a union of views,
        since none saw it whole; and for each detection, whether it is a partial view.
    """
    size = np.bincount(number)
    best = np.empty(len(size), dtype=np.int64)
    best[number] = np.arange(len(found))
    shared = np.flatnonzero((size > 1).take(number))
    shared = shared.take(np.argsort(number.take(shared), kind="stable"))
    start = np.flatnonzero(np.diff(number.take(shared), prepend=-1))
    span = found.boxes.take(best, axis=0)
    _widen(span, found.boxes.take(shared, axis=0), number.take(shared), start)
    partial = cut(found)
    partial[shared] = _partial(found, shared, span.take(number.take(shared), axis=0))
    # The best view: whole and clear of the edges, whole, partial; then by score, then the
    # finer tile, then the larger box.
    near = any_side(touching(found, 1.0, shared))
    keys = (
        np.where(partial.take(shared), 2.0, near),
        -found.ranks.take(shared),
        -found.scales.take(found.tile.take(shared)),
        -area(found.boxes.take(shared, axis=0)),
    )
    first = shared.take(_least(keys, start))
    best[number.take(first)] = first
    pieces = partial[best] & (size > 1)
    return best, np.where(pieces[:, None], span, found.boxes.take(best, axis=0)), pieces, partial


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


def _partial(found: Detections, rows: Index, span: Floats) -> Mask:
    """Mark views `rows` that show only a part of what all views of their object `span`.

    A view that ends at an inner edge is whole if no other saw the object go on there. One
    is partial, wherever it ends, if others saw the object reach out of its tile.
    """
    sign = np.array([-1.0, -1.0, 1.0, 1.0])
    outer = span * sign
    margin = np.tile(found.margins.take(rows, axis=0), 2)
    reach = found.reach.take(found.tile.take(rows), axis=0)
    outside = outer > reach * sign + margin
    further = outer > found.boxes.take(rows, axis=0) * sign
    return any_side((touching(found, EDGE_PIXELS, rows) & further) | outside)


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
