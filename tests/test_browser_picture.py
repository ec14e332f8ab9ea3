"""The picture as a place to work in: keys, classes, opacity, the overview, full screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from labs import CELLS, PICTURE, Lab, errors
from panels import SHOWN, SQUARES, await_label, open_panel, press, run_code, show_all

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

COUNT = f"""() => {{
  const canvas = document.querySelector("{PICTURE}");
  const {{data}} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const counts = (red, green, blue) => RULE;
  let n = 0;
  for (let i = 0; i < data.length; i += 4) n += counts(data[i], data[i + 1], data[i + 2]);
  return n;
}}"""
# How many pixels have the colour that a class is given here, and that of the frame of tiles that
# were sent on.
YELLOW = COUNT.replace("RULE", "red > 200 && green > 190 && blue < 130")
INDIGO = COUNT.replace("RULE", "red < 90 && green < 70 && blue > 120")


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
    _check_edge(page)
    _check_stepping(page)
    _check_legend_and_opacity(page)
    picture.focus()
    page.keyboard.press("f")
    page.wait_for_function("() => document.fullscreenElement?.matches('.tilevision-panel')")
    page.picture("full")
    page.keyboard.press("f")
    page.wait_for_function("() => !document.fullscreenElement")
    _check_colours(page)
    assert errors(page.evaluate(CELLS)) == []


def _check_edge(page: Any) -> None:
    """Past the image's edge no key leads, so nothing is awaited; zoom moves only what is shown."""
    picture = page.locator(PICTURE)
    top = picture.bounding_box()["y"]
    page.keyboard.press("-")
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(3500)  # longer than the page is patient with a busy kernel
    assert page.get_by_text("The kernel is busy.").is_hidden()
    page.keyboard.press("+")
    page.locator(".tilevision-reset:enabled").wait_for()
    assert picture.bounding_box()["y"] == top
    # The overview of another run is not shown as that of this one.
    dated = f"document.querySelector('{PICTURE}').dataset.dated"
    page.wait_for_function(f"() => {dated} === 'false'")
    press(page, "Run")
    page.wait_for_function(f"() => {dated} === 'true'")
    await_label(page, "complete: .*384 detections merged by seam")
    picture.focus()
    page.keyboard.press("0")
    page.wait_for_function(f"() => {SHOWN}[2] === 960")


def _check_colours(page: Any) -> None:
    """A class has the colour that was chosen in the legend, in the picture and in the table."""
    slider = page.get_by_role("slider", name="Opacity")
    slider.hover()  # once the page is at rest after the full screen
    drag = slider.bounding_box()
    y = drag["y"] + drag["height"] / 2
    before = page.evaluate(PIXELS)
    page.mouse.move(drag["x"] + 4, y)
    page.mouse.down()
    page.mouse.move(drag["x"] + drag["width"] / 2, y, steps=4)
    page.mouse.move(drag["x"] + drag["width"] - 2, y, steps=4)
    page.mouse.up()
    assert float(page.get_by_role("slider", name="Opacity").input_value()) == 1
    page.wait_for_function(f"before => Math.abs(({PIXELS})() - before) > 10_000", arg=before)
    press(page, "Results")
    choose = page.get_by_label("Colour of 192 small", exact=True)
    usual, before = choose.input_value(), page.evaluate(YELLOW)
    choose.fill("#ffee00")
    choose.dispatch_event("change")
    page.get_by_label("Usual colour of 192 small").wait_for()
    page.wait_for_function(f"before => ({YELLOW})() > before + 1000", arg=before)
    page.locator("[style*='rgb(255, 238, 0)']").nth(1).wait_for()  # legend, and the classes
    page.get_by_role("switch", name="192 small").wait_for()
    show_all(page, "coloured")
    page.get_by_label("Usual colour of 192 small").click()
    page.get_by_label("Usual colour of 192 small").wait_for(state="detached")
    assert page.get_by_label("Colour of 192 small", exact=True).input_value() == usual


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


CASCADE = f"""
{SQUARES.rpartition("panel =")[0]}
def quick(pixels):
    # In doubt where the ground is dark.
    score = 0.4 if pixels[0, 0, 2] < 200 else 0.9
    return [one | {{"score": score}} for one in squares(pixels)]

pixels[:, :480][pixels[:, :480, 2] > 200] = (208, 214, 160)
Image.fromarray(pixels).save("squares.png")
panel = tv.explore("squares.png", tv.Cascade(quick, squares, when=(0.3, 0.5)),
                   grid=tv.Grid(2, 4, overlap=0), mpp=0.5, workers=1)
"""
SENT = ".tilevision-entry"


@pytest.mark.parametrize("lab", ["JupyterLab Dark"], indirect=True)
def test_tiles_sent_on_by_a_cascade_are_marked(lab: Lab, page: Any, tmp_path: Path) -> None:
    """With a frame in the picture and a legend that says how many and why; also when reopened."""
    open_panel(page, lab, tmp_path, [CASCADE, ""], "planned: 8 tiles")
    press(page, "Run")
    await_label(page, "complete: .*detections merged by seam")
    entry = page.locator(SENT, has_text="sent on to squares (a score from 0.3 to 0.5)")
    entry.first.wait_for()
    count = int(entry.first.inner_text().replace("»", "").split()[0])
    assert count == 4
    page.picture("sent-on")
    page.wait_for_function(f"least => ({INDIGO})() > least", arg=500 * count)
    page.evaluate("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    run_code(page, 1, "tv.watch(tv.runs()['id'].iloc[0])")
    await_label(page, "complete: 8 tiles")
    entry.first.wait_for()
    page.wait_for_function(f"least => ({INDIGO})() > least", arg=500 * count)
    page.picture("reopened")
    assert errors(page.evaluate(CELLS)) == []
