"""The fold of "latest status of each tile, counted": one, whoever asks."""

from __future__ import annotations

import random
from collections import Counter

from tilevision.events import Bus, Journal, TileChanged, TileCounts, list_runs
from tilevision.grid import Grid
from tilevision.status import TileStatus

TILES = tuple(Grid.parse("4x4").tiles((400, 400)))


def test_counts_are_those_of_the_latest_statuses():
    """Whatever came before, each tile counts once, by what was said of it last."""
    choose = random.Random(0)
    counts, latest = TileCounts(), {}
    for _ in range(200):
        tile, status = choose.choice(TILES), choose.choice(list(TileStatus))
        assert counts.change(tile.id, status) == latest.get(tile.id, "")
        latest[tile.id] = status
        assert counts.by_status() == Counter(latest.values())
        assert counts.ended == sum(status.ended for status in latest.values())
        assert (len(counts), tile.id in counts) == (len(latest), True)


def test_known_statuses_count_from_the_start():
    """What is known beforehand is counted, and replaced like anything else."""
    counts = TileCounts(dict.fromkeys(TILES, TileStatus.PENDING))
    assert counts.change(TILES[0], TileStatus.DONE) == "pending"
    assert counts.by_status() == {"pending": 15, "done": 1}
    assert counts[TileStatus.DONE] == 1 and counts[TileStatus.FAILED] == 0


def test_a_status_of_a_later_version_is_counted_as_it_is():
    """A journal may hold a status that is not known here: it counts, and has not ended."""
    counts = TileCounts()
    counts.change("r0c0", "postponed")
    assert (counts.by_status(), counts.ended) == ({"postponed": 1}, 0)


def test_the_bus_and_the_listing_count_alike(tmp_path):
    """The counts of a run at work are those that its journal is listed with."""
    choose, bus = random.Random(1), Bus()
    manifest = {"id": "r", "image": "i", "model": "m", "started": 1.0, "n_tiles": len(TILES)}
    with Journal(tmp_path / "runs" / "r.jsonl", manifest) as journal:
        bus.subscribe(journal)
        for tile in TILES:  # every tile is told of, or the listing would add those pending
            bus.emit(TileChanged(1.0, tile, TileStatus.RUNNING))
        for _ in range(60):
            bus.emit(TileChanged(2.0, choose.choice(TILES), choose.choice(list(TileStatus))))
    (listed,) = list_runs(tmp_path)
    assert listed.counts == bus.counts()
    assert sum(listed.counts.values()) == len(TILES)
