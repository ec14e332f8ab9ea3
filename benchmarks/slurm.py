"""A run on SLURM as people have it: jobs that wait, are cancelled, and hit their time limit.

Run, as root on Debian with ``apt-get install --no-install-recommends slurm-wlm munge`` and
``pip install dask-jobqueue``: ``python benchmarks/slurm.py [pending|cancelled|walltime|adaptive|
lifetime|batch]``. It starts a SLURM of three nodes on this machine, asserts its rules, prints its
figures, and ends what it started. Not part of CI; it says what is missing where it cannot run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

import tilevision as tv

NODES = 3
PATIENCE = 60.0
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "scancel")
CONFIGURATION = """
ClusterName=drill
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=2,sched_interval=2
MpiDefault=none
ReturnToService=2
KillWait=5
OverTimeLimit=0
SlurmdParameters=config_overrides
NodeName=DEFAULT NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000
NodeName=d[1-{nodes}] Port=[{first}-{last}]
PartitionName=drill Nodes=d[1-{nodes}] Default=YES MaxTime=00:20:00 State=UP
"""
JOB = """
import time
import tilevision as tv


def slow(pixels):
    time.sleep(0.4)
    return [{"box": (1, 1, 5, 5), "score": 0.9}]


if __name__ == "__main__":
    grid = tv.Grid(18, 18, overlap=0)
    result = tv.analyze("x.tif", slow, grid=grid, workers=1, progress=False)
    print("finished", len(result.findings), "restored", result.facts.restored, flush=True)
