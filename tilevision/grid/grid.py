"""How an image is cut into overlapping tiles."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tilevision.checks import whole
from tilevision.errors import GridArgumentError
from tilevision.geometry import Box
from tilevision.grid.detail import DetailMap, Picture
from tilevision.grid.quadtree import Quadtree
from tilevision.grid.tile import (
    Overlap,
    Size,
    Tile,
    check_count,
    check_overlap,
    overlap_pixels,
    spans_by_count,
    spans_by_tile,
)

__all__ = ["DEFAULT_OVERLAP", "DEFAULT_TILE", "Grid"]

DEFAULT_OVERLAP = 0.2
DEFAULT_TILE = 1024


@dataclass(frozen=True, slots=True)
class Grid:
    """How an image is cut into overlapping tiles.

    ``Grid(rows=8, cols=8)`` gives a number of rows and columns; `Grid.by_tile` a tile
    size; `Grid.adaptive` tiles that are small where the picture is detailed. Overlap is
    shared by neighbours: a fraction of the tile in ``[0, 1)``, or pixels of the model's
    input, ``"64px"``.

    Parameters
    ----------
    rows, cols : int, optional
        Number of rows and columns, 1 or more. Not with `tile`.
    overlap : float or str
        Fraction of the tile, or ``"64px"``. Default 0.2.
    tile : tuple of int, optional
        Width and height of a tile in pixels as the model sees them. Not with `rows`.
    quadtree : Quadtree, optional
        Of an adaptive grid. Not with `rows` or `tile`.

    Raises
    ------
    GridArgumentError
        If a number is out of range; the message says which and what is allowed.
    """

    rows: int | None = None
    cols: int | None = None
    overlap: Overlap = DEFAULT_OVERLAP
    tile: Size | None = None
    quadtree: Quadtree | None = None

    def __post_init__(self) -> None:
        by_count = self.rows is not None or self.cols is not None
        if by_count + (self.tile is not None) + (self.quadtree is not None) != 1:
            raise GridArgumentError(
                "A grid is given by rows and cols or by a tile size, not both and not neither: "
                "tv.Grid(rows=8, cols=8), tv.Grid.by_tile(640) or tv.Grid.adaptive()."
            )
        check_overlap(self.overlap)
        if self.quadtree is not None:
            self.quadtree.check_overlap(self.overlap)
            return
        if self.tile is None:
            whole("rows", self.rows, GridArgumentError)
            whole("cols", self.cols, GridArgumentError)
            return
        if not isinstance(self.tile, Sequence) or len(self.tile) != 2:
            raise GridArgumentError(f"tile is {self.tile!r:.80}; give (width, height) in pixels.")
        for side in self.tile:
            whole("tile size", side, GridArgumentError)
            if overlap_pixels(self.overlap, side) >= side:
                raise GridArgumentError(
                    f"overlap {self.overlap} is not smaller than the tile ({side} px); "
                    "lower the overlap or raise the tile."
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
        return cls(overlap=overlap, tile=tile if isinstance(tile, tuple) else (tile, tile))

    @classmethod
    def adaptive(
        cls,
        min_tile: int = 256,
        max_tile: int = 2048,
        detail: Any = None,
        overlap: Overlap = DEFAULT_OVERLAP,
    ) -> Grid:
        """Return a grid that is fine where the picture is detailed and coarse where it is empty.

        The image is cut evenly into large cells, and each is halved both ways as long as it
        holds detail and is larger than the smallest. Detail is the strength of edges in a
        thumbnail of 2048 px (see `tilevision.grid.detail.edge_strength`). Every tile is seen
        at the resolution of the run: large tiles save overlap and calls.

        Parameters
        ----------
        min_tile, max_tile : int
            Sides of the smallest and largest tile in pixels as the model sees them.
        detail : float, array or callable, optional
            The edge strength (0 to 1) from which a place counts as detailed; default a quarter
            of the picture's 95th percentile. Or what to follow instead of edges: an array
            ``(h, w)`` over the whole image, of bool or numbers, or a function that makes one
            of the thumbnail ``(h, w, c)``.
        overlap : float or str
            Fraction of the tile, or ``"64px"``. Neighbours share at least the smaller one's.

        Raises
        ------
        GridArgumentError
            If a value makes no sense.
        """
        if detail is None or callable(detail) or np.ndim(detail) == 0:
            return cls(overlap=overlap, quadtree=Quadtree(min_tile, max_tile, detail))
        found = DetailMap.measured(detail)
        return cls(overlap=overlap, quadtree=Quadtree(min_tile, max_tile, found=found))

    def fitted(self, picture: Picture) -> Grid:
        """Return the grid for one picture: an adaptive one looks where it is detailed.

        Parameters
        ----------
        picture : ImageSource
            Or whatever has its ``thumbnail(max_side)``.
        """
        if self.quadtree is None:
            return self
        return replace(self, quadtree=self.quadtree.fitted(picture))

    @classmethod
    def parse(cls, value: Any) -> Grid:
        """Read ``"8x8"``, ``(8, 8)`` (ROWSxCOLS), ``640`` (a tile), ``"adaptive"`` or a `Grid`.

        Raises
        ------
        GridArgumentError
            If `value` is none of these.
        """
        if isinstance(value, Grid):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return cls.by_tile(value)
        if isinstance(value, str):
            if value.strip() == "adaptive":
                return cls.adaptive()
            match = re.fullmatch(r"\s*(\d+)\s*(?:[x×X]\s*(\d+)\s*)?(?:px\s*)?", value)
            if match and match[2] is None:
                return cls.by_tile(int(match[1]))
            if match and "px" not in value:
                return cls(rows=int(match[1]), cols=int(match[2]))
        if isinstance(value, (tuple, list)) and len(value) == 2:
            return cls(rows=value[0], cols=value[1])
        raise GridArgumentError(
            f"Grid {value!r} is not understood; give ROWSxCOLS as '8x8' or (8, 8), "
            "a tile size in pixels as 640, 'adaptive', or a tv.Grid."
        )

    def tiles(self, size: Size, scale: float = 1.0, stride: int = 1) -> tuple[Tile, ...]:
        """Cut an image of `size` into tiles, row by row.

        Parameters
        ----------
        size : tuple of int
            Width and height of the image at full resolution, pixels.
        scale : float
            Output pixels per image pixel, for all tiles.
        stride : int
            Tiles begin at multiples of so many output pixels, but for the last of a size that is
            given; an adaptive grid's begin where they do.

        Returns
        -------
        tuple of Tile
            In row-major order, adaptive ones by their cells' top left corners; boxes are whole
            image pixels, half-open, and cover the image exactly.

        Raises
        ------
        GridArgumentError
            If the image is empty or has fewer pixels than the grid has rows or columns, there
            would be more than ten million tiles, or an adaptive grid has not seen the picture
            (see `fitted`).
        """
        width, height = size
        if width < 1 or height < 1:
            raise GridArgumentError(f"The image is {width}×{height} px; there is nothing to cut.")
        if not (scale > 0 and math.isfinite(scale)):
            raise GridArgumentError(f"Scale {scale} is not a positive number.")
        if self.quadtree is not None:
            return self.quadtree.tiles(size, scale, self.overlap)
        if self.tile is not None:
            xs = spans_by_tile(width, self.tile[0], self.overlap, scale, stride)
            ys = spans_by_tile(height, self.tile[1], self.overlap, scale, stride)
        else:
            assert self.rows is not None and self.cols is not None  # __post_init__
            xs = spans_by_count(width, self.cols, self.overlap, scale, "cols", stride)
            ys = spans_by_count(height, self.rows, self.overlap, scale, "rows", stride)
        check_count(len(xs) * len(ys))
        across = [(col, x0, x1, f"c{col:03d}") for col, (x0, x1) in enumerate(xs)]
        return tuple(
            [
                Tile(row, col, Box(x0, y0, x1, y1), scale, name + end)
                for row, (y0, y1) in enumerate(ys)
                for name in (f"r{row:03d}",)
                for col, x0, x1, end in across
            ]
        )

    def __str__(self) -> str:
        if self.quadtree is not None:
            return f"{self.quadtree}, overlap {self.overlap}"
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
            "quadtree": self.quadtree.to_dict() if self.quadtree else None,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Grid:
        """Read what `to_dict` wrote."""
        tile = tuple(raw["tile"]) if raw["tile"] else None
        tree = raw.get("quadtree")  # journals of earlier versions have none
        quadtree = Quadtree.from_dict(tree) if tree else None
        return cls(raw["rows"], raw["cols"], raw["overlap"], tile, quadtree)
