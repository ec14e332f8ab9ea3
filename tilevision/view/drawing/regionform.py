"""Controls for regions: which files they come from and go to."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import ipywidgets as widgets

from tilevision.view.panel.controls import button, column, control

__all__ = ["RegionForm"]


class RegionForm:
    """A path, and two buttons.

    Parameters
    ----------
    on_load, on_save : callable
        Given the path.
    """

    def __init__(self, on_load: Callable[[str], None], on_save: Callable[[str], None]) -> None:
        tip = "GeoJSON, GeoPackage, Shapefile or a mask to import; GeoJSON to export"
        self.path = control(widgets.Text, "Regions", tip, value="regions.geojson")
        self.load = button("Import regions", "Add the regions in the file to those on the picture")
        self.save = button("Export regions", "Save the regions on the picture as GeoJSON in pixels")
        self.words = widgets.HTML()
        self.box = column(
            self.path, widgets.HBox([self.load, self.save]), self.words, name="saving"
        )
        self.load.on_click(lambda _: on_load(self.path.value))
        self.save.on_click(lambda _: on_save(self.path.value))

    def say(self, line: str) -> None:
        """Show one line below the buttons."""
        self.words.value = f'<div role="status">{escape(line)}</div>'
