"""Where the tiles of a run are worked on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType

from tilevision.cluster import Cluster, find_cluster, reported
from tilevision.modelspec import ModelSpec, processes
from tilevision.pipeline.settings import Settings
from tilevision.pipeline.state import RunState

__all__ = ["Ground"]


class Ground:
    """The cluster of a run: found when the first tile needs it, held until the last is through.

    Parameters
    ----------
    settings : Settings
    state : RunState
    models : sequence of ModelSpec
        A local cluster has as many workers as they want: one for each GPU, say.
    """

    def __init__(self, settings: Settings, state: RunState, models: Sequence[ModelSpec]) -> None:
        self._settings = settings
        self._state = state
        self._models = models
        self._stack = ExitStack()
        self._cluster: Cluster | None = None

    @property
    def cluster(self) -> Cluster:
        """The cluster.

        Raises
        ------
        ClusterError, RunError
            If there is none and none can be started.
        """
        if self._cluster is None:
            began = time.perf_counter()
            settings, state = self._settings, self._state
            wanted = [count for count in map(processes, self._models) if count is not None]
            usual = min(wanted, default=None)
            cluster, note = find_cluster(settings.client, settings.workers, usual)
            self._stack.enter_context(cluster)
            self._stack.enter_context(reported(cluster, settings.report, state.wait))
            self._cluster = cluster
            state.dashboard_link = cluster.dashboard_link or None
            # For those who follow the run: what comes after ? may be a key to the page.
            link = cluster.dashboard_link.partition("?")[0]
            state.stage("cluster", began, note, link=link)
        return self._cluster

    def __enter__(self) -> Ground:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)
