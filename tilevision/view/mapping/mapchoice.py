"""What of a map can be shown, and in which colours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.plot import shown
from tilevision.plot.heat import heat_colours

if TYPE_CHECKING:
    from tilevision.rasters import RasterMap

__all__ = ["CLEAR", "MapChoice", "choices_of", "class_key"]

CLEAR = 255  # level of what has no data
MOST_CHOICES = 60


@dataclass(frozen=True)
class MapChoice:
    """A layer of a map.

    Parameters
    ----------
    key : str
        ``"classes"``, ``"share3"`` or ``"value0"``.
    words : str
        For people.
    band : int
        Number of the class, or of the plane.
    """

    key: str
    words: str
    band: int = 0

    @property
    def kind(self) -> str:
        """``"classes"``, ``"share"`` or ``"value"``."""
        return self.key.rstrip("0123456789")

    @property
    def dtype(self) -> str:
        """Of its pixels."""
        return "float32" if self.kind == "value" else "uint8"

    @property
    def nodata(self) -> float:
        """A pixel without data."""
        return math.nan if self.kind == "value" else CLEAR

    @property
    def ends(self) -> tuple[float, float] | None:
        """Return the lowest and highest value; None where only the pixels tell."""
        return None if self.kind == "value" else (0.0, 1.0)

    def read(self, blender: Any, window: tuple[int, int, int, int], step: int) -> NDArray[Any]:
        """Return its pixels ``(h, w)`` in a window of the map."""
        if self.kind == "classes":
            return np.asarray(blender.classes(*window, step))
        whole = blender.probabilities if self.kind == "share" else blender.values
        return np.asarray(whole(*window, step)[self.band])

    def levels(self, values: NDArray[Any], ends: tuple[float, float] | None) -> NDArray[np.uint8]:
        """Return which row of the palette each pixel has."""
        if self.kind != "value":
            return values
        out = np.full(values.shape, CLEAR, np.uint8)
        if ends is not None:
            there = np.isfinite(values)
            low, high = ends
            share = (values[there] - low) / max(high - low, 1e-12)
            out[there] = np.rint(share.clip(0, 1) * (CLEAR - 1))
        return out

    def palette(self, raster: RasterMap, hidden: frozenset[str]) -> NDArray[np.uint8]:
        """Return red, green, blue and opacity ``(256, 4)`` of each level; a copy.

        Parameters
        ----------
        raster : RasterMap
        hidden : frozenset of str
            Keys of classes that are not drawn.
        """
        if self.kind == "classes":
            table = raster.palette.copy()
            for name, number in raster.classes.items():
                if class_key(name) in hidden:
                    table[number, 3] = 0
            return table
        top = 253 if self.kind == "share" else CLEAR - 1
        table = np.zeros((256, 4), np.uint8)
        shares = np.arange(top + 1) / top
        table[: top + 1] = np.round(255 * np.array([heat_colours(share) for share in shares]))
        return table


def class_key(name: str) -> str:
    """Return what a page calls a class of a map: not what it calls detections of that name."""
    return "map" + sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def choices_of(raster: RasterMap) -> list[MapChoice]:
    """Return what of a map can be shown, what is shown first coming first."""
    spec = raster.spec
    if spec.kind == "values":
        unit = f" ({shown(spec.unit, 20)})" if spec.unit else ""
        if raster.bands == 1:
            return [MapChoice("value0", f"values{unit}")]
        return [MapChoice(f"value{n}", f"band {n}{unit}", n) for n in range(raster.bands)][
            :MOST_CHOICES
        ]
    found = [MapChoice("classes", "classes")]
    if spec.kind == "probabilities":
        named = list(raster.classes.items())[:MOST_CHOICES]
        found += [MapChoice(f"share{n}", f"probability of {shown(x, 30)}", n) for x, n in named]
    return found
