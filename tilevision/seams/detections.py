"""All tiles' detections side by side in the image frame, in one canonical order; their shapes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.errors import GridError, RunError
from tilevision.findings import SOME, Findings, TileFindings, assembled, stacked
from tilevision.geometry import MultiPolygon, area, intersection, map_polygons
from tilevision.overlaps import Outlines, bodies, geometries, rectangles

__all__ = [
    "EDGE_PIXELS",
    "Detections",
    "Sightings",
    "any_side",
    "clipped_bounds",
    "cut",
    "gather",
    "mean_corners",
    "parts",
    "shape_iou",
    "shapes_of",
    "share_of_pieces",
    "share_within",
    "tightest",
    "touching",
    "united",
]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Detectors stop a pixel or two before the edge of what they see (model pixels), and their
# boxes are off by a share of the object's side.
EDGE_PIXELS = 3.0
_OFF_BY = 0.1

# The sides of a box, left and top negated, grow outward.
_OUTWARD = np.array([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Detections of several tiles, ``n`` rows, and the ``k`` tiles they come from.

    Rows stand by tile region, then in the canonical order of `Findings`, so whatever is
    decided by position does not depend on the order in which tiles were given.

    Attributes
    ----------
    boxes : array (n, 4)
        Image frame, float64.
    ranks : array (n,)
        The score, or -1 where there is none: higher is better.
    classes : array (n,) of int
        Equal numbers may merge; all 0 when the merge is class-agnostic.
    tile : array (n,) of int
        Row in `tile_boxes` of the tile each detection comes from.
    tile_boxes : array (k, 4)
        Image frame.
    scales : array (k,)
        Model pixels per image pixel of each tile.
    columns : dict
        Further columns of `Findings`, tile frame, by name.
    factors : array (k, 4)
        Factor and offset (x, y) that take a tile's frame to the image's.
    reach : array (k, 4)
        The tiles' edges; infinite where an edge is the image's own.
    margins : array (n, 2)
        How far the edges of a detection may be off in x and y, image pixels.
    bodies : array (n, 4)
        The boxes; around points, which have no size, a small one.
    of_tiles : dict
        What follows from `tile_boxes` alone, by name; see `once`.
    """

    boxes: Floats
    ranks: Floats
    classes: Index
    tile: Index
    tile_boxes: Floats
    scales: Floats
    columns: dict[str, Any]
    factors: Floats
    reach: Floats
    margins: Floats
    bodies: Floats
    of_tiles: dict[str, Any] = field(default_factory=dict, repr=False)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what `make` returned the first time, for these tiles, whatever is left out."""
        if name not in self.of_tiles:
            self.of_tiles[name] = make()
        return self.of_tiles[name]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def has_shapes(self) -> bool:
        """True if any detection may have a polygon or a rotated box."""
        return "polygons" in self.columns or "oriented" in self.columns

    def in_image(self, name: str, rows: Index) -> Any:
        """Return column `name` of `rows` in the image frame; None where it is absent."""
        column = self.columns.get(name)
        if column is None:
            return None
        factors = self.factors[self.tile[rows]]
        if name == "polygons":
            return map_polygons([column[row] for row in rows.tolist()], factors)
        if name in ("oriented", "points"):
            spread = factors[:, None] if name == "oriented" else factors
            return column[rows] * spread[..., :2] + spread[..., 2:]
        if name == "keypoints":
            placed = column[rows].copy()
            placed[..., :2] = placed[..., :2] * factors[:, None, :2] + factors[:, None, 2:]
            return placed
        if isinstance(column, np.ndarray):
            return column[rows]
        return [column[row] for row in rows.tolist()]

    def without(self, dropped: NDArray[np.bool_]) -> Detections:
        """Return the detections that are not marked in `dropped` ``(n,)``."""
        if not dropped.any():
            return self
        kept = np.flatnonzero(~dropped)
        rows = ("boxes", "ranks", "classes", "tile", "margins", "bodies")
        taken = {name: getattr(self, name).take(kept, axis=0) for name in rows}
        columns = {
            name: column[kept]
            if isinstance(column, np.ndarray)
            else tuple(column[row] for row in kept.tolist())
            for name, column in self.columns.items()
        }
        return replace(self, columns=columns, **taken)

    def findings(
        self,
        rows: Index,
        boxes: Floats | None = None,
        scores: Floats | None = None,
        **shapes: Sequence[MultiPolygon | None] | Floats | None,
    ) -> Findings:
        """Return `rows` as findings of the image; `boxes`, `scores`, `shapes` replace theirs."""
        columns = {name: self.in_image(name, rows) for name in self.columns if name not in shapes}
        columns.update({name: shape for name, shape in shapes.items() if shape is not None})
        if scores is not None:
            columns["scores"] = scores
        columns["boxes"] = self.boxes.take(rows, axis=0) if boxes is None else boxes
        return assembled(columns)


class Sightings:
    """What all tiles saw, put side by side once, however often it is filtered and merged.

    Parameters
    ----------
    tile_findings : sequence of TileFindings
        Each tile once, in any order.
    size : tuple of int, optional
        Width and height of the image; None: what the tiles span.

    Attributes
    ----------
    keep : bool
        Whether `detections` remembers what it put together: set where it will be asked again.
    """

    def __init__(self, tile_findings: Sequence[TileFindings], size: tuple[int, int] | None) -> None:
        self.tile_findings = tile_findings
        self.size = size
        self.keep = False
        self._whole: Detections | None = None
        self._told: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what `make` returned the first time: for what follows from the tiles alone."""
        if name not in self._told:
            self._told[name] = make()
        return self._told[name]

    def detections(
        self,
        min_score: float | None = None,
        classes: Collection[str] | None = None,
        *,
        class_agnostic: bool = False,
    ) -> Detections:
        """Return what `gather` does of the findings of each tile under `Findings.filter`.

        Raises
        ------
        RunError, GridError
            As `gather` does.
        """
        whole = self._whole or gather(self.tile_findings, False, self.size)
        if self.keep:
            self._whole = whole
        dropped = np.zeros(len(whole), dtype=bool)
        if min_score is not None:
            dropped |= whole.columns["scores"] < min_score
        if classes is not None:
            names = whole.columns["labels"].tolist()
            dropped |= ~np.fromiter(map(frozenset(classes).__contains__, names), bool, len(names))
        left = whole.without(dropped)
        if class_agnostic:
            return replace(left, classes=np.zeros(len(left), np.int64))
        if left is not whole:  # numbered without gaps
            return replace(left, classes=np.unique(left.classes, return_inverse=True)[1])
        return left


