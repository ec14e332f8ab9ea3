"""What a tile's pixels weigh where tiles overlap: whole numbers, for each axis by itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST", "Span", "span_weights", "spans_of"]

MOST = 255  # of a weight: two axes give up to 65,025, so 258 tiles over a pixel fit 32 bits


@dataclass(frozen=True, slots=True)
class Span:
    """Where the tiles of one row or column of a grid lie, along one axis.

    Parameters
    ----------
    start, stop : int
        Pixels of the map, half-open.
    before, after : int
        Pixels shared with the row or column before and after.
    first, last : bool
        Whether it reaches the border of the image there.
    """

    start: int
    stop: int
    before: int = 0
    after: int = 0
    first: bool = True
    last: bool = True


def spans_of(places: list[tuple[int, int]], length: int) -> dict[tuple[int, int], Span]:
    """Return the spans of a grid by where they start and stop.

    Parameters
    ----------
    places : list of (int, int)
        Start and stop of all tiles along one axis, in any order.
    length : int
        Of the map.
    """
    distinct = sorted(set(places))
    spans = {}
    for number, (start, stop) in enumerate(distinct):
        before = distinct[number - 1][1] - start if number else 0
        after = stop - distinct[number + 1][0] if number + 1 < len(distinct) else 0
        spans[start, stop] = Span(
            start, stop, max(before, 0), max(after, 0), start <= 0, stop >= length
        )
    return spans


def span_weights(span: Span, blend: str, margin: int = 0) -> NDArray[np.uint32]:
    """Return what the pixels of a span weigh: whole numbers ``(stop - start,)``, up to 255.

    Only ``"core"`` and a margin have zeros; what nobody else covers is then taken all the same.
    """
    length = span.stop - span.start
    if blend == "smooth":
        weights = _hann(span, length)
    elif blend == "linear":
        weights = _ramps(span, length)
    else:
        weights = np.full(length, MOST, np.uint32)
    if blend == "core":
        weights[: 0 if span.first else span.before // 2] = 0
        weights[length - (0 if span.last else span.after - span.after // 2) :] = 0
    if margin:
        weights[: 0 if span.first else margin] = 0
        weights[max(0, length - (0 if span.last else margin)) :] = 0
    return weights


def _hann(span: Span, length: int) -> NDArray[np.uint32]:
    """sin² over the whole span; flat towards the border of the image, where no other tile is."""
    at = (np.arange(length) + 0.5) / length
    weights: NDArray[np.uint32] = np.maximum(np.rint(MOST * np.sin(np.pi * at) ** 2), 1).astype(
        np.uint32
    )
    if span.first:
        weights[at <= 0.5] = MOST
    if span.last:
        weights[at >= 0.5] = MOST
    return weights


def _ramps(span: Span, length: int) -> NDArray[np.uint32]:
    """Rise over what is shared with the span before, fall over what is shared with the next."""
    at = np.arange(length) + 0.5
    share = np.ones(length)
    if span.before and not span.first:
        share = np.minimum(share, at / span.before)
    if span.after and not span.last:
        share = np.minimum(share, (length - at) / span.after)
    weights: NDArray[np.uint32] = np.maximum(np.rint(MOST * share), 1).astype(np.uint32)
    return weights
