"""What is foretold of a run's end: right within a factor of 1.5, or not told."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from tilevision.events import Event, RunChanged, TileChanged
from tilevision.grid import Grid, Tile
from tilevision.pipeline.estimate import Flow, TimeLeft
from tilevision.view.picture.viewstate import fold, initial

START = 100.0


@dataclass(frozen=True)
class Pace:
    """How a run goes, seconds.

    Attributes
    ----------
    workers, batch : int
        Tiles that a worker takes at once are announced together, and end one after the other.
    seconds, spread : float
        What a tile takes, and by what share of it more or less.
    load : float
        What each worker takes for its first tile besides: it gets the model ready.
    retried : float
        Share of attempts that fail; such tiles wait, and are tried again before all others.
    every : float
        Time between two tiles that a quota allows to begin.
    """

    workers: int = 1
    batch: int = 1
    seconds: float = 2.0
    spread: float = 0.3
    load: float = 0.0
    retried: float = 0.0
    every: float = 0.0


def _leg(
    tiles: Sequence[Tile], pace: Pace, chance: random.Random, begin: float, model: str
) -> list[TileChanged]:
    """Return what happens to `tiles` from `begin` on, in order."""
    free = [(begin + chance.uniform(0, 0.2), worker, True) for worker in range(pace.workers)]
    todo, waiting, tries = list(tiles), list[tuple[float, int]](), dict.fromkeys(tiles, 0)
    told, allowed = [], begin
    while todo or waiting:
        now, worker, new = heapq.heappop(free)
        while waiting and waiting[0][0] <= now:
            todo.insert(0, tiles[heapq.heappop(waiting)[1]])
        if not todo or now < allowed:
            heapq.heappush(free, (max(allowed, waiting[0][0] if not todo else 0), worker, new))
            continue
        mine, todo = todo[: pace.batch], todo[pace.batch :]
        allowed = now + pace.every * len(mine)
        told += [TileChanged(now, tile, "running", model=model) for tile in mine]
        now += pace.load if new else 0.0
        for tile in mine:
            took = pace.seconds * chance.uniform(1 - pace.spread, 1 + pace.spread)
            now, tries[tile] = now + took, tries[tile] + 1
            failed = chance.random() < pace.retried and tries[tile] < 3
            about = {"attempt": tries[tile], "infer_seconds": took, "model": model}
            told.append(TileChanged(now, tile, "retrying" if failed else "done", **about))
            if failed:
                heapq.heappush(waiting, (now + pace.seconds, tiles.index(tile)))
        heapq.heappush(free, (now, worker, False))
    return sorted(told, key=lambda event: event.time)


def _told(
    tiles: Sequence[Tile], events: Sequence[Event], last_model: str = ""
) -> Iterator[tuple[float, float | None, float]]:
    """Yield the share of tiles done, what is foretold, and what is true, again and again."""
    begin = RunChanged(START, "running")
    state = fold(initial(tiles, last_model=last_model), [begin])
    rows, flow = {tile: TileChanged(0.0, tile, "pending") for tile in tiles}, Flow()
    flow(begin)
    end, done = events[-1].time, set()
    for event, following in zip(events, [*events[1:], None], strict=True):
        state = fold(state, [event])
        flow(event)
        if isinstance(event, TileChanged):
            rows[event.tile] = event
        if isinstance(event, TileChanged):
            (done.add if event.status == "done" else done.discard)(event.tile)
        if following is None or following.time == event.time or state.run_status != "running":
            continue
        for now in (event.time, (event.time + following.time) / 2):
            left = state.seconds_left(now)
            if not last_model:  # what the run says of itself, from its own account
                own = TimeLeft.of(rows.values(), "m", flow.since, flow.at_once, more=False)
                assert own.seconds(now) == left and (left is None) == bool(own.doubt(now))
            yield len(done) / len(tiles), left, end - now


def _tiles(n: int) -> tuple[Tile, ...]:
    return Grid(1, n, overlap=0).tiles((10 * n, 10))


def _check(told: Sequence[tuple[float, float | None, float]]) -> int:
    """Hold every estimate to the rule; return how many there were."""
    shown = [(share, left, truth) for share, left, truth in told if left is not None]
    assert all(share >= 0.1 for share, _, _ in shown)
    wrong = [one for one in shown if not one[2] / 1.5 <= one[1] <= one[2] * 1.5 and one[2] > 2.0]
    assert not wrong, wrong[:3]
    return len(shown)


PACES = {
    "one after the other": Pace(),
    "tiles that vary": Pace(workers=2, spread=0.5),
    "several workers": Pace(workers=8),
    "batches": Pace(workers=2, batch=8),
    "many batches": Pace(workers=16, batch=2),
    "a slow start": Pace(workers=4, load=60.0),
    "a slow start of many": Pace(workers=16, load=30.0),
    "tiles that are tried again": Pace(workers=4, retried=0.1),
    "a quota": Pace(workers=32, seconds=6.0, every=1.5),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", PACES)
def test_what_is_left_is_foretold_within_half_after_a_tenth(name: str, seed: int) -> None:
    """However a run goes: every estimate that is shown is right within a factor of 1.5."""
    tiles = _tiles(400)
    told = list(_told(tiles, _leg(tiles, PACES[name], random.Random(seed), START + 5, "m")))
    assert _check(told) > len(told) / 2  # and most of the time there is one


@pytest.mark.parametrize("pace", [Pace(workers=2), Pace(workers=4, batch=2)])
def test_after_a_pause_it_is_foretold_anew(pace: Pace) -> None:
    """Not by how long the pause was, nor at once from the first tiles that come back."""
    tiles, chance = _tiles(300), random.Random(4)
    first = _leg(tiles[:100], pace, chance, START, "m")
    paused = first[-1].time + 1
    resumed = paused + 1000
    second = _leg(tiles[100:], pace, chance, resumed, "m")
    pause = [RunChanged(paused, "paused"), RunChanged(resumed, "running")]
    told = list(_told(tiles, [*first, *pause, *second]))
    since = [one for one in told if one[0] >= 1 / 3 and one[2] <= second[-1].time - resumed]
    assert _check(since) > len(since) / 2
    soon = [left for share, left, _ in since if share < 1 / 3 + 0.05]
    assert soon
    assert set(soon) == {None}


def test_nothing_is_foretold_while_a_second_model_may_be_asked() -> None:
    """Which tiles go on is not known before; then the second model's pace counts alone."""
    tiles, chance = _tiles(400), random.Random(0)
    cheap = _leg(tiles, Pace(workers=4, seconds=0.1), chance, START, "cheap")
    then = cheap[-1].time + 0.5
    unsure = tiles[::3]
    handed = [TileChanged(then, tile, "pending", model="good") for tile in unsure]
    good = _leg(unsure, Pace(workers=4, seconds=3.0), chance, then + 0.1, "good")
    told = list(_told(tiles, [*cheap, *handed, *good], last_model="good"))
    assert all(left is None for _, left, truth in told if truth > good[-1].time - then)
    assert _check(told) > len(good) / 2
