"""Time of a live frame: python benchmarks/frame.py.

A frame holds the image, all tiles by status and all boxes, and ends as a JPEG. Printed per
number of tiles: the first frame (everything new), a frame after 25 tiles more became done,
a frame after a change of view, and the fold of all events at once and a second's worth.

Then a run is played at 200 tiles a second to a screen as in a notebook. Printed: how long
after a tile was committed the page was sent its picture, frames and messages a second, and
kilobytes a frame. What the network and the browser add is not in it; see screen.py.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

from tilevision.events import Bus, RunChanged, TileChanged
from tilevision.geometry import Box
from tilevision.grid import Grid
from tilevision.sources import open_source
from tilevision.view.picture.overlay import Frame, Overlay
from tilevision.view.picture.screen import Screen
from tilevision.view.picture.viewstate import ViewState, fold, initial

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


class PlayedRun:
    """A run that does what the benchmark says."""

    id, name = "played", "picture"
    model = SimpleNamespace(name="model")

    def __init__(self, rows: int) -> None:
        self.source = open_source(np.zeros((720, 720, 3), np.uint8))
        self.tiles = Grid(rows, rows, overlap=0.2).tiles((720, 720))
        self.bus = Bus()
        self.events, self.subscribe = self.bus.snapshot, self.bus.subscribe
        self.bus.emit(RunChanged(time.time(), "running"))


def play(run: PlayedRun, seconds: float, a_second: int = 200) -> list[float]:
    """Have tiles done at an even pace; returns the times of their commits."""
    times: list[float] = []
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        while len(times) < min(passed * a_second, len(run.tiles)):
            tile = run.tiles[len(times)]
            x, y = int(tile.box.x0), int(tile.box.y0)
            boxes = ((x, y, x + 6, y + 6, "cell"),) * 2
            times.append(time.time())
            run.bus.emit(TileChanged(times[-1], tile, "done", n_findings=2, boxes=boxes))
        time.sleep(0.002)
    return times


def played(rows: int, seconds: float = 6, a_second: int = 200) -> list[float]:
    run = PlayedRun(rows)
    late: list[float] = []
    told: set[int] = set()
    sent: list[int] = []

    def look(state: ViewState, frame: Frame, _: str) -> None:
        now = time.time()
        for i in np.flatnonzero(state.times > 0).tolist():
            if i not in told:
                told.add(i)
                late.append(1000 * (now - state.times[i]))
        sent.append(len(frame.jpeg) + len(screen.canvas.hits))

    screen = Screen(look)
    messages: list[object] = []
    screen.canvas.send_state = lambda key=None: messages.append(key)
    screen.show(run)
    while not screen.frames:
        time.sleep(0.05)
    frames, sent_before = screen.frames, len(messages)
    play(run, seconds, a_second)
    figures = [
        float(np.median(late)), float(np.percentile(late, 95)), max(late),
        (screen.frames - frames) / seconds, (len(messages) - sent_before) / seconds,
        float(np.mean(sent)) / 1000,
    ]  # fmt: skip
    screen.close()
    return figures


def main() -> None:
    n_boxes = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    print(f"{n_boxes} boxes; milliseconds")
    print("  tiles  fold all  fold 25  first frame  frame (median)  frame (worst)  after zoom")
    for rows in (32, 100, 316):
        fold_all, step, *frames = measure(rows, n_boxes)
        print(f"{rows**2:7d}{fold_all:10.0f}{step:9.2f}" + "".join(f"{ms:13.0f}" for ms in frames))

    print("commit to message sent, at 200 tiles a second; milliseconds")
    print("  tiles  median   p95   worst  frames/s  messages/s  kB a frame")
    for rows in (32, 100, 316):
        median, p95, worst, frames, messages, size = played(rows)
        print(
            f"{rows**2:7d}{median:8.0f}{p95:6.0f}{worst:8.0f}{frames:10.1f}{messages:12.1f}{size:12.0f}"
        )


if __name__ == "__main__":
    main()
