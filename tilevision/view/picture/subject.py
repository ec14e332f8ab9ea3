"""What a screen can show: a run of any kind, or a plan of which nothing has run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from tilevision.events import Event, RunChanged, TileChanged
from tilevision.grid import Tile
from tilevision.sources import ImageSource
from tilevision.view.picture.viewstate import PLANNED

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
        self._settled = [
            *((tile, "restored") for tile in plan.restored),
            *((tile, "skipped") for tile in plan.skipped),
        ]

    def events(self) -> list[Event]:
        """Return one event for each tile that is stored or will be left out."""
        now = time.time()
        settled = [TileChanged(now, tile, status) for tile, status in self._settled]
        return [RunChanged(now, PLANNED), *settled]

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Do nothing: a plan stays as it is."""
        del listener
        return lambda: None
