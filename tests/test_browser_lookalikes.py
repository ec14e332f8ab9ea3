"""Tiles that look alike in the panel, in a real browser: found, gone to, labelled, painted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from labs import CELLS, PICTURE, Lab, errors, open_notebook, write_notebook

pytestmark = pytest.mark.slow

SETUP = """
import numpy as np
from PIL import Image
import tilevision as tv

def looks(pixels):
    grey = pixels.astype(np.float32).mean(axis=2) / 255
    around = np.abs(np.fft.rfft2(grey - grey.mean()))[:8, :8].ravel()
    return np.concatenate([[grey.mean(), grey.std() * 4], around / (np.linalg.norm(around) + 1e-6)])

rng = np.random.default_rng(3)
y, x = np.mgrid[:640, :960]
pixels = 70 + 30 * np.sin(x / 5) * (x < 480) + 30 * np.sin(y / 4) * (x >= 480)
pixels = (pixels + rng.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8)
Image.fromarray(np.dstack([pixels, pixels // 2 + 60, 200 - pixels // 2])).save("stripes.png")
panel = tv.explore("stripes.png", tv.model(looks, returns="embedding"),
                   grid=tv.Grid(8, 12, overlap=0), workers=1)
"""
LABEL = f"(document.querySelector('{PICTURE}')?.getAttribute('aria-label') ?? '')"
SHOWN = f"document.querySelector('{PICTURE}').dataset.shown.split(' ').map(Number)"
TILE, SEEN = ".tilevision-alike-tile", "image => image.naturalWidth > 40"
LEGEND = "document.querySelector('.tilevision-legend').textContent"


@pytest.mark.parametrize("lab", ["JupyterLab Light"], indirect=True)
def test_look_alikes_labels_and_a_probe(lab: Lab, page: Any, tmp_path: Path) -> None:
    """Open a tile, see what looks like it, go there, label four tiles, and paint the map."""
    pytest.importorskip("sklearn")
    write_notebook(lab, "panel.ipynb", [SETUP, "panel.labels"])
    open_notebook(page, lab, "panel.ipynb")
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Enter")
    page.wait_for_function(f"/planned: 96 tiles/.test({LABEL})")
    page.get_by_role("button", name="Run", exact=True).first.click()
    page.wait_for_function(f"/complete: 96 tiles/.test({LABEL})")
    page.screenshot(path=tmp_path / "run.png")

    _open(page, 0.21, 0.3)
    page.get_by_role("button", name="More like this").click()
    pictures = page.locator(f"{TILE} img")
    pictures.nth(19).wait_for()
    page.wait_for_function(f"[...document.querySelectorAll('{TILE} img')].every({SEEN})")
    page.locator(TILE).nth(12).scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "alike.png")
    first = page.locator(TILE).first
    there = first.get_attribute("title").removeprefix("Go to tile ")
    whole = page.evaluate(SHOWN)
    first.click()
    page.locator(f".tilevision-inspector[data-tile='{there}']").wait_for()
    page.locator(f".tilevision-alike[data-tile='{there}']").wait_for()
    page.wait_for_function(f"{SHOWN}[2] < {whole[2] / 2}")
    page.screenshot(path=tmp_path / "there.png")
    column = int(there[-3:])
    assert column < 6  # among the same stripes
    page.get_by_role("button", name="Whole image").click()
    page.wait_for_function(f"{SHOWN}[2] == {whole[2]}")

    for x, y, name in ((0.1, 0.2, "left"), (0.3, 0.8, "left"), (0.6, 0.2, "right"),
                       (0.9, 0.8, "right")):  # fmt: skip
        _open(page, x, y)
        page.get_by_placeholder("class, as tumour").fill(name)
        page.get_by_role("button", name="Label this tile").click()
        page.locator(".tilevision-own", has_text=name).wait_for()
    page.get_by_role("button", name="Probe").click()
    page.wait_for_function(f"{LEGEND}.includes('left 100%')")
    assert "4 of 4 are classified correctly" in page.locator(".tilevision-alike-words").inner_text()
    page.locator(PICTURE).scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "probe.png")
    page.get_by_label("Colour tiles by").select_option("cluster")
    page.wait_for_function(f"{LEGEND}.includes('cluster 0')")
    page.locator(PICTURE).scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "cluster.png")
    assert errors(page.evaluate(CELLS)) == []


def _open(page: Any, x: float, y: float) -> None:
    """Click the picture at shares of its sides, and wait for the tile there."""
    picture = page.locator(PICTURE)
    box = picture.bounding_box()
    before = page.evaluate("document.querySelector('.tilevision-alike').dataset.tile ?? ''")
    picture.click(position={"x": x * box["width"], "y": y * box["height"]})
    page.wait_for_function(
        "before => (document.querySelector('.tilevision-alike').dataset.tile || before) !== before",
        arg=before,
    )
