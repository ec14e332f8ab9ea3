"""Checks of the seams on one's own image, without ground truth."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilevision.findings import Findings, TileFindings
from tilevision.grid import Tile
from tilevision.overlaps import meetings
from tilevision.seams.detections import Detections, cut, gather
from tilevision.seams.merging import Views, join, objects_of, views

__all__ = [
    "OverlapCheck",
    "SeamBias",
    "Seams",
    "merge_and_check",
    "overlap_check",
    "overlap_checked",
    "saturated_tiles",
    "seam_bias",
]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

# Points that measure areas (evenly spread, in step with no grid), and blocks by whose
# leaving out the interval is found.
_POINTS, _BLOCKS = 60_000, 6
# Where tiles differ in size (each of these twice the one before), blocks are finer.
_SIZES, _FINE_BLOCKS = 8, 24
# Up to so many boxes, points are looked for in each; from there on by strips.
_FEW = 300


@dataclass(frozen=True, slots=True)
class SeamBias:
    """How many more objects stand near the seams than elsewhere, for the area.

    Attributes
    ----------
    excess : float
        Density near the seams over density elsewhere, minus 1: 0 is right, 0.3 means
        30 % too many near the seams, below 0 means loss. NaN where nothing can be said.
    low, high : float
        95 % interval of `excess`.
    near, far : int
        Objects counted near the seams and elsewhere.
    area_near : float
        Share of the area counted as near, 0 to 1.
    """

    excess: float
    low: float
    high: float
    near: int
    far: int
    area_near: float

    @property
    def visible(self) -> bool:
        """True if the interval leaves 0 out: the seams show in the counts."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        if math.isnan(self.excess):
            return "seam bias: too few objects or seams to tell"
        verdict = "the seams show in the counts" if self.visible else "no bias shown"
        among = "" if self.visible else ", which includes 0"
        return (
            f"seam bias {self.excess:+.1%} (95% interval {self.low:+.1%} to {self.high:+.1%}"
            f"{among}): {verdict}"
        )


@dataclass(frozen=True, slots=True)
class OverlapCheck:
    """True if tiles overlap enough for the objects on the image.

    Attributes
    ----------
    cut : float
        Share of objects that an inner tile edge cuts in at least one tile, 0 to 1.
    never_whole : float
        Share of objects that no tile saw whole, so that their box is put together.
    size_p95 : float
        95th percentile of the longer side of the objects, image pixels; of their width or height
        alone where tiles lie side by side in one direction only.
    overlap : float
        Overlap of neighbouring tiles (the median), image pixels.
    suggested : int
        The overlap at which 95 % of the objects are whole in some tile, image pixels.
    saturated : tuple of str
        Ids of tiles that returned as many detections as the model can.
    tile : float
        The shorter side of a tile (the median), image pixels.
    side : str
        ``"wide"`` or ``"high"`` where `size_p95` is that side alone, else empty.
    """

    cut: float
    never_whole: float
    size_p95: float
    overlap: float
    suggested: int
    saturated: tuple[str, ...]
    tile: float = math.inf
    side: str = ""

    @property
    def enough(self) -> bool:
        """True if 95 % of the objects fit into the overlap."""
        return self.overlap >= self.size_p95

    @property
    def remedy(self) -> str:
        """What would hold 95 % of the objects; empty where the overlap does.

        Tiles that overlap by more than half are many, so larger ones are the better remedy.
        """
        if self.enough:
            return ""
        wider = f"an overlap of {self.suggested:,} px"
        return wider if 2 * self.suggested <= self.tile else f"larger tiles with {wider}"

    @property
    def size(self) -> str:
        """`size_p95` in words, rounded up as `suggested` is: an overlap that it names holds it."""
        return f"{math.ceil(self.size_p95):,} px {self.side}".rstrip()

    def __str__(self) -> str:
        text = (
            f"overlap {self.overlap:.0f} px, 95% of objects are up to {self.size}; "
            f"{self.never_whole:.1%} of objects are whole in no tile"
        )
        if self.remedy:
            text += f"; {self.remedy} would hold them"
        if self.saturated:
            text += f"; {len(self.saturated)} saturated tiles may lack detections"
        return text


