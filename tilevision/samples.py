"""Real pictures that come with scikit-image, and big generated ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import SourceError

__all__ = ["page", "sky", "tissue", "write_big"]

Kind = Literal["cells", "stars"]

_TILE = 256
# How far an object reaches beyond its centre; objects are placed tile by tile, so that any
# tile can be drawn from its own and its neighbours'.
_REACH = 13
_COLOURS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "cells": ((232, 218, 230), (96, 62, 140)),
    "stars": ((8, 9, 14), (244, 240, 226)),
}


def sky() -> NDArray[np.uint8]:
    """Return the Hubble deep field: galaxies and stars, ``(872, 1000, 3)`` RGB."""
    return _bundled("hubble_deep_field")


def tissue() -> NDArray[np.uint8]:
    """Return immunohistochemically stained colon tissue, ``(512, 512, 3)`` RGB."""
    return _bundled("immunohistochemistry")


def page() -> NDArray[np.uint8]:
    """Return a scanned page of printed text, ``(191, 384)`` grey."""
    return _bundled("page")


def write_big(path: str | os.PathLike[str], side: int, kind: Kind = "cells", seed: int = 0) -> Path:
    """Write a tiled RGB TIFF of round objects, block by block.

    The same arguments make the same pixels on every machine, and memory stays small
    whatever the side.

    Parameters
    ----------
    path : str or path
        Where to write; an existing file is replaced.
    side : int
        Width and height, pixels.
    kind : str
        ``"cells"``: dark nuclei on a light ground; ``"stars"``: light ones on a dark ground.
    seed : int

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    SourceError
        If `side` is not positive, `kind` is unknown, or the file cannot be written.
    """
    import tifffile

    if side < 1:
        raise SourceError(f"An image of {side} px makes no sense; give 1 px or more.")
    if kind not in _COLOURS:
        raise SourceError(f"There is no kind {kind!r}; give one of {', '.join(_COLOURS)}.")
    target = Path(path)
    try:
        tifffile.imwrite(
            target,
            _tiles(side, kind, seed),
            shape=(side, side, 3),
            dtype=np.uint8,
            tile=(_TILE, _TILE),
            photometric="rgb",
            compression="zlib",
            compressionargs={"level": 1},
            bigtiff=side > 30_000,
            metadata=None,
            software=False,
        )
    except OSError as error:
        raise SourceError(f"{target} cannot be written: {error.strerror}.") from error
    return target


def _bundled(name: str) -> NDArray[np.uint8]:
    from skimage import data

    picture: NDArray[np.uint8] = getattr(data, name)()
    return picture


def _tiles(side: int, kind: Kind, seed: int) -> Iterator[NDArray[np.uint8]]:
    for y0 in range(0, side, _TILE):
        for x0 in range(0, side, _TILE):
            yield _block(x0, y0, side, kind, seed)


def _block(x0: int, y0: int, side: int, kind: Kind, seed: int) -> NDArray[np.uint8]:
    cover = np.zeros((_TILE, _TILE), np.float32)
    for row in (y0 // _TILE - 1, y0 // _TILE, y0 // _TILE + 1):
        for column in (x0 // _TILE - 1, x0 // _TILE, x0 // _TILE + 1):
            for disc in _objects(row, column, side, kind, seed):
                _draw(cover, disc[0] - x0, disc[1] - y0, disc[2], disc[3])
    right, down = np.random.default_rng((seed, 1, x0, y0)).integers(0, _TILE, 2)
    cover += _grain()[down : down + _TILE, right : right + _TILE]
    return _ramp(kind)[np.clip(cover * 255, 0, 255).astype(np.uint8)]


@lru_cache(1)
def _grain() -> NDArray[np.float32]:
    noise = np.random.default_rng(0).normal(0.06, 0.015, (2 * _TILE, 2 * _TILE))
    return noise.astype(np.float32)


@lru_cache(2)
def _ramp(kind: Kind) -> NDArray[np.uint8]:
    """Return the colours ``(256, 3)`` from the ground to the darkest (lightest) object."""
    ground, ink = _COLOURS[kind]
    return np.rint(np.linspace(ground, ink, 256)).astype(np.uint8)


@lru_cache(4096)
def _objects(row: int, column: int, side: int, kind: Kind, seed: int) -> NDArray[np.float64]:
    """Return the objects ``(n, 4)`` centred in one tile: x, y, radius, darkness."""
    if min(row, column) < 0 or max(row, column) * _TILE >= side:
        return np.zeros((0, 4))
    rng = np.random.default_rng((seed, 0, row, column))
    most, low, high = (30, 5, 11) if kind == "cells" else (20, 1.5, 6)
    found = rng.uniform(size=(int(rng.integers(most // 2, most)), 4))
    origin = (column * _TILE, row * _TILE, low, 0.6)
    return found * (_TILE, _TILE, high - low, 0.4) + origin


def _draw(cover: NDArray[np.float32], x: float, y: float, radius: float, darkness: float) -> None:
    """Draw a disc around ``(x, y)`` of the tile; its rim is a pixel and a half soft."""
    left, top = max(0, int(x) - _REACH), max(0, int(y) - _REACH)
    right, bottom = min(_TILE, int(x) + _REACH + 1), min(_TILE, int(y) + _REACH + 1)
    if left >= right or top >= bottom:
        return
    across = np.arange(left, right, dtype=np.float32) + np.float32(0.5 - x)
    down = np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - y)
    away = np.sqrt(across * across + (down * down)[:, np.newaxis])
    shape = np.clip((radius - away) / 1.5 + 0.5, 0, 1) * darkness
    part = cover[top:bottom, left:right]
    np.maximum(part, shape, out=part, casting="same_kind")