def gather(
    tile_findings: Sequence[TileFindings], class_agnostic: bool, size: tuple[int, int] | None
) -> Detections:
    """Put the detections of all tiles side by side in the image frame.

    Parameters
    ----------
    tile_findings : sequence of TileFindings
        In any order.
    class_agnostic : bool
        True if detections of different classes may merge.
    size : tuple of int, optional
        Width and height of the image; None: what the tiles span.

    Raises
    ------
    RunError
        If an item is not a `TileFindings`.
    GridError
        If a tile is there twice, or lies outside the image.
    """
    for item in tile_findings:
        if not isinstance(item, TileFindings):
            raise RunError(
                f"Merge takes the TileFindings of each tile, not {type(item).__name__}; "
                "give tv.TileFindings(tile, findings)."
            )
    ordered, tile_boxes, scales = _in_order(tile_findings)
    spans = tile_boxes[:, 2:] - tile_boxes[:, :2]
    outputs = np.maximum(1, np.rint(spans * scales[:, None]))  # `output_size` of each
    counts = np.array([len(item.findings) for item in ordered], dtype=np.int64)
    owner = np.repeat(np.arange(len(ordered)), counts)
    factors = np.hstack([spans / outputs, tile_boxes[:, :2]])
    columns = _columns([item.findings for item in ordered])
    boxes = columns.pop("boxes")
    spread = factors[:, [0, 1, 0, 1, 2, 3, 2, 3]].take(owner, axis=0)
    boxes = boxes * spread[:, :4] + spread[:, 4:]
    scores = columns["scores"]
    frame = _frame(ordered, tile_boxes, size)
    pixel = 1 / scales[owner, None]
    sides = boxes[:, 2:] - boxes[:, :2]
    # Outlines slant: outside the zone itself they say nothing of what both tiles saw.
    shaped = bool({"polygons", "oriented"} & columns.keys())
    return Detections(
        boxes=boxes,
        ranks=np.where(np.isnan(scores), -1.0, scores),
        classes=np.zeros(len(boxes), np.int64) if class_agnostic else _codes(columns["labels"]),
        tile=owner,
        tile_boxes=tile_boxes,
        scales=scales,
        columns=columns,
        factors=factors,
        reach=_reach(tile_boxes, frame),
        margins=np.maximum(EDGE_PIXELS * pixel, (0 if shaped else _OFF_BY) * sides),
        bodies=bodies(boxes, pixel),
    )


