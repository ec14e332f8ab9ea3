"""Masks as polygons."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["outline", "ring", "rounded_with_areas", "traced", "with_areas"]


_CUT = 0.5  # pixels² that a ring through the middles of pixels' edges lacks, whatever its shape
_SHARPEST = 0.3  # below it lie corners so sharp that moving their sides would throw them far out


def outline(mask: NDArray[np.bool_], offset: tuple[float, float] = (0.0, 0.0)) -> Any:
    """Return the outline of a mask as parts of rings, or None where the mask is empty.

    Each ring has the area of the pixels that it goes around.

    Parameters
    ----------
    mask : array (h, w) of bool
    offset : tuple of float
        x, y of the mask's corner in the frame wanted.

    Returns
    -------
    list of list of array (k, 2), or None
        x, y in pixels, where pixel (0, 0) covers 0 to 1; the exterior first, then holes.
    """
    from skimage.measure import label

    labelled, count = label(mask, return_num=True, connectivity=1)
    return [_part(labelled == number, offset) for number in range(1, count + 1)] or None


def ring(mask: NDArray[np.bool_], offset: tuple[float, float] = (0.0, 0.0)) -> NDArray[np.float64]:
    """Return the exterior of a mask in one piece ``(k, 2)``, holes filled; frame as `outline`.

    It goes through the middles of pixels' edges, which leaves it half a pixel² smaller.
    """
    return np.asarray(_rings(mask)[0] + np.asarray(offset))


def traced(
    field: NDArray[Any],
    box: NDArray[np.float64],
    tile: tuple[int, int],
    scale: NDArray[np.float64],
    offset: NDArray[np.float64],
    level: float,
) -> Any:
    """Return the outline of where `field` passes `level` within a box, at pixels of the tile.

    Parameters
    ----------
    field : array (h, w)
        Of probabilities or logits; field = tile × scale + offset, in x and y.
    box : array (4,)
        In pixels of the tile.
    tile : tuple of int
        Width and height.
    scale, offset : array (2,)
    level : float
    """
    low = np.clip(np.floor(box[:2]), 0, tile).astype(int)
    high = np.clip(np.ceil(box[2:]), 0, tile).astype(int)
    if (high <= low).any():
        return None
    axes = [
        (np.arange(low[axis], high[axis]) + 0.5) * scale[axis] + offset[axis] - 0.5
        for axis in (0, 1)
    ]
    inside = _between(_between(field, axes[1], 0), axes[0], 1) > level
    return outline(inside, (float(low[0]), float(low[1])))


def with_areas(
    points: NDArray[np.float64],
    counts: NDArray[np.int64],
    areas: NDArray[np.float64],
    within: tuple[int, int] | None = None,
) -> NDArray[np.float64]:
    """Return rings whose sides are moved out or in until they have the areas wanted.

    Parameters
    ----------
    points : array (n, 2)
        Of all rings, one after the other, none closed.
    counts : array (rings,)
        How many of them each ring has.
    areas : array (rings,)
    within : tuple of int, optional
        Width and height of the tile, which no point leaves: sides along its edges stay there.
    """
    number, first, following, before = _neighbours(counts)
    for _ in range(2 if within is None else 6):  # the second time for what corners add
        steps = points[following] - points
        lengths = np.hypot(*steps.T)
        signed = np.add.reduceat(_cross(points, points[following]), first) / 2
        turn = np.sign(signed)[number]
        normals = (
            np.column_stack([steps[:, 1], -steps[:, 0]])
            * (turn / np.maximum(lengths, 1e-12))[:, None]
        )
        beside = normals[before]
        bend = 1 + (normals * beside).sum(axis=1)
        mitre = (normals + beside) / np.maximum(bend, _SHARPEST)[:, None]
        if within is not None:
            lengths = np.where(_along_edges(points, points[following], within), 0, lengths)
        around = np.add.reduceat(lengths, first)
        step = (areas - np.abs(signed)) / np.maximum(around, 1e-12)
        if within is None:
            points = points + mitre * step[number][:, None]
        else:  # rings of which little is free would be thrown far out
            step = step.clip(-0.5, 0.5)
            points = (points + mitre * step[number][:, None]).clip(0, within)
    return points


def _along_edges(
    one: NDArray[np.float64], two: NDArray[np.float64], within: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return which sides, from point to point ``(n, 2)``, lie on an edge of the tile."""
    straight = one == two
    return np.asarray((straight & ((one == 0) | (one == np.array(within)))).any(axis=1))


