"""What a screen can show: a run of any kind, or a plan that has not been run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from tilevision.events import Event, TileChanged
from tilevision.grid import Tile
from tilevision.sources import ImageSource
from tilevision.status import TileStatus

if TYPE_CHECKING:
    from tilevision.pipeline import Plan

__all__ = ["Named", "PlannedRun", "Watched"]


class Named(Protocol):
    """What a view needs from a model."""

    @property
    def name(self) -> str:
        """Its name."""


class Watched(Protocol):
    """What a view needs from a run."""

    id: str
    name: str
    tiles: tuple[Tile, ...]

    @property
    def model(self) -> Named:
        """The tiles' model."""

    @property
    def source(self) -> ImageSource:
        """The image."""

    def events(self) -> Sequence[Event]:
        """Return what a late listener needs to know."""

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with every event from now on; return a function that stops this."""


class PlannedRun:
    """A plan as a view shows it: its grid, and the tiles that are stored already.

    Parameters
    ----------
    plan : Plan

    Attributes
    ----------
    plan : Plan
    region : Region or None
        The part of the image that is to be analysed; None: all of it.
    """

    id = "plan"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.name = plan.name
        self.tiles = plan.tiles
        self.model: Named = plan.stages.asked
        self.source = plan.source
        self.region = plan.region
        self._settled = [
            *((tile, TileStatus.RESTORED) for tile in plan.restored),
            *((tile, TileStatus.SKIPPED) for tile in plan.skipped),
        ]

    def events(self) -> list[Event]:
        """Return one event for each tile that is stored or will be skipped."""
        now = time.time()
        return [TileChanged(now, tile, status) for tile, status in self._settled]

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Do nothing: a plan does not change."""
        del listener
        return lambda: None
