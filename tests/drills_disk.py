"""Drills on a disk that is too small: a whole run that fills it, and goes on once there is space.

Each takes its size, asserts the rules, and returns figures for `benchmarks/durability.py`.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numbered
import pytest

import tilevision as tv
from tilevision.checkpoint import Checkpoint
from tilevision.codec import decode
from tilevision.events import TileChanged, journal_path, read_journal


@contextmanager
def small_disk(megabytes: float) -> Iterator[Path]:
    """Mount a file system of this size for the block; skip the test where that is not allowed."""
    point = Path(tempfile.mkdtemp(prefix="small-disk-"))
    mount = shutil.which("mount")
    size = f"size={int(megabytes * 1024)}k"
    command = [str(mount), "-t", "tmpfs", "-o", size, "tmpfs", str(point)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        point.rmdir()
        pytest.skip("mounting needs privileges here; a run on a full disk was not tried")
    try:
        yield point
    finally:
        subprocess.run(["umount", "--lazy", str(point)], check=True)
        point.rmdir()


def verbose(kilobytes: int) -> Callable[[Any], Any]:
    """Return a model whose findings take so much room for every tile."""

    def look(pixels: Any) -> Any:
        number = numbered.number_of(pixels)
        return [
            {
                "box": (i % 10, i // 10, i % 10 + 1, i // 10 + 1),
                "label": f"{number} {i} {'x' * 900}",
            }
            for i in range(kilobytes)
        ]

    return look


def disk_drill(
    folder: Path, disk: Path, *, rows: int, cols: int, kilobytes: int, free: float, by_hand: bool
) -> dict[str, Any]:
    """Fill the disk with a run, free some space, and have it go on.

    Parameters
    ----------
    folder : Path
        On a disk with room.
    disk : Path
        The small one.
    rows, cols, kilobytes : int
        More than `free` holds, less than the disk.
    free : float
        Megabytes that the run finds.
    by_hand : bool
        Whether `resume` is called; else the run finds out by itself.
    """
    ballast = disk / "ballast"
    ballast.write_bytes(b"\0" * int(shutil.disk_usage(disk).free - free * 2**20))
    image = numbered.write_numbered(folder / "numbered.tif", rows, cols)
    settings: dict[str, Any] = {
        "model": tv.model(verbose(kilobytes), fingerprint=f"verbose {kilobytes}"),
        "grid": numbered.grid(rows, cols),
        "merge": "none",
        "workers": 2,
    }
    run = tv.start(image, checkpoint=disk / "kept", **settings)
    with pytest.raises(tv.CheckpointError) as caught:
        run.result(timeout=300)
    message = str(caught.value)
    assert str(disk / "kept") in message and "free on its disk" in message and "\n" not in message
    # What SQLite folds into its file may make room for a little more, once or twice.
    numbered.wait_until(lambda: run.status == "paused", "the run is paused")
    stored = _acknowledged(run, disk / "kept")
    run.resume()  # too early: it is told again, and nothing is lost
    numbered.wait_until(lambda: run.status == "paused", "it is told that the disk is full still")
    ballast.unlink()
    began = time.monotonic()
    if by_hand:
        run.resume()
    else:
        numbered.wait_until(lambda: run.status == "running" or run.wait(0), "it goes on by itself")
    result = run.result(timeout=300)
    seconds = time.monotonic() - began
    assert result.status == "complete"
    assert len(_acknowledged(run, disk / "kept", whole=True)) == rows * cols
    clean = tv.analyze(image, checkpoint=None, progress=False, **settings)
    saved, expected = folder / "out.json", folder / "clean.json"
    result.save(saved)
    clean.save(expected)
    assert saved.read_bytes() == expected.read_bytes()
    return {
        "tiles": rows * cols,
        "acknowledged when the disk was full": len(stored),
        "said": message,
        "seconds from freeing space to the end": seconds,
    }


def _acknowledged(run: tv.Run, checkpoint: Path, *, whole: bool = False) -> set[str]:
    """Return the tiles told of as done, each of which must read back; journaled ones among them."""
    _, events = read_journal(journal_path(checkpoint, run.id))
    told = {e.tile for e in run.events() if isinstance(e, TileChanged) and e.status == "done"}
    journaled = {e.tile for e in events if isinstance(e, TileChanged) and e.status == "done"}
    assert journaled == told if whole else journaled <= told
    (one,) = run._session._conductor._plan.passes
    keys = {one.keys[tile]: tile for tile in told}
    with _store(run, checkpoint) as store:
        found = {keys[key].id for key, records in store.load(list(keys)) if decode(records)}
    assert found == {tile.id for tile in told}, "something acknowledged cannot be read"
    return found


@contextmanager
def _store(run: tv.Run, checkpoint: Path) -> Iterator[Any]:
    """Give the checkpoint that the run has open, or open it again after the run's end."""
    if not run.wait(0):
        yield run._session.checkpoint
        return
    with Checkpoint.open(checkpoint) as store:
        yield store


CUT_OFF = """
import os
import sys
import numpy as np
import tilevision as tv


def dies(pixels):
    return []


image = np.zeros((64, 64), np.uint8)
run = tv.start(image, tv.model(dies, fingerprint="dies"), checkpoint=sys.argv[1])
run.subscribe(lambda event: os._exit(9) if getattr(event, "status", "") == "running" else None)
print(run.id, flush=True)
run.wait()
"""


def cut_off(checkpoint: Path) -> str:
    """Leave a run behind whose process died; return its id."""
    command = [sys.executable, "-c", CUT_OFF, str(checkpoint)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
