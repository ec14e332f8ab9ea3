"""Generated scenes of boxes, and observers who see them one tile at a time.

Shared by the tests of the seams and by ``benchmarks/seams.py``. The truth is known, so
what a merge makes of the tiles can be counted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilevision.findings import Findings, TileFindings
from tilevision.geometry import area, intersection, iou
from tilevision.grid import Grid, Tile

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scene:
    """An image's size and what is truly on it: boxes ``(n, 4)`` and their labels."""

    name: str
    size: tuple[int, int]
    boxes: Array
    labels: NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Observer:
    """How well a detector sees: the default sees all, exactly.

    Attributes
    ----------
    misses : float
        Chance that an object is not reported in a tile.
    jitter : float
        Standard deviation of every edge, as a share of the object's side.
    spurious : float
        Reports of nothing, as a share of the objects in the tile.
    least_visible : float
        Share of the object's area a tile must hold for it to be reported.
    """

    misses: float = 0.0
    jitter: float = 0.0
    spurious: float = 0.0
    least_visible: float = 0.0


PERFECT = Observer()
NOISY = Observer(misses=0.1, jitter=0.04, spurious=0.05, least_visible=0.15)


def _scatter(
    rng: np.random.Generator, n: int, size: tuple[int, int], wh: Array, most: float
) -> Array:
    """Place boxes of sides `wh` at random so that no two overlap by more than `most` IoU."""
    placed, count = np.empty((n, 4)), 0
    for sides in wh[:n]:
        for _ in range(200):
            corner = rng.uniform(0, np.maximum(np.array(size) - sides, 1))
            box = np.concatenate([corner, np.minimum(corner + sides, size)])
            there = placed[:count]
            near = there[((there[:, :2] < box[2:]) & (there[:, 2:] > box[:2])).all(axis=1)]
            if not len(near) or iou(near, box[None]).max() <= most:
                placed[count] = box
                count += 1
                break
    placed = placed[:count]
    placed.flags.writeable = False
    return placed


@functools.cache
def small(seed: int, size: tuple[int, int] = (2400, 2000), n: int = 480) -> Scene:
    """Objects of 10 to 30 px, far smaller than the overlap."""
    rng = np.random.default_rng(seed)
    boxes = _scatter(rng, n, size, rng.uniform(10, 30, (n, 2)), 0.0)
    return Scene("small", size, boxes, _labels(len(boxes)))


@functools.cache
def mixed(seed: int, size: tuple[int, int] = (2400, 2000), n: int = 480) -> Scene:
    """Objects of 12 to 400 px: many larger than the overlap, some as large as a tile."""
    rng = np.random.default_rng(seed)
    side = np.exp(rng.uniform(np.log(12), np.log(400), n))
    aspect = np.exp(rng.normal(0, 0.3, n))
    wh = np.column_stack([side * aspect, side / aspect])
    boxes = _scatter(rng, n, size, wh[np.argsort(-side)], 0.2)
    return Scene("mixed", size, boxes, _labels(len(boxes)))


@functools.cache
def dense(seed: int, size: tuple[int, int] = (1600, 1400), n: int = 2500) -> Scene:
    """Make a crowd: objects of one kind, shoulder to shoulder, overlapping up to 0.35 IoU."""
    rng = np.random.default_rng(seed)
    boxes = _scatter(rng, n, size, rng.uniform((18, 26), (34, 60), (n, 2)), 0.35)
    return Scene("dense", size, boxes, _labels(len(boxes)))


@functools.cache
def crowd(seed: int, size: tuple[int, int] = (1600, 1400), n: int = 1500) -> Scene:
    """Make a crowd of separate objects: side by side, hardly overlapping."""
    rng = np.random.default_rng(seed)
    boxes = _scatter(rng, n, size, rng.uniform((18, 18), (40, 40), (n, 2)), 0.03)
    return Scene("crowd", size, boxes, _labels(len(boxes)))


@functools.cache
def elongated(seed: int, size: tuple[int, int] = (2400, 2000), n: int = 160) -> Scene:
    """Objects eight to twenty times as long as wide, up to 900 px, across or down."""
    rng = np.random.default_rng(seed)
    long, ratio = rng.uniform(120, 900, n), rng.uniform(8, 20, n)
    wh = np.column_stack([long, long / ratio])
    across = rng.random(n) < 0.5
    wh[across] = wh[across][:, ::-1]
    boxes = _scatter(rng, n, size, wh, 0.05)
    return Scene("elongated", size, boxes, _labels(len(boxes)))


