"""Scenes of outlines whose count is known, and what tiles see of them.

Shared by the tests of the seams and by ``benchmarks/counts.py``. A tile sees each object cut at
its edges; what falls apart there is reported as several pieces, as labelled masks are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import shapely
from shapely import affinity

from tilevision.findings import Findings, TileFindings
from tilevision.grid import Tile

LEAST = 4.0  # square pixels; less is not reported


def look(
    shapes: Sequence[Any], tiles: Sequence[Tile], labels: Sequence[str] | None = None
) -> list[TileFindings]:
    """Return what `tiles` see of `shapes`, each connected piece by itself."""
    tree = shapely.STRtree(shapes)
    out = []
    for tile in tiles:
        frame = shapely.box(*tile.box.as_tuple())
        rows = np.sort(tree.query(frame))
        seen = shapely.intersection(np.asarray(shapes, dtype=object)[rows], frame)
        parts, owner = shapely.get_parts(seen, return_index=True)
        good = (shapely.get_type_id(parts) == 3) & (shapely.area(parts) >= LEAST)
        parts, owner = parts[good], rows[owner[good]]
        named = [labels[row] for row in owner] if labels is not None else ["object"] * len(parts)
        out.append(TileFindings(tile, findings(parts, named, tile)))
    return out


def findings(parts: Sequence[Any], labels: Sequence[str], tile: Tile) -> Findings:
    """Return geometries of the image as findings of `tile`."""
    if not len(parts):
        return Findings()
    move = [tile.scale, 0, 0, tile.scale, -tile.box.x0 * tile.scale, -tile.box.y0 * tile.scale]
    moved = [affinity.affine_transform(part, move) for part in parts]
    rings = [
        [
            [np.array(r.coords)[:-1] for r in (p.exterior, *p.interiors)]
            for p in shapely.get_parts(m)
        ]
        for m in moved
    ]
    return Findings(shapely.bounds(moved), labels=list(labels), polygons=rings)


def outlines(found: Findings) -> Any:
    """Return the outlines of `found` as geometries."""
    from tilevision.overlaps import geometries

    return geometries(len(found), None, found.polygons) if len(found) else np.empty(0, dtype=object)


def compare(truth: Any, found: Any) -> dict[str, float]:
    """Return counts, one to one at IoU 0.5: truth, found, missed, doubled, beside, IoU.

    Doubled are those that lie for half or more in an object that another one stands for.
    """
    truth, found = np.asarray(truth, dtype=object), np.asarray(found, dtype=object)
    there, here = shapely.STRtree(truth).query(found, predicate="intersects")[::-1]
    shared = shapely.area(shapely.intersection(found[here], truth[there]))
    area, true = shapely.area(found), shapely.area(truth)
    overlap = shared / (area[here] + true[there] - shared)
    hit, used, likeness = np.zeros(len(truth), bool), np.zeros(len(found), bool), []
    for pair in np.argsort(-overlap, kind="stable"):
        if overlap[pair] >= 0.5 and not hit[there[pair]] and not used[here[pair]]:
            hit[there[pair]] = used[here[pair]] = True
            likeness.append(overlap[pair])
    upon = (shared >= 0.5 * np.minimum(area[here], true[there])) & hit[there] & ~used[here]
    doubled = len(np.unique(here[upon]))
    return {
        "truth": len(truth),
        "found": len(found),
        "missed": int((~hit).sum()),
        "doubled": doubled,
        "beside": int((~used).sum()) - doubled,
        "iou": float(np.mean(likeness)) if likeness else float("nan"),
    }


def _placed(
    rng: np.random.Generator, size: tuple[int, int], n: int, make: Callable[[], Any], room: float
) -> list[Any]:
    """Place `n` shapes at random, none nearer to another than `room`; fewer where there is none."""
    taken: list[Any] = []
    for _ in range(n):
        for _ in range(60):
            shape = make()
            low, high = np.array(shape.bounds[:2]), np.array(shape.bounds[2:])
            free = np.array(size) - (high - low) - 2
            if (free <= 0).any():
                continue
            shape = affinity.translate(shape, *(rng.uniform(1, free) - low))
            if all(shape.distance(other) > room for other in taken):
                taken.append(shape)
                break
    return taken


def discs(rng: np.random.Generator, size: tuple[int, int], n: int = 150) -> list[Any]:
    """Discs of 4 to 15 px, apart."""
    return _placed(rng, size, n, lambda: shapely.Point(0, 0).buffer(rng.uniform(4, 15)), 2)


def touching(rng: np.random.Generator, size: tuple[int, int], n: int = 0) -> list[Any]:
    """Cells that share their walls: each place is in one of them."""
    centres = [shapely.Point(*xy) for xy in rng.uniform(0, size, (n or 250, 2))]
    frame = shapely.box(0, 0, *size)
    cells = shapely.get_parts(
        shapely.voronoi_polygons(shapely.MultiPoint(centres), extend_to=frame)
    )
    return [cell for cell in shapely.intersection(cells, frame) if cell.area > LEAST]


def worms(rng: np.random.Generator, size: tuple[int, int], n: int = 14) -> list[Any]:
    """Curved bands, longer than the overlap and some longer than a tile."""

    def make() -> Any:
        turn = np.cumsum(rng.normal(0, 0.35, 24)) + rng.uniform(0, 2 * np.pi)
        step = rng.uniform(6, 16)
        line = np.cumsum(step * np.column_stack([np.cos(turn), np.sin(turn)]), axis=0)
        return shapely.LineString(line).buffer(rng.uniform(3, 7))

    return _placed(rng, size, n, make, 3)


def lines(rng: np.random.Generator, size: tuple[int, int], n: int = 16) -> list[Any]:
    """Thin straight lines at any angle, up to most of the image long."""

    def make() -> Any:
        turn, length = rng.uniform(0, np.pi), rng.uniform(40, 0.7 * min(size))
        end = length * np.array([np.cos(turn), np.sin(turn)])
        return shapely.LineString([(0, 0), end]).buffer(1.5, cap_style="flat")

    return _placed(rng, size, n, make, 8)


def horseshoes(rng: np.random.Generator, size: tuple[int, int], n: int = 14) -> list[Any]:
    """Concave shapes: an edge across the arms leaves two pieces of them."""

    def make() -> Any:
        radius, width = rng.uniform(25, 80), rng.uniform(5, 12)
        line = [
            (radius * np.cos(a), radius * np.sin(a))
            for a in np.linspace(0.25, 2 * np.pi - 0.25, 40)
        ]
        shape = shapely.LineString(line).buffer(width / 2, cap_style="flat")
        return affinity.rotate(shape, rng.uniform(0, 360), origin=(0, 0))

    return _placed(rng, size, n, make, 3)


def rings(rng: np.random.Generator, size: tuple[int, int], n: int = 14) -> list[Any]:
    """Rings, and a disc in the hole of every other one."""

    def make() -> Any:
        radius = rng.uniform(25, 80)
        return shapely.Point(0, 0).buffer(radius) - shapely.Point(0, 0).buffer(radius - 7)

    around = _placed(rng, size, n, make, 3)
    return around + [ring.centroid.buffer(6) for ring in around[::2]]


def nested(rng: np.random.Generator, size: tuple[int, int], n: int = 14) -> list[Any]:
    """Discs with smaller discs of the same class inside: both are objects."""
    large = _placed(rng, size, n, lambda: shapely.Point(0, 0).buffer(rng.uniform(20, 50)), 4)
    small = [disc.centroid.buffer(5) for disc in large]
    return large + small


def on_edges(rng: np.random.Generator, size: tuple[int, int], n: int = 0) -> list[Any]:
    """Discs and squares whose sides or middles lie on multiples of 50 px, where tiles end."""
    out = []
    for x in range(50, size[0] - 20, 50):
        for y in range(50, size[1] - 20, 50):
            kind = rng.integers(4)
            if kind == 0:
                out.append(shapely.box(x, y, x + 12, y + 12))
            elif kind == 1:
                out.append(shapely.box(x - 12, y - 12, x, y))
            elif kind == 2:
                out.append(shapely.Point(x, y).buffer(9))
            else:
                out.append(shapely.box(x - 10, y, x + 10, y + 8))
    return out


SCENES: dict[str, Callable[..., list[Any]]] = {
    "discs": discs,
    "touching": touching,
    "worms": worms,
    "lines": lines,
    "horseshoes": horseshoes,
    "rings": rings,
    "nested": nested,
    "on edges": on_edges,
}
