"""Which cluster a run goes to: the one given, the one there is, or one of ours."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from distributed import default_client

from tilevision.cluster.handle import Cluster, attach
from tilevision.cluster.shared import shared_cluster

__all__ = ["find_cluster"]


def find_cluster(
    client: Any = None, workers: int | None = None, usual: int | None = None
) -> tuple[Cluster, str]:
    """Return the cluster to use, and one line that says which.

    Parameters
    ----------
    client : distributed.Client, optional
        None: the current one, unless `workers` asks for a local cluster; else a local cluster.
    workers : int, optional
        Of the local cluster.
    usual : int, optional
        Workers of a local cluster where `workers` is not given; None: one per processor.

    Raises
    ------
    ClusterError, RunError
        If the client cannot be used, or no cluster can be started.
    """
    if client is not None:
        return attach(client), _repeats(client)
    current = _current() if workers is None else None
    if current is not None:
        note = f"using the current Dask client: {current.scheduler.address}"
        return attach(current), "; ".join(filter(None, [note, _repeats(current)]))
    cluster = shared_cluster(usual if workers is None else workers)
    link = f", dashboard {cluster.dashboard_link}" if cluster.dashboard_link else ""
    count = len(cluster.workers())
    return cluster, f"local cluster of {count} worker{'s' if count != 1 else ''}{link}"


def _current() -> Any:
    try:
        return default_client()
    except ValueError:  # there is none
        return None


def _repeats(client: Any) -> str:
    """Say what a user's cluster does about crashes, where it is not what ours does."""
    allowed = 0
    with suppress(Exception):  # a gateway may forbid the look; then there is nothing to say
        allowed = client.run_on_scheduler(_allowed_failures)
    if allowed == 0:
        return ""
    return (
        f"this Dask cluster repeats a task on {allowed + 1} workers before it reports a crash; "
        "with its allowed-failures at 0, tiles that crash are found sooner"
    )


def _allowed_failures(dask_scheduler: Any) -> int:
    return int(dask_scheduler.allowed_failures)
