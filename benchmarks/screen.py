"""From commit to pixel in a real browser: python benchmarks/screen.py.

A JupyterLab and a Chromium are started, and a run is played at 200 tiles a second, two boxes
each, to the live picture in a notebook. Printed per number of tiles: how long after a tile was
committed the page had painted a frame that shows it (commit time by the kernel's clock, paint
by the page's, on one host), frames painted a second, and messages and kilobytes a second that
the page was sent in all.

Needs what the browser tests need: pip install 'tilevision[test]', and Chromium.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from labs import CHROMIUM, FLAGS, PICTURE, Lab, open_notebook, serving, write_notebook  # noqa: E402

SECONDS = 8
CELL = f"""
import json, sys, threading, time
from pathlib import Path
sys.path.insert(0, {str(HERE)!r})
from frame import PlayedRun, play
from tilevision.view.live import LiveView
run = PlayedRun(ROWS)
view = LiveView(run)
view.display()

def work():
    while not Path("go").exists():
        time.sleep(0.02)
    Path("times.json").write_text(json.dumps(play(run, {SECONDS})))

threading.Thread(target=work, daemon=True).start()
"""
WATCH = """canvas => {
  window.painted = [];
  new MutationObserver(() => requestAnimationFrame(() => window.painted.push(
    [(performance.timeOrigin + performance.now()) / 1000, Number(canvas.dataset.heard)]
  ))).observe(canvas, {attributes: true, attributeFilter: ["data-heard"]});
}"""


def measure(page: Any, lab: Lab, rows: int) -> list[float]:
    for name in ("go", "times.json"):
        (lab.folder / name).unlink(missing_ok=True)
    write_notebook(lab, f"play{rows}.ipynb", [CELL.replace("ROWS", str(rows))])
    sizes: list[int] = []

    def heard(payload: str | bytes) -> None:
        sizes.append(len(payload))

    page.on("websocket", lambda socket: socket.on("framereceived", heard))
    open_notebook(page, lab, f"play{rows}.ipynb")
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Enter")
    page.wait_for_function(f"() => document.querySelector('{PICTURE}')?.dataset.heard > 0")
    page.eval_on_selector(PICTURE, WATCH)
    before, bytes_before = len(sizes), sum(sizes)
    (lab.folder / "go").touch()
    while not (lab.folder / "times.json").exists():
        page.wait_for_timeout(100)
    messages, size = len(sizes) - before, sum(sizes) - bytes_before
    page.wait_for_timeout(1500)
    painted = np.array(page.evaluate("window.painted"))
    times = np.array(json.loads((lab.folder / "times.json").read_text()))
    first = np.searchsorted(painted[:, 1], times)
    if first.max() >= len(painted):
        raise SystemExit("some tiles never reached the page")
    late = 1000 * (painted[first, 0] - times)
    lab.end_kernels()
    return [
        float(np.median(late)), float(np.percentile(late, 95)), float(late.max()),
        len(painted) / SECONDS, messages / SECONDS, size / SECONDS / 1000,
    ]  # fmt: skip


def main() -> None:
    from playwright.sync_api import sync_playwright

    with (
        tempfile.TemporaryDirectory(prefix="tilevision-screen-") as base,
        serving(Path(base)) as server,
        sync_playwright() as playwright,
    ):
        lab = replace(server, folder=server.folder / "screen")
        lab.folder.mkdir()
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        print("commit to pixel in Chromium, at 200 tiles a second; milliseconds")
        print("  tiles  median   p95   worst  frames/s  messages/s    kB/s   load")
        for rows in (32, 100, 316):
            page = browser.new_page(viewport={"width": 1280, "height": 1000})
            page.set_default_timeout(120_000)
            median, p95, worst, frames, messages, size = measure(page, lab, rows)
            page.close()
            time.sleep(2)
            print(
                f"{rows**2:7d}{median:8.0f}{p95:6.0f}{worst:8.0f}{frames:10.1f}{messages:12.1f}"
                f"{size:8.0f}{os.getloadavg()[0]:7.1f}"
            )
        browser.close()


if __name__ == "__main__":
    main()
