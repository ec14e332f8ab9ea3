"""Whole processes: plain scripts, kill -9, and what is left over."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tilevision.samples import write_big

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
import tilevision as tv
from beside import find_cells

checkpoint, out = sys.argv[1:]
settings = {"grid": "8x8", "workers": 2, "batch_size": 1, "progress": False}
result = tv.analyze("big.tif", find_cells, checkpoint=checkpoint, **settings)
result.save(out)
print(len(result.findings), set(result.tiles["status"]))
"""

BESIDE = """
import os
import time
import uuid
from pathlib import Path

import numpy as np

CALLS = Path(__file__).parent / "calls"


def find_cells(pixels):
    time.sleep(0.05)
    (CALLS / uuid.uuid4().hex).touch()
    small = pixels[::8, ::8, 0]
    ys, xs = np.nonzero(small < np.median(small) - 40)
    keep = slice(None, None, 50)
    return [
        {"box": (8 * x, 8 * y, 8 * x + 8, 8 * y + 8), "score": 0.5, "label": "cell"}
        for x, y in zip(xs[keep].tolist(), ys[keep].tolist())
    ]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A script without a guard, a model in a file beside it, and an 8192×8192 image."""
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    (tmp_path / "beside.py").write_text(textwrap.dedent(BESIDE))
    (tmp_path / "calls").mkdir()
    write_big(tmp_path / "big.tif", 8192)
    return tmp_path


def _start(project: Path, checkpoint: str, out: str) -> tuple["subprocess.Popen[str]", str]:
    """Start the script with a mark in its environment that all its processes inherit."""
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "script.py", checkpoint, out],
        cwd=project,
        env=os.environ | {"TILEVISION_TEST_MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, mark


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TILEVISION_TEST_MARK") == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def _until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.05)


def test_plain_script_with_a_model_beside_it(project: Path) -> None:
    """No ``__main__`` guard, a model imported from a file beside it, nothing left over."""
    process, mark = _start(project, "kept", "out.json")
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr
    assert "'done'" in stdout
    assert json.loads((project / "out.json").read_text())
    _until(lambda: not _marked(mark))


def test_kill_9_half_way_loses_no_committed_tile(project: Path) -> None:
    """Killed and run again: committed tiles are not run again, the saved bytes are the same."""
    calls = project / "calls"
    process, mark = _start(project, "kept", "out.json")
    _until(lambda: len(list(calls.iterdir())) >= 24)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _until(lambda: not _marked(mark))
    before = len(list(calls.iterdir()))
    assert before < 64
    again, _ = _start(project, "kept", "out.json")
    stdout, stderr = again.communicate(timeout=240)
    assert again.returncode == 0, stderr
    assert "restored" in stdout
    repeated = len(list(calls.iterdir())) - 64
    assert 0 <= repeated <= 8, "only what was in flight may run twice"
    clean, _ = _start(project, "clean", "clean.json")
    assert clean.wait(240) == 0
    clean.communicate()
    assert (project / "out.json").read_bytes() == (project / "clean.json").read_bytes()
