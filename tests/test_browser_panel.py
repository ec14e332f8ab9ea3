"""The panel as a user has it: real clicks and keys in a real JupyterLab in a real browser."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from labs import CELLS, PICTURE, READY, Lab, errors, open_notebook, save, write_notebook

pytestmark = pytest.mark.slow

SETUP = """
import os, time
import numpy as np
from PIL import Image
import tilevision as tv

LABELS = ["<img src=x onerror='window.tricked=1'>", "<script>window.tricked=2</script>",
          "x" * 10_000, "\\u202eright to left \\u05e9\\u05dc\\u05d5\\u05dd", "\\U0001f52c cell"]

def strict(pixels):
    time.sleep(0.25)
    while pixels[0, 0, 1] == 251 and not os.path.exists("go"):
        time.sleep(0.05)
    if pixels[0, 0, 0] == 250 and not os.path.exists("mended"):
        raise tv.PermanentError("not <b>yet</b>")
    return [
        {"xmin": 20 + 22 * i, "ymin": 30, "xmax": 38 + 22 * i, "ymax": 60, "label": label,
         "score": 0.5 + 0.1 * i}
        for i, label in enumerate(LABELS)
    ]

def other(pixels):
    return [{"xmin": 50, "ymin": 70, "xmax": 90, "ymax": 110, "label": "other", "score": 0.7}]

pixels = np.full((600, 900, 3), 60, np.uint8)
pixels[300, 450] = 250
pixels[150::150, ::150, 1] = 251  # more tiles than are read ahead: some have not begun
Image.fromarray(pixels).save("grey.png")
panel = tv.explore("grey.png", strict, models=[other], grid=tv.Grid(4, 6, overlap=0), mpp=0.5,
                   workers=2, batch_size=1)
