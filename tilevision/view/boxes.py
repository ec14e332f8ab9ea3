"""Boxes of many tiles, shared between states: adding some does not copy the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["BoxChunk", "BoxLayer"]

LIMIT = 200_000  # past that many, each tile keeps fewer: the picture is full, memory is not
PER_TILE = 256

TileBox = tuple[int, int, int, int, str]


@dataclass(frozen=True, slots=True, eq=False)
class BoxChunk:
    """Boxes that came together.

    Attributes
    ----------
    boxes : array (n, 4)
        x0, y0, x1, y1, full-resolution image pixels.
    labels, tiles, ranks : array (n,) of int
        Number of the label and of the tile; place within the tile, strongest first.
    """

    boxes: NDArray[np.float64]
    labels: NDArray[np.int32]
    tiles: NDArray[np.int32]
    ranks: NDArray[np.int32]

    def take(self, keep: NDArray[np.bool_]) -> BoxChunk:
        """Return the rows marked in `keep`."""
        return BoxChunk(self.boxes[keep], self.labels[keep], self.tiles[keep], self.ranks[keep])

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, slots=True, eq=False)
class BoxLayer:
    """All boxes so far, as chunks in the order they came.

    A chunk never changes: what holds those of an older layer has only the rest to look at.

    Attributes
    ----------
    chunks : tuple of BoxChunk
    labels : tuple of str
        In order of first appearance; untrusted text.
    per_tile : int
        How many of a tile's boxes are kept.
    filled : frozenset of int
        Tiles that have boxes.
    """

    chunks: tuple[BoxChunk, ...] = ()
    labels: tuple[str, ...] = ()
    per_tile: int = PER_TILE
    filled: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return sum(map(len, self.chunks))

    @property
    def counts(self) -> dict[str, int]:
        """Boxes kept, by label."""
        total = np.zeros(len(self.labels), dtype=np.int64)
        for chunk in self.chunks:
            total += np.bincount(chunk.labels, minlength=len(total))
        return {label: int(n) for label, n in zip(self.labels, total, strict=True)}

    def with_tiles(self, found: Mapping[int, Sequence[TileBox]]) -> BoxLayer:
        """Return the layer where each tile in `found` has those boxes and no others."""
        layer = self.without(self.filled & found.keys())
        rows = [
            (box[:4], box[4], tile, rank)
            for tile, boxes in found.items()
            for rank, box in enumerate(boxes[: layer.per_tile])
        ]
        if not rows:
            return layer
        numbers = {label: i for i, label in enumerate(layer.labels)}
        chunk = BoxChunk(
            boxes=np.array([row[0] for row in rows], dtype=np.float64),
            labels=np.array([numbers.setdefault(row[1], len(numbers)) for row in rows], np.int32),
            tiles=np.array([row[2] for row in rows], dtype=np.int32),
            ranks=np.array([row[3] for row in rows], dtype=np.int32),
        )
        grown = replace(
            layer,
            chunks=(*layer.chunks, chunk),
            labels=tuple(numbers),
            filled=layer.filled | {row[2] for row in rows},
        )
        return _thinned(grown)

    def without(self, tiles: frozenset[int]) -> BoxLayer:
        """Return the layer without the boxes of `tiles`."""
        if not tiles:
            return self
        gone = np.fromiter(tiles, np.int32, len(tiles))
        kept = _kept(self, [~np.isin(chunk.tiles, gone) for chunk in self.chunks])
        return replace(kept, filled=self.filled - tiles)


def _thinned(layer: BoxLayer) -> BoxLayer:
    while len(layer) > LIMIT and layer.per_tile > 1:
        limit = layer.per_tile // 2
        kept = _kept(layer, [chunk.ranks < limit for chunk in layer.chunks])
        layer = replace(kept, per_tile=limit)
    return layer


def _kept(layer: BoxLayer, keep: list[NDArray[np.bool_]]) -> BoxLayer:
    chunks = [chunk.take(rows) for chunk, rows in zip(layer.chunks, keep, strict=True)]
    return replace(layer, chunks=tuple(chunk for chunk in chunks if len(chunk)))
