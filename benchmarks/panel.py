# ruff: noqa: SLF001 - what a panel draws is not public
"""How quick the panel is with much in it: python benchmarks/panel.py.

A panel is opened on 10,000 tiles that hold as many or ten times as many detections, all stored.
Printed: from a filter's change to the frame that shows it, and a sharp frame of another part of the
picture, in seconds of the clock and of the processor. No model runs.

With --browser, a JupyterLab and a Chromium are started. Printed is what a page sees: seconds from
Shift+Enter to the picture and to the count of all that is stored; frames painted a second while the
picture is dragged; and what the notebook has grown by once it is saved. That needs what the browser
tests need.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import tilevision as tv

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

SIDE, TILES = 10_000, 100
CELL = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from panel import few, many
import tilevision as tv
panel = tv.explore("image.tif", NAME, grid=tv.Grid({TILES}, {TILES}, overlap=0))
"""


def _found(n: int) -> list[dict[str, Any]]:
    places = [(10 + 18 * (i % 5), 10 + 40 * (i // 5)) for i in range(n)]
    return [
        {"box": (x, y, x + 12, y + 30), "score": 0.05 + 0.09 * i, "label": "ab"[i % 2]}
        for i, (x, y) in enumerate(places)
    ]


def few(pixels: np.ndarray) -> Any:
    """Find one thing in each tile."""
    return [one | {"score": float(pixels[0, 0, 0]) / 255} for one in _found(1)]


def many(pixels: np.ndarray) -> Any:
    """Find ten things in each tile."""
    del pixels
    return _found(10)


def prepare() -> None:
    """Write an image into the current folder, and store what both functions find in it."""
    import tifffile

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (SIDE // 10, SIDE // 10, 3), np.uint8)
    pixels = pixels.repeat(10, axis=0).repeat(10, axis=1)
    tifffile.imwrite("image.tif", pixels, tile=(512, 512), photometric="rgb", compression="deflate")
    for model in (few, many):
        tv.analyze("image.tif", model, grid=tv.Grid(TILES, TILES, overlap=0), progress=False)


def until(condition: Callable[[], object]) -> float:
    begun = time.perf_counter()
    while not condition():
        if time.perf_counter() - begun > 300:
            raise SystemExit("waited in vain")
        time.sleep(0.002)
    return time.perf_counter() - begun


def headline(panel: Any) -> str:
    return str(panel._screen.canvas.caption.get("headline", ""))


def filtered(panel: Any, scores: list[float]) -> tuple[list[float], list[float]]:
    """Return wall and processor seconds from a new minimum score to the frame that shows it."""
    walls, processor = [], []
    for score in scores:
        before, begun, used = headline(panel), time.perf_counter(), time.process_time()
        panel._filters.score.value = score
        until(lambda: headline(panel) != before)  # noqa: B023 - called at once
        walls.append(time.perf_counter() - begun)
        processor.append(time.process_time() - used)
        time.sleep(1)
    return walls, processor


def looked(panel: Any) -> tuple[float, float]:
    """Return wall and processor seconds of a frame while one part after the other is asked for."""
    screen, side = panel._screen, SIDE / 4
    begun, used, n = time.perf_counter(), time.process_time(), 20
    for i in range(n):
        frames = screen.frames
        screen.canvas.viewport = [50.0 * i, 30.0 * i, side, side]
        until(lambda: screen.frames > frames)  # noqa: B023 - called at once
    return (time.perf_counter() - begun) / n, (time.process_time() - used) / n


def in_kernel(model: Any) -> None:
    from tilevision.view.panel.panel import Panel

    grid = tv.Grid(TILES, TILES, overlap=0)
    panel = Panel("image.tif", model, (), ".tilevision", {"grid": grid})
    until(lambda: "merged by" in headline(panel))
    n = len(panel.result.findings)
    filtered(panel, [0.5])
    walls, processor = filtered(panel, [0.3, 0.6, 0.45, 0.2, 0.35])
    frame, frame_used = looked(panel)
    print(
        f"{n:10,d}{statistics.median(walls):8.2f}{statistics.median(processor):12.2f}"
        f"{frame:8.2f}{frame_used:12.2f}{os.getloadavg()[0]:8.1f}",
        flush=True,
    )
    panel.close()


DRAG = """async ([picture, ms]) => {
  const canvas = document.querySelector(picture), box = canvas.getBoundingClientRect();
  const at = (type, x, y) => canvas.dispatchEvent(new PointerEvent(type, {
    bubbles: true, button: 0, pointerId: 1, clientX: box.x + x, clientY: box.y + y}));
  canvas.setPointerCapture = () => {};
  let n = 0, begun = performance.now();
  at("pointerdown", 300, 300);
  while (performance.now() - begun < ms) {
    const turn = n++ / 5;
    at("pointermove", 300 + 90 * Math.sin(turn), 300 + 90 * Math.cos(turn));
    await new Promise(requestAnimationFrame);
  }
  at("pointerup", 300, 300);
  return n / ((performance.now() - begun) / 1000);
}"""
HEADLINE = "(document.querySelector('.tilevision-headline')?.textContent ?? '')"


def in_browser(page: Any, lab: Any, name: str) -> None:
    import nbformat
    from labs import PICTURE, open_notebook, write_notebook

    book = f"{name}.ipynb"
    write_notebook(lab, book, ["import tilevision, tilevision.view", CELL.replace("NAME", name)])
    open_notebook(page, lab, book)
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Enter")
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.toJSON()"
        ".cells[0].execution_count", polling=50,
    )  # fmt: skip
    empty = len((lab.folder / book).read_bytes())
    begun = time.perf_counter()
    page.keyboard.press("Shift+Enter")
    page.wait_for_function(f"() => document.querySelector('{PICTURE}')?.dataset.shown", polling=20)
    opened = time.perf_counter() - begun
    page.wait_for_function(f"() => {HEADLINE}.includes('merged by')", polling=50)
    counted = time.perf_counter() - begun
    picture = page.locator(PICTURE)
    picture.scroll_into_view_if_needed()
    picture.focus()
    for _ in range(4):
        page.keyboard.press("+")
    page.wait_for_timeout(1500)
    rate = page.evaluate(DRAG, [PICTURE, 4000])
    page.wait_for_timeout(1500)
    page.keyboard.press("Control+s")
    page.wait_for_timeout(3000)
    saved = nbformat.read(lab.folder / book, as_version=4)
    grown = len(json.dumps(saved)) - empty
    print(
        f"{name:>6}{opened:9.2f}{counted:9.2f}{rate:10.1f}"
        f"{grown / 1000:10.0f}{os.getloadavg()[0]:8.1f}",
        flush=True,
    )
    lab.end_kernels()


def browse() -> None:
    from labs import CHROMIUM, FLAGS, serving
    from playwright.sync_api import sync_playwright

    with (
        tempfile.TemporaryDirectory(prefix="tilevision-panel-") as base,
        serving(Path(base)) as server,
        sync_playwright() as playwright,
    ):
        lab = replace(server, folder=server.folder / "panel")
        lab.folder.mkdir()
        for name in ("image.tif", ".tilevision"):
            (lab.folder / name).symlink_to(Path(name).absolute())
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        print("in Chromium; seconds")
        print("        shows  counted  frames/s  kB saved    load")
        for name in ("few", "many"):
            page = browser.new_page(viewport={"width": 1280, "height": 1000})
            page.set_default_timeout(120_000)
            in_browser(page, lab, name)
            page.close()
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--browser", action="store_true")
    browser = parser.parse_args().browser
    with tempfile.TemporaryDirectory(prefix="tilevision-panel-") as folder:
        os.chdir(folder)
        # As the notebooks import it: a function is known by its module, too.
        sys.path.insert(0, str(HERE))
        import panel as module

        module.prepare()
        print("10,000 tiles, without a browser; seconds")
        print("   objects  filter  (processor)   frame  (processor)   load")
        for model in (module.few, module.many):
            in_kernel(model)
        if browser:
            browse()
        os.chdir("/")


if __name__ == "__main__":
    main()
