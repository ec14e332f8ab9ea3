"""The map of a run on the screen: blended cell by cell, each once all its tiles are there.

The drawing thread only lays the finished pixels over the image. Tiles are decoded and blended on
a thread of its own, in short turns, and what is blended already is drawn meanwhile: a frame costs
the same whether ten tiles have a map or ten thousand.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.colouring import colours_version
from tilevision.errors import CheckpointError, RunError
from tilevision.geometry import Box
from tilevision.plot import STATUSES
from tilevision.view.jobs import JobQueue
from tilevision.view.mapping.mapchoice import MapChoice, choices_of
from tilevision.view.mapping.maplegend import legend_of, read_at
from tilevision.view.mapping.mapsheet import MapSheet
from tilevision.view.picture.viewstate import ViewState

if TYPE_CHECKING:
    from tilevision.rasters import Cells, RasterMap, Samples
    from tilevision.result import Result

__all__ = ["MapPainter", "MapSeen", "map_seen"]

TURN_SECONDS = 0.2  # of blending between two frames
DRAWING_SECONDS = 1.0  # that a frame is waited for at most
STEPS_KEPT = 3  # distances of pixels whose samples are kept: the whole image, and where one looks
OPACITY = 0.6
OFF = "off"

_ENDED = np.array([status.ended for status in STATUSES])
_log = logging.getLogger("tilevision.view")


@dataclass(frozen=True, slots=True, eq=False)
class MapSeen:
    """The map of a run as of now.

    Parameters
    ----------
    raster : RasterMap
    cells : Cells
    there, open : array (rows, columns) of int
        How many tiles with a map, and how many that have yet to end, reach into each cell.
    """

    raster: RasterMap
    cells: Cells
    there: NDArray[np.int64]
    open: NDArray[np.int64]


def map_seen(result: Result, state: ViewState) -> MapSeen | None:
    """Return the map of `result`; None if it has none, or none that is one map.

    Parameters
    ----------
    result : Result
    state : ViewState
        Of the run, as it was before `result` was looked up.
    """
    try:
        raster = result.raster
    except RunError:  # maps of several kinds: the summary says so
        return None
    if raster is None:
        return None
    from tilevision.rasters import Cells

    cells = Cells(state.tiles, raster.size)
    having = raster.tiles
    there = np.fromiter((tile in having for tile in state.tiles), bool, len(state.tiles))
    open_ = np.zeros_like(there) if state.at_rest else ~_ENDED[state.status]
    return MapSeen(raster, cells, cells.counted(there), cells.counted(open_))


class MapPainter:
    """Paints the map that is shown over the picture.

    Parameters
    ----------
    on_paint : callable
        Called when there is more to draw, on the painting thread.
    """

    def __init__(self, on_paint: Callable[[], None]) -> None:
        self._on_paint = on_paint
        self._jobs = JobQueue("tilevision-view-map", _log.warning)
        self._lock = threading.Lock()
        self._free = threading.Event()  # cleared while a frame is drawn
        self._free.set()
        self._run: object = None
        self._seen: MapSeen | None = None
        self._key: tuple[Any, ...] = ()
        self._sheets: dict[Any, MapSheet] = {}  # of the whole image, under None, and of a part
        self._samples: OrderedDict[int, Samples] = OrderedDict()
        self._size = (1, 1)
        self._whole: Box | None = None
        self._view: Box | None = None
        self._version = 0
        self._drawn: tuple[Any, NDArray[np.uint8] | None] = (None, None)
        self._legend: tuple[Any, list[dict[str, Any]]] = (None, [])
        self._layer = ""
        self.opacity = OPACITY
        self.hidden: frozenset[str] = frozenset()
        self.fault = ""

    # What is shown ------------------------------------------------------------------------------

    def update(self, run: object, seen: MapSeen | None) -> None:
        """Show the map of `run` as of now, or none; from any thread."""
        with self._lock:
            if run is not self._run:
                self._samples.clear()
                self._key = ()
            self._run, self._seen = run, seen
        self._paint_soon()

    def choose(self, layer: str, opacity: float) -> None:
        """Show a layer, by its key; ``"off"`` is none."""
        self._layer, self.opacity = layer, min(max(opacity, 0.0), 1.0)
        self._paint_soon()

    @property
    def choices(self) -> list[MapChoice]:
        """The layers there are."""
        seen = self._seen
        return [] if seen is None else choices_of(seen.raster)

    @property
    def choice(self) -> MapChoice | None:
        """The layer that is shown; None for none."""
        offered = self.choices
        if not offered or self._layer == OFF:
            return None
        return next((one for one in offered if one.key == self._layer), offered[0])

    def legend(self) -> list[dict[str, Any]]:
        """Return the entries of the legend, as `caption` has them."""
        seen, choice = self._seen, self.choice
        if seen is None or choice is None:
            return []
        key = (self._version, colours_version(), choice, id(seen))
        if self._legend[0] != key:
            with self._lock:
                sheet = self._sheets.get(None)
            self._legend = (key, legend_of(seen.raster, choice, sheet))
        return self._legend[1]

    def cover(self, view: Box, whole: Box, size: tuple[int, int]) -> NDArray[np.uint8] | None:
        """Return RGBA (h, w, 4), not premultiplied, of the map over `view`; None for none.

        What is not blended yet is clear, or shown as coarse as it is known. Takes a few
        milliseconds, whatever the number of tiles.
        """
        seen, choice = self._seen, self.choice
        if seen is None or choice is None or not self.opacity:
            return None
        if (view, whole, size) != (self._view, self._whole, self._size):
            self._view, self._whole, self._size = view, whole, size
            self._paint_soon()
        painted = self._version, colours_version()
        key = (painted, view, choice, self.hidden, self.opacity, id(seen))
        if self._drawn[0] != key:
            with self._lock:
                sheets = [self._sheets.get(None), self._sheets.get(view)]
            self._drawn = (key, self._laid(seen, choice, sheets, view, size))
        return self._drawn[1]

    def _laid(
        self,
        seen: MapSeen,
        choice: MapChoice,
        sheets: list[MapSheet | None],
        view: Box,
        size: tuple[int, int],
    ) -> NDArray[np.uint8] | None:
        known = [sheet for sheet in sheets if sheet is not None]
        if not known:
            return None
        table = choice.palette(seen.raster, self.hidden)
        table[:, 3] = np.round(table[:, 3] * self.opacity)
        ends = known[0].ends  # of the whole image: colours stay while one zooms
        out: NDArray[np.uint8] | None = None
        for sheet in known:
            levels, there = sheet.over(view, size, seen.raster.scale, ends)
            mine = table[levels]
            if out is None:
                mine[~there] = 0
                out = mine
            else:
                out[there] = mine[there]
        return out

    def reading(self, x: float, y: float) -> str:
        """Return what the map says at a point of the image, blended for real; empty for no map."""
        seen = self._seen
        try:
            return "" if seen is None else read_at(seen.raster, x, y)
        except CheckpointError as error:
            return f"The map could not be read: {error}"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Paint nothing within: two threads at work would make a frame wait for each cell."""
        self._free.clear()
        try:
            yield
        finally:
            self._free.set()

    def close(self) -> None:
        """Paint no more."""
        self._jobs.close()

    # Painting, on a thread of its own -----------------------------------------------------------

    def _paint_soon(self) -> None:
        if self._seen is not None:
            self._jobs.put("paint", self._paint)

    def _paint(self) -> None:
        """Blend for one turn; come back where more is due."""
        seen, choice = self._seen, self.choice
        if seen is None or choice is None or self._whole is None:
            return
        until = time.monotonic() + TURN_SECONDS
        more = painted = False
        for sheet in self._due(seen, choice):
            try:
                counts = seen.there, seen.open
                did, left = sheet.paint(seen.raster, *counts, until, self._let_draw)
            except CheckpointError as error:
                did, left = True, True
                self.fault = f"A part of the map could not be read: {error}"
            painted, more = painted or did, more or left
        if painted:
            self._version += 1
            self._on_paint()
        if more:
            self._paint_soon()

    def _let_draw(self) -> None:
        self._free.wait(DRAWING_SECONDS)

    def _due(self, seen: MapSeen, choice: MapChoice) -> list[MapSheet]:
        """Return the sheets to paint: where the user looks first, then the whole image."""
        raster, view, whole = seen.raster, self._view, self._whole
        assert whole is not None  # looked at before
        with self._lock:
            key = (choice, raster.settings, raster.spec, raster.size, seen.cells.shape, whole)
            if key != self._key:
                self._key, self._sheets = key, {}
                self.fault = ""
            wanted: list[tuple[Any, Box]] = [(None, whole)]
            if view is not None and view != whole:
                wanted.insert(0, (view, view))
            self._sheets = {
                name: self._sheets.get(name) or self._sheet(seen, choice, box)
                for name, box in wanted
            }
            return [self._sheets[name] for name, _ in wanted]

    def _sheet(self, seen: MapSeen, choice: MapChoice, view: Box) -> MapSheet:
        from tilevision.rasters import Samples

        pixels = view.width * seen.raster.scale / self._size[0]
        step = max(1, math.floor(pixels))
        samples = self._samples.get(step) or Samples()
        self._samples[step] = samples
        self._samples.move_to_end(step)
        while len(self._samples) > STEPS_KEPT:
            self._samples.popitem(last=False)
        return MapSheet(choice, seen.cells, seen.raster, view, step, samples)
