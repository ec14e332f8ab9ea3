"""Functions on a device: one process for each, what is costly built once, no device no run."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tilevision as tv
from tilevision.adapters import gpuclaims
from tilevision.errors import ModelError, TilevisionError
from tilevision.fanout import worker
from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.infer import Work
from tilevision.modelspec import Wish, build, calls_of, processes, runtime, waits
from tilevision.sources import ReadOptions, SourceRef

TILE = np.full((8, 8, 3), 100, np.uint8)


def dark(pixels: np.ndarray) -> list[Any]:
    """A function without anything to set up."""
    return [[0, 0, 4, 4, 0.5]]


def computes(pixels: Any) -> list[Any]:
    """Keep a processor busy, and find nothing."""
    until = time.thread_time() + 0.02
    while time.thread_time() < until:
        pass
    return [[] for _ in pixels] if isinstance(pixels, list) else []


class Looks:
    """An object with predict."""

    def predict(self, batch: list[np.ndarray]) -> list[Any]:
        """Find nothing."""
        return [[] for _ in batch]


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this machine show two."""
    monkeypatch.setattr(gpuclaims, "gpus", lambda: 2)
    monkeypatch.setattr(gpuclaims, "claimed_gpu", lambda count: 1)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("value", [dark, Looks()])
def test_there_is_a_process_for_each_device(value: Any) -> None:
    """A number names one; without it, all are used; on processors there are as many as those."""
    assert processes(tv.model(value, device="cuda")) == 2
    assert processes(tv.model(value, device="cuda:1")) == 1
    assert processes(tv.model(value)) is processes(tv.model(value, device="cpu")) is None
    assert runtime(tv.model(value, device="cuda:0")) == "cuda:0"
    assert runtime(tv.model(value, device="cuda")) == "cuda:1"  # the one this process has claimed


@pytest.mark.usefixtures("two_gpus")
def test_a_device_is_no_part_of_the_identity() -> None:
    """The same function finds the same wherever it computes."""
    assert tv.model(dark, device="cuda").fingerprint == tv.model(dark).fingerprint


@pytest.mark.usefixtures("two_gpus")
def test_tiles_are_read_ahead_of_a_declared_device() -> None:
    """Whatever is measured: a wait for a GPU looks like work."""
    for device, waiting in (("cuda:0", True), ("cpu", False)):
        spec = tv.model(dark, device=device)
        build(spec)
        assert waits(spec) is waiting


@pytest.mark.parametrize(
    ("batched", "at_once", "tasks"),
    [
        ({"batched": True, "batch_size": 16}, False, 1),
        ({}, False, 0),
        ({"batched": True, "batch_size": 16, "thread_safe": True}, True, 0),
    ],
)
def test_one_task_is_begun_beside_the_first_call_of_a_model_that_takes_batches(
    batched: dict[str, Any], at_once: bool, tasks: int
) -> None:
    """It most likely waits for a device. Once it is known that it computes, none is; nor before."""
    spec = tv.model(computes, fingerprint=f"computes-{batched}", **batched)
    work = Work(SourceRef("", ""), ReadOptions(), spec)
    batch = worker.TileBatch("w", "t", (Tile(0, 0, Box(0, 0, 64, 64)),), "")
    assert worker._ahead(work, batch) == 0  # it has yet to be loaded
    assert (build(spec).turn is None) is at_once
    assert worker._ahead(work, batch) == tasks
    wish = Wish([TILE], build(spec).predict, lambda: None, lambda: None)
    calls_of(spec).ask(wish, 16)
    assert wish.error is None and worker._ahead(work, batch) == 0


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("side", "dtype", "tasks"),
    [(512, "uint8", 4), (1024, "uint8", 4), (4096, "uint8", 1), (512, "raw", 4), (1024, "raw", 2)],
)
def test_as_many_tasks_are_read_ahead_as_memory_holds(side: int, dtype: str, tasks: int) -> None:
    """Half a gigabyte of what the model is given: RGB is 3 bytes, values as stored may be more."""
    spec = tv.model(dark, device="cuda:0")
    build(spec)
    spec = dataclasses.replace(spec, batch_size=16)
    work = Work(SourceRef("", ""), ReadOptions(dtype=dtype), spec)
    batch = worker.TileBatch("w", "t", (Tile(0, 0, Box(0, 0, side, side)),), "")
    assert worker._ahead(work, batch) == tasks


@pytest.mark.parametrize(
    ("read", "infer", "readers", "tasks"),
    [
        (0.2, 0.1, 2, 4),
        (0.02, 0.4, 2, 3),
        (0.02, 5.0, 2, 1),
        (0.5, 0.8, 2, 2),
        (3.0, 1.5, 2, 3),
        (9.0, 1.5, 2, 4),
        (9.0, 1.5, 8, 9),
        (0.1, 0.0, 2, 4),
    ],
)
def test_no_more_is_read_ahead_than_a_second_of_the_model(
    read: float, infer: float, readers: int, tasks: int
) -> None:
    """A pause waits for all that has begun; but slow reading needs many tasks at a time."""
    assert worker._enough(worker._Pace(read, infer), readers) == tasks


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("cuda:2", "shows 2 GPUs, numbered from 0"),
        ("openvino", "give 'cpu', 'cuda', 'cuda:0' or 'mps'"),
        pytest.param(
            "mps",
            "no Mac with an Apple processor",
            marks=pytest.mark.skipif(sys.platform == "darwin", reason="it may be there"),
        ),
    ],
)
@pytest.mark.usefixtures("two_gpus")
def test_a_device_that_is_not_there_is_an_error(device: str, words: str) -> None:
    """Where it is asked for, and where the function would be opened."""
    spec = tv.model(dark, device=device)
    for ask in (runtime, build):
        with pytest.raises(ModelError, match=words):
            ask(spec)


