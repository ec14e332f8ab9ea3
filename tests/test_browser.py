"""The notebook as a user has it: a real JupyterLab in a real browser."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest

pytestmark = pytest.mark.slow

QUICK_START = Path(__file__).resolve().parents[1] / "notebooks" / "01_quickstart.ipynb"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
PICTURE = ".tilevision-picture"

# Pixels of the live picture that are as yellow as only the boxes of the first class are.
COUNT_YELLOW = """canvas => {
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let n = 0;
  for (let i = 0; i < data.length; i += 4)
    n += data[i] > 180 && data[i + 1] > 170 && data[i + 2] < 120;
  return n;
}"""
CELLS = """() => {
  const cells = window.jupyterapp.shell.currentWidget.content.model.sharedModel.toJSON().cells;
  return cells.filter(cell => cell.cell_type === "code");
}"""
READY = """() => {
  const panel = window.jupyterapp?.shell.currentWidget;
  return panel?.context?.isReady && panel.sessionContext?.session?.kernel?.status === "idle";
}"""


@dataclass(frozen=True)
class Lab:
    """A JupyterLab server of this test's own."""

    url: str
    token: str
    folder: Path

    def page_of(self, notebook: str) -> str:
        """Address of a notebook in `folder`."""
        return f"{self.url}/lab/tree/{notebook}?token={self.token}&reset"

    def call(self, path: str, method: str = "GET") -> Any:
        """Answer of the server's own interface."""
        request = urllib.request.Request(
            f"{self.url}{path}", method=method, headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    def end_kernels(self) -> None:
        """Shut down every kernel, as when the machine was off over night."""
        for session in self.call("/api/sessions"):
            self.call(f"/api/sessions/{session['id']}", "DELETE")


def _unavailable(reason: str) -> None:
    """Skip where there is no browser; but where tests must all run, its absence is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A server with settings of its own, on a free port, in the theme that the test names."""
    if not shutil.which(CHROMIUM):
        _unavailable(f"no browser at {CHROMIUM}; install Chromium, or set CHROMIUM to its path")
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(QUICK_START, folder)
    places = {
        name: str(tmp_path_factory.mktemp(name.lower()))
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR",
                     "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
    }  # fmt: skip
    settings = Path(places["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": request.param}))
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lab = Lab(f"http://127.0.0.1:{port}", secrets.token_hex(16), folder)
    options = [f"--port={port}", "--ServerApp.port_retries=0", "--no-browser", "--allow-root",
               f"--IdentityProvider.token={lab.token}", f"--ServerApp.root_dir={folder}",
               "--LabApp.expose_app_in_browser=True"]  # fmt: skip
    log = (folder.parent / "server.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options], env=os.environ | places,
        stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        _await_server(lab, server, Path(log.name))
        yield lab
        lab.end_kernels()
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
        log.close()


def _await_server(lab: Lab, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            lab.call("/api/sessions")
        except OSError:
            assert server.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.2)
        else:
            return


@pytest.fixture
def page(lab: Lab) -> Iterator[Any]:
    """A page of a headless browser; what it logs as an error is in ``page.complaints``."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _unavailable("playwright is not installed: pip install 'tilevision[test]'")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def _open(page: Any, lab: Lab, notebook: str) -> None:
    page.goto(lab.page_of(notebook))
    page.wait_for_function(READY)


def _run_cells(page: Any, lab: Lab, notebook: str) -> list[dict[str, Any]]:
    """Run a notebook from the top with Shift+Enter, each cell once the one before has ended."""
    _open(page, lab, notebook)
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    done = 0
    for cell in nbformat.read(lab.folder / notebook, as_version=4).cells:
        page.keyboard.press("Shift+Enter")
        if cell.cell_type == "code":
            page.wait_for_function(f"() => ({CELLS})()[{done}].execution_count", timeout=120_000)
            done += 1
    cells: list[dict[str, Any]] = page.evaluate(CELLS)
    return cells


def _errors(cells: list[dict[str, Any]]) -> list[str]:
    outputs = [output for cell in cells for output in cell["outputs"]]
    return [
        o.get("evalue") or "".join(o.get("text", ""))
        for o in outputs
        if o["output_type"] == "error" or o.get("name") == "stderr"
    ]


def _words(cells: list[dict[str, Any]]) -> str:
    return "\n".join("".join(o.get("text", "")) for c in cells for o in c["outputs"])


@pytest.mark.parametrize("lab", ["JupyterLab Light"], indirect=True)
def test_the_quick_start_runs_cell_by_cell(lab: Lab, page: Any, tmp_path: Path) -> None:
    """Every cell runs without a complaint, the live picture fills, and the counts are plausible."""
    cells = _run_cells(page, lab, QUICK_START.name)
    assert _errors(cells) == []
    said = _words(cells)
    found = re.search(r"nuclei found (\d+) detections", said)
    assert found, said
    assert 150 < int(found[1]) < 600  # a few hundred nuclei can be counted by eye
    assert re.search(r"restored\s+16", said), said

    page.locator(PICTURE).scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "live.png")
    assert "tissue.png, nuclei, complete: 16 tiles (16 done)" in page.get_attribute(
        PICTURE, "aria-label"
    )
    assert page.eval_on_selector(PICTURE, COUNT_YELLOW) > 2000
    plots = [o for c in cells for o in c["outputs"] if "image/jpeg" in o.get("data", {})]
    assert len(plots) == 4  # the image, the last live picture, and two of results
    for number, plot in enumerate(page.locator(".jp-RenderedImage img:visible").all()):
        plot.scroll_into_view_if_needed()
        page.screenshot(path=tmp_path / f"plot-{number}.png")


WATCHED = """
import time
import numpy as np
import tilevision as tv
NAME = "<img src=x onerror='window.tricked=1'>" + "x" * 10_000

def slow(pixels):
    time.sleep(0.4)
    box = {"xmin": 30, "ymin": 30, "xmax": 60, "ymax": 60}
    return [box | {"label": NAME, "score": 0.9}]

image = np.full((600, 900, 3), 60, np.uint8)
run = tv.start(image, model=slow, grid="5x8", checkpoint=None, workers=2)
tv.watch(run)
"""


@pytest.mark.parametrize("lab", ["JupyterLab Dark"], indirect=True)
def test_the_live_picture_goes_on_while_a_cell_blocks(lab: Lab, page: Any, tmp_path: Path) -> None:
    """It fills while another cell waits; zooms; outlives a reload; and is kept when saved."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(text) for text in (WATCHED, "result = run.result()")],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, lab.folder / "watched.ipynb")
    _open(page, lab, "watched.ipynb")
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Shift+Enter")
    label = f"(document.querySelector('{PICTURE}')?.getAttribute('aria-label') ?? '')"
    page.wait_for_function(f"() => /running: .*[1-9] pending.*[1-9] done/.test({label})")
    assert page.evaluate(CELLS)[1]["execution_count"] is None  # the second cell still waits
    half = page.eval_on_selector(PICTURE, COUNT_YELLOW)
    page.screenshot(path=tmp_path / "half.png")
    page.wait_for_function(f"() => {label}.includes('complete: 40 tiles (40 done)')")
    page.wait_for_function(f"() => ({COUNT_YELLOW})(document.querySelector('{PICTURE}')) > {half}")
    assert _errors(page.evaluate(CELLS)) == []
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
    page.locator(".tilevision-reset").wait_for()
    page.wait_for_function(f"() => {sharp} < {whole} / 2")  # the kernel's picture has come
    assert "could not be read" not in page.locator(".tilevision-detail").inner_text()
    page.keyboard.press("0")
    page.locator(".tilevision-reset").wait_for(state="hidden")
    page.wait_for_function(f"() => {sharp} === {whole}")


def _check_reload(lab: Lab, page: Any) -> None:
    page.keyboard.press("Control+s")
    page.wait_for_function("() => !window.jupyterapp.shell.currentWidget.context.model.dirty")
    page.reload()
    page.locator(PICTURE).wait_for()
    page.wait_for_function(f"() => ({COUNT_YELLOW})(document.querySelector('{PICTURE}')) > 500")
    assert page.locator(".jp-RenderedImage img:visible").count() == 0  # one picture is enough
    lab.end_kernels()
    page.reload()
    kept = page.locator(".jp-RenderedImage img")
    kept.wait_for()
    assert page.evaluate("image => image.naturalWidth", kept.element_handle()) > 500
    saved = (lab.folder / "watched.ipynb").read_text()
    assert len(saved) < 700_000
