"""The room that maps take: said beforehand, looked at meanwhile, and a disk that is too small."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import drills_disk
import numbered
import numpy as np
import pytest
from inline_tiles import SIDE, Inline, inline_runs, picture  # noqa: F401 - fixtures

import tilevision as tv
from tilevision.checkpoint import Checkpoint
from tilevision.events import StageDone
from tilevision.pipeline import storage

GRID = tv.Grid.by_tile(SIDE, 0)


def noise(pixels: np.ndarray) -> np.ndarray:
    """Heights that no compression makes smaller, the same for the same tile."""
    rng = np.random.default_rng(int(pixels.astype(np.int64).sum()))
    return rng.random(pixels.shape[:2], dtype=np.float32)


NOISE = tv.model(noise, returns="values", unit="m", fingerprint="noise")


def said_of(*asked: Any, **more: Any) -> list[str]:
    """What a plan says of room."""
    return [note for note in tv.plan(*asked, grid=GRID, **more).notes if note.startswith("Arrays")]


def test_a_plan_says_what_maps_take_at_most(tmp_path: Path) -> None:
    """The bytes that the model declares, and what the disk has; nothing of models without maps."""
    image = picture(tmp_path, 6, 6)
    (said,) = said_of(image, NOISE, checkpoint=tmp_path / "kept")
    assert said.startswith("Arrays of 36 tiles take at most 147 KB (before compression); the disk")
    assert re.search(r"of the checkpoint has [\d.]+ [KMGT]?B free\.$", said)
    shares = tv.model(noise, returns="probabilities", classes=("a", "b", "c"), fingerprint="s")
    (said,) = said_of(image, shares, checkpoint=None)
    assert said == (
        "Arrays of 36 tiles take at most 111 KB (before compression); they are kept in memory."
    )
    assert not said_of(image, tv.model(noise, fingerprint="n"), checkpoint=None)


@pytest.mark.usefixtures("inline")
def test_stored_tiles_say_what_the_rest_takes(tmp_path: Path) -> None:
    """From 16 of them on, as they are compressed; vectors as well."""
    image, folder = picture(tmp_path, 6, 6), tmp_path / "kept"
    flat = tv.model(lambda p: np.zeros(p.shape[:2]), returns="values", fingerprint="flat")
    vectors = tv.model(lambda p: p[0, :8, 0], returns="embedding", fingerprint="vector")
    for region, told in (((0, 0, 32 * 6, 40), []), ((0, 0, 32 * 6, 32 * 4), ["16 bytes"])):
        with Checkpoint.open(folder) as store:
            for model in (flat, vectors):
                Inline(image, model, store, region=region).conduct()
        (said,) = said_of(image, flat, checkpoint=folder)
        assert ("before compression" in said) is not bool(told)
        assert len(said_of(image, vectors, checkpoint=folder)) == len(told)
    assert re.match(r"Arrays of 12 tiles take about \d+ B \(by 24 tiles that are stored\)", said)
    (said,) = said_of(image, vectors, checkpoint=folder)
    assert said.startswith("Arrays of 12 tiles take about 192 B (by 24 tiles that are stored); the")
    with Checkpoint.open(folder) as store:
        Inline(image, flat, store).conduct()
    assert not said_of(image, flat, checkpoint=folder)


@pytest.mark.usefixtures("inline")
def test_a_run_says_in_good_time_that_its_disk_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what its own tiles take, after 16 of them and again after 32; the plan said so, too."""
    monkeypatch.setattr(storage, "free_space", lambda _: 30_000)
    image, folder = picture(tmp_path, 7, 6), tmp_path / "kept"
    (said,) = said_of(image, NOISE, checkpoint=folder)
    assert said.endswith(
        "and the disk of the checkpoint has 30 KB free. The run pauses when it is full and "
        "continues when there is space: free some, or give a checkpoint= elsewhere."
    )
    with Checkpoint.open(folder) as store:
        run = Inline(image, NOISE, store)
        run.conduct()
    lines = [one.message for one in run.told(StageDone) if one.message.startswith("Arrays")]
    assert [line.split(" of ")[1].split()[0] for line in lines] == ["26", "10"]
    assert "(by 16 tiles that are stored)" in lines[0] and "30 KB free" in lines[0]


