"""A checkpoint in a place that a batch job takes with it is named, once, when a run begins."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

import tilevision as tv
from tilevision.checkpoint import filesystem, lost_with_job
from tilevision.events import StageDone

VARIABLES = (
    *filesystem.BATCH_JOBS,
    *("KUBERNETES_SERVICE_HOST", "TMPDIR", "SLURM_TMPDIR", "PBS_JOBDIR", "LSF_TMPDIR"),
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A disk that stays, outside any job; `tmp_path/scratch` is what is temporary."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setattr(filesystem, "filesystem_type", lambda _: "ext4")
    return tmp_path


@pytest.mark.parametrize(
    ("job", "where", "kind", "lost"),
    [
        ("SLURM_JOB_ID", "scratch/.tilevision", "ext4", True),
        ("PBS_JOBID", "scratch/deep/in/it", "xfs", True),
        ("LSB_JOBID", "scratch", "ext4", True),
        ("JOB_ID", "memory/.tilevision", "tmpfs", True),
        ("SLURM_JOB_ID", "home/.tilevision", "ext4", False),
        ("SLURM_JOB_ID", "home/.tilevision", "nfs4", False),
        ("SLURM_JOB_ID", "home/.tilevision", "overlay", False),
        ("KUBERNETES_SERVICE_HOST", "work/.tilevision", "overlay", True),
        ("KUBERNETES_SERVICE_HOST", "volume/.tilevision", "ext4", False),
        ("KUBERNETES_SERVICE_HOST", "shared/.tilevision", "nfs4", False),
        ("HOSTNAME", "scratch/.tilevision", "tmpfs", False),
    ],
)
def test_what_goes_with_a_job(
    home: Path, monkeypatch: pytest.MonkeyPatch, job: str, where: str, kind: str, lost: bool
) -> None:
    """SLURM, PBS, LSF and Grid Engine remove a job's temporary folder; a pod's own layers go too.

    The variables are those that the systems' manuals say they set in each job.
    """
    monkeypatch.setenv(job, "4711")
    monkeypatch.setattr(filesystem, "filesystem_type", lambda _: kind)
    line = lost_with_job(home / where)
    assert bool(line) == lost
    if lost:
        assert str(home / where) in line
        assert "checkpoint=" in line
        assert "\n" not in line


@pytest.mark.parametrize("name", ["TMPDIR", "SLURM_TMPDIR", "PBS_JOBDIR"])
def test_the_folder_that_a_job_is_given(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It may lie anywhere; a link that leads into it does not hide it."""
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    (home / "local" / "4711").mkdir(parents=True)
    (home / "link").symlink_to(home / "local" / "4711")
    monkeypatch.setenv(name, str(home / "local" / "4711"))
    assert "SLURM_JOB_ID=4711" in lost_with_job(home / "link" / ".tilevision")
    assert lost_with_job(home / "local") == ""


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_run_says_it_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run in a process has the line; a second one with the same folder does not."""
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    said = []
    for _ in range(2):
        pixels = np.zeros((32, 32, 3), np.uint8)
        run = tv.start(pixels, "blobs", grid="1x1", checkpoint=home / "scratch" / "ck")
        run.result(200)
        messages = [event.message for event in run.events() if isinstance(event, StageDone)]
        said.append(sum("removed with this batch job" in message for message in messages))
    assert said == [1, 0]
