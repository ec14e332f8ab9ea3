"""Regions drawn on the picture: what lies in them is counted at once, and only that is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from labs import CELLS, PICTURE, Lab, errors
from panels import SHOWN, SQUARES, await_label, open_panel, press, show_all

pytestmark = pytest.mark.slow

REGIONS = """() => [...document.querySelectorAll('.tilevision-results table')].map(
  table => [...table.querySelectorAll('tbody tr')].map(
    line => [...line.children].map(cell => cell.textContent))).at(-1)"""


class Pointer:
    """A mouse that is moved in pixels of the image."""

    def __init__(self, page: Any) -> None:
        self._page = page
        page.locator(PICTURE).scroll_into_view_if_needed()

    def to(self, x: float, y: float) -> None:
        """Move to a point of the image, wherever the page has it by now."""
        box, scale = self._place()
        self._page.mouse.move(box["x"] + x * scale, box["y"] + y * scale, steps=4)

    def _place(self) -> tuple[Any, float]:
        box = self._page.locator(PICTURE).bounding_box()
        return box, box["width"] / self._page.evaluate(SHOWN)[2]

    def drag(self, *points: tuple[float, float]) -> tuple[float, float]:
        """Press at the first point, pass the others, and let the last one go.

        Returns the first point: it is a pixel of the page within the picture, at least, as the
        picture's edge may lie between two of them.
        """
        _, scale = self._place()
        x, y = (max(1.0, value * scale) for value in points[0])
        self._page.locator(PICTURE).hover(position={"x": x, "y": y})  # once the page is at rest
        self._page.mouse.down()
        for point in points[1:]:
            self.to(*point)
        self._page.mouse.up()
        return x / scale, y / scale

    def click(self, x: float, y: float) -> None:
        """Click at a point."""
        self.drag((x, y))


@pytest.mark.parametrize("lab", ["JupyterLab Light"], indirect=True)
def test_regions_are_drawn_counted_and_kept(lab: Lab, page: Any, tmp_path: Path) -> None:
    """Draw, name, move a corner, delete, export, import; the rest of the image is skipped."""
    open_panel(page, lab, tmp_path, [SQUARES], "planned: 6 tiles")
    pointer = Pointer(page)
    press(page, "Rectangle")
    left, top = pointer.drag((0.5, 0.5), (160, 320))
    await_label(page, r"planned: 6 tiles \(2 pending, 4 skipped\)")
    press(page, "Run")
    # Four columns and eight rows have their centre in it.
    await_label(page, r"complete: .*32 detections")
    # The region stands in the table before what the run found is reported.
    page.wait_for_function(f"() => ({REGIONS})()[0]?.[1] === '32'")
    page.picture("one")
    name, _, area, density, share = page.evaluate(REGIONS)[0]
    assert (name, share) == ("Region 1", "100%")
    assert float(area) == pytest.approx((160 - left) * (320 - top) * 0.25e-6, rel=0.02)  # mm²
    assert float(density.replace(",", "")) == pytest.approx(32 / float(area), rel=0.02)
    _check_more_regions(lab, page)
    assert errors(page.evaluate(CELLS)) == []


def _check_more_regions(lab: Lab, page: Any) -> None:
    name = page.get_by_role("textbox", name="Name of the region")
    name.fill("<b>core</b>")
    name.press("Enter")
    pointer = Pointer(page)
    press(page, "Polygon")
    for point in ((2, 2), (200, 2), (2, 200)):
        pointer.click(*point)
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => ({REGIONS})()[1]?.[0] === 'Region 2'")
    press(page, "Lasso")
    pointer.drag((20, 220), (150, 220), (150, 310), (20, 310), (20, 225))
    page.wait_for_function(f"() => ({REGIONS})()[2]?.[0] === 'Region 3'")
    assert page.evaluate(REGIONS)[0][:2] == ["<b>core</b>", "32"]
    show_all(page, "regions")
    # The lasso is selected: without it two regions are left.
    press(page, "Delete region")
    page.wait_for_function(f"() => ({REGIONS})().length === 2")
    pointer = Pointer(page)
    pointer.click(160, 260)  # on the right border of the first
    pointer.drag((160, 320), (160, 160))
    page.picture("moved")
    page.wait_for_function(f"() => Number(({REGIONS})()[0][1]) < 32")
    page.get_by_role("textbox", name="Regions").fill("drawn.geojson")
    page.get_by_role("textbox", name="Regions").press("Tab")
    press(page, "Export regions")
    page.get_by_text("Saved 2 regions to drawn.geojson.").wait_for()
    kept = json.loads((lab.folder / "drawn.geojson").read_text())
    assert [one["properties"]["name"] for one in kept["features"]] == ["<b>core</b>", "Region 2"]
    press(page, "Import regions")
    page.get_by_text("Imported 2 regions.").wait_for()
    page.wait_for_function(f"() => ({REGIONS})()[3]?.[0] === 'Region 2 2'")
