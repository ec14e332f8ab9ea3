"""From Run in a fresh kernel to the first box on the screen: python benchmarks/first_boxes.py.

A JupyterLab and a Chromium are started. The image is a TIFF of 10,000 x 10,000 RGB pixels in JPEG
tiles; the model is a function that gives one box a tile of 1024 px. Each round has a kernel that
was just started and a checkpoint of its own:

- ``cell``: one cell imports tilevision, starts a run and watches it; from Shift+Enter
- ``panel``: a cell opens the panel; from Shift+Enter to the panel, and from its button Run to boxes

Printed are medians, and the least and the most, of seconds in the page: until anything shows below
the cell, until the picture is there, and until pixels of a box are. The page looks at each frame
that it paints, at pixels 20 times a second.

Needs what the browser tests need: pip install 'tilevision[test]', and Chromium.
"""

from __future__ import annotations

import argparse
import compileall
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from labs import CHROMIUM, FLAGS, PICTURE, Lab, open_notebook, serving, write_notebook  # noqa: E402

from tilevision.colouring import usualcolours  # noqa: E402
from tilevision.plot import palette  # noqa: E402

SIDE, LABEL = 10_000, "cell"
MODEL = f"""
import tilevision as tv

def look(pixels):
    return [{{"box": (100, 100, 900, 900), "label": {LABEL!r}, "score": 0.9}}]
"""
CELL = f"""{MODEL}
run = tv.start("large.tif", look, grid=1024, checkpoint=CHECKPOINT, workers=2)
tv.watch(run)
"""
PANEL = f"""{MODEL}
tv.explore("large.tif", look, grid=1024, checkpoint=CHECKPOINT, workers=2)
"""
# Notes when something first showed, from the next press of a key or a button on.
CLOCK = """([red, green, blue, picture]) => {
  window.seen = {};
  const began = () => {
    window.began = performance.now();
    window.seen = {};
    window.outputs = document.querySelectorAll(".jp-OutputArea-child").length;
  };
  addEventListener("keydown", event => event.key === "Enter" && began(), true);
  addEventListener("click", began, true);
  const note = name => { window.seen[name] ??= (performance.now() - window.began) / 1000; };
  let looked = 0;
  const look = () => {
    requestAnimationFrame(look);
    if (!window.began) return;
    if (document.querySelectorAll(".jp-OutputArea-child").length > window.outputs) note("anything");
    const canvas = document.querySelector(picture);
    if (!canvas || performance.now() - looked < 50 || window.seen.box) return;
    looked = performance.now();
    note("picture");
    const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let n = 0;
    for (let i = 0; i < data.length; i += 4)
      n += Math.abs(data[i] - red) + Math.abs(data[i + 1] - green)
        + Math.abs(data[i + 2] - blue) < 60;
    if (n > 50) note("box");
  };
  look();
}"""
BOX = "() => window.seen.box"
RUN = "button => !button.disabled"


def _picture(folder: Path) -> None:
    import tifffile

    random = np.random.default_rng(0)
    small = random.integers(0, 120, (125, 125, 3)).repeat(80, axis=0).repeat(80, axis=1)
    pixels = small.astype(np.uint8)
    tifffile.imwrite(folder / "large.tif", pixels, tile=(512, 512), compression="jpeg")


def _measured(page: Any, lab: Lab, name: str, number: int) -> dict[str, float]:
    code = (PANEL if name == "panel" else CELL).replace("CHECKPOINT", repr(f"{name}{number}"))
    write_notebook(lab, f"{name}{number}.ipynb", [code])
    open_notebook(page, lab, f"{name}{number}.ipynb")
    page.evaluate(CLOCK, [*_colour(), PICTURE])
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Enter")
    if name == "panel":
        page.wait_for_selector(PICTURE)
        button = page.get_by_role("button", name="Run", exact=True).first
        page.wait_for_function(RUN, arg=button.element_handle())
        shown = page.evaluate("window.seen")
        button.click()
        page.wait_for_function(BOX)
        found = shown | {"box": page.evaluate("window.seen.box")}
    else:
        page.wait_for_function(BOX)
        found = page.evaluate("window.seen")
    lab.end_kernels()
    return dict(found)


def _colour() -> tuple[int, int, int]:
    return palette.rgb(usualcolours.CLASS_COLOURS[usualcolours._own_slot(LABEL)])  # noqa: SLF001 as the kernel does


def _cell(figures: list[dict[str, float]], key: str) -> str:
    values = [one[key] for one in figures]
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Run each in turn, and print the table."""
    from playwright.sync_api import sync_playwright

    # As installing it does: a checkout may be run without ever being compiled.
    compileall.compile_dir(HERE.parent / "tilevision", quiet=1)
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=5)
    rounds = options.parse_args().rounds
    runs: dict[str, list[dict[str, float]]] = {"cell": [], "panel": []}
    with (
        tempfile.TemporaryDirectory(prefix="tilevision-first-") as base,
        serving(Path(base)) as server,
        sync_playwright() as playwright,
    ):
        lab = replace(server, folder=server.folder / "first")
        lab.folder.mkdir()
        _picture(lab.folder)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for number in range(rounds):
            for name in runs if number % 2 else reversed(runs):
                page = browser.new_page(viewport={"width": 1280, "height": 1000})
                page.set_default_timeout(120_000)
                runs[name].append(_measured(page, lab, name, number))
                page.close()
        browser.close()
    print(
        f"| seconds until, load {os.getloadavg()[0]:.1f} | anything shows | picture | first box |"
    )
    print("|---|---|---|---|")
    for name, figures in runs.items():
        cells = [_cell(figures, key) for key in ("anything", "picture", "box")]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
