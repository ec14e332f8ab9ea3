"""Vectors of tiles: a whole run, its files beside a bare loop that writes HDF5, and look-ups.

    python benchmarks/embeddings.py [TILES [NUMBERS]]          default 100000 1536

An image of that many tiles of 32 px goes through a cheap model on two workers. A fresh process
restores the result, saves it and asks for similar tiles, in turns with a bare loop that writes the
same vectors to HDF5. Printed are seconds (wall, and of this process's processors), bytes a tile and
the most memory of each process.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import tilevision as tv

SIDE = 32
ROWS = 512  # of an HDF5 chunk
ROUNDS = 3


def encoder(numbers: int) -> Any:
    """A model at next to no cost, whose vectors differ from tile to tile."""
    pattern = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)

    def cheap(batch: list[np.ndarray]) -> list[np.ndarray]:
        width = -(-numbers // 64)
        seen = [pixels[::4, ::4].astype(np.float32).reshape(64, 3)[:, :width] for pixels in batch]
        return [np.resize(pattern @ (one / 255 - 0.5), numbers) for one in seen]

    return tv.model(
        cheap, fingerprint=f"cheap {numbers}", returns="embedding", batched=True, batch_size=64
    )


def analysed(folder: Path, numbers: int) -> Any:
    """The result of the run in `folder`: computed, or restored."""
    return tv.analyze(
        folder / "image.npy",
        encoder(numbers),
        grid=tv.Grid.by_tile(SIDE, 0),
        checkpoint=folder / "checkpoint",
        workers=2,
        progress=False,
        synthesis=None,
    )


def timed(what: str, work: Callable[[], Any]) -> Any:
    wall, cpu = time.perf_counter(), time.process_time()
    made = work()
    print(f"{what:44} {time.perf_counter() - wall:8.2f} s  {time.process_time() - cpu:8.2f} CPU s")
    return made


def most_memory() -> str:
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB at most"


def run(folder: Path, numbers: int) -> None:
    result = timed("the run", lambda: analysed(folder, numbers))
    kept = sum(file.stat().st_size for file in (folder / "checkpoint").rglob("*") if file.is_file())
    tiles = len(result.tiles)
    print(f"{tiles:,} tiles, {kept / tiles:,.0f} bytes a tile on disk; client {most_memory()}")


def look(folder: Path, numbers: int) -> None:
    result = timed("restored", lambda: analysed(folder, numbers))
    embeddings = timed("result.embeddings", lambda: result.embeddings)
    print(f"client {most_memory()}")
    first = result.tiles["id"][0]
    for _ in range(ROUNDS):
        timed("similar", lambda: result.similar(first))
    vectors = np.asarray(embeddings)
    for _ in range(ROUNDS):
        timed("bare loop, HDF5 of the vectors in memory", lambda: bare(vectors, folder / "bare.h5"))
        for suffix in (".embeddings.h5", ".embeddings.npz", ".embeddings.parquet", ".h5ad"):
            timed(suffix, lambda suffix=suffix: result.save(folder / f"out{suffix}"))
    sizes = {file.name: file.stat().st_size // 2**20 for file in sorted(folder.glob("out.*"))}
    print(", ".join(f"{name} {size} MiB" for name, size in sizes.items()))


def bare(vectors: np.ndarray, path: Path) -> None:
    """What a loop over batches writes: float32, since readers expect that."""
    with h5py.File(path, "w") as file:
        shape = vectors.shape
        features = file.create_dataset(
            "features", shape, np.float32, chunks=(min(ROWS, shape[0]), shape[1])
        )
        for start in range(0, len(vectors), ROWS):
            features[start : start + ROWS] = vectors[start : start + ROWS].astype(np.float32)


def main(tiles: int, numbers: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        columns = round(tiles**0.5)
        size = (-(-tiles // columns) * SIDE, columns * SIDE, 3)
        pixels = np.random.default_rng(1).integers(0, 255, size, dtype=np.uint8)
        np.save(folder / "image.npy", pixels)
        print(f"load of the machine: {os.getloadavg()[0]:.1f}")
        for what in ("run", "look"):
            command = [sys.executable, __file__, what, name, str(numbers)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in ("run", "look"):
        {"run": run, "look": look}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(*(int(text) for text in (sys.argv[1:] + ["100000", "1536"][len(sys.argv) - 1 :])))
