"""Two results in one picture, as a user has them: by mouse and keys in a real notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from labs import CELLS, PICTURE, Lab, errors, run_cells, write_notebook
from panels import SHOWN, SQUARES, await_label, open_panel, press, run_code, show_all

pytestmark = pytest.mark.slow

FEWER = """
def fewer(pixels):
    return [one for one in squares(pixels) if one["label"] == "large"]

more = {"grid": tv.Grid(2, 3, overlap=0.2), "mpp": 0.5, "workers": 1, "progress": False}
other = tv.analyze("squares.png", fewer, **more)
"""
BOTH = f"""
{SQUARES.rpartition("panel =")[0]}
{FEWER}
view = tv.explore(tv.compare(other.with_(min_score=0.8), other))
"""
OPTIONS = "() => document.querySelectorAll('.tilevision-compare option').length"
# Whether the line of the divider is drawn in the middle of the picture: nothing else is white.
DIVIDED = f"""() => {{
  const canvas = document.querySelector("{PICTURE}");
  const {{data}} = canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 4, 1, 1);
  return Math.min(...data) === 255;
}}"""
# The colours on the left and the right edge of the picture.
EDGES = f"""() => {{
  const canvas = document.querySelector("{PICTURE}");
  const edge = (x) => canvas.getContext("2d").getImageData(x, 0, 30, canvas.height).data.join();
  return [edge(0), edge(canvas.width - 31)];
}}"""


def _await_side(page: Any, side: str) -> None:
    page.wait_for_function(
        f"side => document.querySelector('{PICTURE}')?.dataset.side === side", arg=side
    )


def _drag_divider(page: Any, start: float, end: float) -> None:
    at = page.locator(PICTURE).bounding_box()
    y = at["y"] + at["height"] / 3
    page.mouse.move(at["x"] + start * at["width"], y)
    page.mouse.down()
    page.mouse.move(at["x"] + end * at["width"], y, steps=4)
    page.mouse.up()


@pytest.mark.parametrize("lab", ["JupyterLab Dark"], indirect=True)
def test_the_panel_shows_another_run_over_the_one_in_the_picture(
    lab: Lab, page: Any, tmp_path: Path
) -> None:
    """Differences by colour, a divider to drag, both in turn; chosen from past runs."""
    open_panel(page, lab, tmp_path, [SQUARES, "None"], "planned: 6 tiles")
    press(page, "Run")
    await_label(page, "complete: .*384 detections merged by seam")
    run_code(page, 1, FEWER)
    press(page, "Compare")
    page.wait_for_function(f"() => ({OPTIONS})() === 2")
    page.locator(".tilevision-compare select").select_option(index=1)
    _await_side(page, "differences")
    await_label(page, "192 in both · 192 only in A · 0 only in B")
    page.locator(".tilevision-compare td").get_by_text("small").wait_for()
    show_all(page, "differences")
    press(page, "Swipe")
    _await_side(page, "swipe")
    picture = page.locator(PICTURE)
    picture.scroll_into_view_if_needed()
    page.wait_for_function(DIVIDED)  # the second picture is there, too
    assert picture.get_attribute("data-divider") == "0.5"
    before = page.evaluate(EDGES)
    _drag_divider(page, 0.5, 0.02)
    after = page.evaluate(EDGES)
    assert after[0] == before[0] or after[1] == before[1]  # only what the divider passed
    divider = float(picture.get_attribute("data-divider"))
    assert divider == pytest.approx(0.02, abs=0.01)
    page.keyboard.press(".")
    assert float(picture.get_attribute("data-divider")) == pytest.approx(divider + 0.05)
    page.picture("swipe")
    page.keyboard.press("b")
    for side in ("B", "A", "B"):
        _await_side(page, side)
    page.picture("blink")
    page.get_by_role("switch", name="small").wait_for()
    page.locator(".tilevision-compare select").select_option(index=0)
    await_label(page, "384 detections merged by seam")
    _await_side(page, "")
    assert errors(page.evaluate(CELLS)) == []


@pytest.mark.parametrize("lab", ["notebook"], indirect=True)
def test_a_comparison_is_explored_without_a_panel(lab: Lab, page: Any, tmp_path: Path) -> None:
    """In Notebook 7, where it zooms by the wheel without a click and says nothing of errors."""
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(f"{error}\n{error.stack}"))
    page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
    write_notebook(lab, "both.ipynb", [BOTH])
    assert errors(run_cells(page, lab, "both.ipynb")) == []
    _await_side(page, "differences")
    headline = page.locator(".tilevision-headline")  # the words stand for pictures, too
    headline.get_by_text("96 in both · 0 only in A · 96 only in B").wait_for()
    page.locator(".tilevision-compared td").get_by_text("large").wait_for()
    whole = page.evaluate(SHOWN)[2]
    picture = page.locator(PICTURE)
    picture.scroll_into_view_if_needed()
    at = picture.bounding_box()
    page.mouse.move(at["x"] + 90, at["y"] + 90)
    page.mouse.move(at["x"] + 160, at["y"] + 160, steps=3)
    page.mouse.wheel(0, -120)
    page.wait_for_function(f"whole => {SHOWN}[2] < whole", arg=whole)
    page.get_by_role("button", name="Swipe", exact=True).click()
    _await_side(page, "swipe")
    page.screenshot(path=tmp_path / "notebook.png")
    assert [line for line in said if "tilevision" in line or "anywidget" in line] == []
