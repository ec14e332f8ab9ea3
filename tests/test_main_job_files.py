"""How much code the main job runs through: what a newcomer has to read to follow it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

# Fewer is better: lower it when the way gets shorter.
MOST = 80

COUNT = """
import inspect, json, sys, threading
from pathlib import Path

ran = {}


def look(frame, event, arg):
    code = frame.f_code
    # Functions alone: the bodies of modules and classes run because they are imported, and
    # expressions of a module too.
    if event != "call" or not code.co_flags & inspect.CO_OPTIMIZED or code.co_qualname[0] == "<":
        return
    ran.setdefault(code.co_filename, set()).add(code.co_qualname)


if __name__ == "__main__":
    threading.setprofile(look)
    sys.setprofile(look)
    import tilevision as tv

    tv.analyze("x.tif", "nuclei").save("x.geojson")
    sys.setprofile(None)
    threading.setprofile(None)
    home = Path(tv.__file__).parent
    ours = {Path(f).relative_to(home): n for f, n in ran.items() if home in Path(f).parents}
    files = {path.as_posix(): sorted(names) for path, names in ours.items()}
    print(json.dumps(files))
"""


@pytest.mark.slow
def test_the_main_job_runs_through_few_files(tmp_path: Path) -> None:
    """From `analyze("x.tif", "nuclei")` to the saved file, in the client's process.

    A file counts if a function of it runs; what a worker does alone does not. One number stands
    for the way through the house: it only falls.
    """
    pixels = np.full((600, 800, 3), 240, np.uint8)
    y, x = np.mgrid[:600, :800]
    for cy, cx in np.random.default_rng(0).integers(30, 570, (40, 2)):
        pixels[(y - cy) ** 2 + (x - cx) ** 2 < 80] = (90, 40, 120)
    tifffile.imwrite(tmp_path / "x.tif", pixels, tile=(256, 256), photometric="rgb")
    (tmp_path / "count.py").write_text(COUNT)
    ran = subprocess.run(
        [sys.executable, "count.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    files = json.loads(ran.stdout.splitlines()[-1])
    saved = json.loads((tmp_path / "x.geojson").read_text())
    assert len(saved["features"]) > 10, "the job was not done"
    assert "pipeline/conductor.py" in files and "seams/matching.py" in files
    print(len(files), "files,", sum(map(len, files.values())), "functions")
    assert len(files) <= MOST, sorted(files)
