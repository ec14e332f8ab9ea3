"""Tiles that wait for a device: how much of a batched model's own time a run reaches.

    python benchmarks/device.py [--rounds 5] [--block 512] [--tiles 1024] [--milliseconds 20]

A model that sleeps for 20 ms, whatever the batch of 16 holds, stands for an accelerator: it takes
no processor. It is given TILES tiles of BLOCK pixels a side, each a block of a JPEG-tiled TIFF:

- ``model alone``: its calls one after the other, with nothing to read
- ``decoder, 2 processes``: tifffile reads all blocks in two processes, with no model
- ``bare threads``: two threads decode ahead, a third calls the model: no checkpoint, no isolation
- ``tilevision, 1 process``, ``2 processes``: a run with its checkpoint, its cluster up; two
  processes are two such devices

The contestants take turns; printed are medians, the least and the most, the processor time of all
their processes, and the share of what the model and the decoder allow, whichever is slower.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

BATCH = 16


def _picture(folder: str, block: int, tiles: int) -> str:
    """Write a TIFF of `tiles` blocks, JPEG as scanners write it, of tissue."""
    import tifffile
    from skimage.data import immunohistochemistry

    across = int(tiles**0.5)
    tissue = immunohistochemistry()
    times = -(-block // len(tissue)) + 1
    tissue = np.tile(tissue, (times, times, 1))
    down = tiles // across

    def blocks() -> Any:
        for number in range(across * down):
            shift = 7 * number % len(tissue) // 2
            yield np.ascontiguousarray(tissue[shift : shift + block, shift : shift + block])

    path = f"{folder}/slide.tif"
    tifffile.imwrite(
        path,
        blocks(),
        shape=(down * block, across * block, 3),
        dtype=np.uint8,
        tile=(block, block),
        photometric="ycbcr",
        compression="jpeg",
        compressionargs={"level": 85},
    )
    return path


def _decode(path: str, part: int, parts: int) -> int:
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        for number in range(part, len(page.dataoffsets), parts):
            _block(file, page, number)
        return len(page.dataoffsets)


def _block(file: Any, page: Any, number: int, lock: Any = None) -> np.ndarray:
    with lock or threading.Lock():
        file.filehandle.seek(page.dataoffsets[number])
        coded = file.filehandle.read(page.databytecounts[number])
    return page.decode(coded, number, jpegtables=page.jpegtables)[0][0]


def _bare(path: str, wait: float) -> None:
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        numbers, ahead = iter(range(len(page.dataoffsets))), queue.Queue(4 * BATCH)
        lock = threading.Lock()

        def decode() -> None:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                ahead.put(_block(file, page, number, lock))

        threads = [threading.Thread(target=decode) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(-(-len(page.dataoffsets) // BATCH)):
            [ahead.get() for _ in range(BATCH)]
            time.sleep(wait)
        for thread in threads:
            thread.join()


def _device(wait: float) -> Callable[[list[np.ndarray]], list[Any]]:
    def model(tiles: list[np.ndarray]) -> list[Any]:
        import time

        time.sleep(wait)
        return [[] for _ in tiles]

    return model


def _tilevision(path: str, wait: float, block: int, processes: int) -> None:
    import tilevision as tv

    with tempfile.TemporaryDirectory() as folder:
        tv.analyze(
            path,
            tv.model(_device(wait), batched=True, batch_size=BATCH, fingerprint="sleeps"),
            grid=tv.Grid.by_tile(block, overlap=0),
            checkpoint=folder,
            workers=processes,
            progress=False,
            strict=True,
        )


def _processor() -> float:
    """Return the processor time of this process and of all that it has started and kept."""
    import psutil

    own = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in [own, *own.children(recursive=True)])


def _measured(path: str, options: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    wait, calls = options.milliseconds / 1000, -(-options.tiles // BATCH)
    pool = multiprocessing.get_context("spawn").Pool(2)

    def decoder() -> None:
        pool.starmap(_decode, [(path, part, 2) for part in range(2)])

    contestants: dict[str, Callable[[], Any]] = {
        "model alone": lambda: [time.sleep(wait) for _ in range(calls)],
        "decoder, 2 processes": decoder,
        "bare threads": lambda: _bare(path, wait),
        "tilevision, 1 process": lambda: _tilevision(path, wait, options.block, 1),
        "tilevision, 2 processes": lambda: _tilevision(path, wait, options.block, 2),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for turn in range(options.rounds):
        for name in contestants if turn % 2 else reversed(contestants):
            run = contestants[name]
            if turn == 0 or name.startswith("tilevision"):
                run()  # its processes are up, and the file is in memory
            began, worked = time.perf_counter(), _processor()
            run()
            seconds[name].append((time.perf_counter() - began, _processor() - worked))
    pool.terminate()
    return seconds


def main() -> None:
    """Have everybody do the job in turn, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--block", type=int, default=512)
    parser.add_argument("--tiles", type=int, default=1024)
    parser.add_argument("--milliseconds", type=float, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = _measured(_picture(folder, options.block, options.tiles), options)
    alone = median(took for took, _ in seconds["model alone"])
    decoding = median(took for took, _ in seconds["decoder, 2 processes"])
    print(f"{options.tiles} tiles of {options.block} px, {options.milliseconds:g} ms a batch of")
    print(f"{BATCH}; load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors\n")
    print("| | seconds, median | least to most | CPU | of the model's or the decoder's rate |")
    print("|---|---|---|---|---|")
    for name, measured in seconds.items():
        took, worked = [one for one, _ in measured], median(cpu for _, cpu in measured)
        devices = 2 if name.endswith(", 2 processes") and name.startswith("tile") else 1
        share = max(alone / devices, decoding) / median(took)
        shown = "" if name.startswith(("model", "decoder")) else f"{share:.2f}"
        spread = f"{min(took):.2f} to {max(took):.2f}"
        print(f"| {name} | {median(took):.2f} | {spread} | {worked:.1f} | {shown} |")


if __name__ == "__main__":
    main()
