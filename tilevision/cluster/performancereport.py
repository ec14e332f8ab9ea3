"""Dask's performance report: what the cluster did, as one HTML page."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed import performance_report

from tilevision.cluster.handle import Cluster

__all__ = ["reported"]

# Dask would print the lines of ours that called it.
CALLING_CODE = "a run of tilevision; a task named tile-infer-… works on one tile or a few"


@contextmanager
def reported(
    cluster: Cluster, path: str | os.PathLike[str], tell: Callable[[str], None]
) -> Iterator[None]:
    """Write to `path` what the cluster does within the block.

    Whatever becomes of the report, the work goes on: `tell` gets one line if it failed.

    Parameters
    ----------
    cluster : Cluster
    path : path-like
        Of the HTML file.
    tell : callable
    """
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        tell(f"There will be no performance report: folder {folder} does not exist.")
        yield
        return
    # Self-contained, so that it opens where there is no network, and asks no server for scripts.
    report: Any = performance_report(filename=os.fspath(path), mode="inline")
    try:
        with cluster.client.as_current():
            report.__enter__()
    except Exception as error:  # noqa: BLE001 - a report is never worth the work itself
        tell(f"There will be no performance report: {error}.")
        yield
        return
    try:
        yield
    finally:
        _write(cluster, report, tell)


def _write(cluster: Cluster, report: Any, tell: Callable[[str], None]) -> None:
    if not cluster.alive:  # it would be waited for in vain
        tell("There is no performance report: the cluster was lost.")
        return
    try:
        with cluster.client.as_current():
            cluster.client.sync(report.__aexit__, None, None, None, code=CALLING_CODE)
    except Exception as error:  # noqa: BLE001 - the work is done, and worth more
        tell(f"The performance report could not be written: {error}.")
