"""Drills on the cluster: workers that are killed, a scheduler that is, tiles that kill.

Each takes its size, asserts the rules, and returns figures for `benchmarks/durability.py`.
"""

import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numbered
import psutil

import tilevision as tv
from tilevision.cluster import choosing, local_cluster

KINDS = ("segfault", "exit", "sys.exit", "memory", "hang")
MEMORY_LIMIT = "600 MB"


def slow(seconds: float, held: float = math.inf, gate: Path = Path()) -> Callable[[Any], Any]:
    """Return a model that takes its time; tiles from number `held` on wait for a file."""

    def look(pixels: Any) -> Any:
        time.sleep(seconds)
        number = numbered.number_of(pixels)
        while number >= held and not gate.exists():
            time.sleep(0.01)
        return [{"box": (2, 2, 6 + number % 7, 9), "score": 0.5, "label": "cell"}]

    return look


def poisonous(faults: dict[int, str]) -> Callable[[Any], Any]:
    """Return a model that does to the tiles of given numbers what `faults` says."""

    def look(pixels: Any) -> Any:
        number = numbered.number_of(pixels)
        match faults.get(number):
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "exit":
                os._exit(3)
            case "sys.exit":
                sys.exit(3)
            case "memory":
                hoard = [bytearray(b"x" * 20_000_000) for _ in range(100)]  # three times the limit
                time.sleep(600)
                return len(hoard)
            case "hang":
                time.sleep(600)
        return [{"box": (2, 2, 6 + number % 7, 9), "score": 0.5, "label": "cell"}]

    return look


def worker_processes() -> list[psutil.Process]:
    """Return the workers below this process: host, nanny and its fork server are above them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if [above.pid for above in process.parents()[3:4]] == [os.getpid()]:
                found.append(process)
    return found


def workers_drill(folder: Path, *, rows: int, cols: int, every: float, seed: int) -> dict[str, Any]:
    """Kill -9 a worker time and again: every tile completes, and none is blamed.

    Every `every` seconds one dies if all have joined: the death of one that is still starting is no
    news to the run, which would take the cluster for quiet and blame the tile that dies next. The
    last quarter runs in peace, since a tile that was hit twice waits for that. The second half
    waits until two have died, however long a machine takes to start another.
    """
    random, killed, over = Random(seed), [], threading.Event()
    gate = folder / "two have died"

    def kill() -> None:
        before: set[str] = set()
        while not over.wait(every) and run.counts.get("done", 0) <= rows * cols * 3 // 4:
            there, processes = set(cluster.workers()), worker_processes()
            if len(there) == len(processes) == 2 and there != before:
                victim, before = random.choice(processes), there
                victim.kill()
                killed.append(victim.pid)
                if len(killed) == 2:
                    gate.touch()

    killer = threading.Thread(target=kill)
    run = tv.start(
        numbered.write_numbered(folder / "numbered.tif", rows, cols),
        tv.model(slow(0.1, rows * cols // 2, gate), fingerprint="slow"),
        grid=numbered.grid(rows, cols),
        workers=2,
        retry=tv.Retry(attempts=1),
        checkpoint=folder / "kept",
    )
    numbered.wait_until(lambda: run.counts.get("done"), "the first tile is done")
    cluster = choosing._shelf.cluster
    assert cluster is not None
    began = time.monotonic()
    killer.start()
    try:
        result = run.result(timeout=600)
    finally:
        over.set()
        killer.join()
    _check_whole(result, rows * cols)
    return {
        "tiles": rows * cols,
        "workers killed": len(killed),
        "seconds": time.monotonic() - began,
        "tiles by number of starts": dict(Counter(row.attempts for row in result.rows)),
    }


def scheduler_drill(folder: Path, *, rows: int, cols: int) -> dict[str, Any]:
    """Kill -9 the scheduler half way: the cluster is built anew, and the run finishes."""
    run = tv.start(
        numbered.write_numbered(folder / "numbered.tif", rows, cols),
        tv.model(slow(0.05), fingerprint="slow"),
        grid=numbered.grid(rows, cols),
        workers=2,
        retry=tv.Retry(attempts=1),
        checkpoint=folder / "kept",
    )
    half = rows * cols // 2
    numbered.wait_until(lambda: run.counts.get("done", 0) >= half, "half of the tiles are done")
    cluster = choosing._shelf.cluster
    assert cluster is not None
    began = time.monotonic()
    psutil.Process(cluster._processes.scheduler.process.pid).kill()
    result = run.result(timeout=300)
    _check_whole(result, rows * cols)
    words = [event.message for event in run.events() if getattr(event, "stage", "") == "waiting"]
    assert words == ["The Dask scheduler was lost; the cluster has been started again."]
    return {"tiles": rows * cols, "seconds from the kill to the end": time.monotonic() - began}


def _check_whole(result: tv.Result, tiles: int) -> None:
    assert result.status == "complete"
    assert [row.status for row in result.rows] == ["done"] * tiles
    assert not any(row.error for row in result.rows)


def faults_of(tiles: int, kinds: Sequence[str], seed: int) -> dict[int, str]:
    """Return tiles at random and what each of them does."""
    return dict(zip(Random(seed).sample(range(tiles), len(kinds)), kinds, strict=True))


def poison_drill(
    folder: Path, *, rows: int, cols: int, each: int, timeout: float, seed: int
) -> dict[str, Any]:
    """Tiles of every bad kind fail alone; the cluster serves the next run as if nothing was."""
    faults = faults_of(rows * cols, KINDS * each, seed)
    image = numbered.write_numbered(folder / "numbered.tif", rows, cols)
    if choosing._shelf.cluster is not None:
        choosing._shelf.cluster.close()  # an earlier one has other limits
    small, choosing.local_cluster = (
        choosing.local_cluster,
        partial(  # type: ignore[assignment]
            local_cluster, memory_limit=MEMORY_LIMIT
        ),
    )
    try:
        began = time.monotonic()
        result = _poisoned(image, faults, rows, cols, timeout, folder / "kept", workers=2)
        seconds = time.monotonic() - began
        check_poisoned(result, faults, rows * cols, cols)
        cluster = choosing._shelf.cluster
        assert cluster is not None
        numbered.wait_until(lambda: len(cluster.workers()) == 2, "both workers are back")
        again = tv.analyze(
            image,
            tv.model(slow(0.0), fingerprint="healthy"),
            grid=numbered.grid(rows, cols),
            workers=2,
            checkpoint=None,
            progress=False,
        )
        assert choosing._shelf.cluster is cluster, "the cluster was not fit for another run"
        _check_whole(again, rows * cols)
        cluster.close()
    finally:
        choosing.local_cluster = small
    return {
        "tiles": rows * cols,
        "poison tiles": len(faults),
        "failed": len(result.failed),
        "innocent tiles by number of starts": dict(
            Counter(row.attempts for row in result.rows if row.status == "done")
        ),
        "seconds": seconds,
    }


def _poisoned(
    image: Path,
    faults: dict[int, str],
    rows: int,
    cols: int,
    timeout: float,
    checkpoint: Path | None,
    **cluster: Any,
) -> tv.Result:
    run = tv.start(
        image,
        # Threads that take turns at a model would wait behind the tile that hangs.
        tv.model(poisonous(faults), fingerprint="poisonous", thread_safe=True),
        grid=numbered.grid(rows, cols),
        timeout=timeout,
        retry=tv.Retry(attempts=1),
        checkpoint=checkpoint,
        **cluster,
    )
    return run.result()


def check_poisoned(result: tv.Result, faults: dict[int, str], tiles: int, cols: int) -> None:
    """Assert that exactly the poison tiles failed, each for its own reason."""
    reasons = {"sys.exit": "SystemExit", "hang": "TimeoutError"}
    failed = {row.tile.id: row.error.partition(":")[0] for row in result.rows if row.error}
    expected = {
        numbered.tile_id(n, cols): reasons.get(kind, "WorkerDied") for n, kind in faults.items()
    }
    assert failed == expected, set(failed.items()) ^ set(expected.items())
    statuses = Counter(row.status for row in result.rows)
    assert statuses == {"done": tiles - len(faults), "failed": len(faults)}


THEIRS = """
import sys
from pathlib import Path
from distributed import Client, LocalCluster
import drills_cluster, numbered
import tilevision as tv


