"""The moving picture of README: python benchmarks/live_picture.py.

A run of the built-in nucleus model over the tissue sample, slowed down, in the panel in a
real JupyterLab; what the panel shows becomes notebooks/images/live.gif.

Needs what the browser tests need: pip install 'tilevision[test]', and Chromium.
"""

from __future__ import annotations

import io
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from labs import CHROMIUM, FLAGS, PICTURE, open_notebook, serving, write_notebook  # noqa: E402

TARGET = HERE.parent / "notebooks" / "images" / "live.gif"
WIDTH, COLOURS, STEP_MS, LAST_MS = 420, 48, 250, 4000
CELL = """
import time
import tilevision as tv
from tilevision import samples
from tilevision.modelspec import build

spec = tv.model("nuclei")

def nuclei(pixels):
    time.sleep(0.4)
    return build(spec).predict([pixels])[0]

panel = tv.explore(samples.tissue(), nuclei, grid=tv.Grid(6, 6, overlap=0.2), workers=2,
                   batch_size=1)
"""
LABEL = f"(document.querySelector('{PICTURE}')?.getAttribute('aria-label') ?? '')"


def main() -> None:
    from playwright.sync_api import sync_playwright

    with (
        tempfile.TemporaryDirectory(prefix="tilevision-live-") as base,
        serving(Path(base)) as server,
        sync_playwright() as playwright,
    ):
        lab = replace(server, folder=server.folder / "live")
        lab.folder.mkdir()
        write_notebook(lab, "live.ipynb", [CELL])
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1000, "height": 1000})
        open_notebook(page, lab, "live.ipynb")
        page.locator(".jp-Notebook .jp-Cell").first.click()
        page.keyboard.press("Escape")
        page.keyboard.press("Shift+Enter")
        page.wait_for_function(f"() => {LABEL}.includes('planned: 36 tiles')")
        shown = page.locator(PICTURE)
        frames = [shown.screenshot()]
        page.get_by_role("button", name="Run", exact=True).first.click()
        while "complete: 36 tiles" not in page.evaluate(f"() => {LABEL}"):
            page.wait_for_timeout(STEP_MS)
            frames.append(shown.screenshot())
        page.wait_for_timeout(1500)
        frames.append(shown.screenshot())
        browser.close()
    save(frames)


def save(frames: list[bytes]) -> None:
    """Write frames that differ as one picture that is shown again and again."""
    kept = [one for at, one in enumerate(frames) if at == 0 or one != frames[at - 1]]
    pictures = [Image.open(io.BytesIO(one)).convert("RGB") for one in kept]
    size = WIDTH, round(WIDTH * pictures[-1].height / pictures[-1].width)
    pictures = [one.resize(size, Image.Resampling.LANCZOS) for one in pictures]
    palette = pictures[-1].quantize(COLOURS)
    drawn = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in pictures]
    times = [STEP_MS] * (len(drawn) - 1) + [LAST_MS]
    drawn[0].save(TARGET, save_all=True, append_images=drawn[1:], duration=times, loop=0)
    print(f"{TARGET.name}: {len(drawn)} frames, {TARGET.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
