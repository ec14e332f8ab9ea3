"""Storing what arrived, for as long as it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tilevision.checkpoint import Checkpoint, MemoryCheckpoint, check_records
from tilevision.errors import CheckpointCorrupt, CheckpointError, CheckpointTooLarge, Failure
from tilevision.grid import Tile
from tilevision.infer import TileOutcome
from tilevision.pipeline.state import RunState

__all__ = ["commit"]

COMMIT_AGAIN_SECONDS = 1.0


def commit(
    outcomes: Sequence[TileOutcome],
    keys: Mapping[Tile, str],
    checkpoint: Checkpoint | MemoryCheckpoint,
    state: RunState,
) -> dict[Tile, Failure]:
    """Store what arrived; where the disk refuses, pause until it takes it again.

    Returns
    -------
    dict of Tile to Failure
        Tiles whose findings the checkpoint cannot hold.

    Raises
    ------
    CheckpointCorrupt
        If the database is damaged.
    CheckpointError
        If the disk refuses, and the run is cancelled.
    """
    refused: dict[Tile, Failure] = {}
    entries: dict[str, tuple[bytes, ...]] = {}
    for outcome in outcomes:
        key = keys[outcome.tile]
        try:
            entries[key] = check_records(key, outcome.records)
        except CheckpointTooLarge as error:
            refused[outcome.tile] = Failure.of(error)
    told: CheckpointError | None = None
    before = ""
    while True:
        try:
            checkpoint.commit(entries)
        except CheckpointCorrupt:
            raise
        except CheckpointError as error:
            if state.cancelled.is_set():
                raise
            if state.fault is None:
                told, before = error, state.status
                state.stumble(error)
            state.cancelled.wait(COMMIT_AGAIN_SECONDS)
        else:
            # Another reason to stand still (the user's pause, a backend that fails) remains one.
            if told is not None and state.fault is told:
                state.fault = None
                state.tell(before, "the checkpoint takes records again")
            return refused
