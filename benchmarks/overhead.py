"""What a tile costs beside its model: python benchmarks/overhead.py [--rounds 5] [--large 3].

A model that does nothing goes over tiles of 16 px, 10,000 and 100,000 (99,856) of them, on a local
cluster of two workers that is up already:

- ``Dask``: as many tasks that do nothing, by ``client.map``, on the same kind of cluster: nothing
  is read, kept or told. Only with 10,000: it takes as long for each.
- ``tilevision``: each tile read, committed to a checkpoint, journaled and told
- ``stored``: the same call once more, in a fresh process: all tiles are restored

Contestants take turns, each in a process of its own. Printed are medians, and the least and the
most. Wall and processor times are divided by the tiles; "client" is the process of the call, with
its threads. Memory is the client's peak, and what it grew by since before the call.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

SIDE = 16
SMALL, LARGE = 100, 316  # tiles to a side of the image


def _nothing(pixels: np.ndarray) -> list[Any]:  # noqa: ARG001 a model's signature
    return []


def _no_task(number: int) -> int:
    return number


def _dask(across: int, folder: str) -> dict[str, float]:  # noqa: ARG001 keeps nothing
    def work() -> int:
        from distributed import default_client

        client = default_client()
        return len(client.gather(client.map(_no_task, range(across * across), pure=False)))

    return _on_a_cluster(work, across * across)


def _tilevision(across: int, folder: str) -> dict[str, float]:
    return _on_a_cluster(lambda: _analysed(across, folder), across * across)


def _stored(across: int, folder: str) -> dict[str, float]:
    before = _resident()
    found = _timed(lambda: _analysed(across, folder), across * across, dict)
    return found | _memory(before, across * across)


def _analysed(across: int, folder: str | None) -> int:
    import tilevision as tv

    image = np.zeros((across * SIDE, across * SIDE), np.uint8)
    model = tv.model(_nothing, fingerprint="nothing")
    grid = tv.Grid.by_tile(SIDE, overlap=0)
    run = tv.start(image, model, grid=grid, checkpoint=folder, workers=2, progress=False)
    result = run.result()
    assert result.complete
    return sum(run.counts.values())


CONTESTANTS: dict[str, Callable[[int, str], dict[str, float]]] = {
    "Dask": _dask,
    "tilevision": _tilevision,
    "stored": _stored,
}


# Measuring ----------------------------------------------------------------------------------


def _on_a_cluster(work: Callable[[], int], tiles: int) -> dict[str, float]:
    """Time `work` where the cluster is up, and has done such work before."""
    from tilevision.cluster import shared_cluster

    with shared_cluster(2) as cluster:
        client = cluster.client
        _analysed(10, None)
        client.gather(client.map(_no_task, range(10)))
        spent: Callable[[], dict[str, float]] = lambda: {  # noqa: E731
            "scheduler": client.run_on_scheduler(time.process_time),
            "workers": sum(client.run(time.process_time).values()),
        }
        with client.as_current():
            before = _resident()
            return _timed(work, tiles, spent) | _memory(before, tiles)


def _timed(
    work: Callable[[], int], tiles: int, others: Callable[[], dict[str, float]]
) -> dict[str, float]:
    import tilevision  # noqa: F401 the import is not what is timed

    elsewhere = others()
    cpu, began = time.process_time(), time.perf_counter()
    assert work() == tiles
    wall, client = time.perf_counter() - began, time.process_time() - cpu
    spent = {name: value - elsewhere[name] for name, value in others().items()}
    each = {name: 1e6 * value / tiles for name, value in (spent | {"client": client}).items()}
    return {"wall": 1e6 * wall / tiles, "seconds": wall, **each}


def _resident() -> float:
    import psutil

    import tilevision  # noqa: F401

    return float(psutil.Process().memory_info().rss)


def _memory(before: float, tiles: int) -> dict[str, float]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak": peak / 2**20, "kilobytes": (peak - before) / tiles / 1000}


def _measured(name: str, across: int, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--as", name, "--across", str(across), "--in", folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
    found: dict[str, float] = json.loads(said.stdout.splitlines()[-1])
    return found


def _rounds(across: int, names: list[str], rounds: int) -> None:
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            # What is restored has to be stored before: these two keep their order.
            order = names if turn % 2 else sorted(names, key="Dask".__eq__)
            for name in order:
                runs[name].append(_measured(name, across, str(Path(folder, "checkpoint"))))
    for name, figures in runs.items():
        cells = [_cell(figures, key, digits) for key, digits in COLUMNS.values()]
        print(f"| {name}, {across * across:,} | {' | '.join(cells)} |", flush=True)


COLUMNS = {
    "wall, s": ("seconds", 2),
    "wall a tile, µs": ("wall", 0),
    "client, µs": ("client", 0),
    "scheduler, µs": ("scheduler", 0),
    "workers, µs": ("workers", 0),
    "client's peak, MB": ("peak", 0),
    "KB a tile": ("kilobytes", 1),
}


def _cell(figures: list[dict[str, float]], key: str, digits: int) -> str:
    values = [one[key] for one in figures if key in one]
    if not values:
        return ""
    middle, least, most = median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


def main() -> None:
    """Have everybody do the job in turn, and print the table."""
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--large", type=int, default=3, help="rounds of 100,000 tiles")
    options.add_argument("--as", dest="name")
    options.add_argument("--across", type=int, default=SMALL)
    options.add_argument("--in", dest="folder")
    given = options.parse_args()
    if given.name:
        print(json.dumps(CONTESTANTS[given.name](given.across, given.folder)))
        return
    print(f"| | {' | '.join(COLUMNS)} |")
    print(f"|---|{'---|' * len(COLUMNS)}")
    _rounds(SMALL, list(CONTESTANTS), given.rounds)
    if given.large:
        _rounds(LARGE, ["tilevision", "stored"], given.large)


if __name__ == "__main__":
    main()
