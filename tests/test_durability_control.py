"""Runs steered, cut off and gone on with, through the public functions alone."""

import functools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numbered
import numpy as np
import pytest
import tifffile

import tilevision as tv
from tilevision.sources import identity


def nothing(pixels: np.ndarray) -> list[dict[str, object]]:
    """Find nothing."""
    return []


@pytest.mark.slow
def test_a_large_file_is_read_through_once_for_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint remembers its fingerprint by path, size, time and inode; a change is seen."""
    read: list[str] = []
    whole = identity._digest
    monkeypatch.setattr(identity, "_digest", lambda path: read.append(path) or whole(path))
    image = tmp_path / "large.tif"
    for value, reads in ((1, 1), (2, 2)):
        pixels = np.full((3584, 3584, 3), value, np.uint8)
        tifffile.imwrite(image, pixels, tile=(256, 256), photometric="rgb")
        os.utime(image, (value, value))
        fingerprints = set()
        for _ in range(3):
            identity._known.clear()  # as in another process
            plan = tv.plan(image, nothing, checkpoint=tmp_path / "kept")
            fingerprints.add(plan.source.fingerprint)
            plan.source.close()
        assert len(fingerprints) == 1 and len(read) == reads


# Steering -----------------------------------------------------------------------------------


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A numbered picture of 6×10 tiles, alone in the current folder."""
    monkeypatch.chdir(tmp_path)
    return numbered.write_numbered(tmp_path / "numbered.tif", 6, 10)


GRID = numbered.grid(6, 10)


def under_way(folder: Path) -> Any:
    """Return a model that leaves a file while it works on a tile: as long as ``hold`` is there."""

    def look(pixels: np.ndarray) -> Any:
        mark = folder / f"{numbered.number_of(pixels)}.busy"
        mark.touch()
        while (folder / "hold").exists():
            time.sleep(0.01)
        time.sleep(0.05)
        mark.unlink()
        return []

    return look


def done(run: tv.Run) -> int:
    """Return how many tiles are done."""
    return run.counts.get("done", 0)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_concurrency_changes_while_a_run_goes_on(picture: Path) -> None:
    """Eight requests at once; then one, once what was in flight is back; then five."""
    model = tv.model(under_way(picture.parent), fingerprint="busy", hosted=True)
    hold = picture.parent / "hold"
    hold.touch()

    def busy() -> int:
        return len(list(picture.parent.glob("*.busy")))

    run = tv.start(picture, model, grid=GRID, concurrency=8)
    numbered.wait_until(lambda: busy() == 8, "eight are in flight")
    run.set_concurrency(1)
    hold.unlink()
    numbered.wait_until(lambda: busy() <= 1, "what was in flight is back")
    seen, until = [], done(run) + 4
    while done(run) < until:
        seen.append(busy())
    assert max(seen) <= 1
    hold.touch()
    run.set_concurrency(5)
    numbered.wait_until(lambda: busy() == 5, "five are in flight")
    hold.unlink()
    assert run.result(200).complete


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_failed_tiles_are_retried_while_the_run_goes_on(picture: Path) -> None:
    """Mended in the middle, they get fresh attempts before the run ends, which is complete."""
    mended, gate = picture.parent / "mended", picture.parent / "gate"

    def picky(pixels: np.ndarray) -> Any:
        number = numbered.number_of(pixels)
        if number % 20 == 0 and not mended.exists():
            raise tv.PermanentError("not yet")
        while number > 40 and not gate.exists():
            time.sleep(0.01)
        return []

    run = tv.start(picture, tv.model(picky, fingerprint="picky"), grid=GRID, batch_size=1)
    numbered.wait_until(lambda: run.counts.get("failed") == 3, "three have failed")
    mended.touch()
    run.retry_failed()
    numbered.wait_until(lambda: not run.counts.get("failed"), "none is failed any more")
    gate.touch()
    assert run.result(200).complete


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_failed_tiles_are_retried_though_the_last_tile_was_just_done(picture: Path) -> None:
    """Asked for while the run merges or writes its summary, fresh attempts are not forgotten."""
    mended, asked, answer = (picture.parent / name for name in ("mended", "asked", "answer"))

    def picky(pixels: np.ndarray) -> Any:
        if numbered.number_of(pixels) == 7 and not mended.exists():
            raise tv.PermanentError("not yet")
        return []

    def slow_summary(*_: object) -> str:
        asked.touch()
        numbered.wait_until(answer.exists, "the summary may be written")
        return "All is well."

    run = tv.start(
        picture,
        tv.model(picky, fingerprint="picky"),
        grid=GRID,
        synthesis=tv.model(slow_summary, fingerprint="slow"),
    )
    numbered.wait_until(asked.exists, "the summary is being written")
    mended.touch()
    run.retry_failed()
    answer.touch()
    numbered.wait_until(lambda: run.status == "complete", "the failed tile was tried again")
    assert run.result(200).complete


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("limit", [4, 0.05])
def test_a_hopeless_run_stops(picture: Path, limit: float) -> None:
    """At a count, or a fraction, of failed tiles: stopped, with the reason, and no error raised."""

    def hopeless(pixels: np.ndarray) -> Any:
        if numbered.number_of(pixels) % 2:
            raise tv.PermanentError(f"no {numbered.number_of(pixels)}")
        time.sleep(0.02)
        return []

    model = tv.model(hopeless, fingerprint="hopeless")
    with pytest.warns(UserWarning, match="no 1"):
        result = tv.analyze(
            picture, model, grid=GRID, batch_size=1, max_failures=limit, progress=False
        )
    wanted = 4 if limit == 4 else 3
    assert result.status == "stopped" and not result.complete
    assert f"{len(result.failed)} of 60 tiles failed, which is the limit" in result.facts.reason
    assert wanted <= len(result.failed) <= wanted + 8  # what was in flight may add to it
    assert result.failed["error"].str.startswith("PermanentError: no ").all()
    assert (result.failed["attempts"] == 1).all() and result.failed["worker"].str.len().all()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_backend_that_is_down_pauses_the_run(picture: Path) -> None:
    """Ten failures in a row: paused, said once with what to do; resumed once it is up, complete."""
    up = picture.parent / "up"

    def down(pixels: np.ndarray) -> Any:
        if not up.exists():
            raise ConnectionError("nobody answers")
        return []

    run = tv.start(
        picture,
        tv.model(down, fingerprint="down"),
        grid=GRID,
        batch_size=1,
        retry=tv.Retry(attempts=3, wait=0.01, max_wait=0.02),
    )
    with pytest.raises(
        tv.RunError, match=r"in a row failed.*nobody answers\). Fix the cause, then"
    ):
        run.result(200)
    assert run.status == "paused" and not run.wait(0.1)
    up.touch()
    run.resume()
    run.wait(200)
    run.retry_failed()  # some had used their attempts up before the run paused
    assert run.result(200).complete


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_model_may_take_longer_to_load_than_a_tile_may(picture: Path) -> None:
    """A timeout is for tiles: no worker is restarted, again and again, while it loads weights."""

    @functools.cache
    def load() -> float:
        time.sleep(6)
        return 0.5

    def heavy(pixels: np.ndarray) -> Any:
        return [{"box": (2, 2, 6, 9), "score": load(), "label": "cell"}]

    model = tv.model(heavy, fingerprint="heavy")
    result = tv.analyze(
        picture, model, grid=GRID, timeout=4.0, retry=tv.Retry(attempts=1), progress=False
    )
    assert result.status == "complete" and (result.tiles["attempts"] == 1).all()


