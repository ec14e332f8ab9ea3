"""A disk that fills up under a whole run, a folder that may not be written, two at one run."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import drills_disk
import numbered
import pytest

import tilevision as tv
from tilevision.checkpoint import Checkpoint
from tilevision.errors import CheckpointError, RunError
from tilevision.events import Bus, RunChanged
from tilevision.grid import Tile
from tilevision.infer import TileOutcome
from tilevision.pipeline import runner
from tilevision.pipeline.control import Control

TILES = numbered.grid(2, 3).tiles((96, 64))
OUTCOMES = [TileOutcome(tile, (b'{"boxes":[]}',)) for tile in TILES]
KEYS: Mapping[Tile, str] = {tile: tile.id for tile in TILES}


class FullDisk:
    """A checkpoint that refuses a few times, then takes everything."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.stored: dict[str, Any] = {}

    def commit(self, entries: dict[str, Any], payloads: Any) -> None:
        """Store, or say that the disk is full."""
        if self.refusals:
            self.refusals -= 1
            raise CheckpointError("full")
        self.stored |= entries


def committed(state: Control, refusals: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commit on a disk that is full for a while; return the statuses that were told."""
    monkeypatch.setattr(runner, "COMMIT_AGAIN_SECONDS", 0.001)
    told: list[str] = []
    state.bus.subscribe(lambda event: told.append(cast(RunChanged, event).status))
    disk = FullDisk(refusals)
    assert runner.commit(OUTCOMES, KEYS, cast(Checkpoint, disk), state) == {}
    assert set(disk.stored) == set(KEYS.values())
    return told


def test_a_full_disk_pauses_once_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the disk refuses, the pause is told once, and its end too."""
    state = Control(Bus())
    assert committed(state, 5, monkeypatch) == ["paused", "running"]
    assert state.fault is None


def test_a_disk_that_has_space_again_does_not_end_the_users_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who paused a run before its disk was full finds it paused, not running and standing still."""
    state = Control(Bus())
    state.tell("paused")
    assert committed(state, 2, monkeypatch) == ["paused", "paused"]
    assert state.fault is None


def test_what_arrives_late_does_not_end_a_pause_over_the_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tiles in flight that still come back well leave the reason of the pause in place."""
    state = Control(Bus())
    backend = RunError("ten tiles in a row failed")
    state.stumble(backend)
    assert committed(state, 0, monkeypatch) == []
    assert committed(state, 2, monkeypatch) == []
    assert (state.status, state.fault) == ("paused", backend)


# Whole runs ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("by_hand", [False, True], ids=["by itself", "resumed"])
def test_a_run_on_a_full_disk_pauses_and_goes_on(tmp_path: Path, by_hand: bool) -> None:
    """One error naming folder and space; all acknowledged readable; then as a clean run."""
    with drills_disk.small_disk(24) as disk:
        drills_disk.disk_drill(
            tmp_path, disk, rows=8, cols=10, kilobytes=30, free=2, by_hand=by_hand
        )


MODEL = """
import time


def verbose(pixels):
    time.sleep(0.02)
    number = int(pixels[0, 0, 0])
    return [{"box": (i % 10, i // 10, i % 10 + 1, i // 10 + 1), "label": f"{number} {'x' * 900}"}
            for i in range(30)]
"""


def shell(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tilevision", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A numbered picture of 8×20 tiles, and a model in a file beside it."""
    numbered.write_numbered(tmp_path / "numbered.tif", 8, 20)
    (tmp_path / "wordy.py").write_text(MODEL)
    return tmp_path


@pytest.mark.slow
def test_the_shell_says_how_to_go_on_from_a_full_disk(project: Path) -> None:
    """Exit code 1, the error and the resume line, no traceback; the same again goes on."""
    with drills_disk.small_disk(24) as disk:
        (disk / "ballast").write_bytes(b"\0" * 22 * 2**20)
        words = ["run", "numbered.tif", "--model", "wordy.py:verbose", "--grid", "5x16"]
        words += ["--overlap", "0", "--merge", "none", "--workers", "1", "--quiet"]
        words += ["--checkpoint", str(disk / "kept"), "--out", "out.json"]
        full = shell(*words, cwd=project)
        assert full.returncode == 1, full.stderr
        assert f"error: The checkpoint {disk / 'kept'} cannot be written" in full.stderr
        assert "free on its disk" in full.stderr and "Traceback" not in full.stderr
        assert (
            "Every finished tile is kept. To continue, run the same command again: " in full.stderr
        )
        listed = shell("runs", "--checkpoint", str(disk / "kept"), cwd=project)
        assert listed.returncode == 0 and "numbered.tif" in listed.stdout, listed.stderr
        (disk / "ballast").unlink()
        again = shell(*words, cwd=project)
        assert again.returncode == 0, again.stderr
        assert (project / "out.json").exists()


def look(pixels: Any) -> Any:
    """Find one thing."""
    return [{"box": (2, 2, 6 + numbered.number_of(pixels) % 7, 9), "score": 0.5, "label": "cell"}]


def settings(checkpoint: Path) -> dict[str, Any]:
    """Return the arguments of a small run."""
    return {
        "model": tv.model(look, fingerprint="look"),
        "grid": numbered.grid(8, 20),
        "checkpoint": checkpoint,
    }


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_read_only_checkpoint_is_one_clear_error(project: Path) -> None:
    """Whatever would write names the folder and another place; what only reads, reads."""
    image = project / "numbered.tif"
    with drills_disk.small_disk(24) as disk:
        run = tv.start(image, **settings(disk / "kept"))
        assert run.result().complete
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for attempt in (
            lambda: tv.plan(image, **settings(disk / "kept")),
            lambda: tv.analyze(image, **settings(disk / "kept"), progress=False),
            lambda: tv.start(image, **settings(disk / "new")).result(),
            lambda: tv.resume(run.id, disk / "kept", model=settings(disk)["model"]).result(),
        ):
            with pytest.raises(CheckpointError, match=r"Read-only.*checkpoint='") as caught:
                attempt()
            assert str(disk) in str(caught.value) and "\n" not in str(caught.value)
        assert tv.runs(disk / "kept")["status"].tolist() == ["complete"]
        assert tv.FollowedRun(run.id, disk / "kept").counts == {"done": 160}


@pytest.mark.slow
def test_a_run_that_was_cut_off_is_listed_though_nothing_may_be_written(project: Path) -> None:
    """Its lock cannot be tried on a read-only folder; that is no reason to list nothing."""
    with drills_disk.small_disk(24) as disk:
        run_id = drills_disk.cut_off(disk / "kept")
        assert tv.runs(disk / "kept")["status"].tolist() == ["interrupted"]
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert tv.runs(disk / "kept")["status"].tolist() == ["interrupted"]
        assert tv.FollowedRun(run_id, disk / "kept").status == "interrupted"


HOLDER = """
import time
import numbered
import tilevision as tv


def slow(pixels):
    while numbered.number_of(pixels) >= 20:  # until it is killed
        time.sleep(0.01)
    return []


run = tv.start(
    "numbered.tif", tv.model(slow, fingerprint="slow"), grid=numbered.grid(8, 20), workers=1
)
numbered.wait_until(lambda: run.counts.get("done"), "the first tile")
print(run.id, flush=True)
run.wait()
"""


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_two_processes_at_one_run_are_one_clear_error(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is told who is at work and loses nothing; once the first is gone, it goes on."""
    monkeypatch.chdir(project)
    (project / "holder.py").write_text(HOLDER)
    holder = subprocess.Popen(
        [sys.executable, "holder.py"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": numbered.PATH},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    run_id = holder.stdout.readline().strip()
    slow = tv.model(look, fingerprint="slow", name="slow")
    with pytest.raises(tv.RunBusy, match=str(holder.pid)) as caught:
        tv.resume(run_id, model=slow)
    assert "\n" not in str(caught.value)
    holder.kill()
    holder.communicate()
    before = tv.FollowedRun(run_id).counts["done"]
    run = tv.resume(run_id, model=slow)
    result = run.result()
    assert run.id == run_id and result.complete
    assert result.facts.restored >= before > 0
