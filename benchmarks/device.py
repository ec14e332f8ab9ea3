"""Tiles that wait for a device: how much of a batched model's own time a run reaches.

    python benchmarks/device.py [--rounds 3] [--block 512] [--tiles 1024 4096] [--milliseconds 20]
        [--boxes 0]

Takes a minute and a half on two cores that have nothing else to do. A model that sleeps for 20 ms,
whatever the batch of 16 holds, stands for an accelerator: it takes no processor. It is given TILES
tiles of BLOCK pixels a side, each a block of a JPEG-tiled TIFF, and answers with an array of BOXES
boxes for each:

- ``model alone``: its calls one after the other, with nothing to read
- ``decoder, 2 processes``: tifffile reads all blocks in two processes, with no model
- ``bare threads``: two threads decode ahead, a third calls the model: no checkpoint, no isolation
- ``tilevision, 1 process``, ``2 processes``: a run with its checkpoint, its cluster up; two
  processes are two such devices

The contestants take turns; printed are medians, the least and the most, the processor time of all
their processes, and the share of what the model and the decoder allow, whichever is slower. That is
of the whole run, from opening the picture to the result. "Steady" leaves the first and the last
tenth of the calls out: the share of the time in which the device stood still between them. The
second job, of more tiles, is done once for three times of the first one.
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
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

BATCH = 16


def _picture(folder: str, block: int, tiles: int) -> str:
    """Write a TIFF of `tiles` blocks, JPEG as scanners write it, of tissue."""
    import tifffile
    from skimage.data import immunohistochemistry

    across = next(n for n in range(int(tiles**0.5), 0, -1) if tiles % n == 0)
    tissue = immunohistochemistry()
    times = -(-block // len(tissue)) + 1
    tissue = np.tile(tissue, (times, times, 1))
    down = tiles // across

    def blocks() -> Any:
        for number in range(across * down):
            shift = 7 * number % len(tissue) // 2
            yield np.ascontiguousarray(tissue[shift : shift + block, shift : shift + block])

    path = f"{folder}/{tiles}.tif"
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


def _block(file: Any, page: Any, number: int) -> np.ndarray:
    place = page.databytecounts[number], page.dataoffsets[number]
    coded = os.pread(file.filehandle.fileno(), *place)  # threads share no position in the file
    return page.decode(coded, number, jpegtables=page.jpegtables)[0][0]


def _bare(path: str, wait: float) -> None:
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        numbers, ahead = iter(range(len(page.dataoffsets))), queue.Queue(4 * BATCH)
        lock, _ = threading.Lock(), page.jpegtables  # read from the file at the first time

        def decode() -> None:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                ahead.put(_block(file, page, number))

        threads = [threading.Thread(target=decode) for _ in range(2)]
        for thread in threads:
            thread.start()
        left = len(page.dataoffsets)
        for first in range(0, left, BATCH):
            [ahead.get() for _ in range(min(BATCH, left - first))]
            time.sleep(wait)
        for thread in threads:
            thread.join()


def _device(wait: float, notes: str, boxes: int = 0) -> Callable[[list[np.ndarray]], list[Any]]:
    opened: list[int] = []

    def model(tiles: list[np.ndarray]) -> list[Any]:
        import os
        import time

        import numpy as np

        began = time.monotonic()
        time.sleep(wait)
        line = f"{began} {time.monotonic()}\n"
        if not opened:
            opened.append(os.open(f"{notes}/{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        os.write(opened[0], line.encode())  # one system call: others get Python's lock in each
        if not boxes:
            return [[] for _ in tiles]
        left, score = np.arange(boxes) * 10.0, np.full(boxes, 0.5)
        one = np.column_stack([left, left, left + 8, left + 8, score, score * 2])
        return [one.copy() for _ in tiles]

    return model


def _tilevision(
    path: str, wait: float, block: int, processes: int, boxes: int = 0
) -> tuple[float, float]:
    """Return which share of the steady state the device stood still, and when the result came."""
    import tilevision as tv

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as notes:
        model = _device(wait, notes, boxes)
        tv.analyze(
            path,
            tv.model(model, batched=True, batch_size=BATCH, fingerprint=f"sleeps, {boxes}"),
            grid=tv.Grid.by_tile(block, overlap=0),
            checkpoint=folder,
            workers=processes,
            progress=False,
            strict=True,
        )
        ended = time.perf_counter()
        return float(np.mean([_idle(file, wait) for file in Path(notes).iterdir()])), ended


def _idle(notes: Path, wait: float) -> float:
    """Return the share of the time between calls, but for the first and last tenth of them."""
    calls = np.loadtxt(notes, ndmin=2)
    calls = calls[len(calls) // 10 : len(calls) - len(calls) // 10]
    return 1 - wait * (len(calls) - 1) / float(calls[-1, 0] - calls[0, 0])


def _processor() -> float:
    """Return the processor time of this process and of all that it has started and kept."""
    import psutil

    own = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in [own, *own.children(recursive=True)])


Measured = dict[str, list[tuple[float, float, float | None]]]


def _measured(paths: list[str], tiles: int, rounds: int, given: argparse.Namespace) -> Measured:
    """Have everybody do the job on the last picture; the first one brings clusters up."""
    wait, path = given.milliseconds / 1000, paths[-1]
    pool = multiprocessing.get_context("spawn").Pool(2)

    def decoder() -> None:
        pool.starmap(_decode, [(path, part, 2) for part in range(2)])

    def ours(path: str, processes: int) -> tuple[float, float]:
        return _tilevision(path, wait, given.block, processes, given.boxes)

    contestants: dict[str, Callable[[], Any]] = {
        "model alone": lambda: [time.sleep(wait) for _ in range(-(-tiles // BATCH))],
        "decoder, 2 processes": decoder,
        "bare threads": lambda: _bare(path, wait),
        "tilevision, 1 process": lambda: ours(path, 1),
        "tilevision, 2 processes": lambda: ours(path, 2),
    }
    seconds: Measured = {name: [] for name in contestants}
    for turn in range(rounds):
        for name in contestants if turn % 2 else reversed(contestants):
            run = contestants[name]
            if name.startswith("tilevision"):
                ours(paths[0], 2 if name.endswith("es") else 1)
            elif turn == 0 and name != "model alone":
                run()  # its processes are up, and the file is in memory
            began, worked = time.perf_counter(), _processor()
            told = run()
            idle, ended = told if isinstance(told, tuple) else (None, time.perf_counter())
            seconds[name].append((ended - began, _processor() - worked, idle))
    pool.terminate()
    return seconds


def _print(seconds: Measured, tiles: int, given: argparse.Namespace) -> None:
    alone = median(took for took, _, _ in seconds["model alone"])
    decoding = median(took for took, _, _ in seconds["decoder, 2 processes"])
    print(f"\n{tiles} tiles of {given.block} px, {given.milliseconds:g} ms a batch of {BATCH};")
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors\n")
    print("| | seconds, median | least to most | CPU | of the possible rate | steady, idle |")
    print("|---|---|---|---|---|---|")
    for name, measured in seconds.items():
        took, worked, idles = zip(*measured, strict=True)
        devices = 2 if name.endswith(", 2 processes") and name.startswith("tile") else 1
        share = max(alone / devices, decoding) / median(took)
        shown = "" if name.startswith(("model", "decoder")) else f"{share:.2f}"
        idle = "" if idles[0] is None else f"{100 * median(idles):.0f} %"
        spread = f"{min(took):.2f} to {max(took):.2f} | {median(worked):.1f}"
        print(f"| {name} | {median(took):.2f} | {spread} | {shown} | {idle} |")


def main() -> None:
    """Have everybody do the jobs in turn, and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--block", type=int, default=512)
    parser.add_argument("--tiles", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--milliseconds", type=float, default=20)
    parser.add_argument("--boxes", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths: list[str] = []
        for tiles in given.tiles:
            paths.append(_picture(folder, given.block, tiles))
            rounds = given.rounds if len(paths) == 1 else max(1, given.rounds // 3)
            _print(_measured(paths, tiles, rounds, given), tiles, given)


if __name__ == "__main__":
    main()