@pytest.mark.slow
@pytest.mark.skipif(gpuclaims.gpus() > 7, reason="it is there")
def test_no_tile_is_begun_without_the_device(tmp_path: Path) -> None:
    """The run ends with one line, before anything was computed or kept."""
    with pytest.raises(TilevisionError, match="'cuda:7' of model dark was asked for"):
        tv.analyze(TILE, tv.model(dark, device="cuda:7"), checkpoint=tmp_path, progress=False)


def test_within_a_function_cuda_is_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyTorch is loaded; a function that does not use it is called as it is."""
    entered: list[int] = []

    class Device:
        def __init__(self, index: int) -> None:
            self.index = index

        def __enter__(self) -> None:
            entered.append(self.index)

        def __exit__(self, *_: object) -> None:
            entered.append(-1)

    cuda = SimpleNamespace(is_available=lambda: True, device=Device)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    called = gpuclaims.at_its_gpu(lambda pixels: entered.append(99) or pixels, "cuda:1")
    assert called(5) == 5 and entered == [1, 99, -1]
    monkeypatch.delitem(sys.modules, "torch")
    assert called(6) == 6 and entered[3:] == [99]
    assert gpuclaims.at_its_gpu(dark, "cpu") is dark


def scored(pixels: np.ndarray, made: dict[str, Any]) -> list[Any]:
    """Use what was set up."""
    made["calls"] += 1
    return [{"box": (0, 0, 4, 4), "label": made["device"], "score": made["calls"] / 100}]


def load(device: str) -> dict[str, Any]:
    """Build what is costly."""
    return {"device": device, "calls": 0}


def test_what_is_costly_is_built_once_in_a_process() -> None:
    """`setup` is called when the model is, and what it returns is the last argument."""
    built = build(tv.model(scored, setup=load, fingerprint="once"))
    found = [built.predict([TILE])[0] for _ in range(3)]
    assert [one.scores[0] for one in found] == [pytest.approx(n / 100) for n in (1, 2, 3)]
    assert {str(one.labels[0]) for one in found} == {"cpu"}


@pytest.mark.usefixtures("two_gpus")
def test_setup_is_told_its_device_if_it_wants_to_know() -> None:
    """A setup without arguments is called without; batched functions take the list first."""
    build_on = build(tv.model(scored, setup=load, device="cuda"))
    assert str(build_on.predict([TILE])[0].labels[0]) == "cuda:1"

    def many(tiles: list[np.ndarray], made: int) -> list[Any]:
        return [[[0, 0, made, made, 0.5]] for _ in tiles]

    found = build(tv.model(many, setup=lambda: 3, batched=True)).predict([TILE, TILE])
    assert [one.boxes[0, 2] for one in found] == [3, 3]


def test_what_is_set_up_is_part_of_the_identity() -> None:
    """An edited setup computes tiles again; functions without one keep their identity."""
    plain = tv.model(scored).fingerprint
    one = tv.model(scored, setup=lambda: 1).fingerprint
    assert len({plain, one, tv.model(scored, setup=lambda: 2).fingerprint}) == 3
    assert one == tv.model(scored, setup=lambda: 1).fingerprint
    stated = [tv.model(scored, setup=s, fingerprint="v1") for s in (load, lambda: 1)]
    assert len({spec.fingerprint for spec in stated}) == 1


def test_a_setup_that_fails_or_is_none_says_so() -> None:
    """In one line, with its name."""

    def broken() -> None:
        raise OSError("no weights")

    with pytest.raises(ModelError, match="Model scored cannot be built: OSError: no weights"):
        build(tv.model(scored, setup=broken))
    with pytest.raises(ModelError, match="setup of model scored is 'load'; give a function"):
        tv.model(scored, setup="load")


def pid(pixels: np.ndarray, made: tuple[int, int]) -> list[Any]:
    """Say in which process it was set up, and how often."""
    owner, count = made
    assert owner == os.getpid()
    return [{"box": (0, 0, 4, 4), "label": str(owner), "score": count / 10}]


@pytest.mark.slow
def test_setup_runs_once_in_each_worker(tmp_path: Path) -> None:
    """Through a real cluster: no process sets up twice, and none uses what another has built."""

    def made() -> tuple[int, int]:
        with (tmp_path / str(os.getpid())).open("a") as file:
            file.write("x")
        return os.getpid(), 1

    result = tv.analyze(
        np.tile(TILE, (8, 8, 1)),
        tv.model(pid, setup=made, fingerprint="pid"),
        grid=tv.Grid(rows=4, cols=4, overlap=0),
        merge="none",
        checkpoint=None,
        progress=False,
        workers=2,
    )
    assert result.complete
    built = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(map(str, result.findings.labels)) <= set(built)
    assert set(built.values()) == {"x"}
