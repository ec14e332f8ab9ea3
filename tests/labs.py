"""A real JupyterLab in a real browser, for tests."""

from __future__ import annotations

import functools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nbformat
import pytest

QUICK_START = Path(__file__).resolve().parents[1] / "notebooks" / "01_quickstart.ipynb"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
PICTURE = ".tilevision-picture"
POLLING = 200.0

CELLS = """() => {
  const cells = window.jupyterapp.shell.currentWidget.content.model.sharedModel.toJSON().cells;
  return cells.filter(cell => cell.cell_type === "code");
}"""
READY = """() => {
  const panel = window.jupyterapp?.shell.currentWidget;
  return panel?.context?.isReady && panel.sessionContext?.session?.kernel?.status === "idle";
}"""

COUNT_SAVES = """() => {
  window.saves = 0;
  window.jupyterapp.shell.currentWidget.context.saveState.connect((_, state) => {
    window.saves += state.startsWith("completed");
  });
}"""


@dataclass(frozen=True)
class Lab:
    """A folder of a test's own in a Jupyter server, which is started once for all tests."""

    url: str
    token: str
    folder: Path
    app: str = "lab/tree"

    def page_of(self, notebook: str) -> str:
        """Address of a notebook in `folder`."""
        return f"{self.url}/{self.app}/{self.folder.name}/{notebook}?token={self.token}&reset"

    def call(self, path: str, method: str = "GET") -> Any:
        """Answer of the server's own interface."""
        request = urllib.request.Request(
            f"{self.url}{path}", method=method, headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
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


def free_port() -> int:
    """Return a free port that stays so: none of those that Linux gives to who asks for any (ip(7)).

    Tests beside this one ask for dozens while a server starts.
    """
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def serving(base: Path) -> Iterator[Lab]:
    """A server with settings of its own under `base`, on a free port."""
    places = {
        name: str(base / name.lower())
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR",
                     "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
    }  # fmt: skip
    folder = base / "notebooks"
    for place in (*map(Path, places.values()), folder):
        place.mkdir()
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    _settings(base, "notification", quiet)
    port = free_port()
    lab = Lab(f"http://127.0.0.1:{port}", secrets.token_hex(16), folder)
    options = [f"--port={port}", "--ServerApp.port_retries=0", "--no-browser", "--allow-root",
               f"--IdentityProvider.token={lab.token}", f"--ServerApp.root_dir={folder}",
               "--LabApp.expose_app_in_browser=True",
               "--JupyterNotebookApp.expose_app_in_browser=True"]  # fmt: skip
    log = (base / "server.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options], env=os.environ | places,
        stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        _await_server(lab, server, Path(log.name))
        yield lab
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
        log.close()


def _settings(base: Path, name: str, values: dict[str, Any]) -> None:
    """Write settings of JupyterLab, which are read when a page is opened."""
    folder = base / "jupyterlab_settings_dir" / "@jupyterlab" / "apputils-extension"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jupyterlab-settings").write_text(json.dumps(values))


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The Jupyter server of all tests; `lab` is a test's own folder in it."""
    if not shutil.which(CHROMIUM):
        _unavailable(f"no browser at {CHROMIUM}; install Chromium, or set CHROMIUM to its path")
    with serving(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture
def lab(request: pytest.FixtureRequest, jupyter: Lab) -> Iterator[Lab]:
    """A JupyterLab in the theme that the test names; of ``"notebook"``, a Notebook 7."""
    notebook = request.param == "notebook"
    theme = "JupyterLab Light" if notebook else request.param
    _settings(jupyter.folder.parent, "themes", {"theme": theme})
    folder = jupyter.folder / request.node.originalname
    folder.mkdir()
    shutil.copy(QUICK_START, folder)
    lab = replace(jupyter, folder=folder, app="notebooks" if notebook else jupyter.app)
    yield lab
    lab.end_kernels()


def _await_server(lab: Lab, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 200
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
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=120_000)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(120_000)
        # Asked at every frame, as is usual, a long wait costs more than what is waited for.
        page.wait_for_function = functools.partial(page.wait_for_function, polling=POLLING)
        yield page
        browser.close()


def open_notebook(page: Any, lab: Lab, notebook: str) -> None:
    """Open a notebook and wait until its kernel is there."""
    page.goto(lab.page_of(notebook))
    page.wait_for_function(READY)


def save(page: Any) -> None:
    """Press Ctrl+S, and wait until the notebook has been saved, whatever changes it since."""
    page.evaluate(COUNT_SAVES)
    page.keyboard.press("Control+s")
    page.wait_for_function("() => window.saves")


def once_laid_out(page: Any, check: Callable[[], None]) -> None:
    """Make `check`, again while it fails: a page that is slow to take its new size passes later."""
    deadline = time.monotonic() + 60
    while True:
        page.wait_for_timeout(200)
        try:
            return check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise


def run_cells(page: Any, lab: Lab, notebook: str) -> list[dict[str, Any]]:
    """Run a notebook from the top with Shift+Enter, each cell once the one before has ended."""
    open_notebook(page, lab, notebook)
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    done = 0
    for cell in nbformat.read(lab.folder / notebook, as_version=4).cells:
        page.keyboard.press("Shift+Enter")
        if cell.cell_type == "code":
            page.wait_for_function(f"() => ({CELLS})()[{done}].execution_count", timeout=200_000)
            done += 1
    cells: list[dict[str, Any]] = page.evaluate(CELLS)
    return cells


def write_notebook(lab: Lab, name: str, cells: Sequence[str]) -> None:
    """Write a notebook of code cells into the server's folder."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(text) for text in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, lab.folder / name)


def errors(cells: list[dict[str, Any]]) -> list[str]:
    """Return what went wrong in the cells, and what they left on standard error.

    On a slow machine the picture's preparation draws a bar there, which is removed at its end.
    """
    outputs = [output for cell in cells for output in cell["outputs"]]
    raised = [o["ename"] + o["evalue"] for o in outputs if o["output_type"] == "error"]
    written = [_seen("".join(o["text"])) for o in outputs if o.get("name") == "stderr"]
    return raised + list(filter(None, written))


def _seen(text: str) -> str:
    """Return what is to be seen of a text whose lines are drawn over themselves."""
    lines = (line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n"))
    return "\n".join(filter(None, lines))