# Going on elsewhere -------------------------------------------------------------------------

LOST = """
import sys
from distributed import Client, LocalCluster
from pathlib import Path
import time
import numbered
import tilevision as tv
from test_durability_control import GRID, look


def held(pixels):
    while numbered.number_of(pixels) >= 20 and not Path("never").exists():
        time.sleep(0.01)
    return look(pixels)


def main():
    theirs = LocalCluster(n_workers=2, threads_per_worker=1)
    client = Client(theirs)
    run = tv.start("numbered.tif", tv.model(held, fingerprint="look", name="look"), grid=GRID,
                   client=client)
    numbered.wait_until(lambda: run.counts.get("done"), "the first tile is done")
    theirs.close()
    try:
        run.result(200)
    except tv.ClusterError as error:
        print(run.id)
        print(run.status, run.counts.get("done"))
        print(error)


if __name__ == "__main__":
    main()
"""


def look(pixels: np.ndarray) -> Any:
    """Find one thing."""
    return [{"box": (2, 2, 6 + numbered.number_of(pixels) % 7, 9), "score": 0.5, "label": "cell"}]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_run_whose_cluster_was_lost_goes_on_on_another(
    picture: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error with the line that goes on; that line works from another folder, on another."""
    (picture.parent / "lost.py").write_text(LOST)
    ended = subprocess.run(
        [sys.executable, "lost.py"],
        cwd=picture.parent,
        env=os.environ | {"PYTHONPATH": numbered.PATH},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    run_id, state, message = ended.stdout.splitlines()
    assert f"tv.resume('{run_id}', client=client) resumes the run" in message, ended.stderr[-2000:]
    status, before = state.split()
    assert status == "stopped" and int(before) > 0
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    run = tv.resume(
        run_id, picture.parent / ".tilevision", model=tv.model(look, fingerprint="look")
    )
    result = run.result(200)
    assert run.id == run_id and result.complete
    assert result.facts.restored >= int(before)
