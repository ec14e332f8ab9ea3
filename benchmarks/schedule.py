"""Cost of the scheduler's decisions per tile, at growing numbers of tiles.

Run: ``python benchmarks/schedule.py``, and with ``fleet`` for a million tiles on a thousand
workers (a fake clock; four minutes). What matters are the ratios: a cost per tile that
grows with the number of tiles would be a hidden scan.
"""

from __future__ import annotations

import resource
import sys
import time
import tracemalloc
from pathlib import Path
from random import Random

from tilevision.errors import Failure
from tilevision.grid import Grid
from tilevision.schedule import Policy, Quota, Scheduler
from tilevision.schedule.messages import (
    ClusterChanged,
    Committed,
    Happening,
    Submit,
    TaskFinished,
    TileStarted,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fleet import Fleet  # lives beside the tests, which run it smaller

FLAKY = Failure("transient", "OSError", "try again")


def outcome_of(submit: Submit, random: Random, trouble: float) -> list[Happening]:
    """Tell of a task as a conductor does: starts, the commit, then the outcome."""
    outcomes = {tile: FLAKY if random.random() < trouble else None for tile in submit.tiles}
    good = tuple(tile for tile, failure in outcomes.items() if failure is None)
    starts = [TileStarted(submit.task, tile, "a") for tile in submit.tiles]
    done = TaskFinished(submit.task, outcomes, 0.005 * len(submit.tiles))
    return [*starts, Committed(good), done]


def decide(n: int, policy: Policy, trouble: float) -> tuple[float, float, int]:
    """Return seconds in `advance` and `wake_at` per tile, its longest call, and the calls."""
    tiles = Grid(rows=n // 100, cols=100).tiles((100_000, 100_000))
    random, now, total, worst, calls = Random(0), 0.0, 0.0, 0.0, 0
    scheduler = Scheduler(tiles, policy)
    happenings: list[Happening] = [ClusterChanged({f"w{i}": 4 for i in range(4)})]
    while not scheduler.ended:
        began = time.perf_counter()
        actions = scheduler.advance(happenings, now)
        wake = scheduler.wake_at(now)
        took = time.perf_counter() - began
        total, worst, calls = total + took, max(worst, took), calls + 1
        submits = [action for action in actions if isinstance(action, Submit)]
        happenings = [h for submit in submits for h in outcome_of(submit, random, trouble)]
        now = now + 0.01 if submits or wake is None else wake
    return total / n, worst, calls


def memory(n: int) -> float:
    """Return the bytes that a scheduler takes per tile, the tiles themselves not counted."""
    tiles = Grid(rows=n // 100, cols=100).tiles((100_000, 100_000))
    tracemalloc.start()
    scheduler = Scheduler(tiles, Policy())
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del scheduler
    return size / n


SCENES = {
    "local": (Policy(timeout=60), 0.0),
    "local, 5 % errors": (Policy(timeout=60), 0.05),
    "hosted, window 64": (Policy(timeout=60, hosted=True, quota=Quota(64)), 0.02),
}


def fleet() -> None:
    """Print what a thousand workers make of a million tiles, for tiles of different length."""
    for seconds in (1.0, 0.25):
        n, began = 1_000_000, time.perf_counter()
        outcome = Fleet(n, 1000, seconds).run()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{n:,} tiles of {seconds:g} s on 1,000 workers: {outcome.elapsed / 60:.1f} min, "
            f"{n / outcome.elapsed:,.0f} tiles/s, workers busy {outcome.used:.0%}, "
            f"{outcome.tasks:,} tasks; scheduler {outcome.deciding * 1e6:.0f} µs a tile, peak "
            f"memory {peak:.1f} GiB (simulated in {time.perf_counter() - began:.0f} s)",
            flush=True,
        )


def main() -> None:
    if "fleet" in sys.argv[1:]:
        fleet()
        return
    for name, (policy, trouble) in SCENES.items():
        print(name)
        base = None
        for n in (1_000, 10_000, 100_000):
            each, worst, calls = decide(n, policy, trouble)
            base = base or each
            print(
                f"  {n:>7,} tiles: {each * 1e6:6.1f} µs a tile ({each / base:4.2f}x), "
                f"longest call {worst * 1e3:6.2f} ms, {calls:,} calls"
            )
    print(f"memory: {memory(1_000):.0f} bytes a tile at 1,000, {memory(100_000):.0f} at 100,000")


if __name__ == "__main__":
    main()