def rounded_with_areas(
    points: NDArray[np.float64],
    counts: NDArray[np.int64],
    areas: NDArray[np.float64],
    within: tuple[int, int] | None = None,
) -> NDArray[np.float64]:
    """Return rings with points at tenths of a pixel, and their areas still as near as can be.

    Rounding moves opposite sides alike, out or in. So afterwards, three times, that point of each
    ring is moved by a tenth that brings it nearest to its area, and not out of the tile `within`.
    """
    number, first, following, before = _neighbours(counts)
    points = np.round(points, 1)
    for _ in range(3):
        signed = np.add.reduceat(_cross(points, points[following]), first) / 2
        wrong = areas - np.abs(signed)
        chord = points[following] - points[before]
        # What the area gains where a point moves by a tenth to the right, and down.
        gains = np.column_stack([chord[:, 1], -chord[:, 0]]) * np.sign(signed)[number][:, None] / 20
        gains = np.column_stack([gains, -gains])
        left = np.abs(wrong[number][:, None] - gains)
        if within is not None:
            outside = np.hstack([points + 0.1 > np.array(within), points < 0.1])
            left = np.where(outside, np.inf, left)
        best = left.min(axis=1)
        least = np.minimum.reduceat(best, first)
        chosen = np.flatnonzero((best == least[number]) & (least < np.abs(wrong))[number])
        _, one = np.unique(number[chosen], return_index=True)
        chosen = chosen[one]
        way = left[chosen].argmin(axis=1)
        points[chosen, way % 2] += np.where(way < 2, 0.1, -0.1)
    return np.round(points, 1)


def _neighbours(counts: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
    """Return the ring of each point, each ring's first point, and the points after and before."""
    number = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    place = np.arange(len(number)) - first[number]
    following = first[number] + (place + 1) % counts[number]
    before = first[number] + (place - 1) % counts[number]
    return number, first, following, before


def _part(mask: NDArray[np.bool_], offset: tuple[float, float]) -> list[NDArray[np.float64]]:
    """Return the rings of a mask in one piece, each with the area of its pixels."""
    rings = [_rectangle(ring) for ring in _rings(mask)]
    counts = np.array([len(ring) for ring in rings])
    areas = np.array([abs(_signed_area(ring)) for ring in rings]) + np.where(counts > 4, _CUT, 0)
    moved = with_areas(np.concatenate(rings), counts, areas) + np.asarray(offset)
    return np.split(moved, np.cumsum(counts)[:-1])


def _rectangle(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the four corners of a ring around a rectangle of pixels; any other as it is."""
    (x0, y0), (x1, y1) = ring.min(axis=0), ring.max(axis=0)
    if abs(_signed_area(ring)) + _CUT < (x1 - x0) * (y1 - y0) - 1e-6:
        return ring
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _rings(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Return the rings of a mask in one piece, the exterior (the largest) first."""
    from skimage.measure import find_contours

    contours = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    # Padding moves everything by 1, and pixel centres lie at 0.5.
    rings = [contour[:-1, ::-1] - 0.5 for contour in contours]
    return sorted(rings, key=lambda ring: -abs(_signed_area(ring)))


def _signed_area(ring: NDArray[Any]) -> float:
    return float(_cross(ring, np.roll(ring, -1, axis=0)).sum()) / 2


def _cross(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])


def _between(field: NDArray[Any], at: NDArray[np.float64], axis: int) -> NDArray[Any]:
    """Interpolate linearly along one axis, at fractional positions."""
    at = np.clip(at, 0, field.shape[axis] - 1)
    below = np.floor(at).astype(int)
    above = np.minimum(below + 1, field.shape[axis] - 1)
    share = (at - below).reshape((-1, 1) if axis == 0 else (1, -1))
    return np.asarray(field.take(below, axis) * (1 - share) + field.take(above, axis) * share)
