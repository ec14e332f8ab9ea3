"""A length cut into overlapping spans, and what an overlap may be."""

from __future__ import annotations

import math
import re

from tilevision.checks import is_number
from tilevision.errors import GridArgumentError

__all__ = [
    "Overlap",
    "check_overlap",
    "overlap_pixels",
    "spans_by_count",
    "spans_by_tile",
]

Overlap = float | str


def overlap_pixels(overlap: Overlap, side: float) -> int:
    """Return the overlap in pixels of a tile `side` pixels long."""
    if isinstance(overlap, str):
        return int(overlap.removesuffix("px"))
    return round(overlap * side)


def check_overlap(overlap: Overlap) -> None:
    """Refuse what is neither a fraction below 1 nor pixels."""
    if isinstance(overlap, str):
        if re.fullmatch(r"\d+px", overlap):
            return
        raise GridArgumentError(f"overlap is {overlap!r}; give 0.2, or pixels as '64px'.")
    if not is_number(overlap) or not 0 <= overlap < 1:
        raise GridArgumentError(
            f"overlap is {overlap!r}; give a fraction from 0 to below 1, such as 0.2, or pixels as "
            "'64px'."
        )


def spans_by_tile(length: int, side: int, overlap: Overlap, scale: float) -> list[tuple[int, int]]:
    """Cut `length` image pixels into spans of one size, the last moved inward."""
    span = max(1, round(side / scale))
    if span >= length:
        return [(0, length)]
    stride = max(1, span - min(round(overlap_pixels(overlap, side) / scale), span - 1))
    count = math.ceil((length - span) / stride) + 1
    starts = [min(i * stride, length - span) for i in range(count)]
    return [(start, start + span) for start in starts]


def spans_by_count(
    length: int, count: int, overlap: Overlap, scale: float, name: str
) -> list[tuple[int, int]]:
    """Cut `length` image pixels into `count` equal spans, evenly spread."""
    if count > length:
        raise GridArgumentError(
            f"{name} is {count}, but the image has only {length} pixels that way; lower {name}."
        )
    if count == 1:
        return [(0, length)]
    if isinstance(overlap, str):
        shared = overlap_pixels(overlap, 0) / scale
        span = math.ceil((length + (count - 1) * shared) / count)
    else:
        span = math.ceil(length / (count - (count - 1) * overlap))
    if length - span < count - 1:
        raise GridArgumentError(
            f"overlap {overlap} leaves no room for {count} {name} on {length} pixels; "
            f"lower the overlap or {name}."
        )
    return [
        (start, start + span)
        for start in (i * (length - span) // (count - 1) for i in range(count))
    ]
