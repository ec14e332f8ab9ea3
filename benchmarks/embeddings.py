"""Vectors of tiles: a whole run, its files beside a bare loop that writes HDF5, and look-ups.

    python benchmarks/embeddings.py [TILES [NUMBERS]]          default 100000 1536
    python benchmarks/embeddings.py kill [TILES [NUMBERS]]     kill -9 half way; nothing runs twice

An image of that many tiles of 32 px goes through a cheap model on two workers. A fresh process
restores the result, saves it and asks for similar tiles, in turns with a bare loop that writes the
same vectors to HDF5. Printed are seconds (wall, and of this process's processors), bytes a tile and
the most memory of each process, and what a look-up takes beside what is held anyway.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import tilevision as tv

SIDE = 32
ROWS = 512  # of an HDF5 chunk
ROUNDS = 3


def encoder(numbers: int, log: Path | None = None) -> Any:
    """A model at next to no cost, whose vectors differ from tile to tile.

    It notes in `log` by their first pixels which tiles each call was for.
    """
    pattern = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)

    def cheap(batch: list[np.ndarray]) -> list[np.ndarray]:
        if log is not None:
            with log.open("ab", buffering=0) as file:
                file.write(b"".join(known(one) + b"\n" for one in batch))
        width = -(-numbers // 64)
        seen = [pixels[::4, ::4].astype(np.float32).reshape(64, 3)[:, :width] for pixels in batch]
        return [np.resize(pattern @ (one / 255 - 0.5), numbers) for one in seen]

    return tv.model(
        cheap, fingerprint=f"cheap {numbers}", returns="embedding", batched=True, batch_size=64
    )


def analysed(folder: Path, numbers: int, log: Path | None = None) -> Any:
    """The result of the run in `folder`: computed, or restored."""
    return tv.analyze(
        folder / "image.npy",
        encoder(numbers, log),
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
    result = timed("the run", lambda: analysed(folder, numbers, folder / "calls"))
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
    tracemalloc.start()
    nearest = result.similar(first)
    print(f"similar takes {tracemalloc.get_traced_memory()[1] / 1e6:.0f} MB beside that")
    tracemalloc.stop()
    check(nearest, np.asarray(embeddings), list(result.tiles["id"]))
    vectors = np.asarray(embeddings)
    for _ in range(ROUNDS):
        timed("bare loop, HDF5 of the vectors in memory", lambda: bare(vectors, folder / "bare.h5"))
        for suffix in (".embeddings.h5", ".embeddings.npz", ".embeddings.parquet", ".h5ad"):
            timed(suffix, lambda suffix=suffix: result.save(folder / f"out{suffix}"))
    sizes = {file.name: file.stat().st_size // 2**20 for file in sorted(folder.glob("out.*"))}
    print(", ".join(f"{name} {size} MiB" for name, size in sizes.items()))


def check(nearest: Any, vectors: np.ndarray, ids: list[str]) -> None:
    """Compare with all vectors in double precision, block by block."""
    query, values = vectors[0].astype(np.float64), np.empty(len(vectors))
    for start in range(0, len(vectors), 4096):
        some = vectors[start : start + 4096].astype(np.float64)
        values[start : start + 4096] = some @ query / np.linalg.norm(some, axis=1)
    values /= np.linalg.norm(query)
    order = [n for n in np.argsort(-values, kind="stable") if n][: len(nearest)]
    assert np.abs(nearest["similarity"].to_numpy() - values[order]).max() < 1e-7
    same = list(nearest["id"]) == [ids[n] for n in order]
    print(f"the nearest are those of all in double precision: {'the same' if same else 'DIFFERS'}")


def bare(vectors: np.ndarray, path: Path) -> None:
    """What a loop over batches writes: float32, since readers expect that."""
    with h5py.File(path, "w") as file:
        shape = vectors.shape
        features = file.create_dataset(
            "features", shape, np.float32, chunks=(min(ROWS, shape[0]), shape[1])
        )
        for start in range(0, len(vectors), ROWS):
            features[start : start + ROWS] = vectors[start : start + ROWS].astype(np.float32)


def draw(folder: Path, tiles: int) -> None:
    """Write an image of about so many tiles."""
    columns = round(tiles**0.5)
    size = (-(-tiles // columns) * SIDE, columns * SIDE, 3)
    pixels = np.random.default_rng(1).integers(0, 255, size, dtype=np.uint8)
    np.save(folder / "image.npy", pixels)


def known(pixels: np.ndarray) -> bytes:
    """Return what tells a tile from all others: its first pixels."""
    return pixels[0, :5].tobytes().hex().encode()


def called(folder: Path) -> list[bytes]:
    log = folder / "calls"
    return log.read_bytes().split() if log.exists() else []


def kill(tiles: int, numbers: int) -> None:
    """Kill a run half way, and run it again: what was stored is not computed again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder, tiles)
        print(f"load of the machine: {os.getloadavg()[0]:.1f}")
        command = [sys.executable, __file__, "run", name, str(numbers)]
        process = subprocess.Popen(command, start_new_session=True)
        while len(called(folder)) < tiles // 2 and process.poll() is None:
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        before = len(called(folder))
        how = {"grid": tv.Grid.by_tile(SIDE, 0), "checkpoint": folder / "checkpoint"}
        plan = tv.plan(folder / "image.npy", encoder(numbers), **how)
        pixels = np.load(folder / "image.npy", mmap_mode="r")
        stored = {known(pixels[t.box.y0 : t.box.y1, t.box.x0 : t.box.x1]) for t in plan.restored}
        print(f"killed after {before:,} tiles were encoded; {len(stored):,} are stored")
        subprocess.run(command, check=True)
        later = called(folder)[before:]
        twice, whole = sum(one in stored for one in later), stored.union(later)
        print(f"the same call encoded {len(later):,}, of those stored {twice}; ", end="")
        print(f"{len(whole):,} of {len(plan.tiles):,} in all")


def main(tiles: int, numbers: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder, tiles)
        print(f"load of the machine: {os.getloadavg()[0]:.1f}")
        for what in ("run", "look"):
            command = [sys.executable, __file__, what, name, str(numbers)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in ("run", "look"):
        {"run": run, "look": look}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
    else:
        whole = kill if sys.argv[1:2] == ["kill"] else main
        given = sys.argv[2:] if whole is kill else sys.argv[1:]
        whole(*(int(text) for text in (given + ["100000", "1536"][len(given) :])))
