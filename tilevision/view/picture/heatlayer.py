"""What is known of each tile as a whole, as colours over the picture: a share, or a group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from tilevision.colouring import CLASS_COLOURS
from tilevision.findings import TileFindings
from tilevision.grid import Tile
from tilevision.plot.heat import ALPHA, heat_colours, heat_keys
from tilevision.plot.palette import rgb

__all__ = ["TileGroups", "TileHeat", "tile_heat"]


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
    ends : tuple of float, optional
        What 0 and 1 stand for, where they are no probabilities.
    """

    label: str
    labels: tuple[str, ...]
    values: NDArray[np.float32]
    ends: tuple[float, float] | None = None

    @property
    def n_known(self) -> int:
        """Number of classified tiles."""
        return int((~np.isnan(self.values)).sum())

    @property
    def keys(self) -> list[tuple[str, str]]:
        """The legend: words and colours."""
        if self.ends is None:
            return [(key.words, key.colour) for key in heat_keys(self.label)]
        low, high = self.ends
        return [
            (f"{self.label} {low + (high - low) * step:.2f}", to_hex(heat_colours(step)))
            for step in (0.0, 0.5, 1.0)
        ]

    def paint(self, index: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Return RGBA (h, w, 4), not premultiplied, for the tile of each pixel; -1 is none."""
        shade = np.round(np.nan_to_num(self.values).clip(0, 1) * 255).astype(np.uint8)
        rows = np.zeros((len(shade) + 1, 4), dtype=np.uint8)
        rows[:-1, :3] = _colours()[shade]
        rows[:-1, 3] = np.where(np.isnan(self.values), 0, round(255 * ALPHA))
        return rows[index]


@dataclass(frozen=True, slots=True, eq=False)
class TileGroups:
    """The group of each tile.

    Attributes
    ----------
    label : str
        What the groups are.
    values : array (n,) of float32
        Numbers from 0, in the order of the run's tiles; NaN if unknown.
    """

    label: str
    values: NDArray[np.float32]

    @property
    def n_known(self) -> int:
        """Number of tiles with a group."""
        return int((~np.isnan(self.values)).sum())

    @property
    def keys(self) -> list[tuple[str, str]]:
        """The legend: words and colours."""
        numbers, counts = np.unique(self.values[~np.isnan(self.values)], return_counts=True)
        return [
            (f"{self.label} {int(number)} ({count:,})", _group_colour(int(number)))
            for number, count in zip(numbers, counts, strict=True)
        ]

    def paint(self, index: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Return RGBA (h, w, 4), not premultiplied, for the tile of each pixel; -1 is none."""
        known = ~np.isnan(self.values)
        rows = np.zeros((len(self.values) + 1, 4), dtype=np.uint8)
        for number in np.unique(self.values[known]):
            mine = np.flatnonzero(self.values == number)
            rows[mine, :3] = rgb(_group_colour(int(number)))
        rows[:-1, 3] = np.where(known, round(255 * ALPHA), 0)
        return rows[index]


def _group_colour(number: int) -> str:
    return CLASS_COLOURS[number % len(CLASS_COLOURS)]


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
