"""Regions from elsewhere: which files they come from and go to, and tissue that is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from tilevision.errors import GridError
from tilevision.regions import read_region
from tilevision.view.drawing.drawnregions import DrawnRegions
from tilevision.view.jobs import JobQueue
from tilevision.view.panel.controls import Answer, button, column, control

__all__ = ["RegionForm"]


class RegionForm:
    """A path, and two buttons; what they ask for is done on a thread.

    Parameters
    ----------
    regions : DrawnRegions
        On the picture.
    shown : callable
        Returns the run or plan that is shown, or None.
    jobs : JobQueue
    """

    def __init__(self, regions: DrawnRegions, shown: Callable[[], Any], jobs: JobQueue) -> None:
        self._regions, self._shown, self._jobs = regions, shown, jobs
        tip = "GeoJSON, GeoPackage, Shapefile or a mask to import; GeoJSON to export"
        self.path = control(widgets.Text, "Regions", tip, value="regions.geojson")
        self.load = button("Import regions", "Add the regions in the file to those on the picture")
        self.save = button("Export regions", "Save the regions on the picture as GeoJSON in pixels")
        self.answer = Answer()
        buttons = widgets.HBox([self.load, self.save])
        self.box = column(self.path, buttons, self.answer.words, name="saving")
        self.load.on_click(lambda _: self._put("regions", self._load))
        self.save.on_click(lambda _: self._put("save regions", self._save))
        regions.on_tissue = lambda: jobs.put("tissue", self._find_tissue)

    def _put(self, kind: str, act: Callable[[str], None]) -> None:
        path = self.path.value
        self._jobs.put(kind, lambda: act(path), self.answer.fail)

    def _find_tissue(self) -> None:
        run = self._shown()
        if run is not None:
            with self._regions.saying("Looking for tissue…"):  # which takes seconds
                found = read_region("tissue", run.source)
            self._regions.add(found)

    def _load(self, path: str) -> None:
        if not Path(path).is_file():
            raise GridError(
                f"There is no file {path!r:.200} to import from. Give the path of GeoJSON, a "
                "GeoPackage, a Shapefile or a mask image."
            )
        run = self._shown()
        if run is not None:
            self.answer.say(f"Imported {_regions(self._regions.load(path, run.source))}.")

    def _save(self, path: str) -> None:
        self.answer.say(f"Saved {_regions(self._regions.save(path))} to {path}.")


def _regions(n: int) -> str:
    return f"{n:,} {'region' if n == 1 else 'regions'}"
