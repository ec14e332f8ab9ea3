"""The only conductor: from an image and a model to a result."""

from tilevision.pipeline.launch import analyze, plan, start
from tilevision.pipeline.planning import Plan
from tilevision.pipeline.recipes import recipe
from tilevision.pipeline.run import Run

__all__ = ["Plan", "Run", "analyze", "plan", "recipe", "start"]