def _in_order(found: Sequence[TileFindings]) -> tuple[list[TileFindings], Floats, Floats]:
    """Return tiles by box and scale, with their boxes ``(n, 4)`` and scales ``(n,)``.

    Raises
    ------
    GridError
        If a tile is there twice.
    """
    tiles = [item.tile for item in found]
    boxes = np.array([tile.box.as_tuple() for tile in tiles], dtype=np.float64).reshape(-1, 4)
    scales = np.array([tile.scale for tile in tiles], dtype=np.float64)
    order = np.lexsort((scales, *boxes.T[::-1]))
    boxes, scales = boxes[order], scales[order]
    ordered = [found[place] for place in order.tolist()]
    same = (boxes[1:] == boxes[:-1]).all(axis=1) & (scales[1:] == scales[:-1])
    if same.any():
        twice = sorted({ordered[place + 1].tile.id for place in np.flatnonzero(same).tolist()})
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        raise GridError(
            f"tile {', '.join(twice[:5])}{more} is there twice (same box and scale); "
            "give each tile once."
        )
    return ordered, boxes, scales


def _frame(
    ordered: Sequence[TileFindings], tile_boxes: Floats, size: tuple[int, int] | None
) -> Floats:
    if size is None:
        if not len(tile_boxes):
            return np.zeros(4)
        return np.concatenate([tile_boxes[:, :2].min(axis=0), tile_boxes[:, 2:].max(axis=0)])
    width, height = size
    frame = np.array([0, 0, width, height], dtype=np.float64)
    outside = (tile_boxes[:, :2] < frame[:2]).any(axis=1) | (tile_boxes[:, 2:] > frame[2:]).any(
        axis=1
    )
    if outside.any():
        item = ordered[int(np.argmax(outside))]
        raise GridError(
            f"tile {item.tile.id} {item.tile.box.as_tuple()} leaves the image of "
            f"{width}×{height} px; give the size of the image the tiles were cut from."
        )
    return frame


def _reach(tile_boxes: Floats, frame: Floats) -> Floats:
    low = np.where(tile_boxes[:, :2] > frame[:2], tile_boxes[:, :2], -np.inf)
    high = np.where(tile_boxes[:, 2:] < frame[2:], tile_boxes[:, 2:], np.inf)
    return np.hstack([low, high])


def _columns(parts: Sequence[Findings]) -> dict[str, Any]:
    """Concatenate columns in the order given; parts that lack one get NaN or None rows."""
    empty, some = Findings(), attrgetter(*SOME)
    # Most tiles of most images found nothing, and have no column that another has not. They share
    # one object, which is looked at once.
    each = {id(part): part for part in parts}.items()
    wanted = {at for at, one in each if len(one) or any(v is not None for v in some(one))}
    parts = [part for part in parts if id(part) in wanted]
    names = {name for part in parts for name in part.columns} | set(empty.columns)
    columns: dict[str, Any] = {}
    for name in sorted(names):
        values = [getattr(part, name) for part in parts]
        if name in ("polygons", "texts", "attributes"):
            columns[name] = [
                row
                for value, part in zip(values, parts, strict=True)
                for row in (value if value is not None else (None,) * len(part))
            ]
            continue
        lengths = [len(part) for part in parts]
        columns[name] = stacked(name, list(zip(values, lengths, strict=True)))
        if not parts:
            columns[name] = columns[name].astype(getattr(empty, name).dtype)
    return columns


def _codes(labels: NDArray[np.object_]) -> Index:
    """Return labels ``(n,)`` as numbers in the order of their names."""
    names = labels.tolist()
    number = {name: place for place, name in enumerate(sorted(set(names)))}
    return np.fromiter(map(number.__getitem__, names), np.int64, len(names))


Geometries = NDArray[np.object_]


def touching(found: Detections, pixels: float, rows: Index | None = None) -> Mask:
    """Mark the sides ``(n, 4)`` within `pixels` (of the model) of an inner tile edge."""
    tile, boxes = found.tile, found.boxes
    if rows is not None:
        tile, boxes = tile.take(rows), boxes.take(rows, axis=0)
    near = (pixels / found.scales).take(tile)[:, None]
    return np.asarray(np.abs(boxes - found.reach.take(tile, axis=0)) <= near)


def cut(found: Detections) -> Mask:
    """Mark detections that touch an inner edge of their tile."""
    return any_side(touching(found, EDGE_PIXELS))


def any_side(marked: Mask) -> Mask:
    """Return for rows ``(n, 4)`` whether any side is marked, much faster than NumPy's `any`."""
    left, top, right, bottom = marked.T
    return np.asarray(left | top | right | bottom)


def shapes_of(found: Detections, rows: Index) -> Geometries:
    """Return the polygon, else the rotated box of each of `rows`; None where it has neither."""
    corners, polygons = found.in_image("oriented", rows), found.in_image("polygons", rows)
    return geometries(len(rows), corners, polygons)


