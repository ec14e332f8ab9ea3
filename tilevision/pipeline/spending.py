"""What a run's calls have cost, and the budget that they must not pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tilevision.grid import Tile
from tilevision.modelspec import ModelSpec, Usage
from tilevision.schedule import Scheduler
from tilevision.schedule.messages import Action, Allowed, Happening

__all__ = ["Budgeted", "Spending"]


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

    @property
    def uncounted(self) -> int:
        """Requests to models with a price whose tokens nobody counted: they cost at most that."""
        return sum(self._used[label][1].uncounted for label in self._costs)

    def of(self, tile: Tile) -> float | None:
        """Return what a tile has cost so far; None where it was never charged."""
        return self._tiles.get(tile)

    def tokens(self, label: str, tile: Tile) -> Usage:
        """Return what a model used for a tile so far; nothing where it counts no tokens."""
        return self._tokens.get((label, tile), Usage())

    def used(self, label: str) -> tuple[int, Usage]:
        """Return how many attempts a model was charged for, and what they used together."""
        return self._used.get(label, (0, Usage()))


class Budgeted:
    """A scheduler that stays within a budget.

    A tile is sent only while what was spent, and at the mean cost of an attempt so far the tiles
    in flight and this one, come to no more than the budget. So the run can pass it only by as
    much as the tiles in flight cost more than the mean. Until something came back, the mean is
    the price per call; of a model that is priced by the token one tile goes first, alone.

    Parameters
    ----------
    scheduler : Scheduler
    budget : float
    spending : Spending
        Of the whole run.
    spec : ModelSpec
    label : str
        The model's in `spending`.
    """

    def __init__(
        self, scheduler: Scheduler, budget: float, spending: Spending, spec: ModelSpec, label: str
    ) -> None:
        self._scheduler = scheduler
        self._budget = budget
        self._spending = spending
        self._spec = spec
        self._label = label

    def advance(self, happenings: Sequence[Happening], now: float) -> list[Action]:
        """Advance the scheduler with what the budget allows by now."""
        return self._scheduler.advance([*happenings, self._allowed()], now)

    def wake_at(self, now: float) -> float | None:
        """Return when the scheduler wants to be woken."""
        return self._scheduler.wake_at(now)

    def _allowed(self) -> Allowed:
        price = self._spec.price
        if price is None:
            return Allowed(None)
        left = self._budget - self._spending.total
        attempts, used = self._spending.used(self._label)
        mean = price.of(used) / attempts if attempts else price.call
        most = math.floor(left / mean + 1e-9) if mean else None
        if not attempts and (price.input or price.output):
            most = 1 if left > 0 and left >= mean else 0
        return Allowed(
            most,
            f"The budget of {self._budget:g} covers no further tile: {self._spending.total:.4g} "
            f"is spent, and {self._label} costs about {mean:.2g} a tile.",
        )