@pytest.mark.slow
def test_maps_on_a_full_disk_pause_the_run_which_goes_on(tmp_path: Path) -> None:
    """One line; no tile that was acknowledged is lost or run again; the map is that of any disk."""
    log = tmp_path / "log"
    image = numbered.write_numbered(tmp_path / "numbered.tif", 8, 8, 128)

    def heights(pixels: Any) -> Any:
        number = numbered.number_of(pixels)
        numbered.note(log, number)
        return np.random.default_rng(number).random(pixels.shape[:2], dtype=np.float32)

    model = tv.model(heights, returns="values", fingerprint="heights")
    asked: dict[str, Any] = {"grid": numbered.grid(8, 8), "workers": 2}
    with drills_disk.small_disk(24) as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(b"\0" * int(shutil.disk_usage(disk).free - 2.5 * 2**20))
        run = tv.start(image, model, checkpoint=disk / "kept", **asked)
        with pytest.raises(tv.CheckpointError) as caught:
            run.result(timeout=200)
        assert "free on its disk" in str(caught.value) and "\n" not in str(caught.value)
        numbered.wait_until(lambda: run.status == "paused", "the run is paused")
        ballast.unlink()
        numbered.wait_until(lambda: run.status == "running" or run.wait(0), "it goes on")
        result = run.result(timeout=200)
        assert result.status == "complete"
        found = np.asarray(result.raster)
        before = len(numbered.noted(log))
        again = tv.analyze(image, model, checkpoint=disk / "kept", progress=False, **asked)
        assert np.array_equal(np.asarray(again.raster), found)
        assert len(numbered.noted(log)) == before
    for number in range(64):
        y, x = divmod(number, 8)
        tile = found[128 * y : 128 * (y + 1), 128 * x : 128 * (x + 1)]
        right = np.random.default_rng(number).random((128, 128), dtype=np.float32)
        assert np.array_equal(tile, right)


SAVING = """
import sys
import numpy as np
import tilevision as tv

shares = lambda pixels: np.full((3, *pixels.shape[:2]), 1 / 3)  # not compressed in `.npy`
model = tv.model(shares, fingerprint="s", returns="probabilities", classes=("a", "b", "c"))
image = np.zeros((1500, 1500, 3), np.uint8)
result = tv.analyze(image, model, grid=750, checkpoint=None, workers=1, progress=False)
try:
    result.save(sys.argv[1], layer="probabilities")
except tv.RunError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npy", ".ome.tif", ".tif", ".ome.zarr"])
def test_a_disk_that_is_full_refuses_a_file_in_one_line(tmp_path: Path, suffix: str) -> None:
    """And leaves nothing of it; the process lives, though it writes by memory maps."""
    script = tmp_path / "saving.py"
    script.write_text(SAVING)
    with drills_disk.small_disk(24) as disk:
        with (disk / "ballast").open("wb") as ballast:
            ballast.write(b"\0" * int(shutil.disk_usage(disk).free - 8192))
        ended = subprocess.run(
            [sys.executable, str(script), str(disk / f"map{suffix}")],
            capture_output=True,
            text=True,
            check=True,
        )
        said = ended.stdout.splitlines()
        assert len(said) == 1 and "No space left on device" in said[0]
        assert [one.name for one in disk.iterdir()] == ["ballast"]


@pytest.mark.slow
def test_a_worker_that_dies_over_a_map_costs_no_tile(tmp_path: Path) -> None:
    """It is killed as it hands its map over; the tile runs again, and every map is whole."""
    image = numbered.write_numbered(tmp_path / "numbered.tif", 4, 4, 64)
    died = tmp_path / "died"

    def heights(pixels: Any) -> Any:
        number = numbered.number_of(pixels)
        if number in (5, 10) and not (died.with_suffix(f".{number}")).exists():
            died.with_suffix(f".{number}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.full(pixels.shape[:2], float(number))

    model = tv.model(heights, returns="values", precision=1.0, fingerprint="deadly")
    asked: dict[str, Any] = {"grid": numbered.grid(4, 4), "workers": 2, "progress": False}
    result = tv.analyze(image, model, checkpoint=tmp_path / "kept", **asked)
    assert result.status == "complete"
    right = np.arange(16.0).reshape(4, 4).repeat(64, 0).repeat(64, 1)
    assert np.array_equal(np.asarray(result.raster), right)
