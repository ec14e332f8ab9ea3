"""A panel in a real JupyterLab, for browser tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labs import PICTURE, Lab, open_notebook, write_notebook

LABEL = f"(document.querySelector('{PICTURE}')?.getAttribute('aria-label') ?? '')"
SHOWN = f"document.querySelector('{PICTURE}').dataset.shown.split(' ').map(Number)"
KERNEL = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"

# 384 squares of four sizes, which a function finds: the larger, the surer.
SQUARES = """
import os, time
import numpy as np
from PIL import Image
from scipy import ndimage
import tilevision as tv

SIDES = (8, 12, 16, 24)
pixels = np.full((640, 960, 3), (208, 214, 210), np.uint8)
for row in range(16):
    for column in range(24):
        side = SIDES[(row + column) % 4]
        y, x = 40 * row + 8, 40 * column + 8
        pixels[y:y + side, x:x + side] = (120 - 3 * side, 60, 140)
Image.fromarray(pixels).save("squares.png")

def squares(pixels):
    marks, _ = ndimage.label(pixels[..., 1] < 100)
    found = []
    for ys, xs in ndimage.find_objects(marks):
        height, width = ys.stop - ys.start, xs.stop - xs.start
        found.append({"box": (xs.start, ys.start, xs.stop, ys.stop), "score": 0.3 + height / 40,
                      "label": "large" if max(height, width) > 14 else "small"})
    return found

panel = tv.explore("squares.png", squares, grid=tv.Grid(2, 3, overlap=0.2), mpp=0.5, workers=1)
"""


def await_label(page: Any, words: str) -> None:
    """Wait until the picture says what it shows in `words`, a pattern."""
    try:
        page.wait_for_function("words => " + f"new RegExp(words).test({LABEL})", arg=words)
    except Exception:
        page.picture("last")
        raise


def press(page: Any, name: str) -> None:
    """Press a button by keyboard, as one who has no mouse."""
    button = page.get_by_role("button", name=name, exact=True).first
    page.wait_for_function("button => !button.disabled", arg=button.element_handle())
    button.focus()
    page.keyboard.press("Enter")


def open_panel(page: Any, lab: Lab, folder: Path, cells: list[str], planned: str) -> None:
    """Run the first of `cells`, which opens a panel; ``page.picture(name)`` keeps a screenshot."""
    write_notebook(lab, "panel.ipynb", cells)
    open_notebook(page, lab, "panel.ipynb")
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Enter")
    page.picture = lambda name: page.screenshot(path=folder / f"{name}.png")
    await_label(page, planned)


def run_code(page: Any, number: int, code: str) -> None:
    """Run the code cell `number` with `code` in place of its own, and wait until it has ended."""
    page.evaluate(
        """([number, code]) => {
          const notebook = window.jupyterapp.shell.currentWidget.content;
          notebook.activeCellIndex = number;
          notebook.activeCell.model.sharedModel.setSource(code);
          return window.jupyterapp.commands.execute("notebook:run-cell");
        }""",
        [number, code],
    )


def show_all(page: Any, name: str, widths: tuple[int, ...] = (800, 1920)) -> None:
    """Keep a screenshot of the page at each width, with the panel at the top."""
    for width in widths:
        page.set_viewport_size({"width": width, "height": 1000})
        page.locator(".tilevision-panel").first.evaluate("node => node.scrollIntoView()")
        page.wait_for_timeout(300)
        page.picture(f"{name}-{width}")
    page.set_viewport_size({"width": 1280, "height": 1000})
