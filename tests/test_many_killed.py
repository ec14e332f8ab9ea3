"""Thirty images overnight: two damaged, the process killed half way, the same line again."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from pathlib import Path

import numbered
import pytest
import tifffile

IMAGES, TILES, DAMAGED = 30, 3, (4, 19)
MODEL = """
import time
from pathlib import Path
import numbered

CALLS = Path(__file__).with_name("calls")


def look(pixels):
    number = numbered.number_of(pixels)
    numbered.note(CALLS, number)
    while number > 60 and not CALLS.with_name("killed").exists():
        time.sleep(0.01)
    return [{"box": (2, 2, 6 + number % 7, 9), "score": number / 97, "label": "cell"}]
"""


def _make_images(folder: Path) -> None:
    """Write pictures in which no two tiles of all are alike, and damage two of the files."""
    numbered.write_numbered(folder / "all.tif", IMAGES, TILES)
    everything = tifffile.imread(folder / "all.tif")
    (folder / "scans").mkdir()
    for number in range(IMAGES):
        rows = everything[number * numbered.SIDE : (number + 1) * numbered.SIDE]
        path = folder / "scans" / f"scan{number:02d}.tif"
        tifffile.imwrite(path, rows, photometric="rgb", tile=(16, 16))
        if number in DAMAGED:
            path.write_bytes(path.read_bytes()[: 40 * (number > 10)])


def _command(checkpoint: str, out: str) -> list[str]:
    options = ["--model", "noting.py:look", "--grid", f"1x{TILES}", "--overlap", "0"]
    places = ["--checkpoint", checkpoint, "--out-dir", out, "--workers", "1"]
    return [sys.executable, "-m", "tilevision", "run", "scans", *options, *places]


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.geojson")}


@pytest.mark.slow
def test_the_same_line_finishes_what_was_killed(elsewhere: Path) -> None:
    """One table of 30 rows, exit 3, 28 files as of a clean run, and no stored tile run again."""
    _make_images(elsewhere)
    Path("noting.py").write_text(MODEL)
    calls, environment = Path("calls"), numbered.new_mark() | {"PYTHONPATH": numbered.PATH}
    command = _command("kept", "found")
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        numbered.wait_until(lambda: len(numbered.noted(calls)) > 36, "twelve images are done")
        process.kill()
    Path("killed").touch()
    assert process.returncode == -signal.SIGKILL
    numbered.wait_until(lambda: not numbered.marked(environment), "no process is left over")
    before = numbered.noted(calls)
    done = {int(name[4:6]) for name in _files(Path("found"))}
    assert 10 <= len(done) < 28

    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 3, again.stderr
    assert (
        "28 of 30 images complete; 2 could not be analysed: scan04.tif, scan19.tif." in again.stderr
    )
    assert "Traceback" not in again.stderr
    stored = {image * TILES + tile for image in done for tile in range(TILES)}
    assert not stored.intersection(numbered.noted(calls)[len(before) :])
    everything = set(range(IMAGES * TILES))
    whole = {n for n in everything if n // TILES not in DAMAGED}
    assert set(numbered.noted(calls)) == whole
    assert len(numbered.noted(calls)) <= len(whole) + 3 * TILES  # the images it was killed in

    with Path("found/summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [f"scan{n:02d}.tif" for n in range(IMAGES)]
    bad = [n for n, row in enumerate(rows) if row["status"] == "error" and row["error"]]
    assert bad == list(DAMAGED)
    assert sum(row["status"] == "complete" and row["detections"] == "3" for row in rows) == 28

    calls.unlink()
    clean = subprocess.run(
        [*_command("other", "clean"), "--quiet"], env=environment, capture_output=True, check=False
    )
    assert clean.returncode == 3
    assert len(_files(Path("clean"))) == 28
    assert _files(Path("found")) == _files(Path("clean"))
    numbered.wait_until(lambda: not numbered.marked(environment), "no process is left over")
