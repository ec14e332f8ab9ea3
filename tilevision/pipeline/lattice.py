"""Tiles on the pixels of one map: maps of tiles that lie between its pixels are shifted by as much.

A shift of half a pixel changes the class of a few percent of the pixels; a tenth changes a tenth
of that.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import replace

from tilevision.geometry import Box
from tilevision.grid import Tile

__all__ = ["NEAR", "on_lattice", "residual", "snapped"]

SNAP = 1.05  # ratio of scales within which the one that divides pixels evenly is taken
NEAR = 0.1  # pixels of the map by which a tile may be off
MOST = 64  # pixels of the image that a tile is moved by

Span = tuple[int, int]


def snapped(scale: float, levels: Sequence[float]) -> float:
    """Return the scale for a map: of 1/n the nearest within 5 %; else a stored level's; else as is.

    The scale of a stored level stays as it is.

    Parameters
    ----------
    scale : float
    levels : sequence of float
        The scales that the file has stored.
    """
    if scale in levels or scale > SNAP:
        return scale
    even = 1 / max(1, round(1 / scale))
    for candidate in (even, *sorted(levels, key=lambda level: abs(math.log(level / scale)))):
        if max(candidate / scale, scale / candidate) <= SNAP:
            return candidate
    return scale


def on_lattice(tiles: Sequence[Tile], size: tuple[int, int], *, equal: bool) -> tuple[Tile, ...]:
    """Return tiles moved onto the pixels of their map, as far as that can be.

    Parameters
    ----------
    tiles : sequence of Tile
        Of a grid of rows and columns, at one scale.
    size : tuple of int
        Width and height of the image.
    equal : bool
        Whether all have one size, which stays; else each edge is moved by itself.
    """
    scale = tiles[0].scale
    move = _equal if equal else _each
    across = {tile.col: (int(tile.box.x0), int(tile.box.x1)) for tile in tiles}
    down = {tile.row: (int(tile.box.y0), int(tile.box.y1)) for tile in tiles}
    columns = dict(zip(across, move(list(across.values()), size[0], scale), strict=True))
    rows = dict(zip(down, move(list(down.values()), size[1], scale), strict=True))
    moved = []
    for tile in tiles:
        (x0, x1), (y0, y1) = columns[tile.col], rows[tile.row]
        moved.append(replace(tile, box=Box(x0, y0, x1, y1)))
    return tuple(moved)


def residual(tiles: Sequence[Tile], size: tuple[int, int]) -> tuple[float, float]:
    """Return by how many pixels of the map edges of tiles are off at most.

    Those within the image, and those at its border: an image that is no whole number of pixels of
    the map has a last one that is narrower.
    """
    within = border = 0.0
    for tile in tiles:
        width, height = tile.output_size
        box, scale = tile.box, tile.scale
        for start, stop, length, out in (
            (box.x0, box.x1, size[0], width),
            (box.y0, box.y1, size[1], height),
        ):
            place = round(start * scale)
            within = max(within, abs(start * scale - place))
            off = abs(stop * scale - place - out)
            if stop < length:
                within = max(within, off)
            else:
                border = max(border, off)
    return within, border


def _equal(spans: list[Span], length: int, scale: float) -> list[Span]:
    """Move spans of one length; the last ends at the border, and may be a little longer there."""
    if len(spans) == 1:
        return spans
    side = spans[0][1] - spans[0][0]
    # What a tile's pixels are too large or small by is shared by both ends.
    lean = (side * scale - round(side * scale)) / 2
    moved = [spans[0]]
    for number, (start, _) in enumerate(spans[1:-1], 1):
        before = moved[-1]
        low = max(before[0] + 1, spans[number + 1][0] - side)
        at = _nearest(start, scale, lean, range(low, min(before[1] + 1, length - side)))
        at = min(start, before[1]) if at is None else at
        moved.append((at, at + side))
    start, before = length - side, moved[-1]
    few = range(max(before[0] + 1, start - MOST), min(before[1], start + MOST) + 1)
    same = [k for k in few if round((length - k) * scale) == round(side * scale)]
    at = _nearest(start, scale, 0.0, same)
    return [*moved, (start if at is None else at, length)]


def _each(spans: list[Span], length: int, scale: float) -> list[Span]:
    """Move each edge within the image; edges at one place stay at one place."""

    def moved(at: int) -> int:
        if at in (0, length):
            return at
        found = _nearest(at, scale, 0.0, range(1, length))
        return at if found is None else found

    found = [(moved(start), moved(stop)) for start, stop in spans]
    return found if all(start < stop for start, stop in found) else spans


def _nearest(at: int, scale: float, lean: float, allowed: Container[int]) -> int | None:
    """Return the allowed pixel nearest to `at` that lies near a pixel of the map; None for none."""
    for away in range(MOST + 1):
        for k in (at - away, at + away):
            place = k * scale + lean
            if k in allowed and abs(place - round(place)) <= NEAR + 1e-9:
                return k
    return None
