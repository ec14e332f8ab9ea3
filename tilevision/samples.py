"""Real pictures that come with scikit-image, and big generated ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import SourceError

__all__ = ["page", "sky", "tissue", "write_big"]

Kind = Literal["cells", "stars"]

_TILE = 256
# Objects are placed per cell of this lattice, so any block can be drawn on its own.
_CELL = 64
_REACH = 24
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
        raise SourceError(f"an image of {side} px makes no sense; give 1 px or more")
    if kind not in _COLOURS:
        raise SourceError(f"kind {kind!r} is not known; give one of {', '.join(_COLOURS)}")
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
            predictor=True,
            bigtiff=side > 30_000,
            metadata=None,
            software=False,
        )
    except OSError as error:
        raise SourceError(f"{target} cannot be written: {error.strerror}") from error
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
    """Draw one tile; objects of neighbouring cells reach into it."""
    cover = np.zeros((_TILE, _TILE), np.float32)
    for row in range((y0 - _REACH) // _CELL, (y0 + _TILE + _REACH) // _CELL + 1):
        for column in range((x0 - _REACH) // _CELL, (x0 + _TILE + _REACH) // _CELL + 1):
            for disc in _objects(row, column, side, kind, seed):
                _draw(cover, x0, y0, disc)
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


def _objects(row: int, column: int, side: int, kind: Kind, seed: int) -> NDArray[Any]:
    """Return the objects ``(n, 4)`` of one lattice cell: x, y, radius, darkness."""
    if min(row, column) < 0 or max(row, column) * _CELL >= side:
        return np.zeros((0, 4))
    rng = np.random.default_rng((seed, 0, row, column))
    count = int(rng.integers(0, 4 if kind == "cells" else 3))
    low, high = (5, 11) if kind == "cells" else (1.5, 6)
    return np.column_stack(
        [
            column * _CELL + rng.uniform(0, _CELL, count),
            row * _CELL + rng.uniform(0, _CELL, count),
            rng.uniform(low, high, count),
            rng.uniform(0.6, 1.0, count),
        ]
    )


def _draw(cover: NDArray[np.float32], x0: int, y0: int, disc: NDArray[Any]) -> None:
    x, y, radius, darkness = disc
    reach = radius + 2
    left, top = (max(0, int(v - reach)) for v in (x - x0, y - y0))
    right, bottom = (min(_TILE, int(v + reach) + 1) for v in (x - x0, y - y0))
    if left >= right or top >= bottom:
        return
    away = np.hypot(
        np.arange(left, right) + 0.5 - (x - x0), np.arange(top, bottom)[:, None] + 0.5 - (y - y0)
    )
    shape = np.clip((radius - away) / 1.5 + 0.5, 0, 1) * darkness
    part = cover[top:bottom, left:right]
    np.maximum(part, shape, out=part)