def parts(geometry: Any) -> MultiPolygon | None:
    """Return a geometry as parts of rings, or None where it has no area."""
    pieces = [
        piece
        for piece in shapely.get_parts(shapely.get_parts([geometry]))
        if piece.geom_type == "Polygon" and not piece.is_empty
    ]
    if not pieces:
        return None
    return tuple(
        tuple(
            np.asarray(ring.coords, dtype=np.float64)[:-1]
            for ring in (piece.exterior, *piece.interiors)
        )
        for piece in pieces
    )


def clipped_bounds(found: Detections, rows: Index, boxes: Floats, room: Floats) -> Floats:
    """Return `boxes`, those of shapes that reach out of `room` as their part inside spans.

    A slanting object covers little of its box; what two tiles saw of it agrees only where
    both looked.
    """
    out = boxes.copy()
    across = (boxes[:, :2] < room[:, :2]).any(axis=1) | (boxes[:, 2:] > room[:, 2:]).any(axis=1)
    place = np.flatnonzero(across)
    shapes = shapes_of(found, rows[place])
    shaped = ~shapely.is_missing(shapes)
    place, shapes = place[shaped], shapes[shaped]
    bounds = shapely.bounds(shapely.intersection(shapes, rectangles(room[place])))
    inside = np.isfinite(bounds).all(axis=1)
    out[place[inside]] = bounds[inside]
    return out


def shape_iou(found: Detections, a: Index, b: Index, zone: Floats, default: Floats) -> Floats:
    """Return IoU of the shapes of rows `a` and `b` within boxes `zone`, pair by pair.

    `default` stands where one of the two has no shape, or the zone is too thin to tell.
    """
    out = default.copy()
    thin = (zone[:, 2:] - zone[:, :2] <= 4 * np.minimum(found.margins[a], found.margins[b])).any(
        axis=1
    )
    pairs = np.flatnonzero(~thin)
    used, at = np.unique(np.concatenate([a[pairs], b[pairs]]), return_inverse=True)
    shapes = shapes_of(found, used)
    there = ~np.asarray(shapely.is_missing(shapes))
    one, two = at[: len(pairs)], at[len(pairs) :]
    both = there[one] & there[two]
    pairs, place = pairs[both], np.cumsum(there) - 1
    outlines = Outlines(shapes[there])
    area_one, area_two, shared = outlines.shared(place[one[both]], place[two[both]], zone[pairs])
    whole = area_one + area_two - shared
    out[pairs] = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return out


def share_of_pieces(found: Detections, mine: Index, at: Index, room: Floats, side: Index) -> Floats:
    """Return the share of pieces `mine`, cut on `side`, that lies in rows `at` of other tiles.

    It is measured in `room`, where both tiles looked, on what hangs together there and reaches the
    edge that cut the piece. Where tiles share too little, it is the share of the piece's edge
    along which the other goes on.
    """
    scale = found.scales[found.tile[mine]]
    deep = 4 * EDGE_PIXELS / np.minimum(scale, found.scales[found.tile[at]])
    axis = side % 2
    rows = np.arange(len(mine))
    thin = room[rows, axis + 2] - room[rows, axis] < deep
    edge = found.reach[found.tile[mine], side]
    near = np.where(thin, 1.0, EDGE_PIXELS) / scale
    band = room.copy()
    grown = room + _OUTWARD * deep[:, None]
    band[thin] = grown[thin]
    line = band.copy()
    line[rows, axis], line[rows, axis + 2] = edge - near, edge + near
    if not found.has_shapes:
        # Where boxes only meet along a seam, neighbours look no other than parts.
        one, two = _clipped(found.boxes[mine], band), found.boxes[at]
        whole, shared = np.where(thin, 0, area(one)), intersection(one, two)
        return np.asarray(np.divide(shared, whole, out=np.zeros(len(mine)), where=whole > 0))
    return _shapes_inside(found, mine, at, band, line, thin, axis)


def _clipped(boxes: Floats, room: Floats) -> Floats:
    low, high = np.maximum(boxes[:, :2], room[:, :2]), np.minimum(boxes[:, 2:], room[:, 2:])
    return np.hstack([low, np.maximum(low, high)])