"""


def missing() -> str:
    """Return what the drill lacks here; empty if nothing."""
    programs = [name for name in PROGRAMS if shutil.which(name) is None]
    if programs:
        return f"{', '.join(programs)} (Debian: apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "root: several slurmd on one machine need it"
    if importlib.util.find_spec("dask_jobqueue") is None:
        return "dask-jobqueue (pip install dask-jobqueue)"
    return ""


@contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """Run a SLURM of several nodes on this machine; its commands find it by the environment."""
    base = 17000 + os.getpid() % 2000
    (folder / "state").mkdir()
    conf = folder / "slurm.conf"
    conf.write_text(
        CONFIGURATION.format(
            host=socket.gethostname(),
            folder=folder,
            port=base,
            first=base + 1,
            last=base + NODES,
            nodes=NODES,
        )
    )
    os.environ["SLURM_CONF"] = str(conf)
    munged = None
    if not Path("/run/munge/munge.socket.2").exists():
        Path("/run/munge").mkdir(exist_ok=True)
        shutil.chown("/run/munge", "munge", "munge")
        munged = subprocess.Popen(
            ["runuser", "-u", "munge", "--", "munged", "--foreground"],
            stderr=subprocess.DEVNULL,
        )
        _wait(Path("/run/munge/munge.socket.2").exists, "munged is up")
    try:
        subprocess.run(["slurmctld", "-c", "-f", str(conf)], check=True)
        for node in range(1, NODES + 1):
            (folder / f"spool-d{node}").mkdir()
            subprocess.run(["slurmd", "-N", f"d{node}", "-f", str(conf)], check=True)
        _wait(lambda: _ask("sinfo", "-h", "-t", "idle", "-o", "%D") == str(NODES), "nodes are idle")
        yield
    finally:
        subprocess.run(["scancel", "-u", "root"], check=False)
        _wait(lambda: not _ask("squeue", "-h"), "all jobs are over")
        for file in [*folder.glob("slurmd-*.pid"), folder / "slurmctld.pid"]:
            if file.exists():
                subprocess.run(["kill", file.read_text().strip()], check=False)
        if munged is not None:
            munged.terminate()


def _wait(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"still waiting after {seconds:.0f} s until {what}")
        time.sleep(0.2)


def _ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


@contextmanager
def jobs(folder: Path, walltime: str = "00:10:00", *extra: str) -> Iterator[Any]:
    """Yield a dask-jobqueue cluster without jobs, and a client of it."""
    from dask_jobqueue import SLURMCluster
    from distributed import Client

    cluster = SLURMCluster(
        queue="drill",
        cores=1,
        processes=1,
        memory="1500MB",
        walltime=walltime,
        interface="lo",
        python=sys.executable,
        log_directory=str(folder),
        local_directory=str(folder / "dask"),
        job_script_prologue=[f"export PYTHONPATH={os.environ.get('PYTHONPATH', '')}"],
        worker_extra_args=list(extra),
        scheduler_options={"dashboard": False},
    )
    with cluster, Client(cluster) as client:
        yield cluster, client


def slow(seconds: float) -> Callable[[Any], Any]:
    """Return a model whose tiles take so long."""

    def detect(_: Any) -> Any:
        time.sleep(seconds)
        return [{"box": (1, 1, 5, 5), "score": 0.9}]

    return detect


def image(folder: Path) -> Path:
    """Write an image for 12 x 12 tiles."""
    path = folder / "x.tif"
    tifffile.imwrite(path, np.zeros((576, 576), np.uint8), tile=(64, 64))
    return path


def begin(folder: Path, client: Any, seconds: float) -> Any:
    """Start a run of 144 tiles."""
    grid = tv.Grid(12, 12, overlap=0)
    run = tv.start(
        image(folder),
        slow(seconds),
        grid=grid,
        client=client,
        checkpoint=folder / "ck",
        batch_size=1,
    )
    run.subscribe(
        lambda event: (
            print("   ", event.message, flush=True)
            if type(event).__name__ == "StageDone" and event.stage == "waiting"
            else None
        )
    )
    return run


def figures(run: Any, began: float, seconds: float = 400.0) -> dict[str, Any]:
    """Wait for a run, check that it is whole, and count workers and attempts."""
    result = run.result(timeout=seconds)
    tiles = result.tiles
    assert result.complete, result.first_failure
    assert len(result.findings) == len(tiles) == 144
    return {
        "tiles": len(tiles),
        "seconds": round(time.monotonic() - began, 1),
        "workers": int(tiles["worker"].nunique()),
        "second attempts": int((tiles["attempts"] > 1).sum()),
        "most attempts": int(tiles["attempts"].max()),
    }


def pending(folder: Path) -> dict[str, Any]:
    """Begin while every node is taken by somebody else's jobs for 20 s."""
    others = f"--array=1-{NODES}"
    command = ["sbatch", others, "-N1", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 20"]
    subprocess.run(command, check=True, capture_output=True)
    with jobs(folder) as (cluster, client):
        cluster.scale(NODES)
        began = time.monotonic()
        return figures(begin(folder, client, 0.1), began)


def cancelled(folder: Path) -> dict[str, Any]:
    """Have `scancel` end one of three jobs half way."""
    with jobs(folder) as (cluster, client):
        cluster.scale(NODES)
        client.wait_for_workers(NODES, timeout=PATIENCE)
        began = time.monotonic()
        run = begin(folder, client, 0.5)
        _wait(lambda: run.counts.get("done", 0) > 50, "a third is done")
        subprocess.run(["scancel", _ask("squeue", "-h", "-o", "%i").split()[0]], check=True)
        return figures(run, began)


def walltime(folder: Path) -> dict[str, Any]:
    """Let all jobs hit a time limit of one minute, with more work than fits into it."""
    with jobs(folder, "00:01:00") as (cluster, client):
        cluster.scale(2)
        client.wait_for_workers(1, timeout=PATIENCE)
        began = time.monotonic()
        return figures(begin(folder, client, 1.2), began)


def adaptive(folder: Path) -> dict[str, Any]:
    """Adapt from no job to three."""
    with jobs(folder) as (cluster, client):
        cluster.adapt(minimum=0, maximum=NODES)
        began = time.monotonic()
        run = begin(folder, client, 0.5)
        most = 0
        while not run.wait(0.5):
            most = max(most, len(_ask("squeue", "-h", "-t", "R", "-o", "%i").split()))
        return figures(run, began) | {"jobs at once": most}


def lifetime(folder: Path) -> dict[str, Any]:
    """Adapt from no job to three, with workers that retire after 40 s."""
    with jobs(folder, "00:10:00", "--lifetime", "40s", "--lifetime-stagger", "5s") as (
        cluster,
        client,
    ):
        cluster.adapt(minimum=0, maximum=NODES)
        began = time.monotonic()
        return figures(begin(folder, client, 1.0), began)


def batch(folder: Path) -> dict[str, Any]:
    """Run the client in a job that is too short; submit the same line until it has finished."""
    tifffile.imwrite(folder / "x.tif", np.zeros((576, 576), np.uint8), tile=(64, 64))
    (folder / "job.py").write_text(textwrap.dedent(JOB))
    script = folder / "job.sh"
    script.write_text(
        f"#!/bin/sh\ncd {folder}\nexport PYTHONPATH={os.environ.get('PYTHONPATH', '')}\n"
        f"exec {sys.executable} -W ignore job.py\n"
    )
    outputs: list[str] = []
    began = time.monotonic()
    for number in range(6):
        output = folder / f"job-{number}.out"
        words = ["--time=00:02:00", "--signal=B:TERM@30", "-n1", "--mem=2000", "-o", str(output)]
        subprocess.run(["sbatch", "--wait", *words, str(script)], check=False, capture_output=True)
        outputs.append(output.read_text().strip())
        print("   ", outputs[-1].replace("\n", " | "), flush=True)
        if "finished" in outputs[-1]:
            break
    assert "finished 324" in outputs[-1], outputs
    assert len(outputs) > 1, "one job was enough: nothing was tried"
    assert all("resumes the run" in output for output in outputs[:-1]), outputs
    restored = int(outputs[-1].split()[-1])
    assert restored > 0
    seconds = round(time.monotonic() - began, 1)
    return {"jobs": len(outputs), "seconds": seconds, "restored by the last": restored}


DRILLS: dict[str, Callable[[Path], dict[str, Any]]] = {
    drill.__name__: drill for drill in (pending, cancelled, walltime, adaptive, lifetime, batch)
}


def main() -> None:
    """Carry out the drills that are named, or all."""
    if lack := missing():
        raise SystemExit(f"Skipped: this needs {lack}.")
    wanted = sys.argv[1:] or list(DRILLS)
    with tempfile.TemporaryDirectory(prefix="slurm-drill-") as name, slurm(Path(name)):
        for drill in wanted:
            folder = Path(name) / drill
            folder.mkdir()
            print(drill, flush=True)
            print("   ", DRILLS[drill](folder), flush=True)
            _wait(lambda: not _ask("squeue", "-h"), "its jobs are over")


if __name__ == "__main__":
    main()
