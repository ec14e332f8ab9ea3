"""Where the maps of tiles lie in the map of the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tilevision.errors import RunError
from tilevision.findings import TileFindings
from tilevision.grid import Tile
from tilevision.payloads import StoredArray, kind_of
from tilevision.rasters.weights import Span, spans_of
from tilevision.rasterspec import RasterSpec

__all__ = ["Placed", "TileMaps", "place_of", "tile_maps"]


@dataclass(frozen=True, slots=True)
class Placed:
    """The map of one tile.

    Parameters
    ----------
    tile : Tile
    array : StoredArray
    across, down : Span
        Its columns and rows in the map of the image.
    """

    tile: Tile
    array: StoredArray
    across: Span
    down: Span


class TileMaps:
    """The maps of all tiles of an image, on one grid of pixels.

    Parameters
    ----------
    spec : RasterSpec
    scale : float
        Pixels of the map per image pixel.
    size : tuple of int
        Width and height of the map.
    placed : sequence of Placed
        Of tiles that have a map, in the order of the grid.
    missing : int
        How many tiles have none: failed, skipped, not yet run.
    """

    def __init__(
        self,
        spec: RasterSpec,
        scale: float,
        size: tuple[int, int],
        placed: Sequence[Placed],
        missing: int,
    ) -> None:
        self.spec = spec
        self.scale = scale
        self.size = size
        self.placed = tuple(placed)
        self.missing = missing
        self.planes: int = self.placed[0].array.ref.shape[0]
        self._boxes = np.array(
            [(p.across.start, p.down.start, p.across.stop, p.down.stop) for p in self.placed]
        )

    def within(self, x0: int, y0: int, x1: int, y1: int) -> Iterator[Placed]:
        """Yield the tiles that share pixels with a window of the map, in the order of the grid."""
        boxes = self._boxes
        near = (boxes[:, 0] < x1) & (boxes[:, 2] > x0) & (boxes[:, 1] < y1) & (boxes[:, 3] > y0)
        for number in np.flatnonzero(near).tolist():
            yield self.placed[number]

    @property
    def deepest(self) -> int:
        """Return how many tiles cover one pixel at most."""
        depth = 1
        for spans in ({p.across for p in self.placed}, {p.down for p in self.placed}):
            starts = sorted(span.start for span in spans)
            stops = sorted(span.stop for span in spans)
            over = np.searchsorted(starts, starts, "right") - np.searchsorted(
                stops, starts, "right"
            )
            depth *= int(over.max())
        return depth


def tile_maps(
    tiles: Sequence[Tile], found: Sequence[TileFindings], size: tuple[int, int]
) -> TileMaps | None:
    """Return where the maps of tiles lie; None where no tile has one.

    Parameters
    ----------
    tiles : sequence of Tile
        All tiles of the run, whatever became of them: weights depend on the grid alone.
    found : sequence of TileFindings
    size : tuple of int
        Width and height of the image.

    Raises
    ------
    RunError
        If the maps are of several kinds, or the tiles of several scales.
    """
    maps = {one.tile: one.raster for one in found if one.raster is not None}
    if not maps:
        return None
    kinds = sorted({kind_of(one.ref) for one in maps.values()})
    if len(kinds) > 1:
        raise RunError(
            f"The tiles of this result have {' and '.join(kinds[:3])}, which are no one map; run "
            "each model by itself."
        )
    scales = {tile.scale for tile in tiles}
    if len(scales) > 1:
        raise RunError(
            f"The tiles of this result have {len(scales)} scales, so their maps are no one map; "
            "run with one resolution and without full_image."
        )
    scale = scales.pop()
    width, height = (max(1, round(side * scale)) for side in size)
    at = {tile: place_of(tile, (width, height)) for tile in tiles}
    across = spans_of([(x0, x1) for x0, _, x1, _ in at.values()], width)
    down = spans_of([(y0, y1) for _, y0, _, y1 in at.values()], height)
    placed = [
        Placed(tile, maps[tile], across[x0, x1], down[y0, y1])
        for tile, (x0, y0, x1, y1) in sorted(at.items())
        if tile in maps
    ]
    first = placed[0].array.ref.raster
    assert first is not None  # maps are read with their meaning, or not at all
    return TileMaps(first, scale, (width, height), placed, len(tiles) - len(placed))


def place_of(tile: Tile, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return where a tile's map lies: at the nearest pixel, within the map."""
    wide, high = tile.output_size
    x0 = min(round(tile.box.x0 * tile.scale), size[0] - wide)
    y0 = min(round(tile.box.y0 * tile.scale), size[1] - high)
    return x0, y0, x0 + wide, y0 + high