def seam_bias(
    findings: Findings, tiles: Sequence[Tile], *, size: tuple[int, int] | None = None
) -> SeamBias:
    """Compare the density of objects near the seams with that elsewhere.

    Near is within one overlap of the line in the middle of what two tiles share. Counting
    twice shows as an excess, losing objects as a lack. A strip along the image's border
    is left out, since few centres of large objects lie there.

    Parameters
    ----------
    findings : Findings
        Merged, in the image frame.
    tiles : sequence of Tile
        The tiles that were analysed.
    size : tuple of int, optional
        Width and height of the image. Default: what the tiles span.

    Returns
    -------
    SeamBias
        With a jackknife interval over blocks of the image, so that clusters of objects
        do not pass for certainty.
    """
    return Seams(tiles, size).bias(findings)


class Seams:
    """Where tiles meet: what `seam_bias` asks of them, worked out once for many findings.

    Parameters
    ----------
    tiles, size
        As `seam_bias` takes them.
    """

    def __init__(self, tiles: Sequence[Tile], size: tuple[int, int] | None = None) -> None:
        self._boxes = _boxes(tiles)
        self._frame = np.array([0, 0, *size], np.float64) if size else _span(self._boxes)

    @functools.cached_property
    def _zones(self) -> tuple[Floats, NDArray[np.int64]]:
        return _neighbours(self._boxes)[:2]

    def bias(self, findings: Findings) -> SeamBias:
        """Return the bias of merged findings, in the image frame; see `seam_bias`."""
        boxes, frame = self._boxes, self._frame
        sides = findings.boxes[:, 2:] - findings.boxes[:, :2]
        longer = sides.max(axis=1) if len(sides) else np.zeros(1)
        bands = _bands(*self._zones, max(1.0, float(np.median(longer))))
        rim = min(float(np.percentile(longer, 95)) / 2, float((frame[2:] - frame[:2]).min()) / 8)
        inner = frame + np.array([1, 1, -1, -1]) * rim
        centres = (findings.boxes[:, :2] + findings.boxes[:, 2:]) / 2
        spread = inner[:2] + _evenly(_POINTS) * (inner[2:] - inner[:2])
        spread = spread[_within(spread, boxes)]
        sizes = _sizes(spread, boxes)
        blocks = _FINE_BLOCKS if sizes.any() else _BLOCKS
        counts = _tally(centres, _sizes(centres, boxes), bands, inner, blocks)
        areas = _tally(spread, sizes, bands, inner, blocks)
        return _bias(counts, areas)


def _bias(counts: Floats, areas: Floats) -> SeamBias:
    """Return the bias of `counts` for `areas`, both ``(2, strata)``: elsewhere, near.

    Objects crowd in some places and are missing in others, seams or not; so near is
    compared with elsewhere within each stratum (Mantel and Haenszel's ratio of rates): a
    block of the image, and there what lies in tiles of one size. For an adaptive grid has
    small tiles, and with them seams, just where objects crowd: without sizes and with large
    blocks, 24 perfect merges of crowds showed 25 % bias, with both 0 %.
    """
    (far, near), (area_far, area_near) = counts.sum(axis=1), areas.sum(axis=1)
    share = float(area_near / max(area_near + area_far, 1))
    weight = np.divide(1, areas.sum(axis=0), out=np.zeros(areas.shape[1]), where=areas.any(axis=0))
    more, less = counts[1] * areas[0] * weight, counts[0] * areas[1] * weight
    if min(more.sum(), less.sum()) <= 0:
        return SeamBias(math.nan, math.nan, math.nan, int(near), int(far), share)
    whole = math.log(more.sum() / less.sum())
    without_more, without_less = more.sum() - more, less.sum() - less
    told = (without_more > 0) & (without_less > 0) & (more + less > 0)
    without = np.log(without_more[told] / without_less[told])
    blocks = len(without)
    spread = (blocks - 1) * float(without.var()) if blocks else 0.0
    error = 1.96 * math.sqrt(max(spread, 1 / max(near, 1) + 1 / max(far, 1)))
    excess, low, high = (math.exp(value) - 1 for value in (whole, whole - error, whole + error))
    return SeamBias(excess, low, high, int(near), int(far), share)


