"""Time of a live frame: python benchmarks/frame.py.

A frame holds the image, all tiles by status and all boxes, and ends as a JPEG. Printed per
number of tiles: the first frame (everything new), a frame after 25 tiles more became done,
a frame after a change of view, and the fold of all events at once and a second's worth.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from tilevision.events import TileChanged
from tilevision.geometry import Box
from tilevision.grid import Grid
from tilevision.view.overlay import Overlay
from tilevision.view.state import fold, initial

SIDE = 40_000


def timed(f: Callable[[], object]) -> float:
    start = time.perf_counter()
    f()
    return 1000 * (time.perf_counter() - start)


def measure(rows: int, n_boxes: int) -> list[float]:
    rng = np.random.default_rng(0)
    tiles = Grid(rows, rows, overlap=0.2).tiles((SIDE, SIDE))
    picture = rng.integers(0, 255, (720, 720, 3), dtype=np.uint8)
    overlay = Overlay((SIDE, SIDE), lambda box, scale: picture)  # noqa: ARG005 - a reader's signature
    per_tile = max(1, n_boxes // len(tiles))
    events = []
    for i, tile in enumerate(tiles):
        corner = rng.uniform((tile.box.x0, tile.box.y0), (tile.box.x1, tile.box.y1), (per_tile, 2))
        boxes = tuple((int(x), int(y), int(x) + 320, int(y) + 320, "cell") for x, y in corner)
        events.append(TileChanged(float(i), tile, "done", n_findings=per_tile, boxes=boxes))
    start = initial(tiles)
    folded = timed(lambda: fold(start, events))
    most = fold(start, events[:-250])
    first = timed(lambda: overlay.frame(most))
    frames = []
    for i in range(10):
        some = events[len(events) - 250 + 25 * i :][:25]
        step = timed(lambda: fold(most, some))  # noqa: B023 - called at once
        most = fold(most, some)
        frames.append(timed(lambda: overlay.frame(most)))  # noqa: B023 - called at once
    zoom = timed(lambda: overlay.frame(most, Box(0, 0, SIDE / 3, SIDE / 3)))
    return [folded, step, first, float(np.median(frames)), max(frames), zoom]


def main() -> None:
    n_boxes = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    print(f"{n_boxes} boxes; milliseconds")
    print("  tiles  fold all  fold 25  first frame  frame (median)  frame (worst)  after zoom")
    for rows in (32, 100, 316):
        fold_all, step, *frames = measure(rows, n_boxes)
        print(f"{rows**2:7d}{fold_all:10.0f}{step:9.2f}" + "".join(f"{ms:13.0f}" for ms in frames))


if __name__ == "__main__":
    main()
