"""A transparent picture of boxes that only grows: a box is drawn once, not once per frame."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.geometry import Box
from tilevision.plot.palette import rgb
from tilevision.plot.wording import OUTLINE
from tilevision.view.picture.boxes import BoxChunk, BoxLayer

__all__ = ["BoxCanvas", "dashed"]

SMALLEST_OUTLINED = 5.0  # px: a smaller box becomes a dot
DOT, RARE_DOT = 2, 4  # px
RARE = 50  # dots of a class: so few are larger and have a dark edge, or nobody finds them
LINE, HALO = 1.3, 2.9
HAND_LINE, HAND_DASHES = 1.8, (0, (3, 2))  # of what a person corrected
FEW = 2500  # lines that get a dark edge, for contrast on bright images
# Share of the picture covered by boxes, and the opacity up to it, so that tiles stay visible.
# Past the last step boxes cover each other, and each doubling halves the opacity.
FADING = ((0.2, 0.95), (0.5, 0.6), (1.0, 0.35))


class BoxCanvas:
    """The boxes of a `BoxLayer` over the region `view`, as a picture of `shape`.

    Parameters
    ----------
    view : Box
        Region shown, full-resolution image pixels.
    shape : tuple of int
        Height and width of the picture, pixels.
    """

    def __init__(self, view: Box, shape: tuple[int, int]) -> None:
        self._pixels = np.zeros((*shape, 4), dtype=np.uint8)
        self._renderer: Any = None  # its methods carry no types
        self._view, self._shape = view, shape
        self._drawn: tuple[BoxChunk, ...] = ()
        self._colours: tuple[str, ...] = ()
        self._ink = 0.0
        self._dots: Counter[int] = Counter()  # of each label

    def picture(self, layer: BoxLayer) -> NDArray[np.uint8]:
        """Return RGBA (h, w, 4), not premultiplied, of all boxes in `layer`."""
        colours = layer.colours
        recoloured = colours[: len(self._colours)] != self._colours
        self._colours = colours
        if recoloured or layer.chunks[: len(self._drawn)] != self._drawn:  # some were taken away
            self._drawn, self._ink = (), 0.0
            self._dots.clear()
            self._pixels[:] = 0
        if new := layer.chunks[len(self._drawn) :]:
            self._drawn, alpha, rare = layer.chunks, self._alpha, self._rare
            for chunk in new:
                self._measure(chunk)
            if self._alpha != alpha or not rare <= self._rare:
                self._pixels[:] = 0
                new = layer.chunks
            self._draw(new, colours)
        return self._pixels

    @property
    def _alpha(self) -> float:
        share = self._ink / (self._shape[0] * self._shape[1])
        for limit, alpha in FADING:
            if share < limit:
                return alpha
        return max(math.ldexp(FADING[-1][1], -math.ceil(math.log2(share))), 0.01)

    @property
    def _rare(self) -> frozenset[int]:
        """The labels of which few dots are to be seen."""
        return frozenset(label for label, n in self._dots.items() if n <= RARE)

    def _measure(self, chunk: BoxChunk) -> None:
        """Add up how much of the picture is covered, and the dots of each label."""
        boxes = self._on_picture(chunk.boxes)
        extent = np.minimum(boxes[:, 2:], self._shape[::-1]) - np.maximum(boxes[:, :2], 0)
        seen = (extent > 0).all(axis=1)
        self._ink += float(np.maximum(2 * LINE * extent[seen].sum(axis=1), 4).sum())
        labels, n = np.unique(chunk.labels[seen & _small(boxes)], return_counts=True)
        self._dots.update(dict(zip(labels.tolist(), n.tolist(), strict=True)))

    def _on_picture(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        origin = np.array([self._view.x0, self._view.y0] * 2)
        factor = np.array([self._shape[1] / self._view.width, self._shape[0] / self._view.height])
        mapped: NDArray[np.float64] = (boxes - origin) * np.tile(factor, 2)
        return mapped

    def _draw(self, chunks: tuple[BoxChunk, ...], colours: Sequence[str]) -> None:
        boxes = self._on_picture(np.concatenate([chunk.boxes for chunk in chunks]))
        labels = np.concatenate([chunk.labels for chunk in chunks])
        colour = np.array([rgb(value) for value in colours], dtype=np.uint8)[labels]
        height, width = self._shape
        seen = (boxes[:, 2:] > 0).all(axis=1) & (boxes[:, :2] < (width, height)).all(axis=1)
        small = _small(boxes)
        rare = seen & small & np.isin(labels, list(self._rare))
        common = seen & small & ~rare
        self._draw_dots(boxes[common], colour[common])
        lines = list(boxes[:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(-1, 5, 2))
        rings = [rings for c in chunks for rings in c.outlines or ((),) * len(c)]
        shown = np.flatnonzero(seen & ~small)
        drawn = [
            (line, row)
            for row in shown.tolist()
            for line in ([self._moved(ring) for ring in rings[row]] or [lines[row]])
        ]
        paths, of = [line for line, _ in drawn], np.array([row for _, row in drawn], dtype=int)
        hand = np.concatenate([_hand(chunk) for chunk in chunks])[of]
        for marked in (False, True):
            at = np.flatnonzero(hand == marked)
            self._draw_lines([paths[i] for i in at], colour[of[at]], dashes=marked)
        self._draw_dots(boxes[rare], np.zeros_like(colour[rare]), RARE_DOT + 2, 0.5)
        self._draw_dots(boxes[rare], colour[rare], RARE_DOT)

    def _moved(self, ring: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._on_picture(np.tile(ring, 2))[:, :2]

    def _draw_lines(
        self, paths: list[NDArray[np.float64]], colour: NDArray[np.uint8], *, dashes: bool
    ) -> None:
        if not paths:
            return
        if self._renderer is None:  # what has been drawn so far goes onto its canvas
            self._renderer = _agg(self._shape)
            pixels: NDArray[np.uint8] = np.asarray(self._renderer.buffer_rgba())
            pixels[:] = self._pixels
            self._pixels = pixels
        styles: list[tuple[Any, float]] = [(colour / 255, HAND_LINE if dashes else LINE)]
        if len(paths) <= FEW:
            styles.insert(0, ("#000000", HALO))
        for colours, width in styles:
            alpha = self._alpha * (0.5 if width == HALO else 1)
            style = HAND_DASHES if dashes and width != HALO else "solid"
            look = {"colors": colours, "linewidths": width, "alpha": alpha, "linestyles": [style]}
            _draw_on(self._renderer, paths, **look)

    def _draw_dots(
        self,
        boxes: NDArray[np.float64],
        colour: NDArray[np.uint8],
        side: int = DOT,
        share: float = 1.0,
    ) -> None:
        """Draw dots of `side` pixels in `share` of the opacity."""
        pixels = self._pixels
        height, width = self._shape
        x, y = np.round((boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5).astype(np.int64).T
        alpha = np.full(len(colour), round(255 * share * self._alpha), np.uint8)
        rgba = np.column_stack([colour, alpha])
        steps = range(1 - side // 2, 1 + side - side // 2)
        for dx, dy in product(steps, steps):
            pixels[(y + dy).clip(0, height - 1), (x + dx).clip(0, width - 1)] = rgba


def _small(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which boxes on the picture are too small to be outlined."""
    small: NDArray[np.bool_] = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) < SMALLEST_OUTLINED
    return small


