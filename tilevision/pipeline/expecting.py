"""The cluster of a run before the run has it: begun early where tiles will need it.

To import Dask and to start a cluster takes seconds. They go by beside the opening of the image,
unless it may be that all its tiles are stored: then the plan decides.
"""

from __future__ import annotations

import sys
from typing import Any

from tilevision.pipeline.estimate import has_run
from tilevision.pipeline.planning import Plan, Stages, image_name
from tilevision.pipeline.settings import Settings

__all__ = ["expect", "expect_for", "give_way", "stop_expecting"]


def expect(image: Any, settings: Settings, stages: Stages) -> None:
    """Begin to start the run's cluster, unless these models have been over this image before."""
    marks = {spec.fingerprint for spec in stages.models}
    if not (settings.reuse and has_run(settings.checkpoint, image_name(image), marks)):
        _begin(settings)


def expect_for(plan: Plan, settings: Settings) -> None:
    """Begin to start the run's cluster where the plan has tiles for it."""
    if plan.to_run:
        _begin(settings)


def stop_expecting() -> None:
    """End what was begun and nobody has used."""
    if "tilevision.cluster" in sys.modules:
        from tilevision.cluster import no_cluster_yet

        no_cluster_yet()


def give_way() -> None:
    """Give the worker's slot back where the caller is a Dask task that is about to wait."""
    if "distributed" in sys.modules:
        from tilevision.cluster import give_way as secede

        secede()


def _begin(settings: Settings) -> None:
    from tilevision.cluster import expect_cluster

    expect_cluster(settings.client, settings.workers)
