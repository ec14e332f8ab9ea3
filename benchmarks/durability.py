"""Whole runs in which everything that can die does, at full size; the tests run them smaller.

Run: ``python benchmarks/durability.py NAME …``, with the names in `DRILLS`. Each asserts its rules
and prints its figures; see `tests/drills*.py`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import drills  # live beside the tests, which share them
import drills_cluster
import drills_disk
import drills_many

Drill = Callable[[Path], dict[str, Any]]


def disk(folder: Path) -> dict[str, Any]:
    """Fill 16 MB with a fraction of 2,000 tiles."""
    with drills_disk.small_disk(128) as small:
        return drills_disk.disk_drill(
            folder, small, rows=40, cols=50, kilobytes=16, free=16, by_hand=False
        )


DRILLS: dict[str, Drill] = {
    "kills": lambda folder: drills.kill_drill(
        folder, rows=40, cols=50, kills=50, window=16, seconds=0.01, seed=7
    ),
    "share": lambda folder: drills.kill_drill(
        folder, rows=20, cols=25, kills=50, window=16, seconds=0.01, seed=8, shared=True
    ),
    "workers": lambda folder: drills_cluster.workers_drill(
        folder, rows=30, cols=40, every=1.5, seed=1
    ),
    "scheduler": lambda folder: drills_cluster.scheduler_drill(folder, rows=20, cols=20),
    "poison": lambda folder: drills_cluster.poison_drill(
        folder, rows=10, cols=50, each=5, timeout=4.0, seed=2
    ),
    "theirs": lambda folder: drills_cluster.their_cluster_drill(
        folder, rows=10, cols=20, timeout=8, kinds=drills_cluster.KINDS * 3
    ),
    "http": lambda folder: drills.http_drill(
        folder, rows=40, cols=50, quota=8, seconds=0.2, timeout=1.0, retry_after="1", calm=0.2
    ),
    "disk": disk,
    "many": lambda folder: drills_many.many_drill(folder, rows=250, cols=400),
}


def main(names: list[str]) -> None:
    for name in names or DRILLS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="durability-") as folder:
            figures = DRILLS[name](Path(folder))
        print(f"{name}: {time.monotonic() - began:.0f} s")
        for what, value in figures.items():
            print(f"  {what}: {f'{value:.3g}' if isinstance(value, float) else value}")


if __name__ == "__main__":
    main(sys.argv[1:])
