"""A classifier's probabilities of each tile, as colours over the picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tilevision.findings import TileFindings
from tilevision.grid import Tile
from tilevision.plot.heat import ALPHA, heat_colours

__all__ = ["TileHeat", "tile_heat"]


@dataclass(frozen=True, slots=True, eq=False)
class TileHeat:
    """The probability of one class in each tile.

    Attributes
    ----------
    label : str
        The class; untrusted text.
    labels : tuple of str
        All classes, those that differ most over the image first.
    values : array (n,) of float32
        0 to 1, in the order of the run's tiles; NaN if unknown.
    """

    label: str
    labels: tuple[str, ...]
    values: NDArray[np.float32]

    @property
    def n_known(self) -> int:
        """Number of classified tiles."""
        return int((~np.isnan(self.values)).sum())

    def paint(self, index: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Return RGBA (h, w, 4), not premultiplied, for the tile of each pixel; -1 is none."""
        shade = np.round(np.nan_to_num(self.values).clip(0, 1) * 255).astype(np.uint8)
        rows = np.zeros((len(shade) + 1, 4), dtype=np.uint8)
        rows[:-1, :3] = _colours()[shade]
        rows[:-1, 3] = np.where(np.isnan(self.values), 0, round(255 * ALPHA))
        return rows[index]


def tile_heat(
    seen: Iterable[TileFindings], index: Mapping[Tile, int], label: str | None = None
) -> TileHeat | None:
    """Return the heat of class `label`; None if no tile has probabilities.

    Parameters
    ----------
    seen : iterable of TileFindings
    index : mapping of Tile to int
        Positions of the run's tiles.
    label : str, optional
        Default: the class whose probability differs most over the tiles.
    """
    asked = (f for f in seen if f.findings.tile_scores and f.tile in index)
    scored = [(index[f.tile], f.findings.tile_scores) for f in asked]
    if not scored:
        return None
    names = sorted({name for _, scores in scored for name in scores})
    table = np.array([[scores.get(name, 0.0) for name in names] for _, scores in scored])
    spread = np.argsort(-table.std(axis=0), kind="stable")
    labels = tuple(names[i] for i in spread)
    chosen = label if label in names else labels[0]
    values = np.full(len(index), np.nan, dtype=np.float32)
    values[[at for at, _ in scored]] = table[:, names.index(chosen)]
    return TileHeat(chosen, labels, values)


@cache
def _colours() -> NDArray[np.uint8]:
    shades = np.linspace(0, 1, 256)
    return np.round(255 * np.array([heat_colours(shade)[:3] for shade in shades])).astype(np.uint8)
