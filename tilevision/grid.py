"""Grids: which regions of an image become tiles.

Deterministic: the same size and the same parameters give the same tiles on every
machine. Tiles cover the image exactly, never leave it, and every pixel is in at
least one.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from tilevision.errors import GridError
from tilevision.geometry import Box

__all__ = ["DEFAULT_OVERLAP", "DEFAULT_TILE", "Grid", "Tile"]

DEFAULT_OVERLAP = 0.2
DEFAULT_TILE = 1024

Size = tuple[int, int]
Overlap = float | str


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """One region of an image, as a model will see it.

    Identity is the box and the scale: the same region under another grid is the same
    work. Row, column and id are for people.

    Parameters
    ----------
    row, col : int
        Position in the grid, from 0.
    box : Box
        Region in whole pixels of the full-resolution image, half-open.
    scale : float
        Output pixels per image pixel: 0.5 halves each side.
    id : str
        ``r003c017``; at least three digits each.
    """

    row: int
    col: int
    box: Box
    scale: float = 1.0
    id: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", f"r{self.row:03d}c{self.col:03d}")

    @property
    def output_size(self) -> Size:
        """Width and height of the pixels the model gets; at least 1 each."""
        return (
            max(1, round(self.box.width * self.scale)),
            max(1, round(self.box.height * self.scale)),
        )

    @property
    def region(self) -> tuple[float, float, float, float, float]:
        """The identity: ``(x0, y0, x1, y1, scale)``."""
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


@dataclass(frozen=True, slots=True)
class Grid:
    """How an image is cut into overlapping tiles.

    ``Grid(rows=8, cols=8)`` gives a number of rows and columns; `Grid.by_tile` a tile
    size. Overlap is shared by neighbours: a fraction of the tile in ``[0, 1)``, or
    pixels of the model's input, ``"64px"``.

    Parameters
    ----------
    rows, cols : int, optional
        Number of rows and columns, 1 or more. Not with `tile`.
    overlap : float or str
        Fraction of the tile, or ``"64px"``. Default 0.2.
    tile : tuple of int, optional
        Width and height of a tile in pixels as the model sees them. Not with `rows`.

    Raises
    ------
    GridError
        If a number is out of range; the message says which and what is allowed.
    """

    rows: int | None = None
    cols: int | None = None
    overlap: Overlap = DEFAULT_OVERLAP
    tile: Size | None = None

    def __post_init__(self) -> None:
        by_count = self.rows is not None or self.cols is not None
        if by_count == (self.tile is not None):
            raise GridError(
                "a grid is given by rows and cols or by a tile size, not both and not neither: "
                "tv.Grid(rows=8, cols=8) or tv.Grid.by_tile(640)"
            )
        _check_overlap(self.overlap)
        if self.tile is None:
            _check_whole("rows", self.rows)
            _check_whole("cols", self.cols)
            return
        for side in self.tile:
            _check_whole("tile size", side)
            if overlap_pixels(self.overlap, side) >= side:
                raise GridError(
                    f"overlap {self.overlap} is not smaller than the tile ({side} px); "
                    "lower the overlap or raise the tile"
                )

    @classmethod
    def by_tile(cls, tile: int | Size, overlap: Overlap = DEFAULT_OVERLAP) -> Grid:
        """Return a grid of tiles of one size; the last row and column move inward.

        Parameters
        ----------
        tile : int or tuple of int
            Side, or width and height, in pixels as the model sees them.
        overlap : float or str
            Fraction of the tile, or ``"64px"``.
        """
        width, height = tile if isinstance(tile, tuple) else (tile, tile)
        return cls(overlap=overlap, tile=(width, height))

    @classmethod
    def parse(cls, value: Any) -> Grid:
        """Read ``"8x8"``, ``(8, 8)`` (ROWSxCOLS), ``640`` (tile pixels) or a `Grid`.

        Raises
        ------
        GridError
            If `value` is none of these.
        """
        if isinstance(value, Grid):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return cls.by_tile(value)
        if isinstance(value, str):
            match = re.fullmatch(r"\s*(\d+)\s*(?:[x×X]\s*(\d+)\s*)?(?:px\s*)?", value)
            if match and match[2] is None:
                return cls.by_tile(int(match[1]))
            if match and "px" not in value:
                return cls(rows=int(match[1]), cols=int(match[2]))
        if isinstance(value, (tuple, list)) and len(value) == 2:
            return cls(rows=value[0], cols=value[1])
        raise GridError(
            f"grid {value!r} is not understood; give ROWSxCOLS as '8x8' or (8, 8), "
            "a tile size in pixels as 640, or a tv.Grid"
        )

    def tiles(self, size: Size, scale: float = 1.0) -> tuple[Tile, ...]:
        """Cut an image of `size` into tiles, row by row.

        Parameters
        ----------
        size : tuple of int
            Width and height of the image at full resolution, pixels.
        scale : float
            Output pixels per image pixel, for all tiles.

        Returns
        -------
        tuple of Tile
            In row-major order; boxes are whole image pixels, half-open, and cover the
            image exactly.

        Raises
        ------
        GridError
            If the image is empty or has fewer pixels than the grid has rows or columns.
        """
        width, height = size
        if width < 1 or height < 1:
            raise GridError(f"the image is {width}×{height} px; there is nothing to cut")
        if not (scale > 0 and math.isfinite(scale)):
            raise GridError(f"scale {scale} is not a positive number")
        if self.tile is not None:
            xs = _spans_by_tile(width, self.tile[0], self.overlap, scale)
            ys = _spans_by_tile(height, self.tile[1], self.overlap, scale)
        else:
            assert self.rows is not None and self.cols is not None  # __post_init__
            xs = _spans_by_count(width, self.cols, self.overlap, scale, "cols")
            ys = _spans_by_count(height, self.rows, self.overlap, scale, "rows")
        return tuple(
            Tile(row, col, Box(x0, y0, x1, y1), scale)
            for row, (y0, y1) in enumerate(ys)
            for col, (x0, x1) in enumerate(xs)
        )

    def __str__(self) -> str:
        if self.tile is not None:
            return f"tiles of {self.tile[0]}×{self.tile[1]} px, overlap {self.overlap}"
        return f"{self.rows}x{self.cols}, overlap {self.overlap}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; `from_dict` reads them back."""
        return {
            "rows": self.rows,
            "cols": self.cols,
            "overlap": self.overlap,
            "tile": list(self.tile) if self.tile else None,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Grid:
        """Read what `to_dict` wrote."""
        tile = tuple(raw["tile"]) if raw["tile"] else None
        return cls(raw["rows"], raw["cols"], raw["overlap"], tile)


def overlap_pixels(overlap: Overlap, side: float) -> int:
    """Return the overlap in pixels of a tile `side` pixels long."""
    if isinstance(overlap, str):
        return int(overlap.removesuffix("px"))
    return round(overlap * side)


def _check_overlap(overlap: Overlap) -> None:
    if isinstance(overlap, str):
        if re.fullmatch(r"\d+px", overlap):
            return
        raise GridError(f"overlap {overlap!r} is not understood; give 0.2 or '64px'")
    if isinstance(overlap, bool) or not isinstance(overlap, (int, float)) or not 0 <= overlap < 1:
        raise GridError(
            f"overlap {overlap!r} is not a fraction from 0 up to (not including) 1; "
            "give 0.2, or pixels as '64px'"
        )


def _check_whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise GridError(f"{name} is {value!r}; give a whole number of 1 or more")


def _spans_by_tile(length: int, side: int, overlap: Overlap, scale: float) -> list[tuple[int, int]]:
    """Cut `length` image pixels into spans of one size, the last moved inward."""
    span = max(1, round(side / scale))
    if span >= length:
        return [(0, length)]
    stride = max(1, span - min(round(overlap_pixels(overlap, side) / scale), span - 1))
    count = math.ceil((length - span) / stride) + 1
    starts = [min(i * stride, length - span) for i in range(count)]
    return [(start, start + span) for start in starts]


def _spans_by_count(
    length: int, count: int, overlap: Overlap, scale: float, name: str
) -> list[tuple[int, int]]:
    """Cut `length` image pixels into `count` equal spans, evenly spread."""
    if count > length:
        raise GridError(
            f"{name} is {count}, but the image has only {length} pixels that way; lower {name}"
        )
    if count == 1:
        return [(0, length)]
    if isinstance(overlap, str):
        shared = overlap_pixels(overlap, 0) / scale
        span = math.ceil((length + (count - 1) * shared) / count)
    else:
        span = math.ceil(length / (count - (count - 1) * overlap))
    if length - span < count - 1:
        raise GridError(
            f"overlap {overlap} leaves no room for {count} {name} on {length} pixels; "
            f"lower the overlap or {name}"
        )
    return [
        (start, start + span)
        for start in (i * (length - span) // (count - 1) for i in range(count))
    ]
