"""The checkpoint against plain diskcache, on the same machine in one run.

    python benchmarks/checkpoint.py [TILES]

Prints seconds for storing, for finding what is done and for loading it back: ours, and
diskcache as it comes (pickled values, one write each, ``iterkeys``).
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import diskcache

from tilevision.checkpoint import Checkpoint, tile_keys
from tilevision.codec import canonical_json
from tilevision.grid import Grid

BATCH = 50  # tiles that arrive together


def main(count: int) -> None:
    side = max(1, round(count**0.5))
    tiles = Grid(rows=side, cols=side).tiles((side * 100, side * 100))
    timed("keys", lambda: tile_keys("source", {"dtype": "uint8"}, tiles, "model"))
    keys = tile_keys("source", {"dtype": "uint8"}, tiles, "model")
    findings = {"boxes": [[n, n, n + 9, n + 9] for n in range(20)], "classes": ["cell"]}
    print(f"{len(keys):,} tiles of {len(canonical_json(findings)):,} bytes")
    with tempfile.TemporaryDirectory() as folder:
        ours, plain = ours_timed(Path(folder), keys, findings), plain_timed(folder, keys, findings)
    for what in ours:
        print(
            f"{what:8} {ours[what]:8.3f} s   plain {plain[what]:8.3f} s   "
            f"{plain[what] / ours[what]:6.1f} times"
        )


def ours_timed(folder: Path, keys: list[str], findings: object) -> dict[str, float]:
    record = (canonical_json(findings),)
    with Checkpoint.open(folder / "ours") as checkpoint:

        def store() -> None:
            for start in range(0, len(keys), BATCH):
                checkpoint.commit(dict.fromkeys(keys[start : start + BATCH], record))

        stored = timed("", store)
    reopened = time.perf_counter()
    with Checkpoint.open(folder / "ours") as checkpoint:
        print(f"reopened in {(time.perf_counter() - reopened) * 1000:.0f} ms")
        found = timed("", lambda: checkpoint.done(keys))
        loaded = timed("", lambda: list(checkpoint.load(keys)))
    return {"store": stored, "done": found, "load": loaded}


def plain_timed(folder: str, keys: list[str], findings: object) -> dict[str, float]:
    """Store one by one with a synced write each, as who wants it durable would."""
    with diskcache.Cache(f"{folder}/plain", eviction_policy="none", sqlite_synchronous=2) as cache:

        def store() -> None:
            for key in keys:
                cache[key] = findings

        stored = timed("", store)
        wanted = set(keys)
        found = timed("", lambda: wanted & set(cache.iterkeys()))
        loaded = timed("", lambda: [cache[key] for key in keys])
    return {"store": stored, "done": found, "load": loaded}


def timed(what: str, work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    if what:
        print(f"{what} {seconds:.3f} s")
    return seconds


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
