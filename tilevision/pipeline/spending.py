"""What a run's calls have cost, as far as its models have a price."""

from __future__ import annotations

from collections.abc import Mapping

from tilevision.grid import Tile
from tilevision.modelspec import ModelSpec, Usage

__all__ = ["Spending"]


class Spending:
    """Counts every attempt, those that failed included; what is restored costs nothing.

    Written by the run's thread only; others may read.
    """

    def __init__(self) -> None:
        self._costs: dict[str, float] = {}
        self._tiles: dict[Tile, float] = {}
        self._used: dict[str, tuple[int, Usage]] = {}
        self._tokens: dict[tuple[str, Tile], Usage] = {}

    def charge(self, spec: ModelSpec, label: str, usage: Usage, tile: Tile | None = None) -> None:
        """Add what one attempt of a model used, for `tile` where it was for one."""
        attempts, total = self._used.get(label, (0, Usage()))
        self._used[label] = attempts + 1, total + usage
        if tile is not None and (usage.input_tokens or usage.output_tokens):
            self._tokens[label, tile] = self.tokens(label, tile) + usage
        if spec.price is not None:
            cost = spec.price.of(usage)
            self._costs[label] = self._costs.get(label, 0.0) + cost
            if tile is not None:
                self._tiles[tile] = self._tiles.get(tile, 0.0) + cost

    @property
    def costs(self) -> Mapping[str, float]:
        """Cost by model, for the models with a price that were asked."""
        return dict(self._costs)

    @property
    def total(self) -> float:
        """Cost of all attempts."""
        return sum(self._costs.values())

    def of(self, tile: Tile) -> float | None:
        """Return what a tile has cost so far; None where it was never charged."""
        return self._tiles.get(tile)

    def tokens(self, label: str, tile: Tile) -> Usage:
        """Return what a model used for a tile so far; nothing where it counts no tokens."""
        return self._tokens.get((label, tile), Usage())

    def used(self, label: str) -> tuple[int, Usage]:
        """Return how many attempts a model was charged for, and what they used together."""
        return self._used.get(label, (0, Usage()))
