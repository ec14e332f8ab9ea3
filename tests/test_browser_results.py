"""Results in the panel: numbers, limits that are dragged, and a table that knows the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from labs import CELLS, PICTURE, Lab, errors, once_laid_out
from panels import SHOWN, SQUARES, await_label, open_panel, press, run_code, show_all

pytestmark = pytest.mark.slow


TOTAL = ".tilevision-total"


@pytest.mark.parametrize("lab", ["JupyterLab Dark"], indirect=True)
def test_results_answer_how_many_and_how_dense(lab: Lab, page: Any, tmp_path: Path) -> None:
    """They open when a run ends; limits are the filters; rows and objects find one another."""
    open_panel(page, lab, tmp_path, [SQUARES, ""], "planned: 6 tiles")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    press(page, "Run")
    await_label(page, "complete: .*384 detections merged by seam")
    page.get_by_text("384 objects", exact=True).wait_for()
    results = page.locator(".tilevision-results")
    # 960 x 640 px of 0.5 µm are 0.1536 mm².
    assert "2,500 per mm² of 0.154 mm² analysed" in results.inner_text()
    rows = results.locator("tbody tr").all_inner_texts()
    assert [row.split("\t") for row in rows] == [
        ["large", "192", "1,250", "50%"],
        ["small", "192", "1,250", "50%"],
    ]
    show_all(page, "results")
    _check_layout(page)
    _check_limits(page)
    _check_table(page)
    assert errors(page.evaluate(CELLS)[:1]) == []


def _check_layout(page: Any) -> None:
    """The picture stands beside buttons and tabs, which have a row each; the tables fit."""

    def check() -> None:
        rows = page.locator(
            ".tilevision-side .tilevision-buttons, .tilevision-side .tilevision-tabs"
        )
        assert [row["height"] < 45 for row in map(_box, rows.all())] == [True, True]
        picture, tabs = _box(page.locator(PICTURE).first), _box(rows.last)
        assert picture["x"] > tabs["x"] + tabs["width"] and picture["width"] > 400
        beyond = page.locator(".tilevision-results .tilevision-scroll").evaluate_all(
            "parts => parts.map(part => part.scrollWidth - part.clientWidth)"
        )
        assert max(beyond) <= 0, beyond

    for width in (1280, 1440, 1920):
        page.set_viewport_size({"width": width, "height": 1000})
        once_laid_out(page, check)
    page.set_viewport_size({"width": 1280, "height": 1000})


def _box(part: Any) -> dict[str, float]:
    box: dict[str, float] = part.bounding_box()
    return box


def _check_limits(page: Any) -> None:
    least = page.get_by_role("slider", name="Least area")
    least.focus()
    for _ in range(16):  # of 1.5 µm²; areas are 16, 36, 64 and 144 µm²
        page.keyboard.press("ArrowRight")
    await_label(page, "288 detections")
    page.get_by_text("288 objects", exact=True).wait_for()
    most = page.get_by_role("slider", name="Greatest score")
    box = most.bounding_box()
    at = page.locator("[data-kind=score] .tilevision-track").bounding_box()
    page.mouse.move(box["x"] + 7, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(at["x"] + 0.8 * at["width"], box["y"] + 20, steps=6)
    page.mouse.up()
    await_label(page, "192 detections")
    page.get_by_text("192 objects", exact=True).wait_for()  # the texts come with it
    page.picture("limits")
    page.get_by_text("Methods", exact=True).click()
    page.evaluate(NOTE_COPIED)
    press(page, "Copy methods")
    page.wait_for_function("() => window.copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert "merged objects of a score above 0.8 were dropped" in copied
    assert "merged objects of an area below" in copied
    page.get_by_text("Python", exact=True).click()
    press(page, "Copy as Python")
    page.wait_for_function(
        "() => navigator.clipboard.readText().then(text => text.startsWith('import'))"
    )
    code = page.evaluate("navigator.clipboard.readText()")
    run_code(page, 1, f"{code}\nresult.findings == panel.result.findings")
    page.wait_for_function(f"() => ({CELLS})()[1].outputs.at(-1)?.data?.['text/plain'] === 'True'")
    press(page, "Detections")
    press(page, "Show all")
    await_label(page, "384 detections")


def _check_table(page: Any) -> None:
    table = page.locator(".tilevision-findings")
    line = table.locator("[role=option]").first
    line.wait_for()
    assert table.locator("[role=option]").count() < 60  # of 384
    whole = page.evaluate(SHOWN)[2]
    press(page, "Area, µm²")
    await_cell(page, "[role=option]", "144")
    line.click()
    page.wait_for_function(f"() => {SHOWN}[2] < {whole} / 3")
    page.picture("looked-at")
    await_cell(page, SELECTED, "144")
    page.keyboard.press("End")
    await_cell(page, SELECTED, "16.0")
    page.locator(PICTURE).focus()
    page.keyboard.press("0")
    page.wait_for_function(f"() => {SHOWN}[2] === {whole}")
    at = page.locator(PICTURE).bounding_box()
    scale = at["width"] / whole
    # The square of the third column and the second row: 8 + 80 px, and 8 + 40 px from the corner.
    page.mouse.click(at["x"] + 92 * scale, at["y"] + 52 * scale)
    await_cell(page, SELECTED, "144")
    chosen = f"document.querySelector('{PICTURE}').dataset.chosen"
    page.wait_for_function(f"() => {chosen} === '88 48 24 24'")
    # Its tile is opened, and the object is marked there, too; other tiles have it not.
    page.wait_for_function(f"() => document.querySelectorAll('{MARKED}').length === 2")
    page.picture("selected")
    page.mouse.click(at["x"] + 900 * scale, at["y"] + 600 * scale)
    page.wait_for_function(f"() => !{chosen}")
    page.locator("[data-tile=r001c002]").wait_for()
    assert page.locator(MARKED).count() == 0


# A button says so for a moment only.
NOTE_COPIED = """() => new MutationObserver(() => {
  window.copied ||= [...document.querySelectorAll("button")].some(
    (button) => button.textContent === "Copied");
}).observe(document.body, { subtree: true, childList: true, characterData: true })"""
SELECTED = "[aria-selected=true]"
MARKED = "[data-tile=r000c000] .tilevision-marked"


def await_cell(page: Any, row: str, area: str) -> None:
    """Wait until a row of the table ends with an area."""
    ends = "([row, area]) => document.querySelector(`.tilevision-findings ${row}`)?.lastChild"
    page.wait_for_function(f"{ends}.textContent === area", arg=[row, area])
