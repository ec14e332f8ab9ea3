"""Runs that were, or that another process carries out: read from their journals, not conducted."""

from tilevision.history.followed import FollowedRun
from tilevision.history.followedmany import FollowedMany, is_of_many
from tilevision.history.listed import image_runs, runs
from tilevision.history.replayed import ReplayedRun
from tilevision.history.stored import stored_result

__all__ = [
    "FollowedMany",
    "FollowedRun",
    "ReplayedRun",
    "image_runs",
    "is_of_many",
    "runs",
    "stored_result",
]
