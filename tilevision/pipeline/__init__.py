"""The only conductor: from an image and a model to a result."""

from tilevision.pipeline.batch import Batch
from tilevision.pipeline.collection import analyze_many
from tilevision.pipeline.followed import FollowedRun
from tilevision.pipeline.launch import analyze, plan, start
from tilevision.pipeline.listed import image_runs, runs
from tilevision.pipeline.planning import Plan
from tilevision.pipeline.recipes import recipe
from tilevision.pipeline.replayed import ReplayedRun
from tilevision.pipeline.resuming import resume, resume_run
from tilevision.pipeline.run import Run
from tilevision.pipeline.stored import stored_result

__all__ = [
    "Batch",
    "FollowedRun",
    "Plan",
    "ReplayedRun",
    "Run",
    "analyze",
    "analyze_many",
    "image_runs",
    "plan",
    "recipe",
    "resume",
    "resume_run",
    "runs",
    "start",
    "stored_result",
]
