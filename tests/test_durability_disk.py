"""A disk that fills up under a whole run, a folder that may not be written, two at one run."""

from collections.abc import Mapping
from typing import Any, cast

import numbered
import pytest

from tilevision.checkpoint import Checkpoint
from tilevision.errors import CheckpointError, RunError
from tilevision.events import Bus, RunChanged
from tilevision.grid import Tile
from tilevision.infer import TileOutcome
from tilevision.pipeline import commits
from tilevision.pipeline.state import RunState

TILES = numbered.grid(2, 3).tiles((96, 64))
OUTCOMES = [TileOutcome(tile, (b'{"boxes":[]}',)) for tile in TILES]
KEYS: Mapping[Tile, str] = {tile: tile.id for tile in TILES}


class FullDisk:
    """A checkpoint that refuses a few times, then takes everything."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.stored: dict[str, Any] = {}

    def commit(self, entries: dict[str, Any]) -> None:
        """Store, or say that the disk is full."""
        if self.refusals:
            self.refusals -= 1
            raise CheckpointError("full")
        self.stored |= entries


def committed(state: RunState, refusals: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commit on a disk that is full for a while; return the statuses that were told."""
    monkeypatch.setattr(commits, "COMMIT_AGAIN_SECONDS", 0.001)
    told: list[str] = []
    state.bus.subscribe(lambda event: told.append(cast(RunChanged, event).status))
    disk = FullDisk(refusals)
    assert commits.commit(OUTCOMES, KEYS, cast(Checkpoint, disk), state) == {}
    assert set(disk.stored) == set(KEYS.values())
    return told


def test_a_full_disk_pauses_once_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the disk refuses, the pause is told once, and its end too."""
    state = RunState(Bus())
    assert committed(state, 5, monkeypatch) == ["paused", "running"]
    assert state.fault is None


def test_a_disk_that_has_space_again_does_not_end_the_users_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who paused a run before its disk was full finds it paused, not running and standing still."""
    state = RunState(Bus())
    state.tell("paused")
    assert committed(state, 2, monkeypatch) == ["paused", "paused"]
    assert state.fault is None


def test_what_arrives_late_does_not_end_a_pause_over_the_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tiles in flight that still come back well leave the reason of the pause in place."""
    state = RunState(Bus())
    backend = RunError("ten tiles in a row failed")
    state.stumble(backend)
    assert committed(state, 0, monkeypatch) == []
    assert committed(state, 2, monkeypatch) == []
    assert (state.status, state.fault) == ("paused", backend)