def main():
    rows, cols, timeout = map(int, sys.argv[1:4])
    faults = drills_cluster.faults_of(rows * cols, sys.argv[4:], seed=3)
    image = numbered.write_numbered(Path("numbered.tif"), rows, cols)
    limits = {"n_workers": 2, "threads_per_worker": 2, "memory_limit": "600 MB"}
    with LocalCluster(**limits) as theirs, Client(theirs) as client:
        result = drills_cluster._poisoned(image, faults, rows, cols, timeout, None, client=client)
        drills_cluster.check_poisoned(result, faults, rows * cols, cols)
        again = tv.analyze(
            image, tv.model(drills_cluster.slow(0.0), fingerprint="healthy"),
            grid=numbered.grid(rows, cols), client=client, checkpoint=None, progress=False,
        )
        drills_cluster._check_whole(again, rows * cols)
        numbered.wait_until(lambda: len(client.nthreads()) == 2, "both workers are back")
        print(len(result.failed), "failed", len(client.nthreads()), "workers")


if __name__ == "__main__":
    main()
"""


def their_cluster_drill(
    folder: Path, *, rows: int, cols: int, timeout: int, kinds: Sequence[str]
) -> dict[str, Any]:
    """The same on a cluster of the user's, with Dask's own settings."""
    (folder / "theirs.py").write_text(textwrap.dedent(THEIRS))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "theirs.py", *map(str, (rows, cols, timeout)), *kinds],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": numbered.PATH},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == f"{len(kinds)} failed 2 workers\n", done.stdout
    return {"tiles": rows * cols, "poison tiles": len(kinds), "seconds": time.monotonic() - began}
