"""The Dask cluster that tiles are fanned out on: a local one of ours, or the user's."""

from tilevision.cluster.choosing import (
    BorrowedCluster,
    check_client,
    check_wait,
    expect_cluster,
    find_cluster,
    give_way,
    lacks_cluster,
    no_cluster_yet,
    shared_cluster,
)
from tilevision.cluster.connecting import connected
from tilevision.cluster.handle import Cluster, Crew, Sighting, attach, host_of
from tilevision.cluster.local import LocalCluster, local_cluster
from tilevision.cluster.performancereport import reported
from tilevision.cluster.processes import import_early

__all__ = [
    "BorrowedCluster",
    "Cluster",
    "Crew",
    "LocalCluster",
    "Sighting",
    "attach",
    "check_client",
    "check_wait",
    "connected",
    "expect_cluster",
    "find_cluster",
    "give_way",
    "host_of",
    "import_early",
    "lacks_cluster",
    "local_cluster",
    "no_cluster_yet",
    "reported",
    "shared_cluster",
]
