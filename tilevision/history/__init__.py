"""Runs that were, or that another process carries out: read from their journals, not conducted."""

from tilevision.history.followedbatch import FollowedMany, is_of_many
from tilevision.history.followedrun import FollowedRun, ReplayedRun
from tilevision.history.runtable import image_runs, runs
from tilevision.history.storedresult import cascade_steps, planned_result, stored_result

__all__ = [
    "FollowedMany",
    "FollowedRun",
    "ReplayedRun",
    "cascade_steps",
    "image_runs",
    "is_of_many",
    "planned_result",
    "runs",
    "stored_result",
]
