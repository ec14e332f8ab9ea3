"""Which cluster a run goes to: the one given, the one there is, or one of ours."""

from __future__ import annotations

from typing import Any

from distributed import default_client

from tilevision.cluster.handle import Cluster, attach
from tilevision.cluster.shared import shared_cluster

__all__ = ["find_cluster"]


def find_cluster(client: Any = None, workers: int | None = None) -> tuple[Cluster, str]:
    """Return the cluster to use, and one line that says which.

    Parameters
    ----------
    client : distributed.Client, optional
        None: the current one, unless `workers` asks for a local cluster; else a local cluster.
    workers : int, optional
        Of the local cluster.

    Raises
    ------
    ClusterError, RunError
        If the client cannot be used, or no cluster can be started.
    """
    if client is not None:
        return attach(client), ""
    current = _current() if workers is None else None
    if current is not None:
        return attach(current), f"using the current Dask client: {current.scheduler.address}"
    cluster = shared_cluster(workers)
    link = f", dashboard {cluster.dashboard_link}" if cluster.dashboard_link else ""
    count = len(cluster.workers())
    return cluster, f"local cluster of {count} worker{'s' if count != 1 else ''}{link}"


def _current() -> Any:
    try:
        return default_client()
    except ValueError:  # there is none
        return None