"""
LABEL = f"(document.querySelector('{PICTURE}')?.getAttribute('aria-label') ?? '')"
SCROLLED = "document.querySelector('.jp-WindowedPanel-outer').scrollTop"
KINDS = """window.jupyterapp.shell.currentWidget.content.model.sharedModel.toJSON().cells
  .map(cell => cell.cell_type).join()"""
# Presses a key on the picture, and counts the points of it on which nothing is drawn then.
DARK_AFTER = f"""key => {{
  const canvas = document.querySelector("{PICTURE}");
  canvas.dispatchEvent(new KeyboardEvent("keydown", {{key, bubbles: true}}));
  const {{data}} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let n = 0;
  for (let i = 0; i < data.length; i += 4)
    n += data[i] === 0x2b && data[i + 1] === 0x2f && data[i + 2] === 0x36;
  return n;
}}"""
KERNEL = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
# What stands before the widgets of the panel that have lost their kernel.
MARKS = """() => [...document.querySelectorAll(".jupyter-widgets-disconnected")]
  .map(node => getComputedStyle(node, "::before").content.replaceAll('"', ""))
  .filter(content => !["none", "normal", ""].includes(content))
  .map(content => content.slice(0, 35))"""
SHOWN = f"document.querySelector('{PICTURE}').dataset.shown.split(' ').map(Number)"


@pytest.fixture
def opened(lab: Lab, page: Any, tmp_path: Path) -> Any:
    """A page with the panel of `SETUP`; ``page.picture(name)`` keeps a screenshot."""
    write_notebook(lab, "panel.ipynb", [SETUP, "panel.result"])
    open_notebook(page, lab, "panel.ipynb")
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Enter")
    page.picture = lambda name: page.screenshot(path=tmp_path / f"{name}.png")
    _await_label(page, "planned: 24 tiles")
    yield page
    page.picture("last")


def _await_label(page: Any, words: str) -> None:
    page.wait_for_function("words => " + f"new RegExp(words).test({LABEL})", arg=words)


def _press(page: Any, name: str) -> None:
    """Press a button by keyboard, as one who has no mouse."""
    button = page.get_by_role("button", name=name, exact=True).first
    page.wait_for_function("button => !button.disabled", arg=button.element_handle())
    button.focus()
    page.keyboard.press("Enter")


@pytest.mark.parametrize("lab", ["JupyterLab Light"], indirect=True)
def test_a_session_with_the_panel(lab: Lab, opened: Any) -> None:
    """Plan, run, pause, inspect, retry, zoom, filter, export, reload, save: by keys and mouse."""
    page = opened
    _check_plan(page)
    _check_steering(lab, page)
    _check_failed_tile(lab, page)
    _check_labels_are_text(page)
    _check_pointing_and_zoom(page)
    _check_keys_stay_in_the_picture(page)
    _check_filters(page)
    _check_setup_keeps_the_result(page)
    _check_another_model(page)
    _check_past_runs(page)
    assert errors(page.evaluate(CELLS)) == []
    _check_reload_and_save(lab, page)


def _check_plan(page: Any) -> None:
    page.get_by_text("24 tiles: 24 to run, 0 stored already").wait_for()
    rows = page.get_by_role("spinbutton", name="Rows")
    rows.fill("3")
    rows.press("Enter")
    _await_label(page, "planned: 18 tiles")
    rows.fill("4")
    rows.press("Enter")
    _await_label(page, "planned: 24 tiles")
    second = page.get_by_label("If unsure")
    second.select_option(label="ask other")
    words = page.locator(".tilevision-steering .tilevision-words").first
    words.get_by_text("strict, then other where a score lies in 0.25 to 0.60").wait_for()
    page.picture("1-planned")
    second.select_option(label="no second model")
    words.get_by_text("Model: strict", exact=True).wait_for()


def _check_steering(lab: Lab, page: Any) -> None:
    _press(page, "Run")
    _await_label(page, "running: .*[1-9] done")
    page.picture("2-running")
    _press(page, "Pause")
    _await_label(page, "paused: .*pending")
    page.locator(".tilevision-words").get_by_text("Paused", exact=True).wait_for()
    (lab.folder / "go").touch()
    _press(page, "Resume")
    _await_label(page, r"partial: 24 tiles \(23 done, 1 failed\)")
    page.picture("3-partial")


def _check_failed_tile(lab: Lab, page: Any) -> None:
    _press(page, "Tiles")
    _press(page, "r002c003")
    inspector = page.locator(".tilevision-inspector")
    page.get_by_role("heading", name="Tile r002c003").wait_for()
    assert "PermanentError: not <b>yet</b>" in inspector.inner_text()
    page.picture("4-failed-tile")
    (lab.folder / "mended").touch()
    _press(page, "Retry this tile")
    _await_label(page, r"complete: 24 tiles \(24 done\)")
    page.wait_for_function(
        "() => document.querySelector('.tilevision-inspector').dataset.status === 'done'"
    )
    assert "5 detections" in inspector.inner_text()
    page.picture("5-retried")


def _check_labels_are_text(page: Any) -> None:
    assert page.evaluate("window.tricked") is None
    panel = page.locator(".tilevision-panel")
    assert panel.locator("script").count() == 0
    assert panel.locator("img:not(.tilevision-pixels)").count() == 0
    legend = page.locator(".tilevision-legend").inner_text()
    listed = page.locator(".tilevision-detections").inner_text()
    for words in (legend, listed):
        assert "<img src=x" in words
        assert "<script>" in words
        assert "🔬 cell" in words
        assert "\u202e" not in words
        assert len(words) < 900


def _check_pointing_and_zoom(page: Any) -> None:
    picture = page.locator(PICTURE)
    picture.scroll_into_view_if_needed()
    at = picture.bounding_box()
    scale = at["width"] / 900
    # The last box of the first tile.
    page.mouse.move(at["x"] + 116 * scale, at["y"] + 45 * scale)
    page.mouse.move(at["x"] + 117 * scale, at["y"] + 45 * scale)
    tip = page.locator(".tilevision-frame .tilevision-tip")
    tip.wait_for()
    assert tip.inner_text() == "🔬 cell · 0.90"
    assert page.evaluate(f"document.querySelector('{PICTURE}').dataset.scale") == "50 µm"
    scrolled = page.evaluate(SCROLLED)
    page.mouse.click(at["x"] + 225 * scale, at["y"] + 225 * scale)
    page.get_by_role("heading", name="Tile r001c001").wait_for()
    assert page.evaluate(SCROLLED) == scrolled
    whole = page.evaluate(SHOWN)[2]
    picture.focus()
    for _ in range(4):
        page.keyboard.press("+")
    page.wait_for_function(f"() => {SHOWN}[2] < {whole} / 3")
    page.picture("6-zoomed")
    # At once, before the kernel has drawn anything: the image is there, sharp or not.
    assert page.evaluate(DARK_AFTER, "0") == 0
    page.wait_for_function(f"() => {SHOWN}[2] === {whole}")


def _check_keys_stay_in_the_picture(page: Any) -> None:
    """JupyterLab would insert cells, delete some, and turn this one into Markdown."""
    before = page.evaluate(KINDS)
    page.locator(PICTURE).focus()
    for key in ("a", "b", "m", "x", "d", "d", "r", "y", "Shift+M", "1", "Enter", "j", "k", "f"):
        page.keyboard.press(key)
    page.wait_for_timeout(300)
    assert page.evaluate(KINDS) == before
    assert page.evaluate(f"document.activeElement === document.querySelector('{PICTURE}')")
    # Some of them corrected the selected object.
    for key in ("Escape", "u", "u", "u"):
        page.keyboard.press(key)
    page.locator(".tilevision-hand-words", has_text="There is nothing to undo.").wait_for()
    _await_label(page, r"120 detections merged by seam\.")


def _check_filters(page: Any) -> None:
    _press(page, "Detections")
    words = page.locator(".tilevision-filters .tilevision-words")
    assert re.match(r"Run \S+: 120 detections", words.inner_text())
    slider = page.locator(".tilevision-filters .noUi-handle").first
    slider.focus()
    for _ in range(65):
        page.keyboard.press("ArrowRight")
    _await_label(page, "72 detections merged by seam")
    assert ": 72 detections" in words.inner_text()
    page.picture("7-filtered")
    _press(page, "Export")
    page.get_by_text(
        re.compile(r"Saved 72 detections of run \S+ to detections.geojson.")
    ).wait_for()


def _check_setup_keeps_the_result(page: Any) -> None:
    """A changed setup wipes no result; what is shown is counted, exported and named."""
    _press(page, "Setup")
    rows = page.get_by_role("spinbutton", name="Rows")
    rows.fill("3")
    rows.press("Enter")
    page.get_by_text("New setup, 18 tiles: 18 to run").wait_for()
    _await_label(page, "complete: .*72 detections merged by seam")
    page.picture("7-new-setup")
    _press(page, "New setup: 18 tiles")
    _await_label(page, "planned: 18 tiles")
    _press(page, "Detections")
    page.get_by_text("No tile is stored for this setup yet. Press Run.").wait_for()
    _press(page, "Export")
    page.get_by_text("There is nothing to export yet. Press Run first.").wait_for()
    page.get_by_role("button", name="Run 2").click()
    _await_label(page, "complete: .*72 detections merged by seam")
    _press(page, "Setup")
    rows.fill("4")
    rows.press("Enter")
    page.get_by_text("New setup, 24 tiles: 0 to run, 24 stored already").wait_for()
    _press(page, "Detections")


def _check_another_model(page: Any) -> None:
    picture = page.locator(PICTURE)
    picture.scroll_into_view_if_needed()
    at = picture.bounding_box()
    page.mouse.click(at["x"] + at["width"] / 4, at["y"] + at["height"] * 3 / 8)
    page.get_by_role("heading", name="Tile r001c001").wait_for()
    page.locator(".tilevision-select").select_option(label="other")
    _press(page, "Run with this model")
    page.get_by_text("other found 1 detection, shown dashed").wait_for()
    page.picture("8-another-model")


def _check_past_runs(page: Any) -> None:
    _press(page, "Runs")
    listed = page.locator(".tilevision-past select")
    assert "complete" in listed.inner_text()
    page.get_by_text("Cannot be resumed: all its tiles are done").wait_for()
    _press(page, "Open")
    page.get_by_text("Opened from its journal").wait_for()
    _await_label(page, "complete: .*72 detections merged by seam")
    page.picture("9-opened-again")
    _press(page, "Detections")


def _check_reload_and_save(lab: Lab, page: Any) -> None:
    save(page)
    page.reload()
    _await_label(page, "complete: .*72 detections merged by seam")
    _press(page, "Show all")
    _await_label(page, "120 detections merged by seam")
    page.picture("10-reloaded")
    assert page.locator(".jp-RenderedImage img:visible").count() == 0  # one picture is enough
    lab.end_kernels()
    page.reload()
    kept = page.locator(".jp-RenderedImage img")
    kept.wait_for()
    assert page.evaluate("image => image.naturalWidth", kept.element_handle()) > 500
    page.picture("11-saved")
    assert len((lab.folder / "panel.ipynb").read_text()) < 700_000
    _check_a_new_kernel(page)


def _check_a_new_kernel(page: Any) -> None:
    """What is stored is drawn before anything runs, and it is that picture that is kept."""
    page.wait_for_function(READY)
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Enter")
    _await_label(page, r"planned: 24 tiles \(24 restored\), 120 detections merged by seam")
    page.picture("12-stored")
    kept = f"({CELLS})()[0].outputs.map(o => o.data?.['text/plain'] ?? '').join(' ')"
    page.wait_for_function("() => " + kept + ".includes('120 detections merged by seam')")
    page.evaluate(f"{KERNEL}.restart()")
    page.wait_for_function(f"() => ({MARKS})().includes('The kernel has ended. Run this cell')")
    page.picture("13-restarted")
    assert len(page.evaluate(MARKS)) == 1
    assert page.locator(".tilevision-detail").is_hidden()  # it told how it went then
    # Nothing is counted any more, and no kernel is busy, whatever was said as it ended.
    waiting = page.locator(".tilevision-waiting")
    waiting.evaluate_all("nodes => nodes.forEach((node) => (node.hidden = false))")
    assert not any(one.is_visible() for one in waiting.all())


NARROW = """() => {
  const cell = document.querySelector(".tilevision-panel").closest(".jp-OutputArea-output");
  const edge = cell.getBoundingClientRect().right + 1;
  return [...document.querySelectorAll(".tilevision-panel *")]
    .filter(node => node.getClientRects().length && !node.closest(".tilevision-scroll, .noUi-base"))
    .filter(node => node.getBoundingClientRect().right > edge)
    .map(node => node.className);
}"""


@pytest.mark.parametrize("lab", ["notebook"], indirect=True)
def test_the_panel_in_notebook_7(lab: Lab, page: Any, tmp_path: Path) -> None:
    """It runs, zooms, inspects and survives a reload there; at any width nothing is cut."""
    region = SETUP.replace("workers=2", "workers=2, region=(0, 0, 400, 600)")
    write_notebook(lab, "panel.ipynb", [region])
    (lab.folder / "go").touch()
    (lab.folder / "mended").touch()
    open_notebook(page, lab, "panel.ipynb")
    page.wait_for_function("() => document.body.dataset.notebook === 'notebooks'")
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Enter")
    _await_label(page, "planned: 24 tiles")
    for width in (480, 800, 1200, 1920):
        page.set_viewport_size({"width": width, "height": 1000})
        page.wait_for_function(f"() => !({NARROW})().length")
        page.screenshot(path=tmp_path / f"wide-{width}.png")
    _press(page, "Run")
    _await_label(page, r"complete: 24 tiles \(12 done, 12 skipped\)")
    bar = page.locator(".tilevision-bar")
    assert bar.get_attribute("aria-valuenow") == "100"
    legend = page.locator(".tilevision-legend").inner_text()
    assert "region: box, 0.06 mm², 44% of the image" in legend
    picture = page.locator(PICTURE)
    whole = page.evaluate(SHOWN)[2]
    picture.focus()
    for _ in range(4):
        page.keyboard.press("+")
    page.wait_for_function(f"() => {SHOWN}[2] < {whole} / 3")
    page.keyboard.press("0")
    page.wait_for_function(f"() => {SHOWN}[2] === {whole}")
    picture.click()
    page.locator(".tilevision-inspector h3").wait_for()
    page.screenshot(path=tmp_path / "inspected.png")
    page.keyboard.press("Control+s")
    deadline = time.monotonic() + 200
    while "widget-view+json" not in (lab.folder / "panel.ipynb").read_text():
        assert time.monotonic() < deadline, "it was not saved"
        page.wait_for_timeout(100)
    page.reload()
    _await_label(page, "complete: 24 tiles")
    page.locator(".tilevision-inspector h3").wait_for()
