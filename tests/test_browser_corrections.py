"""Objects corrected on the picture: by keys and by the mouse, undone, and kept over a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from labs import CELLS, PICTURE, Lab, errors, once_laid_out
from panels import KERNEL, SHOWN, SQUARES, await_label, open_panel, press, run_code, show_all
from test_browser_regions import Pointer

pytestmark = pytest.mark.slow

CHOSEN = f"document.querySelector('{PICTURE}').dataset.chosen"
WORDS = ".tilevision-hand-words"
CELL_COUNT = "() => window.jupyterapp.shell.currentWidget.content.widgets.length"
CODE = "import json; json.dumps(panel.result.correction_counts.to_dict())"


def said(page: Any, words: str) -> None:
    """Wait for what the corrections say."""
    page.locator(WORDS, has_text=words).wait_for()


def keys(page: Any, *names: str) -> None:
    """Press keys on the picture."""
    page.locator(PICTURE).focus()
    for name in names:
        page.keyboard.press(name)


def select(page: Any, x: float, y: float) -> None:
    """Click an object, and wait until it is selected."""
    Pointer(page).click(x, y)
    page.wait_for_function(
        f"""([x, y]) => {{
          const [left, top, width, height] = ({CHOSEN} || "0 0 0 0").split(" ").map(Number);
          return left <= x && x <= left + width && top <= y && y <= top + height;
        }}""",
        arg=[x, y],
    )


@pytest.mark.parametrize("lab", ["JupyterLab Light"], indirect=True)
def test_objects_are_corrected_on_the_picture(lab: Lab, page: Any, tmp_path: Path) -> None:
    """Accept, delete, re-label, reshape, add, undo; the count follows, a restart keeps them."""
    open_panel(page, lab, tmp_path, [SQUARES, ""], "planned: 6 tiles")
    press(page, "Run")
    await_label(page, "complete: .*384 detections merged by seam")
    cells = page.evaluate(CELL_COUNT)
    _check_keys(page)
    _check_drawing(page)
    assert page.evaluate(CELL_COUNT) == cells  # no key reached the notebook
    show_all(page, "corrected")
    _check_bars(page)
    run_code(page, 1, CODE)
    text = page.evaluate(f"({CELLS})()[1].outputs.at(-1).data['text/plain']")
    for part in ('"added": 2', '"deleted": 1', '"relabelled": 1', '"reshaped": 1'):
        assert part in text
    page.evaluate(f"{KERNEL}.restart()")
    page.wait_for_function(f"() => {KERNEL}.status === 'idle'")
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Enter")
    await_label(page, "385 detections merged by seam, corrected by hand")
    said(page, "2 added, 1 deleted, 1 re-labelled, 1 reshaped")
    page.picture("restarted")
    assert errors(page.evaluate(CELLS)) == []


def _check_bars(page: Any) -> None:
    """Each bar above the picture has one row at any width, and its buttons keep their names."""

    def check() -> None:
        heights = page.locator(".tilevision-drawing").evaluate_all(
            "bars => bars.map(bar => [bar.clientHeight, bar.scrollWidth - bar.clientWidth])"
        )
        assert len(heights) == 2
        assert all(height < 32 and beyond <= 0 for height, beyond in heights), heights
        assert page.get_by_role("button", name="Next in doubt", exact=True).is_visible()

    for width in (800, 960, 1100, 1920):
        page.set_viewport_size({"width": width, "height": 1000})
        once_laid_out(page, check)
    page.set_viewport_size({"width": 1280, "height": 1000})


def _check_keys(page: Any) -> None:
    select(page, 300, 20)
    page.picture("selected")
    first = page.evaluate(CHOSEN)
    keys(page, "d")
    await_label(page, "383 detections merged by seam, corrected by hand")
    page.wait_for_function(f"first => ({CHOSEN} || first) !== first", arg=first)  # the next one
    page.picture("next")
    keys(page, "Control+z")
    await_label(page, "384 detections")
    page.wait_for_function(f"first => {CHOSEN} === first", arg=first)  # back to it
    keys(page, "r")
    await_label(page, "383 detections")
    keys(page, "0")
    page.wait_for_function(f"() => {SHOWN}[2] === 960")
    select(page, 136, 16)
    keys(page, "2")
    said(page, "1 deleted, 1 re-labelled")
    keys(page, "a", "u")
    said(page, "1 deleted, 1 re-labelled.")


def _check_drawing(page: Any) -> None:
    pointer = Pointer(page)
    press(page, "Add box")
    pointer.drag((270, 300), (310, 330))
    await_label(page, "384 detections")
    press(page, "Add box")
    press(page, "Add outline")
    pointer.drag((400, 100), (440, 100), (440, 140), (400, 140), (400, 102))
    await_label(page, "385 detections")
    said(page, "2 added, 1 deleted")
    keys(page, "Escape")
    select(page, 460, 20)
    keys(page, "e")
    page.picture("reshaping")
    pointer.drag((472, 32), (482, 38))
    said(page, "1 reshaped")
    keys(page, "Enter", "0")
    page.wait_for_function(f"() => {SHOWN}[2] === 960")
