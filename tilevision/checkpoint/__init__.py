"""What is kept between runs: a record per tile, and who is at work."""

from tilevision.checkpoint.filesystem import fallback_folder, free_space, lost_with_job
from tilevision.checkpoint.keys import stage_key, tile_key, tile_keys
from tilevision.checkpoint.lock import Owner, RunLock, run_owner
from tilevision.checkpoint.memory import MemoryCheckpoint
from tilevision.checkpoint.pruning import prune_runs
from tilevision.checkpoint.store import Checkpoint
from tilevision.codec import check_records

__all__ = [
    "Checkpoint",
    "MemoryCheckpoint",
    "Owner",
    "RunLock",
    "check_records",
    "fallback_folder",
    "free_space",
    "lost_with_job",
    "prune_runs",
    "run_owner",
    "stage_key",
    "tile_key",
    "tile_keys",
]
