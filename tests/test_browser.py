"""The notebook as a user has it: a real JupyterLab in a real browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from labs import (
    CELLS,
    PICTURE,
    QUICK_START,
    Lab,
    errors,
    open_notebook,
    run_cells,
    save,
    write_notebook,
)

from tilevision.colouring import usualcolours
from tilevision.plot.palette import rgb

pytestmark = pytest.mark.slow

# Pixels of the live picture that have about the colour of a class.
COUNT = """canvas => {
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let n = 0;
  for (let i = 0; i < data.length; i += 4)
    n += Math.abs(data[i] - RED) + Math.abs(data[i + 1] - GREEN)
      + Math.abs(data[i + 2] - BLUE) < 120;
  return n;
}"""


def _count(label: str) -> str:
    """Return the code that counts the pixels of the boxes of a class.

    In the kernel it is the first class, so it has the colour of its name. This process may have
    given that to another.
    """
    code = COUNT
    red, green, blue = rgb(usualcolours.CLASS_COLOURS[usualcolours._own_slot(label)])
    for name, value in (("RED", red), ("GREEN", green), ("BLUE", blue)):
        code = code.replace(name, str(value))
    return code


def _words(cells: list[dict[str, Any]]) -> str:
    outputs = [o for c in cells for o in c["outputs"]]
    return "\n".join("".join(o.get("text") or o["data"].get("text/html", "")) for o in outputs)


@pytest.mark.parametrize("lab", ["JupyterLab Light"], indirect=True)
def test_the_quick_start_runs_cell_by_cell(lab: Lab, page: Any, tmp_path: Path) -> None:
    """Every cell runs without a complaint, both pictures fill, and the counts are plausible."""
    cells = run_cells(page, lab, QUICK_START.name)
    assert errors(cells) == []
    said = _words(cells)
    found = re.search(r"nuclei found (\d+) detections", said)
    assert found, said
    assert 150 < int(found[1]) < 600  # a few hundred nuclei can be counted by eye
    assert re.search(r"restored\s+16", said), said

    panel, live = page.locator(PICTURE).all()
    live.scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "live.png")
    # The picture shows the result: the same number, and each nucleus once.
    result = f"complete: 16 tiles (16 done), {found[1]} detections merged by seam"
    page.wait_for_function(
        "([canvas, words]) => canvas.ariaLabel.includes(words)", arg=[live.element_handle(), result]
    )
    _await_nuclei(page, live)
    plots = [o for c in cells for o in c["outputs"] if "image/jpeg" in o.get("data", {})]
    assert len(plots) == 4  # the last picture of the panel and of the run, and two of results

    page.get_by_role("button", name="Run", exact=True).click()
    restored = "canvas => canvas.ariaLabel.includes('complete: 16 tiles (16 restored)')"
    page.wait_for_function(restored, arg=panel.element_handle())
    panel.scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "panel.png")
    _await_nuclei(page, panel)
    for number, plot in enumerate(page.locator(".jp-RenderedImage img:visible").all()):
        plot.scroll_into_view_if_needed()
        page.screenshot(path=tmp_path / f"plot-{number}.png")


def _await_nuclei(page: Any, picture: Any) -> None:
    """Wait until they are drawn: the words are there before the picture is decoded."""
    drawn = f"canvas => ({_count('nucleus')})(canvas) > 2000"
    page.wait_for_function(drawn, arg=picture.element_handle())


NAME = "<img src=x onerror='window.tricked=1'>" + "x" * 10_000
WATCHED = """
import os, time
import numpy as np
import tilevision as tv
NAME = "<img src=x onerror='window.tricked=1'>" + "x" * 10_000

def slow(pixels):
    time.sleep(0.1)
    while pixels[0, 0, 1] == 61 and not os.path.exists("go"):
        time.sleep(0.05)
    box = {"xmin": 30, "ymin": 30, "xmax": 60, "ymax": 60}
    return [box | {"label": NAME, "score": 0.9}]

image = np.full((600, 900, 3), 60, np.uint8)
image[300:, :, 1] = 61  # these tiles wait until the page has shown the others
settings = {"grid": "5x8", "checkpoint": None, "workers": 2, "batch_size": 1}
run = tv.start(image, model=slow, progress=False, **settings)
tv.watch(run)
"""


@pytest.mark.parametrize("lab", ["JupyterLab Dark"], indirect=True)
def test_the_live_picture_goes_on_while_a_cell_blocks(lab: Lab, page: Any, tmp_path: Path) -> None:
    """It fills while another cell waits; zooms; outlives a reload; and is kept when saved."""
    write_notebook(lab, "watched.ipynb", [WATCHED, "result = run.result()"])
    open_notebook(page, lab, "watched.ipynb")
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Shift+Enter")
    label = f"(document.querySelector('{PICTURE}')?.getAttribute('aria-label') ?? '')"
    page.wait_for_function(f"() => /running: .*[1-9]\\d* pending.*[1-9]\\d* done/.test({label})")
    assert page.evaluate(CELLS)[1]["execution_count"] is None  # the second cell still waits
    seen = _count(NAME)
    half = page.eval_on_selector(PICTURE, seen)
    page.screenshot(path=tmp_path / "half.png")
    (lab.folder / "go").touch()
    page.wait_for_function(f"() => {label}.includes('complete: 40 tiles (40 done)')")
    page.wait_for_function(f"() => ({seen})(document.querySelector('{PICTURE}')) > {half}")
    assert errors(page.evaluate(CELLS)) == []
    _check_label_is_text(page)
    _check_zoom(page)
    page.screenshot(path=tmp_path / "whole.png")
    _check_reload(lab, page)


def _check_label_is_text(page: Any) -> None:
    assert page.evaluate("window.tricked") is None
    assert page.locator(".tilevision-canvas img").count() == 0
    words = page.locator(".tilevision-legend").inner_text()
    assert "<img src=x" in words
    assert len(words) < 300


def _check_zoom(page: Any) -> None:
    sharp = f"Number(document.querySelector('{PICTURE}').dataset.shown.split(' ')[2])"
    whole = page.evaluate(sharp)
    page.locator(PICTURE).click()
    for _ in range(5):
        page.mouse.wheel(0, -120)
    page.locator(".tilevision-reset:enabled").wait_for()
    page.wait_for_function(f"() => {sharp} < {whole} / 2")  # the kernel's picture has come
    assert "could not be read" not in page.locator(".tilevision-detail").inner_text()
    page.keyboard.press("0")
    page.locator(".tilevision-reset:disabled").wait_for()
    page.wait_for_function(f"() => {sharp} === {whole}")


def _check_reload(lab: Lab, page: Any) -> None:
    save(page)
    page.reload()
    page.locator(PICTURE).wait_for()
    page.wait_for_function(f"() => ({_count(NAME)})(document.querySelector('{PICTURE}')) > 500")
    assert page.locator(".jp-RenderedImage img:visible").count() == 0  # one picture is enough
    lab.end_kernels()
    page.reload()
    kept = page.locator(".jp-RenderedImage img")
    kept.wait_for()
    assert page.evaluate("image => image.naturalWidth", kept.element_handle()) > 500
    saved = (lab.folder / "watched.ipynb").read_text()
    assert len(saved) < 700_000
