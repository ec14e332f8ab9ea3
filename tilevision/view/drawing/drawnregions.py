"""The regions on the picture: drawn by the user, found, or read from a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tilevision import checks
from tilevision.errors import GridError
from tilevision.files import writing
from tilevision.plot import shown
from tilevision.regions import Region, read_region
from tilevision.sources import ImageSource

__all__ = ["DrawnRegions"]

NAME_LIMIT = 60
MOST_POINTS = 200_000


class DrawnRegions:
    """Named regions in pixels of the image, as a canvas shows them and a run takes them.

    Parameters
    ----------
    canvas : Canvas
        Shows them, and says how the user changes them.
    on_change : callable
        Called after the user changed them.

    Attributes
    ----------
    on_tissue : callable
        Called when the user asks for the tissue.
    touched : bool
        Whether the user has drawn or changed any.
    """

    def __init__(self, canvas: Any, on_change: Callable[[], None]) -> None:
        self._canvas = canvas
        self._on_change = on_change
        self.on_tissue: Callable[[], None] = lambda: None
        self.touched = False
        self._tissue: list[Any] | None = None  # as it was found
        canvas.tools = True
        canvas.on_msg(self._heard)

    @property
    def value(self) -> dict[str, Any] | None:
        """The regions as GeoJSON in pixels, as ``region=`` takes it; None without any."""
        return _collection(self._canvas.regions)

    @property
    def told(self) -> Any:
        """The same in as few words as ``region=`` needs: tissue that nobody moved is its name."""
        drawn = [one for one in self._canvas.regions if not self._is_tissue(one)]
        found = ["tissue"] if len(drawn) < len(self._canvas.regions) else []
        given = [*found, *([_collection(drawn)] if drawn else [])]
        return given if len(given) > 1 else next(iter(given), None)

    def _is_tissue(self, one: Mapping[str, Any]) -> bool:
        return bool(one["name"] == "tissue" and one["parts"] == self._tissue)

    def show(self, region: Region | None, *, instead: bool = False) -> None:
        """Show the region of a run or a plan, unless the user has drawn others; or `instead`."""
        self.touched = self.touched and not instead
        if not self.touched:
            self._note_tissue(region)
            self._put([] if region is None else list(region.each))

    @contextmanager
    def saying(self, words: str) -> Iterator[None]:
        """Within the block, say on the picture what is being done."""
        self._canvas.doing = words
        try:
            yield
        finally:
            self._canvas.doing = ""

    def add(self, region: Region) -> None:
        """Add each part of a region to those that there are."""
        self._note_tissue(region)
        self._put(list(region.each), before=self._canvas.regions)
        self._changed()

    def load(self, path: str, source: ImageSource) -> int:
        """Add the regions in a file, and return how many.

        Raises
        ------
        GridError, SourceError
            If the file cannot be read, or has none on the image.
        """
        region = read_region(path, source)
        self.add(region)
        return len(region.each)

    def save(self, path: str) -> int:
        """Write the regions as GeoJSON in pixels, and return how many.

        Raises
        ------
        GridError
            If there is none, or if the path does not end as GeoJSON does.
        """
        value = self.value
        if value is None:
            raise GridError("There is no region yet. Draw one on the picture.")
        if not path.lower().endswith((".geojson", ".json")):
            raise GridError(f"Regions are saved as GeoJSON: end {path!r:.200} in .geojson.")
        with writing(checks.path("path", path)) as file:
            json.dump(value, file, ensure_ascii=False)
        return len(value["features"])

    def _note_tissue(self, region: Region | None) -> None:
        # A region that somebody named tissue has its name as that of a part.
        if region is not None and region.name == "tissue" and not region.parts:
            self._tissue = _rounded(region.to_dict()["geometry"])

    def _put(self, regions: Sequence[Region], before: Sequence[Any] = ()) -> None:
        taken = {one["name"] for one in before}
        new = []
        for region in regions:
            name = _free(shown(region.name, NAME_LIMIT) or "region", taken)
            taken.add(name)
            new.append({"name": name, "parts": _rounded(region.to_dict()["geometry"])})
        made = [*before, *new]
        if made != self._canvas.regions:
            self._canvas.regions = made

    def _changed(self) -> None:
        self.touched = True
        self._on_change()

    def _heard(self, _: object, content: Any, __: object) -> None:
        match content:
            case {"tissue": True}:
                self.on_tissue()
            case {"regions": list(given)}:
                checked = [_checked(one) for one in given]
                self._canvas.regions = [one for one in checked if one is not None]
                self._changed()


def _collection(regions: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    features = [
        {
            "type": "Feature",
            "properties": {"name": one["name"]},
            "geometry": {"type": "MultiPolygon", "coordinates": one["parts"]},
        }
        for one in regions
    ]
    if not features:
        return None
    return {"type": "FeatureCollection", "coordinates_in": "pixels", "features": features}


def _free(name: str, taken: set[str]) -> str:
    names = [name, *(f"{name} {n}" for n in range(2, len(taken) + 3))]
    return next(one for one in names if one not in taken)


def _checked(one: Any) -> dict[str, Any] | None:
    """Return a region as the page sent it; None if it is none."""
    try:
        name = shown(str(one["name"]), NAME_LIMIT) or "region"
        parts = [[_ring(ring) for ring in rings] for rings in one["parts"]]
    except (KeyError, TypeError, ValueError):
        return None
    if not parts or sum(len(ring) for rings in parts for ring in rings) > MOST_POINTS:
        return None
    return {"name": name, "parts": parts}


def _ring(points: Any) -> list[list[float]]:
    """Return a closed ring, to a tenth of a pixel."""
    corners = np.round(np.array(points, dtype=np.float64).reshape(-1, 2), 1)
    if len(corners) < 3 or not np.isfinite(corners).all():
        raise ValueError("a ring has three corners or more")
    if (corners[0] != corners[-1]).any():
        corners = np.vstack([corners, corners[:1]])
    rings: list[list[float]] = corners.tolist()
    return rings


def _rounded(geometry: Mapping[str, Any]) -> list[list[list[list[float]]]]:
    coordinates = geometry["coordinates"]
    parts = [coordinates] if geometry["type"] == "Polygon" else coordinates
    return [[_ring(ring) for ring in rings] for rings in parts]
