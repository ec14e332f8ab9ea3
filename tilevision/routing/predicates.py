"""Ready-made rules for a route: unlike functions, a run's journal can hold them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tilevision.checks import is_number, share
from tilevision.errors import ModelArgumentError
from tilevision.routing.tilefacts import TileFacts

__all__ = ["Detailed", "Predicate", "Within", "from_list", "to_list"]

Predicate = Callable[[TileFacts], Any]


@dataclass(frozen=True, slots=True)
class Detailed:
    """True of tiles with many edges.

    Parameters
    ----------
    min_edge_density : float
        From which share of edge pixels on; see `TileFacts.edge_density`.
    """

    min_edge_density: float = 0.05

    def __post_init__(self) -> None:
        share("min_edge_density", self.min_edge_density, ModelArgumentError)

    def __call__(self, facts: TileFacts) -> bool:
        """Return True if the tile has that many edges."""
        return facts.edge_density >= self.min_edge_density


@dataclass(frozen=True, slots=True)
class Within:
    """True of tiles that share some area with a box.

    Parameters
    ----------
    x0, y0, x1, y1 : float
        Pixels of the full-resolution image, half-open.
    """

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        given = (self.x0, self.y0, self.x1, self.y1)
        if not all(map(is_number, given)) or not (self.x0 < self.x1 and self.y0 < self.y1):
            raise ModelArgumentError(
                f"Within{given} is no box; give x0, y0, x1, y1 with x0 < x1, y0 < y1."
            )

    def __call__(self, facts: TileFacts) -> bool:
        """Return True if the tile shares some area with the box."""
        box = facts.box
        return self.x0 < box.x1 and box.x0 < self.x1 and self.y0 < box.y1 and box.y0 < self.y1


_KINDS: dict[str, type[Detailed] | type[Within]] = {"detailed": Detailed, "within": Within}


def to_list(predicate: Predicate) -> list[Any] | None:
    """Return a ready-made predicate as plain JSON types; None for a function."""
    match predicate:
        case Detailed(least):
            return ["detailed", least]
        case Within(x0, y0, x1, y1):
            return ["within", x0, y0, x1, y1]
    return None


def from_list(raw: list[Any]) -> Predicate:
    """Read what `to_list` wrote."""
    return _KINDS[raw[0]](*raw[1:])