@functools.cache
def nested(seed: int, size: tuple[int, int] = (2400, 2000), n: int = 150) -> Scene:
    """Cars with two wheels of another class, and a door of the car's own class inside."""
    rng = np.random.default_rng(seed)
    cars = _scatter(rng, n, size, rng.uniform((90, 50), (220, 110), (n, 2)), 0.0)
    w, h = (cars[:, 2:] - cars[:, :2]).T[:, :, None]
    parts = [
        cars[:, [0, 1, 0, 1]] + np.array(part) * np.hstack([w, h, w, h])
        for part in ((0.1, 0.6, 0.3, 0.95), (0.7, 0.6, 0.9, 0.95), (0.35, 0.2, 0.6, 0.75))
    ]
    names = ["car", "wheel", "wheel", "car"]
    labels = np.repeat(np.array(names, dtype=object), len(cars))
    return Scene("nested", size, np.vstack([cars, *parts]), labels)


SCENES: dict[str, Callable[[int], Scene]] = {
    "small": small,
    "mixed": mixed,
    "crowd": crowd,
    "dense": dense,
    "elongated": elongated,
    "nested": nested,
}


def observe(
    scene: Scene, tiles: tuple[Tile, ...], observer: Observer = PERFECT, seed: int = 0
) -> list[TileFindings]:
    """Return what `observer` reports of `scene` in each of `tiles`.

    The ``class_ids`` are the truth: the row in `scene` of what is seen, -1 for nothing.
    """
    rng = np.random.default_rng(seed)
    return [_look(scene, tile, observer, rng) for tile in tiles]


def _look(scene: Scene, tile: Tile, observer: Observer, rng: np.random.Generator) -> TileFindings:
    region = np.array(tile.box.as_tuple())
    shared = intersection(scene.boxes, region[None])
    visible = shared / area(scene.boxes)
    seen = np.flatnonzero((shared > 0) & (visible >= observer.least_visible))
    seen = seen[rng.random(len(seen)) >= observer.misses]
    boxes, labels, visible, truth = scene.boxes[seen], scene.labels[seen], visible[seen], seen
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    boxes = boxes + rng.normal(0, 1, boxes.shape) * observer.jitter * sides
    scores = 0.5 + 0.45 * visible
    if observer.jitter:
        scores = scores + rng.normal(0, 0.1, len(scores))
    extra = rng.binomial(len(seen), observer.spurious) if len(seen) else 0
    if extra:
        pick = rng.integers(0, len(seen), extra)
        corner = rng.uniform(region[:2], region[2:], (extra, 2))
        boxes = np.vstack([boxes, np.hstack([corner, corner + sides[pick, 2:]])])
        labels = np.concatenate([labels, labels[pick]])
        truth = np.concatenate([truth, np.full(extra, -1)])
        scores = np.concatenate([scores, rng.normal(0.5, 0.12, extra)])
    boxes = np.clip(boxes, np.tile(region[:2], 2), np.tile(region[2:], 2))
    keep = (boxes[:, 2:] - boxes[:, :2] > 0).all(axis=1)
    findings = Findings(
        (boxes[keep] - np.tile(region[:2], 2)) * tile.scale,
        np.clip(scores[keep], 0.05, 0.99),
        labels[keep],
        class_ids=truth[keep],
    )
    return TileFindings(tile, findings)


def f1(scene: Scene, found: Findings, threshold: float = 0.5) -> float:
    """Return the F1 of `found` against the truth, one to one within a class."""
    hits = 0
    for label in np.unique(scene.labels.astype(str)):
        true = scene.boxes[scene.labels == label]
        ours = found.boxes[found.labels == label]
        hits += _hits(true, ours, threshold)
    return 2 * hits / max(len(scene.boxes) + len(found), 1)


def count_error(scene: Scene, found: Findings) -> float:
    """Return how many too many (or too few) were found, as a share of the truth."""
    return (len(found) - len(scene.boxes)) / len(scene.boxes)


def _hits(true: Array, ours: Array, threshold: float) -> int:
    from scipy.optimize import linear_sum_assignment

    if not len(true) or not len(ours):
        return 0
    overlap = iou(true[:, None], ours[None])
    good = overlap >= threshold
    rows, cols = linear_sum_assignment(good * (1 + overlap), maximize=True)
    return int(good[rows, cols].sum())


def _labels(n: int) -> NDArray[np.object_]:
    return np.full(n, "object", dtype=object)


def grid_tiles(size: tuple[int, int], overlap: float | str, tile: int = 480) -> tuple[Tile, ...]:
    """Return the tiles of a grid as tests and benchmarks cut it."""
    return Grid.by_tile(tile, overlap).tiles(size)
