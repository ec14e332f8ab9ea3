"""SIGTERM, with which batch systems end a job: what has arrived is kept, and the way on is said.

SLURM sends it at a job's time limit and to cancelled jobs, and kills 30 s later (KillWait).
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

JOB = """
    import time
    import tilevision as tv


    def slow(pixels):
        time.sleep(0.1)
        return [{"box": (1, 1, 5, 5), "score": 0.9}]


    if __name__ == "__main__":
        result = tv.analyze("x.tif", slow, grid=32, workers=1, progress=False)
        print(len(result.findings), result.facts.restored)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((256, 256), np.uint8), tile=(32, 32))
    (tmp_path / "job.py").write_text(textwrap.dedent(JOB))
    return tmp_path


@pytest.fixture
def job(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "job.py"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    yield process
    process.kill()
    process.communicate()


def done(folder: Path) -> int:
    journals = list((folder / ".tilevision").glob("runs/*.jsonl"))
    return sum(path.read_text().count('"done"') for path in journals)


@pytest.mark.slow
def test_a_terminated_process_keeps_its_tiles_and_says_how_to_resume(
    folder: Path, job: "subprocess.Popen[str]"
) -> None:
    """It exits with 143 within ten seconds; the run is stopped, and the same line finishes it."""
    until = time.monotonic() + 200
    while done(folder) < 3:
        assert job.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, said = job.communicate(timeout=200)
    assert job.returncode == 143
    assert time.monotonic() - began < 10
    (journal,) = (folder / ".tilevision" / "runs").glob("*.jsonl")
    last = [line for line in journal.read_text().splitlines() if '"stopped"' in line]
    assert len(last) == 1 and '"terminated"' in last[0]
    assert f"What is done is kept; tv.resume('{journal.stem}') resumes the run." in said
    assert "Traceback" not in said
    kept = done(folder)
    assert 3 <= kept < 100
    again = subprocess.run(
        [sys.executable, "job.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    assert again.stdout.split() == ["100", str(kept)]


def test_without_a_run_the_signal_does_what_it_does() -> None:
    """A process whose runs are over ends by the signal itself, as without tilevision."""
    code = """
        import os, signal, numpy as np, tilevision as tv
        from tilevision.pipeline.control import Control
        from tilevision.events import Bus
        control = Control(Bus())
        control.start(lambda: None, "nothing")
        control.wait()
        os.kill(os.getpid(), signal.SIGTERM)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=200, check=False)
    assert ended.returncode == -signal.SIGTERM


def test_a_handler_of_the_program_stays() -> None:
    """Who handles the signal, as workflow tools do, goes on doing so."""
    code = """
        import os, signal, sys, tilevision as tv
        from tilevision.pipeline.control import Control
        from tilevision.events import Bus
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        Control(Bus()).start(lambda: __import__("time").sleep(30), "long")
        os.kill(os.getpid(), signal.SIGTERM)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=200, check=False)
    assert ended.returncode == 7