def _hand(chunk: BoxChunk) -> NDArray[np.bool_]:
    return np.zeros(len(chunk), dtype=bool) if chunk.by_hand is None else chunk.by_hand


def dashed(
    rings: Sequence[NDArray[np.float64]], view: Box, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return RGBA (h, w, 4) of the outline of a region over `view`, dashed as nothing else is.

    Parameters
    ----------
    rings : sequence of array (k, 2)
        Closed, in image pixels.
    view : Box
    size : tuple of int
        Width and height of the picture, pixels.
    """
    width, height = size
    renderer = _agg((height, width))
    corner = np.array([view.x0, view.y0])
    factor = np.array([width / view.width, height / view.height])
    paths = [(ring - corner) * factor for ring in rings]
    for colour, line, style in (("#000000b0", 4.0, "solid"), (OUTLINE, 2.0, (0, (5, 3)))):
        _draw_on(renderer, paths, colors=colour, linewidths=line, linestyles=[style])
    return np.array(renderer.buffer_rgba())


def _agg(shape: tuple[int, int]) -> Any:
    """Return what draws lines onto a transparent picture of `shape`, 100 pixels to the inch."""
    # No figure: it would take as long again to load, for axes that nobody sees.
    from matplotlib.backends import backend_agg

    height, width = shape
    agg: Any = backend_agg  # carries no types
    renderer = agg.RendererAgg(width, height, 100)
    np.asarray(renderer.buffer_rgba())[:] = 0
    return renderer


def _draw_on(renderer: Any, paths: Sequence[NDArray[np.float64]], **look: Any) -> None:
    """Draw lines, in pixels of the picture from its upper left corner."""
    from matplotlib.collections import LineCollection

    upright = np.array([0, renderer.height]), np.array([1, -1])  # it counts rows from below
    LineCollection([upright[0] + path * upright[1] for path in paths], **look).draw(renderer)
