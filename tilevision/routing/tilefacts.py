"""What is known of a tile before any model has seen it, from one small picture of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.sources import ImageSource, display_options, to_uint8

__all__ = ["TileFacts", "tile_facts"]

THUMBNAIL_SIDE = 2048
EDGE_STEP = 16  # grey levels between neighbouring pixels; noise and JPEG blocks stay below


@dataclass(frozen=True, slots=True)
class TileFacts:
    """A tile as a thumbnail of the image shows it; the same on every machine.

    Parameters
    ----------
    id : str
    row, col : int
    box : Box
        Pixels of the full-resolution image, half-open.
    image_size : (int, int)
        Width and height of the image, pixels.
    edge_density : float
        Share of the tile's thumbnail pixels that differ from their right or lower neighbour by
        more than 16 grey levels, 0 to 1.
    brightness, contrast : tuple of 3 floats
        Mean and standard deviation of red, green and blue, 0 to 255.
    saturation : float
        Mean of (max - min) / max over the three colours, 0 (grey) to 1.

    Notes
    -----
    The thumbnail's longer side is at most 2048 pixels, whatever the size of the image: details
    smaller than one of its pixels are not seen.
    """

    id: str
    row: int
    col: int
    box: Box
    image_size: tuple[int, int]
    edge_density: float
    brightness: tuple[float, float, float]
    contrast: tuple[float, float, float]
    saturation: float


def tile_facts(source: ImageSource, tiles: Sequence[Tile]) -> list[TileFacts]:
    """Return the facts of each of `tiles`, in order, from one thumbnail of `source`.

    Raises
    ------
    SourceError
        If the image cannot be read.
    """
    pixels = to_uint8(source.thumbnail(THUMBNAIL_SIDE), display_options(source))
    rgb = pixels.astype(np.float64)
    windows = _windows(tiles, source.size, rgb.shape[:2])
    edges = _mean(_edges(rgb.mean(axis=2)), windows)
    means = [_mean(rgb[..., band], windows) for band in range(3)]
    squares = [_mean(rgb[..., band] ** 2, windows) for band in range(3)]
    spreads = [np.sqrt(np.maximum(s - m**2, 0)) for m, s in zip(means, squares, strict=True)]
    brightest = rgb.max(axis=2)
    colour = _mean((brightest - rgb.min(axis=2)) / np.maximum(brightest, 1), windows)
    columns = np.column_stack([edges, *means, *spreads, colour]).round(6).tolist()
    return [
        TileFacts(
            tile.id,
            tile.row,
            tile.col,
            tile.box,
            source.size,
            edge_density=edge,
            brightness=(red, green, blue),
            contrast=(reds, greens, blues),
            saturation=saturation,
        )
        for tile, (edge, red, green, blue, reds, greens, blues, saturation) in zip(
            tiles, columns, strict=True
        )
    ]


def _windows(
    tiles: Sequence[Tile], size: tuple[int, int], shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """Return ``(n, 4)`` windows of the thumbnail: x0, y0, x1, y1, at least one pixel each."""
    boxes = np.array([tile.box.as_tuple() for tile in tiles], dtype=np.float64).reshape(-1, 4)
    height, width = shape
    scaled = boxes * np.tile([width / size[0], height / size[1]], 2)
    low = np.clip(np.floor(scaled[:, :2]), 0, [width - 1, height - 1])
    high = np.clip(np.ceil(scaled[:, 2:]), low + 1, [width, height])
    return np.hstack([low, high]).astype(np.int64)


def _mean(values: NDArray[np.float64], windows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean of `values` in each window, by a table of sums: the same cost for any."""
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    sums[1:, 1:] = values.cumsum(axis=0).cumsum(axis=1)
    x0, y0, x1, y1 = windows.T
    total = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    out: NDArray[np.float64] = total / ((x1 - x0) * (y1 - y0))
    return out


def _edges(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 where a pixel differs from its right or lower neighbour, else 0."""
    found = np.zeros(grey.shape, dtype=bool)
    found[:, :-1] |= np.abs(np.diff(grey, axis=1)) > EDGE_STEP
    found[:-1] |= np.abs(np.diff(grey, axis=0)) > EDGE_STEP
    return found.astype(np.float64)
