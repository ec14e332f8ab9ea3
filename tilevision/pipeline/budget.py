"""A budget: nothing is sent that it would not cover."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilevision.modelspec import ModelSpec
from tilevision.pipeline.spending import Spending
from tilevision.schedule import Scheduler
from tilevision.schedule.messages import Action, Allowed, Happening

__all__ = ["Budgeted"]


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
        """As the scheduler's, with what the budget allows by now."""
        return self._scheduler.advance([*happenings, self._allowed()], now)

    def wake_at(self, now: float) -> float | None:
        """As the scheduler's."""
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
            f"the budget of {self._budget:g} covers no further tile: {self._spending.total:.4g} "
            f"is spent, and {self._label} costs about {mean:.2g} a tile",
        )
