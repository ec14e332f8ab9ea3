"""The live picture of a run whose tiles have a map and a vector each, and a click in it.

    python benchmarks/maps_live.py [TILES]          default 10000

A run on two workers is watched as in a notebook. Printed are the milliseconds of a frame on the
drawing thread, those of the map in it, what a click on "More like this" takes until 20 tiles and
their pictures are there, and the longest line of the journal and of the events: no array is in
them.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import tilevision as tv
from tilevision.view.live import LiveView
from tilevision.view.mapping import mappainter
from tilevision.view.panel.lookalikes import LookAlikes
from tilevision.view.picture import screen

SIDE, NUMBERS = 64, 256
NAMES = ("low", "middle", "high")


def seen(pixels: np.ndarray) -> tv.Findings:
    """Return three shares of each pixel, and a vector of the tile."""
    raised = np.stack([pixels[..., n] + 1.0 for n in range(3)])
    vector = np.resize(pixels[::2, ::2].astype(np.float32).ravel(), NUMBERS) - 127
    return tv.Findings(embedding=vector, raster=tv.Raster(raised / raised.sum(0), classes=NAMES))


def timed(owner: Any, name: str) -> list[tuple[float, float]]:
    """Have a method note what each call takes: seconds, and those of its thread's processor."""
    plain, taken = getattr(owner, name), []

    def noted(*given: Any) -> Any:
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            return plain(*given)
        finally:
            taken.append((time.perf_counter() - wall, time.thread_time() - cpu))

    setattr(owner, name, noted)
    return taken


def told(what: str, taken: list[tuple[float, float]]) -> None:
    wall, cpu = (np.array(column) * 1e3 for column in zip(*taken, strict=True))
    print(
        f"{what:28} {len(taken):5} times, ms: processor {np.median(cpu):.1f} at the median, "
        f"{np.percentile(cpu, 95):.1f} at 95 %, {cpu.max():.0f} at most; clock "
        f"{np.median(wall):.1f}, {np.percentile(wall, 95):.1f}, {wall.max():.0f}"
    )


def click(run: Any, result: Any) -> tuple[float, float, int]:
    """Ask for tiles like one, as the panel does; return seconds, those of processors, and tiles."""
    jobs = SimpleNamespace(put=lambda _, work: work())
    alike = LookAlikes(jobs, lambda: result, lambda *_: None, lambda: None)
    alike.show(run, len(run.tiles) // 2)
    wall, cpu = time.perf_counter(), time.process_time()
    alike.widget.asked = ["similar", "", 1]
    taken = time.perf_counter() - wall, time.process_time() - cpu
    found = len(alike.widget.near)
    alike.close()
    return *taken, found


def longest(lines: list[str]) -> str:
    sizes = [len(line) for line in lines]
    return f"{sum(sizes):,} bytes in {len(sizes):,} lines, the longest {max(sizes):,}"


def main(tiles: int) -> None:
    rows = round(tiles**0.5)
    image = np.kron(
        np.random.default_rng(4).integers(0, 250, (rows * SIDE // 8, rows * SIDE // 8, 3)),
        np.ones((8, 8, 1)),
    ).astype(np.uint8)
    frames = timed(screen.Screen, "_draw_one")
    covers = timed(mappainter.MapPainter, "cover")
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "image.npy"), image)
        run = tv.start(
            Path(folder, "image.npy"),
            seen,
            grid=tv.Grid.by_tile(SIDE, 0),
            checkpoint=Path(folder, "checkpoint"),
            workers=2,
            synthesis=None,
        )
        view = LiveView(run)
        result = run.result()
        while not (frames and _rests()):
            time.sleep(0.1)
        print(f"{len(run.tiles):,} tiles, {result.raster!r}")
        told("a frame", frames)
        told("the map in it", covers)
        for _ in range(3):
            wall, cpu, found = click(run, result)
            print(f"a click: {found} tiles in {wall:.2f} s, {cpu:.2f} s of processors")
        journal = next(Path(folder, "checkpoint", "runs").glob("*.jsonl")).read_text()
        print(f"journal: {longest(journal.splitlines())}")
        print(f"events:  {longest([repr(one) for one in run.events()])}")
        view.close()


def _rests() -> bool:
    """Return True once no thread draws or paints the map."""
    names = [one.name for one in threading.enumerate()]
    return not any(name.startswith("tilevision-view-") for name in names)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
