"""Nothing lost, nothing run twice, never stuck: whole runs in which everything dies once.

`benchmarks/durability.py` runs the same at full size.
"""

import os
import subprocess
import sys
from pathlib import Path

import drills
import drills_cluster
import drills_many
import numbered
import pytest

pytestmark = pytest.mark.slow


def test_kill_9_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    """No acknowledged tile is lost or run again, at most a window repeated; same bytes.

    The script has no ``__main__`` guard and its model in a file beside it; no process is left.
    """
    drills.kill_drill(tmp_path, rows=6, cols=12, kills=2, window=8, seconds=0.01, seed=5)


def test_kill_9_at_random_moments_loses_nothing_on_a_share(tmp_path: Path) -> None:
    """The same where the checkpoint is made of segments: by no other path to the same bytes."""
    drills.kill_drill(
        tmp_path, rows=6, cols=12, kills=2, window=8, seconds=0.01, seed=6, shared=True
    )
    assert list((tmp_path / "kept" / "segments").glob("*.seg"))


def test_workers_killed_time_and_again_cost_no_tile(tmp_path: Path) -> None:
    """With a single attempt allowed, every tile completes: no death is charged to any."""
    figures = drills_cluster.workers_drill(tmp_path, rows=8, cols=10, every=0.3, seed=1)
    assert figures["workers killed"] >= 2


def test_a_killed_scheduler_is_replaced_in_a_run(tmp_path: Path) -> None:
    """The local cluster is built anew, said so, and the run completes."""
    drills_cluster.scheduler_drill(tmp_path, rows=6, cols=10)


def test_poison_tiles_fail_alone(tmp_path: Path) -> None:
    """One of each kind: just these fail, each for its reason; the cluster serves another run."""
    drills_cluster.poison_drill(tmp_path, rows=6, cols=10, each=1, timeout=6.0, seed=1)


def test_a_hanging_tile_fails_alone_on_a_cluster_of_the_users(tmp_path: Path) -> None:
    """With Dask's own settings and two threads a worker; the neighbour it takes along completes."""
    drills_cluster.their_cluster_drill(tmp_path, rows=4, cols=10, timeout=4, kinds=["hang"])


def test_a_service_that_fails_one_in_five_costs_no_tile(tmp_path: Path) -> None:
    """429, 500, hangs, garbage: all tiles complete, within the quota, which is used again later."""
    drills.http_drill(
        tmp_path, rows=6, cols=12, quota=6, seconds=0.2, timeout=5, retry_after="0.3", calm=1
    )


def test_many_tiles_take_little_memory_and_are_restored_at_once(tmp_path: Path) -> None:
    """A few kilobytes a tile, all of it the result's; a finished run opens without the model."""
    drills_many.many_drill(tmp_path, rows=40, cols=60)


DROPPED = """
import os
import signal
import dask
import numbered
from distributed import Client, LocalCluster
from tilevision.cluster import attach


def main():
    # Dask gives a worker 15 s to come back; on a busy machine that is as little as this here.
    dask.config.set({"distributed.deploy.lost-worker-timeout": "10 ms"})
    with LocalCluster(n_workers=2, threads_per_worker=1) as theirs, Client(theirs) as client:
        cluster = attach(client)
        pids = client.run(os.getpid)
        os.kill(pids.popitem()[1], signal.SIGKILL)
        numbered.wait_until(lambda: len(theirs.scheduler_info["workers"]) < 2, "a worker is gone")
        cluster.heal()
        cluster.close()
        numbered.wait_until(lambda: len(theirs.workers) < 2, "Dask has given it up")
        numbered.wait_until(lambda: len(client.nthreads()) == 2, "both are back")


if __name__ == "__main__":
    main()
"""


def test_a_users_cluster_gets_back_the_workers_that_dask_drops_later(tmp_path: Path) -> None:
    """After a run that lacked a worker, their cluster is looked after for another minute."""
    (tmp_path / "dropped.py").write_text(DROPPED)
    done = subprocess.run(
        [sys.executable, "dropped.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": numbered.PATH},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
