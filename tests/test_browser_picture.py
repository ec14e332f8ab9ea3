"""The picture as a place to work in: keys, classes, opacity, the overview, full screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from labs import CELLS, PICTURE, Lab, errors
from panels import SHOWN, SQUARES, await_label, open_panel, press, show_all

pytestmark = pytest.mark.slow

CHOSEN = "[aria-selected=true] .tilevision-number"
# How bright the picture is.
PIXELS = f"""() => {{
  const canvas = document.querySelector("{PICTURE}");
  const {{data}} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let sum = 0;
  for (let i = 0; i < data.length; i += 4) sum += data[i] + data[i + 1] + data[i + 2];
  return sum;
}}"""


@pytest.mark.parametrize("lab", ["JupyterLab Light"], indirect=True)
def test_the_picture_obeys_keys_and_legend(lab: Lab, page: Any, tmp_path: Path) -> None:
    """Each key that `?` lists does what it says; a class is hidden and still counts."""
    open_panel(page, lab, tmp_path, [SQUARES], "planned: 6 tiles")
    press(page, "Run")
    await_label(page, "complete: .*384 detections merged by seam")
    press(page, "Detections")
    page.locator(".tilevision-findings [role=option]").first.wait_for()
    picture = page.locator(PICTURE)
    picture.focus()
    page.keyboard.press("?")
    page.get_by_text("next, previous object").wait_for()
    page.picture("keys")
    page.keyboard.press("Escape")
    page.get_by_text("next, previous object").wait_for(state="hidden")
    _check_stepping(page)
    _check_legend_and_opacity(page)
    picture.focus()
    page.keyboard.press("f")
    page.wait_for_function("() => document.fullscreenElement?.matches('.tilevision-panel')")
    page.picture("full")
    page.keyboard.press("f")
    page.wait_for_function("() => !document.fullscreenElement")
    assert errors(page.evaluate(CELLS)) == []


def _check_stepping(page: Any) -> None:
    whole = page.evaluate(SHOWN)[2]
    page.keyboard.press("n")
    page.wait_for_function(f"() => {SHOWN}[2] < {whole} / 3")
    for key, row in (("n", "2"), ("n", "3"), ("p", "2"), ("p", "1"), ("p", "384"), ("n", "1")):
        page.keyboard.press(key)
        page.wait_for_function(
            f"row => document.querySelector('.tilevision-findings {CHOSEN}')?.textContent === row",
            arg=row,
        )
    show_all(page, "stepping")
    # The overview is there while a part is shown; a press on it looks elsewhere.
    picture = page.locator(PICTURE)
    page.wait_for_function(
        f"""() => {{
          const picture = document.querySelector("{PICTURE}");
          return Math.abs(picture.dataset.map.split(" ")[2] - picture.clientWidth / 5) < 1;
        }}"""
    )
    picture.scroll_into_view_if_needed()
    x, y, width, height = map(float, (picture.get_attribute("data-map") or "").split())
    before = page.evaluate(SHOWN)
    at = picture.bounding_box()
    page.mouse.click(at["x"] + x + 0.9 * width, at["y"] + y + 0.9 * height)
    page.wait_for_function(f"before => {SHOWN}[0] > before + 100", arg=before[0])
    picture.focus()
    page.keyboard.press("0")
    page.wait_for_function(f"() => {SHOWN}[2] === {whole}")
    assert picture.get_attribute("data-map") == ""


def _check_legend_and_opacity(page: Any) -> None:
    before = page.evaluate(PIXELS)
    page.get_by_role("switch", name="192 large").click()
    page.wait_for_function(f"before => Math.abs(({PIXELS})() - before) > 100_000", arg=before)
    hidden = page.evaluate(PIXELS)
    page.picture("hidden")
    assert page.get_by_role("switch", name="192 large").get_attribute("aria-checked") == "false"
    await_label(page, "384 detections")
    page.locator(PICTURE).focus()
    for _ in range(10):
        page.keyboard.press("[")
    assert page.get_by_role("slider", name="Opacity").input_value() == "0"
    page.wait_for_function(f"before => Math.abs(({PIXELS})() - before) > 10_000", arg=hidden)
    page.picture("faint")
