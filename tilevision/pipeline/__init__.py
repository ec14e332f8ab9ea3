"""From an image and a model to a result: one run."""

from tilevision.display import loading

with loading():
    from tilevision.pipeline.api import analyze, plan, start
    from tilevision.pipeline.manifest import recipe
    from tilevision.pipeline.planning import Plan
    from tilevision.pipeline.run import Run

__all__ = ["Plan", "Run", "analyze", "plan", "recipe", "start"]
