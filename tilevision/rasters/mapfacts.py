"""What is known of a map once all of it was blended: counted on the way, not by blending again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilevision.rasters.mapareas import ClassCounts, counted
from tilevision.rasters.regionmask import Window

if TYPE_CHECKING:
    from tilevision.rasters.rastermap import RasterMap

__all__ = ["COUNTED", "MapFacts"]

COUNTED = 2 * 10**8  # pixels: a larger map takes many seconds to count, so only when asked


class MapFacts:
    """Counts the classes of a map and compares its tiles while the map is written.

    Parameters
    ----------
    raster : RasterMap
        Of all classes, or of values.
    """

    def __init__(self, raster: RasterMap) -> None:
        self._raster = raster
        self._comparison = raster.comparison()
        width, height = raster.size
        counts = raster.counts_all and width * height <= COUNTED
        self._parts: dict[Window, ClassCounts | None] | None = {} if counts else None

    @property
    def wanted(self) -> bool:
        """Return True if class numbers are wanted of each window that is seen."""
        return self._parts is not None

    def see(self, window: Window, classes: NDArray[np.uint8] | None) -> None:
        """Look at a window that was blended, with its class numbers ``(h, w)`` where `wanted`."""
        if self._comparison is not None:
            self._comparison.look(window)
        if self._parts is not None and classes is not None:
            self._parts[window] = counted(window, classes, None, self._raster.scale)

    def end(self) -> None:
        """Tell the map what was found, as far as all of it was seen; what was not it finds itself.

        Raises
        ------
        CheckpointCorrupt
            If a tile's map is damaged or missing.
        """
        windows = list(self._raster.windows())
        if self._parts is not None and all(one in self._parts for one in windows):
            self._raster.learn_areas([[self._parts[one]] for one in windows])
        self._parts = None
        if self._comparison is not None:
            self._raster.learn_agreement(self._comparison.result())
            self._comparison = None
