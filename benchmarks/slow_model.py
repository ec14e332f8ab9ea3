"""How near a run comes to its model's own time: python benchmarks/slow_model.py [--rounds 3].

A model that takes 100 ms a tile, 200 tiles of 64 px, two processes; the ideal is 10 s. It either
sleeps (a stand-in for a device) or computes, and says itself how long its calls took. With all
seconds from the call to its result:

- ``pool``: the same function over the same tiles in a process pool (spawn, 2), which is up
- ``tilevision, cluster up``: each tile committed to a checkpoint, journaled, merged
- ``tilevision, cold``: the same in a process that has yet to import Dask and start a cluster

They take turns, each in a process of its own. Printed are medians, and the least and the most; and
the share: the model's own seconds, as measured in its calls, divided by two processes and by the
seconds that all took.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

SECONDS, PROCESSES, SIDE = 0.1, 2, 64
ACROSS, DOWN = 20, 10


def _sleeps(pixels: np.ndarray) -> list[dict[str, Any]]:  # noqa: ARG001 a model's signature
    began = time.perf_counter()
    time.sleep(SECONDS)
    return _took(began)


def _computes(pixels: np.ndarray) -> list[dict[str, Any]]:
    began, spent = time.perf_counter(), time.thread_time()
    while time.thread_time() - spent < SECONDS:
        np.sort(pixels.ravel())
    return _took(began)


def _took(began: float) -> list[dict[str, Any]]:
    """Return the seconds of the call as the score of a detection, with which they come back."""
    return [{"box": (8, 8, 24, 24), "score": (time.perf_counter() - began) / 100, "label": "call"}]


MODELS: dict[str, Callable[[np.ndarray], list[dict[str, Any]]]] = {
    "sleeps": _sleeps,
    "computes": _computes,
}


def _pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (DOWN * SIDE, ACROSS * SIDE, 3), np.uint8)


def _pool(name: str) -> tuple[float, float]:
    pixels = _pixels()
    tiles = [
        pixels[y : y + SIDE, x : x + SIDE]
        for y in range(0, DOWN * SIDE, SIDE)
        for x in range(0, ACROSS * SIDE, SIDE)
    ]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        pool.map(MODELS[name], tiles[:PROCESSES], chunksize=1)
        began = time.perf_counter()
        found = list(pool.imap_unordered(MODELS[name], tiles))
        wall = time.perf_counter() - began
    return wall, sum(one["score"] * 100 for [one] in found)


def _cluster_up(name: str) -> tuple[float, float]:
    import tilevision as tv

    tv.analyze(_pixels()[:SIDE, :SIDE], _sleeps, checkpoint=None, workers=PROCESSES, progress=False)
    return _cold(name)


def _cold(name: str) -> tuple[float, float]:
    began = time.perf_counter()
    import tilevision as tv

    with tempfile.TemporaryDirectory() as folder:
        result = tv.analyze(
            _pixels(),
            MODELS[name],
            grid=tv.Grid.by_tile(SIDE, overlap=0),
            checkpoint=folder,
            workers=PROCESSES,
            progress=False,
        )
        wall = time.perf_counter() - began
    assert len(result.findings) == ACROSS * DOWN
    return wall, float(np.sum(result.findings.scores)) * 100


CONTESTANTS: dict[str, Callable[[str], tuple[float, float]]] = {
    "pool": _pool,
    "tilevision, cluster up": _cluster_up,
    "tilevision, cold": _cold,
}


def _measured(contestant: str, model: str) -> tuple[float, float]:
    command = [sys.executable, __file__, "--as", contestant, "--model", model]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
    wall, own = json.loads(said.stdout.splitlines()[-1])
    return float(wall), own / PROCESSES / wall


def main() -> None:
    """Have everybody do the job in turn, and print the table."""
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--as", dest="name")
    options.add_argument("--model", choices=MODELS)
    given = options.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    if given.name:
        print(json.dumps(CONTESTANTS[given.name](given.model)))
        return
    print("| model | | seconds, median | least to most | share of the ideal |")
    print("|---|---|---|---|---|")
    for model in MODELS:
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTESTANTS}
        for turn in range(given.rounds):
            for name in CONTESTANTS if turn % 2 else reversed(CONTESTANTS):
                runs[name].append(_measured(name, model))
        for name, figures in runs.items():
            walls, shares = zip(*figures, strict=True)
            print(
                f"| {model} | {name} | {median(walls):.2f} | {min(walls):.2f} to {max(walls):.2f} "
                f"| {median(shares):.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
