"""What a screen can show: a run of any kind, or a plan of which nothing has run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from tilevision.events import Event, TileChanged
from tilevision.grid import Tile
from tilevision.sources import ImageSource

if TYPE_CHECKING:
    from tilevision.pipeline import Plan

__all__ = ["Named", "PlannedRun", "Watched"]


class Named(Protocol):
    """What a view needs of a model."""

    @property
    def name(self) -> str:
        """What people call it."""


class Watched(Protocol):
    """What a view needs of a run."""

    id: str
    name: str
    tiles: tuple[Tile, ...]

    @property
    def model(self) -> Named:
        """Of the tiles."""

    @property
    def source(self) -> ImageSource:
        """The image."""

    def events(self) -> Sequence[Event]:
        """Return what a late listener needs to know."""

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with every event from now on; return what ends that."""


class PlannedRun:
    """A plan as a view shows it: its grid, and which tiles are stored already.

    Parameters
    ----------
    plan : Plan
    """

    id = "plan"

    def __init__(self, plan: Plan) -> None:
        self.name = plan.name
        self.tiles = plan.tiles
        self.model: Named = plan.stages.asked
        self.source = plan.source
        self._restored = plan.restored

    def events(self) -> list[Event]:
        """Return one event for each tile that is stored."""
        now = time.time()
        return [TileChanged(now, tile, "restored") for tile in self._restored]

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Do nothing: a plan stays as it is."""
        del listener
        return lambda: None