def _shapes_inside(
    found: Detections, mine: Index, at: Index, band: Floats, line: Floats, thin: Mask, axis: Index
) -> Floats:
    one, two = (_filled(found, rows) for rows in (mine, at))
    one = shapely.intersection(one, rectangles(band))
    part, owner = shapely.get_parts(one, return_index=True)
    met = shapely.intersects(part, rectangles(line)[owner]) & (shapely.area(part) > 0)
    part, owner = part[met], owner[met]
    share = np.zeros(len(part))
    wide = ~thin[owner]
    inner = shapely.area(shapely.intersection(part[wide], two[owner[wide]]))
    share[wide] = inner / shapely.area(part[wide])
    for place in np.flatnonzero(~wide).tolist():
        row = int(owner[place])
        share[place] = _along(part[place], two[row], line[row], 1 - int(axis[row]))
    out = np.zeros(len(mine))
    np.maximum.at(out, owner, share)
    return out


def _along(part: Any, other: Any, line: Floats, along: int) -> float:
    """Return the share of the edge that `part` holds in `line` along which `other` goes on."""
    frame, near = shapely.box(*line), (line[3 - along] - line[1 - along]) / 2
    low, high = shapely.bounds(shapely.intersection(part, frame))[[along, along + 2]]
    pieces = shapely.get_parts(shapely.intersection(other, frame))
    bounds = shapely.bounds(pieces).reshape(-1, 4)[:, [along, along + 2]]
    shared = np.minimum(bounds[:, 1], high) - np.maximum(bounds[:, 0], low)
    # Where outlines slant, they go on a little further along.
    length = high - low - 2 * near
    return float((np.nanmax(shared, initial=0) - 2 * near) / length) if length > 0 else 0.0


def share_within(found: Detections, a: Index, b: Index) -> Floats:
    """Return the share of rows `a` that lies in rows `b`, pair by pair."""
    if found.has_shapes:
        one = _filled(found, a)
        shared, whole = (
            shapely.area(shapely.intersection(one, _filled(found, b))),
            shapely.area(one),
        )
    else:
        shared, whole = intersection(found.boxes[a], found.boxes[b]), area(found.boxes[a])
    return np.asarray(np.divide(shared, whole, out=np.zeros(len(a)), where=whole > 0))


def _filled(found: Detections, rows: Index) -> Geometries:
    """Return the shapes of `rows`, rectangles where there is only a box."""
    used, at = np.unique(rows, return_inverse=True)
    shapes = shapes_of(found, used)
    bare = shapely.is_missing(shapes)
    shapes[bare] = rectangles(found.boxes[used[bare]])
    return shapes[at]


def united(found: Detections, best: Index, groups: Iterable[tuple[int, Index]]) -> dict[str, Any]:
    """Return the shape columns of rows `best`; those of `groups` (place, rows) are unions.

    What has a shape in any view has one in the union, which holds the boxes of views without:
    so it reaches as far as the box around all views.
    """
    columns: dict[str, Any] = {
        name: found.in_image(name, best)
        for name in ("polygons", "oriented")
        if name in found.columns
    }
    if not columns:
        return columns
    for place, rows in groups:
        shapes = shapes_of(found, rows)
        bare = shapely.is_missing(shapes)
        if bare.all():
            continue
        shapes[bare] = rectangles(found.boxes[rows[bare]])
        union = shapely.union_all(shapes)
        if union.is_empty:
            continue
        if "polygons" in columns and any(p is not None for p in found.in_image("polygons", rows)):
            columns["polygons"][place] = parts(union)
        if "oriented" in columns and np.isfinite(found.in_image("oriented", rows)).any():
            columns["oriented"][place] = tightest(union)
    return columns


def tightest(shape: Any) -> Floats:
    """Return the corners ``(4, 2)`` of the smallest rotated box around a geometry."""
    around = shapely.minimum_rotated_rectangle(shape)
    return np.asarray(around.exterior.coords, dtype=np.float64)[:4]


def mean_corners(best: Floats, corners: Floats, weight: Floats) -> Floats:
    """Return the mean ``(4, 2)`` of rotated boxes ``(k, 4, 2)``, NaN if `best` is none.

    Corners are first named alike: box by box as they lie closest to those of `best`, whichever
    corner a box begins with and whichever way it runs.
    """
    there = np.isfinite(corners).all(axis=(1, 2))
    if not np.isfinite(best).all() or not there.any():
        return np.full((4, 2), np.nan)
    corners, weight = corners[there], weight[there]
    turns = np.array([np.roll(way, -i) for way in ([0, 1, 2, 3], [3, 2, 1, 0]) for i in range(4)])
    named = corners[:, turns]  # (k, 8, 4, 2)
    apart = ((named - best) ** 2).sum(axis=(2, 3))
    chosen = named[np.arange(len(named)), apart.argmin(axis=1)]
    mean = np.average(chosen, axis=0, weights=weight)
    return tightest(shapely.Polygon(mean))
