"""Polygons: CPU time and memory from the tiles' outlines to the files people open.

Run by hand, one size a process so that the peak of memory is its own::

    python benchmarks/polygons.py [--sizes 100000 1000000] [--methods seam nms]

Each object is an outline of 12 to 24 points, 12 to 40 px across, on an image of the density that
nuclei have on a slide (one object on 40 × 40 px); every tile of 1024 px with 20 % overlap sees
those in it, cut at its edges, a little off from how its neighbours see them. What is stated: how
many outlines went in and came out, CPU seconds of the merge and of each file, growth from the
size before, and the largest memory that the process held.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import shapely

from tilevision.findings import Findings, TileFindings
from tilevision.grid import Grid
from tilevision.result import MergeSettings, Result, RunFacts, TileRow
from tilevision.sources import ImageMetadata

TILE, OVERLAP, ROOM = 1024, 0.2, 40


def observed(n: int) -> tuple[list[TileFindings], tuple[int, int]]:
    """Return about `n` outlines as the tiles of one image saw them, and the image's size."""
    rng = np.random.default_rng(0)
    count = int(n / 1.5)
    side = max(int(np.sqrt(count) * ROOM), 2 * TILE)
    centre = rng.uniform(20, side - 20, (count, 2))
    centre = centre[np.argsort(centre[:, 0])]
    radius = rng.uniform(6, 20, (count, 1))
    corners = rng.integers(12, 25, count)
    tiles = []
    for cell in Grid.by_tile(TILE, OVERLAP).tiles((side, side)):
        x0, y0, x1, y1 = cell.box.as_tuple()
        low, high = np.searchsorted(centre[:, 0], [x0 - 20, x1 + 20])
        rows = low + np.flatnonzero(np.abs(centre[low:high, 1] - (y0 + y1) / 2) < TILE / 2 + 20)
        rings = _rings(rng, centre[rows] - (x0, y0), radius[rows], corners[rows])
        rings = shapely.intersection(rings, shapely.box(0, 0, x1 - x0, y1 - y0))
        rings = rings[(shapely.get_type_id(rings) == 3) & (shapely.area(rings) > 20)]
        boxes = np.reshape(shapely.bounds(rings), (-1, 4))
        outlines = [shapely.get_coordinates(ring)[:-1] for ring in rings]
        scores = rng.uniform(0.3, 1, len(rings))
        tiles.append(TileFindings(cell, Findings(boxes, scores, polygons=outlines).rounded()))
    return tiles, (side, side)


def _rings(rng: Any, centre: Any, radius: Any, corners: Any) -> Any:
    """Return bumpy circles, each seen a little off."""
    owner = np.repeat(np.arange(len(centre)), corners)
    first = np.repeat(np.cumsum(corners) - corners, corners)
    angle = (np.arange(len(owner)) - first) / corners[owner] * 2 * np.pi
    far = radius[owner, 0] * rng.uniform(0.9, 1.1, len(owner))
    off = rng.normal(0, 0.5, (len(centre), 2))[owner]
    points = centre[owner] + off + far[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    return shapely.polygons(shapely.linearrings(points, indices=owner))


def result_of(tiles: list[TileFindings], size: tuple[int, int], method: str) -> Result:
    """Return a result as a run makes it; the image itself is not needed."""
    image = SimpleNamespace(size=size, metadata=ImageMetadata(), fingerprint="none")
    facts = RunFacts(run_id="bench", status="complete", model="bench")
    rows = [TileRow(0.0, seen.tile, "done") for seen in tiles]
    settings = MergeSettings(method=method)
    return Result(cast("Any", image), rows, tiles, settings, facts, "bench")


def measure(n: int, method: str) -> None:
    """Print one row of the table."""
    tiles, size = observed(n)
    before = _peak()
    result = result_of(tiles, size, method)
    spent = [_cpu(lambda: result.findings)]
    found = result.findings
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"out.{suffix}" for suffix in ("geojson", "parquet")]
        spent += [_cpu(partial(result.save, path)) for path in paths]
    cells = [f"{sum(len(t.findings) for t in tiles):,}", f"{len(found):,}", method]
    cells += [f"{seconds:.1f}" for seconds in (*spent, sum(spent))]
    cells += [f"{before / 2**20:.2f}", f"{_peak() / 2**20:.2f}"]
    print("| " + " | ".join(cells) + " |", flush=True)


def _cpu(run: Any) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _peak() -> float:
    """Return the most memory held so far, KiB (Linux counts so)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Run what the command line asks for, each row in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", type=int, default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--methods", nargs="*", default=["seam"])
    parser.add_argument("--here", action="store_true", help="one row, in this process")
    asked = parser.parse_args()
    if asked.here:
        measure(asked.sizes[0], asked.methods[0])
        return
    print("| outlines seen | merged | merge | merge s | GeoJSON s | Parquet s | all, CPU s "
          "| GiB of input | GiB at most |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for method in asked.methods:
        for n in asked.sizes:
            row = ["--here", "--sizes", str(n), "--methods", method]
            subprocess.run([sys.executable, __file__, *row], check=True)


if __name__ == "__main__":
    main()
