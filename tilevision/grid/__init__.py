"""Grids: which regions of an image become tiles.

Deterministic: the same size and the same parameters give the same tiles on every
machine. Tiles cover the image exactly, never leave it, and every pixel is in at least
one.
"""

from tilevision.grid.grid import DEFAULT_OVERLAP, DEFAULT_TILE, Grid
from tilevision.grid.tile import Tile

__all__ = ["DEFAULT_OVERLAP", "DEFAULT_TILE", "Grid", "Tile"]
