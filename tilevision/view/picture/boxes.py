"""Boxes of many tiles, shared between states: adding boxes does not copy the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tilevision.events import TileChanged
from tilevision.findings import Findings
from tilevision.geometry import Box
from tilevision.plot import class_colours, shown

__all__ = ["MOST_HITS", "BoxChunk", "BoxLayer", "LayerMix", "hits", "seen_boxes"]

LIMIT = 200_000  # with more boxes, each tile keeps fewer: the picture is full by then
PER_TILE = 256
MOST_HITS = 2000
NAME_LIMIT = 60

# x0, y0, x1, y1, label, score (NaN for none)
SeenBox = tuple[int, int, int, int, str, float]


@dataclass(frozen=True, slots=True, eq=False)
class BoxChunk:
    """Boxes that were added together.

    Attributes
    ----------
    boxes : array (n, 4)
        x0, y0, x1, y1, full-resolution image pixels.
    labels, tiles, ranks : array (n,) of int
        Number of the label and of the tile; rank within the tile, strongest first.
    scores : array (n,)
        NaN if the model gives none.
    outlines : tuple of tuple of array, optional
        Closed rings (k, 2) of each row, in image pixels; none for a row that is just a box.
    by_hand : array (n,) of bool, optional
        Which of them a person corrected; None: none.
    """

    boxes: NDArray[np.float64]
    labels: NDArray[np.int32]
    tiles: NDArray[np.int32]
    ranks: NDArray[np.int32]
    scores: NDArray[np.float32]
    outlines: tuple[tuple[NDArray[np.float64], ...], ...] | None = None
    by_hand: NDArray[np.bool_] | None = None

    def take(self, keep: NDArray[np.bool_]) -> BoxChunk:
        """Return the rows marked in `keep`; the chunk itself if that is all of them."""
        if keep.all():
            return self
        outlines = self.outlines
        return BoxChunk(
            self.boxes[keep],
            self.labels[keep],
            self.tiles[keep],
            self.ranks[keep],
            self.scores[keep],
            None if outlines is None else tuple(outlines[i] for i in np.flatnonzero(keep)),
            None if self.by_hand is None else self.by_hand[keep],
        )

    def relabelled(self, labels: NDArray[np.int32]) -> BoxChunk:
        """Return the same rows with other numbers of labels."""
        return replace(self, labels=labels)

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, slots=True, eq=False)
class BoxLayer:
    """All boxes so far, as chunks in the order in which they were added.

    A chunk never changes: who has seen an older layer needs to look at the new chunks only.

    Attributes
    ----------
    chunks : tuple of BoxChunk
    labels : tuple of str
        In order of first appearance; untrusted text.
    per_tile : int
        How many boxes of a tile are kept.
    filled : frozenset of int
        Tiles that have boxes.
    totals : tuple of int
        Number of boxes of each label.
    palette : tuple of str
        Colour of each label; empty: the colours that classes of those names have.
    """

    chunks: tuple[BoxChunk, ...] = ()
    labels: tuple[str, ...] = ()
    per_tile: int = PER_TILE
    filled: frozenset[int] = frozenset()
    totals: tuple[int, ...] = ()
    palette: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(self.totals)

    @property
    def colours(self) -> tuple[str, ...]:
        """Colour of each label, ``#rrggbb``."""
        return self.palette or tuple(class_colours(self.labels).values())

    @property
    def counts(self) -> dict[str, int]:
        """Number of boxes by label."""
        return dict(zip(self.labels, self.totals, strict=True))

    @classmethod
    def of(
        cls,
        findings: Findings,
        labels: Sequence[str] = (),
        by_hand: NDArray[np.bool_] | None = None,
    ) -> BoxLayer:
        """Return the strongest boxes of `findings`, which are in image pixels.

        `labels` come first, in their order; `by_hand` ``(n,)`` says which a person corrected.
        """
        n = min(len(findings), LIMIT)
        names = list(map(str, findings.labels[:n]))
        numbers = {label: i for i, label in enumerate(dict.fromkeys([*labels, *names]))}
        chunk = BoxChunk(
            boxes=findings.boxes[:n],
            labels=np.fromiter(map(numbers.__getitem__, names), np.int32, n),
            tiles=np.full(n, -1, dtype=np.int32),
            ranks=np.zeros(n, dtype=np.int32),
            scores=findings.scores[:n].astype(np.float32),
            outlines=_outlines(findings, n),
            by_hand=None if by_hand is None else by_hand[:n],
        )
        return _counted(cls(chunks=(chunk,) if n else (), labels=tuple(numbers)))

    def with_tiles(self, found: Mapping[int, Sequence[SeenBox]]) -> BoxLayer:
        """Return the layer in which each tile in `found` has exactly those boxes."""
        layer = self.without(self.filled & found.keys())
        rows = [
            (box, tile, rank)
            for tile, boxes in found.items()
            for rank, box in enumerate(boxes[: layer.per_tile])
        ]
        if not rows:
            return layer
        numbers = {label: i for i, label in enumerate(layer.labels)}
        labels = [numbers.setdefault(box[4], len(numbers)) for box, _, _ in rows]
        chunk = BoxChunk(
            boxes=np.array([box[:4] for box, _, _ in rows], dtype=np.float64),
            labels=np.array(labels, dtype=np.int32),
            tiles=np.array([tile for _, tile, _ in rows], dtype=np.int32),
            ranks=np.array([rank for _, _, rank in rows], dtype=np.int32),
            scores=np.array([box[5] for box, _, _ in rows], dtype=np.float32),
        )
        totals = np.bincount(chunk.labels, minlength=len(numbers))
        totals[: len(layer.totals)] += np.array(layer.totals, dtype=np.int64)
        grown = replace(
            layer,
            chunks=(*layer.chunks, chunk),
            labels=tuple(numbers),
            filled=layer.filled | {tile for _, tile, _ in rows},
            totals=tuple(totals.tolist()),
        )
        return _thinned(grown)

    def showing(self, shown: Callable[[str], bool]) -> BoxLayer:
        """Return the layer without the boxes of classes that are not `shown`."""
        keep = np.array([shown(label) for label in self.labels], dtype=bool)
        if keep.all():
            return self
        return _kept(self, [keep[chunk.labels] for chunk in self.chunks])

    def without(self, tiles: frozenset[int]) -> BoxLayer:
        """Return the layer without the boxes of `tiles`."""
        if not tiles:
            return self
        gone = np.fromiter(tiles, np.int32, len(tiles))
        kept = _kept(self, [~np.isin(chunk.tiles, gone) for chunk in self.chunks])
        return replace(kept, filled=self.filled - tiles)


