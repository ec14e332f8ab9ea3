"""Pictures whose tiles know their number, and processes that carry a mark."""

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile

from tilevision import Grid

MARK = "TILEVISION_TEST_MARK"
SIDE = 16
# For scripts that import what lies beside the tests.
PATH = os.pathsep.join(
    [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
)


def grid(rows: int, cols: int) -> Grid:
    """Return the grid that cuts a numbered picture into its tiles."""
    return Grid(rows=rows, cols=cols, overlap=0.0)


def write_numbered(path: Path, rows: int, cols: int, side: int = SIDE) -> Path:
    """Write a picture in which each tile's pixels hold the tile's number, row by row."""
    numbers = np.arange(rows * cols, dtype=np.uint32).reshape(rows, cols)
    cells = np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], axis=-1).astype(np.uint8)
    pixels = cells.repeat(side, axis=0).repeat(side, axis=1)
    tifffile.imwrite(path, pixels, tile=(side * 16, side * 16), photometric="rgb")
    return path


def number_of(pixels: Any) -> int:
    """Return the number of the tile that a model was handed."""
    red, green, blue = (int(value) for value in pixels[0, 0])
    return red + 256 * green + 65536 * blue


def tile_id(number: int, cols: int) -> str:
    """Return the id of a numbered tile."""
    return f"r{number // cols:03d}c{number % cols:03d}"


def note(log: str | os.PathLike[str], number: int) -> None:
    """Append a number to a file that many processes write to."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, b"%d\n" % number)
    finally:
        os.close(file)


def noted(log: Path) -> list[int]:
    """Return the numbers in such a file, in order."""
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def new_mark() -> dict[str, str]:
    """Return an environment whose processes, and theirs, `marked` finds."""
    return os.environ | {MARK: uuid.uuid4().hex}


def marked(environment: dict[str, str]) -> list[psutil.Process]:
    """Return the processes that were started with `environment`, or by one of those."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == environment[MARK]:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_until(condition: Callable[[], object], what: str, seconds: float = 200) -> None:
    """Wait for `condition`, and fail naming it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {seconds:.0f} s until {what}"
        time.sleep(0.02)
