"""One region of an image, as a model will see it, and how a length is cut into such regions."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tilevision.checks import is_number
from tilevision.errors import GridArgumentError
from tilevision.geometry import Box

__all__ = [
    "Overlap",
    "Size",
    "Tile",
    "check_count",
    "check_overlap",
    "overlap_pixels",
    "spans_by_count",
    "spans_by_tile",
]

Overlap = float | str
MOST_TILES = 10_000_000  # of an image: a run keeps a kilobyte of each in memory
_SLACK = 1e-9  # of a quotient that would be whole, but for rounding


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


def check_count(count: int) -> None:
    """Refuse so many tiles that a machine could not hold them.

    Raises
    ------
    GridArgumentError
    """
    if count > MOST_TILES:
        raise GridArgumentError(
            f"That is {count:,} tiles; an image has {MOST_TILES:,} at most. Give larger tiles, "
            "less overlap or a lower resolution."
        )


def spans_by_tile(
    length: int, side: int, overlap: Overlap, scale: float, stride: int = 1
) -> list[tuple[int, int]]:
    """Cut `length` image pixels into spans of one size, the last moved inward.

    All others begin at multiples of `stride` output pixels; for that they share more, if anything.
    """
    span = max(1, round(side / scale))
    if span >= length:
        return [(0, length)]
    step: float = max(1, span - min(round(overlap_pixels(overlap, side) / scale), span - 1))
    if stride > 1 and step * scale + _SLACK >= stride:
        step = math.floor(step * scale / stride + _SLACK) * stride / scale
    count = math.ceil((length - span) / step - _SLACK) + 1
    check_count(count)
    starts = dict.fromkeys(min(round(i * step), length - span) for i in range(count))
    return [(start, start + span) for start in starts]


def spans_by_count(
    length: int, count: int, overlap: Overlap, scale: float, name: str, stride: int = 1
) -> list[tuple[int, int]]:
    """Cut `length` image pixels into `count` equal spans, evenly spread.

    With a `stride` they begin and end at the nearest multiples of so many output pixels outside
    them.
    """
    if count > length:
        raise GridArgumentError(
            f"{name} is {count}, but the image has only {length} pixels that way; lower {name}."
        )
    check_count(count)
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
    starts = [i * (length - span) // (count - 1) for i in range(count)]
    spans = [(start, start + span) for start in starts]
    return spans if stride == 1 else _widened(spans, length, stride / scale)


def _widened(spans: list[tuple[int, int]], length: int, unit: float) -> list[tuple[int, int]]:
    """Return spans that begin and end at multiples of `unit` pixels, where they stay distinct."""
    wide = [
        (
            round(math.floor(start / unit + _SLACK) * unit),
            min(length, round(math.ceil(stop / unit - _SLACK) * unit)),
        )
        for start, stop in spans
    ]
    apart = all(a < c and (b < d or d == length) for (a, b), (c, d) in pairwise(wide))
    return wide if apart else spans


Size = tuple[int, int]


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """One region of an image, as a model will see it.

    Two tiles are equal if row, column, box and scale are; they sort in that order. Stored
    work is found by `region`, box and scale alone: the same region in another grid is the same
    work. The id is a name for people.

    Parameters
    ----------
    row, col : int
        Position in the grid, from 0; in an adaptive one the rank of the corner of its cell.
    box : Box
        Region in whole pixels of the full-resolution image, half-open.
    scale : float
        Output pixels per image pixel: 0.5 halves each side.
    id : str
        ``r003c017``, at least three digits each; ``a000017`` in an adaptive grid.
    """

    row: int
    col: int
    box: Box
    scale: float = 1.0
    id: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", f"r{self.row:03d}c{self.col:03d}")

    def __reduce__(self) -> tuple[type[Tile], tuple[Any, ...]]:
        return Tile, (self.row, self.col, self.box, self.scale, self.id)  # as of `Box`

    def __hash__(self) -> int:
        # A run asks some thirty times a tile; tiles at one place differ in scale alone.
        return hash((self.row, self.col))

    @property
    def output_size(self) -> Size:
        """Width and height of the pixels the model gets; at least 1 each."""
        return (
            max(1, round(self.box.width * self.scale)),
            max(1, round(self.box.height * self.scale)),
        )

    @property
    def region(self) -> tuple[float, float, float, float, float]:
        """What stored work is found by: ``(x0, y0, x1, y1, scale)``."""
        return (*self.box.as_tuple(), self.scale)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; `from_dict` reads them back."""
        return {
            "id": self.id,
            "row": self.row,
            "col": self.col,
            "box": list(self.box.as_tuple()),
            "scale": self.scale,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Tile:
        """Read what `to_dict` wrote."""
        return cls(raw["row"], raw["col"], Box(*raw["box"]), raw["scale"], raw["id"])