class LayerMix:
    """Joins merged boxes with those of tiles that have ended since they were merged.

    As long as the merged boxes stay the same, the chunks of the joined layer do, too.
    """

    def __init__(self) -> None:
        self._merged: BoxLayer | None = None
        self._labels: dict[str, int] = {}
        self._rest: dict[BoxChunk, BoxChunk] = {}

    def layer(self, merged: BoxLayer, tiles: frozenset[int], boxes: BoxLayer) -> BoxLayer:
        """Return `merged` and the boxes in `boxes` of tiles that are not in `tiles`."""
        if merged is not self._merged:
            self._merged, self._rest = merged, {}
            self._labels = {label: i for i, label in enumerate(merged.labels)}
        if boxes.filled <= tiles:
            return merged
        for label in boxes.labels:
            self._labels.setdefault(label, len(self._labels))
        numbers = np.array([self._labels[label] for label in boxes.labels], dtype=np.int32)
        known = np.fromiter(tiles, np.int32, len(tiles))
        for chunk in boxes.chunks:
            if chunk not in self._rest:
                rest = chunk.take(~np.isin(chunk.tiles, known))
                self._rest[chunk] = replace(rest, labels=numbers[rest.labels])
        more = [rest for chunk in boxes.chunks if len(rest := self._rest[chunk])]
        mixed = replace(merged, chunks=(*merged.chunks, *more), labels=tuple(self._labels))
        return _counted(mixed)


def hits(layer: BoxLayer, view: Box, limit: int = MOST_HITS) -> tuple[bytes, list[str]]:
    """Return the boxes of `layer` in `view`, for the tooltip, and the names of their classes.

    Returns
    -------
    rows : bytes
        float32 ``(n, 6)``: x0, y0, x1, y1 in pixels from the corner of `view`, number of the
        name, score (NaN for none). If there are more than `limit`, the largest: the pointer
        could not reach the small ones.
    names : list of str
        Class names, made safe to show.
    """
    if not layer.chunks:
        return b"", []
    boxes = np.concatenate([chunk.boxes for chunk in layer.chunks])
    inside = (boxes[:, 2:] > (view.x0, view.y0)).all(axis=1)
    inside &= (boxes[:, :2] < (view.x1, view.y1)).all(axis=1)
    at = np.flatnonzero(inside)
    if len(at) > limit:
        sides = boxes[at, 2:] - boxes[at, :2]
        at = at[np.argpartition(-sides.prod(axis=1), limit)[:limit]]
    labels = np.concatenate([chunk.labels for chunk in layer.chunks])[at]
    scores = np.concatenate([chunk.scores for chunk in layer.chunks])[at]
    used, numbers = np.unique(labels, return_inverse=True)
    corner = np.array([view.x0, view.y0] * 2)
    rows = np.column_stack([boxes[at] - corner, numbers, scores]).astype("<f4")
    return rows.tobytes(), [shown(layer.labels[i], NAME_LIMIT) for i in used]


def seen_boxes(event: TileChanged) -> list[SeenBox]:
    """Return the boxes that an event carries, with their scores."""
    scores = event.scores or (None,) * len(event.boxes)
    return [
        (*box, math.nan if score is None else score)
        for box, score in zip(event.boxes, scores, strict=False)
    ]


def _outlines(findings: Findings, n: int) -> tuple[tuple[NDArray[np.float64], ...], ...] | None:
    if findings.polygons is None:
        return None
    return tuple(
        tuple(np.concatenate([ring, ring[:1]]) for part in shape or () for ring in part)
        for shape in findings.polygons[:n]
    )


def _thinned(layer: BoxLayer) -> BoxLayer:
    while len(layer) > LIMIT and layer.per_tile > 1:
        limit = layer.per_tile // 2
        kept = _kept(layer, [chunk.ranks < limit for chunk in layer.chunks])
        layer = replace(kept, per_tile=limit)
    return layer


def _kept(layer: BoxLayer, keep: list[NDArray[np.bool_]]) -> BoxLayer:
    chunks = [chunk.take(rows) for chunk, rows in zip(layer.chunks, keep, strict=True)]
    return _counted(replace(layer, chunks=tuple(chunk for chunk in chunks if len(chunk))))


def _counted(layer: BoxLayer) -> BoxLayer:
    total = np.zeros(len(layer.labels), dtype=np.int64)
    for chunk in layer.chunks:
        total += np.bincount(chunk.labels, minlength=len(total))
    return replace(layer, totals=tuple(total.tolist()))
