"""The map of a run in the panel, in a real browser: it fills, is read, switched, kept."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labs import CELLS, PICTURE, Lab, errors, save
from panels import SHOWN, await_label, open_panel, press
from PIL import Image

pytestmark = pytest.mark.slow

SETUP = """
import time
import numpy as np
from PIL import Image
import tilevision as tv

y, x = np.mgrid[:640, :960]
pixels = np.full((640, 960, 3), 200, np.uint8)
pixels[(x - 480) ** 2 + (y - 320) ** 2 < 220 ** 2] = (90, 140, 80)
Image.fromarray(pixels).save("lake.png")

def cover(pixels):
    time.sleep(0.1)
    wet = (pixels[..., 0] < 150) * 0.8 + 0.1
    return np.stack([wet, 1 - wet])

model = tv.model(cover, returns="probabilities", classes=("water", "land"))
panel = tv.explore("lake.png", model, grid=tv.Grid.by_tile(160, 0.25), workers=1, mpp=(500, 500),
                   region=(100, 0, 960, 640))
"""
LEGEND = "document.querySelector('.tilevision-legend').textContent"
# Red, green and blue at a share of the width of the picture, in the middle of its height.
AT = f"""share => {{
  const canvas = document.querySelector("{PICTURE}");
  const x = Math.round(canvas.width * share);
  return [...canvas.getContext("2d").getImageData(x, canvas.height / 2, 1, 1).data].slice(0, 3);
}}"""
NEAR = "(([r, g, b], [x, y, z]) => Math.abs(r - x) + Math.abs(g - y) + Math.abs(b - z) < 25)"


def _await_colour(page: Any, share: float, colour: list[float]) -> None:
    page.wait_for_function(
        f"([share, colour]) => {NEAR}(({AT})(share), colour)", arg=[share, colour]
    )


@pytest.mark.parametrize("lab", ["JupyterLab Light"], indirect=True)
def test_the_map_fills_and_is_read(lab: Lab, page: Any, tmp_path: Path) -> None:
    """Class colours come with the tiles, stay within the region, and survive the kernel."""
    open_panel(page, lab, tmp_path, [SETUP, "panel.result.raster"], "planned: 40 tiles")
    press(page, "Run")
    page.wait_for_function(f"() => /water · .*%/.test({LEGEND})")
    page.picture("filling")
    await_label(page, "complete: 40 tiles")
    page.wait_for_function(f"() => {LEGEND}.includes('water · ') && {LEGEND}.includes('mm²')")
    water = [round(0.6 * a + 0.4 * b) for a, b in zip((68, 119, 170), (90, 140, 80), strict=True)]
    _await_colour(page, 0.46, water)
    _await_colour(page, 0.05, [200, 200, 200])
    page.picture("classes")
    results = page.locator(".tilevision-results")
    results.get_by_text("Map of 2 classes", exact=True).wait_for()
    results.get_by_role("cell", name="water").wait_for()
    assert "objects" not in results.locator(".tilevision-answer").inner_text()
    page.picture("results")

    page.locator(PICTURE).click()
    reading = page.locator(".tilevision-reading")
    reading.get_by_text("water (water 0.90, land 0.10)").wait_for()
    page.locator(".tilevision-inspector").wait_for()
    page.get_by_role("switch", name="water").first.click()
    _await_colour(page, 0.46, [90, 140, 80])
    page.get_by_role("switch", name="water").first.click()

    layer = page.get_by_role("combobox", name="Map", exact=True)
    layer.select_option("probability of land")
    page.wait_for_function(f"() => {LEGEND}.includes('probability of land: 0 to 1')")
    page.get_by_role("slider", name="Opacity of the map").fill("1")
    _await_colour(page, 0.46, [16, 46, 104])
    page.picture("share")
    page.locator(PICTURE).focus()
    whole = page.evaluate(SHOWN)[2]
    for _ in range(4):
        page.keyboard.press("+")
    page.wait_for_function(f"() => {SHOWN}[2] < {whole} / 3")
    _await_colour(page, 0.46, [16, 46, 104])
    page.picture("zoomed")
    page.keyboard.press("0")
    page.wait_for_function(f"() => {SHOWN}[2] === {whole}")
    layer.select_option("off")
    _await_colour(page, 0.46, [90, 140, 80])
    layer.select_option("classes")
    _await_colour(page, 0.46, [68, 119, 170])

    cells = page.evaluate(CELLS)
    assert errors(cells) == []
    kept = [o["data"]["image/jpeg"] for o in cells[0]["outputs"] if "image/jpeg" in o["data"]]
    with Image.open(io.BytesIO(base64.b64decode(kept[-1]))) as picture:
        assert np.ptp(np.asarray(picture)[300, 500].astype(int)) > 40  # not grey: it has the map
    page.get_by_label("Map").first.wait_for()


@pytest.mark.parametrize("lab", ["JupyterLab Light"], indirect=True)
def test_the_layer_is_chosen_after_the_notebook_was_saved_and_loaded_again(
    lab: Lab, page: Any, tmp_path: Path
) -> None:
    """The kernel is still there, and so are the panel, its map and what switches it."""
    open_panel(page, lab, tmp_path, [SETUP], "planned: 40 tiles")
    press(page, "Run")
    await_label(page, "complete: 40 tiles")
    save(page)
    page.reload()
    layer = page.get_by_role("combobox", name="Map", exact=True)
    layer.wait_for()
    _await_colour(page, 0.46, [78, 127, 134])
    layer.select_option("off")
    _await_colour(page, 0.46, [90, 140, 80])
    layer.select_option("probability of land")
    page.wait_for_function(f"() => {LEGEND}.includes('probability of land: 0 to 1')")
    page.picture("reloaded")


ELSEWHERE = """
import subprocess, sys, time
from pathlib import Path
Path("job.py").write_text('''
import time
from pathlib import Path
import numpy as np
from PIL import Image
import tilevision as tv

def cover(pixels):
    while pixels[0, 0, 2] == 201 and not Path("go").exists():
        time.sleep(0.05)
    wet = (pixels[..., 0] < 150) * 0.8 + 0.1
    return np.stack([wet, 1 - wet])

if __name__ == "__main__":
    y, x = np.mgrid[:640, :960]
    pixels = np.full((640, 960, 3), 200, np.uint8)
    pixels[(x - 480) ** 2 + (y - 320) ** 2 < 220 ** 2] = (90, 140, 80)
    pixels[400:, :, 2] += 1  # these tiles wait until the page has shown the others
    Image.fromarray(pixels).save("lake.png")
    model = tv.model(cover, returns="probabilities", classes=("water", "land"))
    grid = tv.Grid.by_tile(160, 0.25)
    tv.analyze("lake.png", model, grid=grid, workers=1, batch_size=1, progress=False)
''')
job = subprocess.Popen([sys.executable, "job.py"])
import tilevision as tv
from tilevision.errors import TilevisionError
while True:
    try:
        run_id = tv.runs()["id"].iloc[0]
        view = tv.watch(run_id)
        break
    except (TilevisionError, IndexError):
        time.sleep(0.2)
view
"""


@pytest.mark.parametrize("lab", ["JupyterLab Light"], indirect=True)
def test_the_map_of_another_process_fills_in(lab: Lab, page: Any, tmp_path: Path) -> None:
    """`tv.watch` of its run draws the map from the stored tiles, and its layer is chosen here."""
    open_panel(page, lab, tmp_path, [ELSEWHERE], "tiles")
    page.wait_for_function(f"() => /water · .*so far/.test({LEGEND})")
    page.picture("watched")
    (lab.folder / "go").touch()
    await_label(page, "complete:")
    _await_colour(page, 0.46, [77, 127, 134])
    page.get_by_role("combobox", name="Map", exact=True).select_option("off")
    _await_colour(page, 0.46, [90, 140, 80])
    assert errors(page.evaluate(CELLS)) == []
