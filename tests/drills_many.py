"""A drill of very many trivial tiles: what the client needs for them, and what reopening costs.

Takes its size, asserts the rules, and returns figures for `benchmarks/durability.py`.
"""

import os
import threading
import time
from pathlib import Path
from typing import Any

import numbered
import psutil

import tilevision as tv


def trivial(log: Path) -> Any:
    """Return a model that notes that it was called, and finds one thing."""

    def look(pixels: Any) -> Any:
        number = numbered.number_of(pixels)
        numbered.note(log, number)
        return [{"box": (2, 2, 6 + number % 7, 9), "score": 0.5, "label": "cell"}]

    return look


class Watch:
    """Notes the memory of this process, in MB, each time that so many more tiles are done."""

    def __init__(self, log: Path, every: int) -> None:
        self.resident: list[float] = []
        self._log, self._every = log, every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        process = psutil.Process()
        while not self._over.wait(0.05):
            lines = self._log.stat().st_size // 6 if self._log.exists() else 0
            if lines >= len(self.resident) * self._every:
                self.resident.append(process.memory_info().rss / 2**20)


def many_drill(folder: Path, *, rows: int, cols: int) -> dict[str, Any]:
    """Run very many tiles, and open the finished run again."""
    log = folder / "calls"
    image = numbered.write_numbered(folder / "numbered.tif", rows, cols)
    settings: dict[str, Any] = {
        "model": tv.model(trivial(log), fingerprint="trivial"),
        "grid": numbered.grid(rows, cols),
        "checkpoint": folder / "kept",
        "progress": False,
    }
    figures: dict[str, Any] = {"tiles": rows * cols}
    began = time.monotonic()
    plan = tv.plan(image, **settings)
    figures["seconds to plan"] = time.monotonic() - began
    assert len(plan.to_run) == rows * cols
    del plan
    began = time.monotonic()
    with Watch(log, rows * cols // 10) as watch:
        result = tv.analyze(image, workers=2, **settings)
    figures["seconds to run"] = time.monotonic() - began
    figures["MB resident at each tenth"] = [round(value) for value in watch.resident]
    grown = (watch.resident[-1] - watch.resident[1]) * 2**20
    each = figures["bytes kept a tile"] = grown / ((len(watch.resident) - 2) * rows * cols / 10)
    assert each < 5000, "something else than the result is kept"
    assert result.complete and len(result.tile_findings) == rows * cols
    calls = log.stat().st_size
    began = time.monotonic()
    result.save(folder / "out.json")
    figures["seconds to save"] = time.monotonic() - began
    del result
    began = time.monotonic()
    again = tv.analyze(image, **settings)
    figures["seconds to open again"] = time.monotonic() - began
    assert {row.status for row in again.rows} == {"restored"}
    assert log.stat().st_size == calls, "the model was called for a tile that is stored"
    again.save(folder / "again.json")
    assert (folder / "again.json").read_bytes() == (folder / "out.json").read_bytes()
    figures["MB resident at the end"] = round(psutil.Process(os.getpid()).memory_info().rss / 2**20)
    return figures
