"""The cluster of a run before the run has it: started early where tiles will need it.

To import Dask and to start a cluster takes seconds. They go by beside the opening of the image,
unless it may be that all its tiles are stored: then the plan decides.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tilevision.modelspec import ModelSpec, processes
from tilevision.pipeline.estimate import has_run
from tilevision.pipeline.planning import Plan, Stages, image_name
from tilevision.pipeline.settings import Settings

__all__ = ["expect", "expect_for", "give_way", "stop_expecting", "usual_workers"]


class _Beginning:
    """Starts a cluster on a thread of its own; whoever needs it meanwhile waits for that.

    Parameters
    ----------
    workers, usual : int, optional
        As for `tilevision.cluster.find_cluster`.
    """

    def __init__(self, workers: int | None, usual: int | None) -> None:
        self._workers, self._usual = workers, usual
        self._lock = threading.Lock()
        self._over = self._done = False
        threading.Thread(target=self._run, name="tilevision-beginning", daemon=True).start()

    def end(self) -> None:
        """End the cluster, at the latest once it is up, unless a run uses it."""
        with self._lock:
            self._over, done = True, self._done
        if done:
            _end_unused()

    def _run(self) -> None:
        with suppress(Exception):  # a run that needs one starts it again, and is told
            import tilevision.fanout  # noqa: F401 what its workers need is imported by their host
            from tilevision.cluster import expect_cluster

            if not self._over:
                expect_cluster(workers=self._workers, usual=self._usual)
        with self._lock:
            self._done, over = True, self._over
        if over:
            _end_unused()


_begun: list[_Beginning] = []  # of this process, one at most


def expect(image: Any, settings: Settings, stages: Stages) -> None:
    """Begin to start the run's cluster, unless these models have been over this image before."""
    marks = {spec.fingerprint for spec in stages.models}
    if not (settings.reuse and has_run(settings.checkpoint, image_name(image), marks)):
        _begin(settings, stages.models)


def expect_for(plan: Plan, settings: Settings) -> None:
    """Begin to start the run's cluster where the plan has tiles for it."""
    if plan.to_run:
        _begin(settings, plan.stages.models)


def usual_workers(models: Sequence[ModelSpec]) -> int | None:
    """Return how many workers a local cluster has for these models; None: one a processor."""
    return min((count for count in map(processes, models) if count is not None), default=None)


def stop_expecting() -> None:
    """End what was begun, unless a run uses it."""
    with suppress(IndexError):
        _begun.pop().end()


def give_way() -> None:
    """Give the worker's slot back where the caller is a Dask task that is about to wait."""
    if "distributed" in sys.modules:
        from tilevision.cluster import give_way as secede

        secede()


def _begin(settings: Settings, models: Sequence[ModelSpec]) -> None:
    if settings.client is not None or _begun:
        return
    if "distributed" in sys.modules:
        from tilevision.cluster import lacks_cluster

        if not lacks_cluster(settings.workers):
            return
    _begun.append(_Beginning(settings.workers, usual_workers(models)))


def _end_unused() -> None:
    if "tilevision.cluster" in sys.modules:
        from tilevision.cluster import no_cluster_yet

        no_cluster_yet()