def _tally(
    points: Floats, sizes: NDArray[np.int64], bands: Floats, inner: Floats, blocks: int
) -> Floats:
    """Count `points` inside `inner` elsewhere and near ``(2, strata)``."""
    place = (points - inner[:2]) / (inner[2:] - inner[:2])
    there = ((place >= 0) & (place < 1)).all(axis=1)
    column, row = (place[there] * blocks).astype(np.int64).T
    near = _within(points[there], bands)
    cell = ((near * _SIZES + sizes[there]) * blocks + row) * blocks + column
    count = np.bincount(cell, minlength=2 * _SIZES * blocks**2).astype(np.float64)
    return count.reshape(2, -1)


def _sizes(points: Floats, boxes: Floats) -> NDArray[np.int64]:
    """Return for each point the size of the smallest tile it lies in: 0, 1 for twice as long, …"""
    side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    size = np.round(np.log2(side / side.min(initial=np.inf))).clip(0, _SIZES - 1).astype(np.int64)
    if not size.any():
        return np.zeros(len(points), dtype=np.int64)
    smallest = np.full(len(points), _SIZES - 1)
    point, tile = meetings(np.hstack([points, points]), boxes)
    np.minimum.at(smallest, point, size[tile])
    return smallest


def _within(points: Floats, boxes: Floats) -> NDArray[np.bool_]:
    """Return a mask ``(n,)`` of which points ``(n, 2)`` lie in any of `boxes`."""
    inside = np.zeros(len(points), dtype=bool)
    if len(boxes) <= _FEW:
        x, y = np.ascontiguousarray(points.T)
        for x0, y0, x1, y1 in boxes:
            inside |= (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
    else:
        inside[meetings(np.hstack([points, points]), boxes)[0]] = True
    return inside


@functools.cache
def _evenly(n: int) -> Floats:
    """Return `n` points ``(n, 2)`` of the unit square, by Roberts' additive recurrence."""
    root = 1.324717957244746  # of x³ = x + 1
    steps = np.arange(1, n + 1)[:, None]
    return np.asarray((0.5 + steps / np.array([root, root**2])) % 1)


def _bands(zones: Floats, axis: NDArray[np.int64], least: float) -> Floats:
    """Return the boxes ``(m, 4)`` within one overlap of the line where two tiles meet."""
    if not len(zones):
        return np.empty((0, 4))
    rows = np.arange(len(zones))
    width = zones[rows, axis + 2] - zones[rows, axis]
    usual = float(np.median(width))
    half = np.maximum(np.minimum(width, usual), least if usual <= 0 else 0)
    middle = (zones[rows, axis] + zones[rows, axis + 2]) / 2
    out = zones.copy()
    out[rows, axis], out[rows, axis + 2] = middle - half, middle + half
    return out


def _neighbours(boxes: Floats) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Return what tiles side by side share, the axis across their seam, and its width."""
    a, b = meetings(boxes, boxes)
    a, b = a[a < b], b[a < b]
    one, two = boxes[a], boxes[b]
    zones = np.hstack([np.maximum(one[:, :2], two[:, :2]), np.minimum(one[:, 2:], two[:, 2:])])
    least = np.minimum(one[:, 2:] - one[:, :2], two[:, 2:] - two[:, :2])
    share = (zones[:, 2:] - zones[:, :2]) / least
    axis = np.where(share[:, 0] <= share[:, 1], 0, 1)
    # Side by side: most of one side is shared, not all of both; corners share little of either.
    beside = (share.max(axis=1) >= 0.5) & (share.min(axis=1) < 1)
    a, b, zones, axis = a[beside], b[beside], zones[beside], axis[beside]
    rows = np.arange(len(zones))
    width = zones[rows, axis + 2] - zones[rows, axis]
    # With much overlap the next but one is shared with too; the seam is with the nearest.
    later = np.where(boxes[a, axis] > boxes[b, axis], a, b)
    widest = np.full((len(boxes), 2), -1.0)
    np.maximum.at(widest, (later, axis), width)
    nearest = width == widest[later, axis]
    return zones[nearest], axis[nearest], width[nearest]


def overlap_check(
    tile_findings: Sequence[TileFindings],
    *,
    size: tuple[int, int] | None = None,
    class_agnostic: bool = False,
) -> OverlapCheck:
    """Measure whether the tiles overlap enough for what was found in them.

    Parameters
    ----------
    tile_findings : sequence of TileFindings
        Each tile once, in any order.
    size : tuple of int, optional
        Width and height of the image. Default: what the tiles span.
    class_agnostic : bool
        True if detections of different classes may be one object.

    Raises
    ------
    RunError, GridError
        As `merge` does.
    """
    found = gather(tile_findings, class_agnostic, size)
    return overlap_checked(found, saturated_tiles(tile_findings))


def overlap_checked(found: Detections, saturated: tuple[str, ...]) -> OverlapCheck:
    """Return the `overlap_check` of detections; `saturated` are the ids of full tiles."""
    number = objects_of(found, False)[2]
    return _check(found, saturated, number, views(found, number))


def merge_and_check(
    found: Detections,
    saturated: tuple[str, ...],
    class_agnostic: bool = False,
    match_metric: str = "iou",
    match_threshold: float = 0.5,
) -> tuple[Findings, OverlapCheck]:
    """Return what `merge` by seam and `overlap_checked` return, in half the time of both."""
    seen, zones, number = objects_of(found, class_agnostic, match_metric, match_threshold)
    chosen = views(seen, number)
    return join(seen, zones, number, chosen), _check(seen, saturated, number, chosen)


def saturated_tiles(tile_findings: Sequence[TileFindings]) -> tuple[str, ...]:
    """Return the ids of tiles that returned as many detections as the model can."""
    return tuple(sorted(item.tile.id for item in tile_findings if item.saturated))


def _check(
    found: Detections, saturated: tuple[str, ...], number: Index, chosen: Views
) -> OverlapCheck:
    overlap, cut_along = found.once("overlap", lambda: _usual_overlap(found.tile_boxes))
    if not len(found):
        return OverlapCheck(0.0, 0.0, 0.0, overlap, round(overlap), saturated)
    sides = found.tile_boxes[:, 2:] - found.tile_boxes[:, :2]
    best, boxes, _, partial = chosen
    touched = np.zeros(len(best), dtype=bool)
    touched[number[cut(found)]] = True
    reach = (boxes[:, 2:] - boxes[:, :2])[:, cut_along].max(axis=1)
    side = float(np.percentile(reach, 95))
    return OverlapCheck(
        cut=float(touched.mean()),
        never_whole=float(partial[best].mean()),
        size_p95=side,
        overlap=overlap,
        suggested=max(round(overlap), math.ceil(side)),
        saturated=saturated,
        tile=float(np.median(sides.min(axis=1))),
        side="" if len(cut_along) == 2 else ("wide", "high")[cut_along[0]],
    )


def _usual_overlap(tile_boxes: Floats) -> tuple[float, list[int]]:
    """Return by how much neighbours overlap, and along which axes (both where none does)."""
    if not len(tile_boxes):
        return 0.0, [0, 1]
    _, axis, width = _neighbours(tile_boxes)
    return float(np.median(width)) if len(width) else 0.0, sorted({*axis.tolist()}) or [0, 1]


def _boxes(tiles: Sequence[Tile]) -> Floats:
    return np.array(sorted({tile.box.as_tuple() for tile in tiles}), dtype=np.float64).reshape(
        -1, 4
    )


def _span(boxes: Floats) -> Floats:
    if not len(boxes):
        return np.array([0.0, 0, 1, 1])
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
