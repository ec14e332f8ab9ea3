"""Runs on clusters that change: they grow from nothing, bind tasks, pause, join late."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, cast

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster, Nanny, Scheduler, SpecCluster, Worker, get_worker

import tilevision as tv
from tilevision.fanout.client import Sent, Tasks
from tilevision.schedule.messages import Submit

PIXELS = np.random.default_rng(0).integers(0, 80, (320, 320, 3)).astype(np.uint8)
IN_PROCESS: dict[str, Any] = {
    "processes": False,
    "threads_per_worker": 1,
    "dashboard_address": None,
}
QUIET: dict[str, Any] = {"checkpoint": None, "progress": False}


def slow(seconds: float) -> Callable[[Any], Any]:
    def detect(pixels: Any) -> Any:
        time.sleep(seconds)
        return [{"box": (1, 1, 5, 5), "score": 0.9}]

    return detect


def held(gate: Path) -> Callable[[Any], Any]:
    """Return a model that looks at no tile before a file is there."""

    def detect(pixels: Any) -> Any:
        while not gate.exists():
            time.sleep(0.01)
        return [{"box": (1, 1, 5, 5), "score": 0.9}]

    return detect


def lines(run: Any) -> list[str]:
    return [event.message for event in run.events() if type(event).__name__ == "StageDone"]


@pytest.mark.slow
def test_a_cluster_grows_from_nothing_to_its_maximum() -> None:
    """An adaptive cluster without workers is asked for all it may have, and every tile is done."""
    with LocalCluster(n_workers=0, **IN_PROCESS) as cluster, Client(cluster) as client:
        cluster.adapt(minimum=0, maximum=3, interval="100ms", wait_count=20)
        result = tv.analyze(PIXELS, slow(0.3), grid="6x6", client=client, **QUIET)
    assert result.complete
    assert result.tiles["worker"].nunique() == 3
    assert set(result.tiles["attempts"]) == {1}


@pytest.mark.slow
def test_annotations_around_the_call_hold_for_every_tile(tmp_path: Path) -> None:
    """What `dask.annotate` says about resources, workers and priority reaches the tasks."""
    workers = {
        "plain": {"cls": Worker, "options": {"nthreads": 1}},
        "gpu": {"cls": Worker, "options": {"nthreads": 1, "resources": {"GPU": 1}}},
    }
    scheduler = {"cls": Scheduler, "options": {"dashboard": False, "port": 0}}

    def priorities(dask_scheduler: Any) -> set[int]:
        tasks = dask_scheduler.tasks.values()
        return {round(task.priority[0]) for task in tasks if task.key.startswith("tile-infer")}

    with SpecCluster(workers=workers, scheduler=scheduler) as cluster, Client(cluster) as client:
        client.wait_for_workers(2)
        listed = client.scheduler_info(n_workers=-1)["workers"]
        names = {address: str(worker["name"]) for address, worker in listed.items()}
        gpu = next(address for address, name in names.items() if name == "gpu")
        for number, said in enumerate(({"resources": {"GPU": 1}}, {"workers": [gpu]})):
            gate = tmp_path / f"{number}"
            with dask.annotate(priority=7, **said):
                run = tv.start(PIXELS, held(gate), grid="4x4", client=client, checkpoint=None)
            seen: set[int] = set()
            while not run.wait(0.05):
                seen |= client.run_on_scheduler(priorities)
                if seen:
                    gate.touch()
            tiles = run.result(200).tiles["worker"]
            assert Counter(names[worker] for worker in tiles) == {"gpu": 16}
            assert seen == {-7}  # Dask sorts by its negative


def together(most: int) -> Callable[[list[Any]], list[Any]]:
    """Return a model that answers how many tasks are under way in its process.

    It sleeps as a GPU would; once it is known that it waits, until there have been `most`.
    """
    reached: list[int] = []
    known: list[bool] = []

    def look(tiles: list[Any]) -> list[Any]:
        from tilevision.fanout import worker

        def counted() -> int:
            return max(worker._aloft.values(), default=0)

        deadline = time.monotonic() + 200
        while known and not reached and time.monotonic() < deadline:
            reached.extend([most] if counted() >= most else [])
            time.sleep(0.01)
        time.sleep(0.03)
        known.append(True)
        return [[{"box": (1, 1, 5, 5), "score": counted() / 100}] for _ in tiles]

    return look


@pytest.mark.slow
@pytest.mark.parametrize(("amount", "most"), [(1, 1), (0.2, 5)])
def test_a_share_of_a_gpu_reads_ahead_and_a_whole_one_does_not(amount: float, most: int) -> None:
    """A task holds what it asks for to its end; every tile is on the worker that has the GPU."""
    workers = {
        "plain": {"cls": Nanny, "options": {"nthreads": 1}},
        "gpu": {"cls": Nanny, "options": {"nthreads": 1, "resources": {"GPU": 1}}},
    }
    scheduler = {"cls": Scheduler, "options": {"dashboard": False, "port": 0}}
    look = together(most)
    spec = tv.model(look, batched=True, batch_size=2, fingerprint=f"together {amount}")
    with SpecCluster(workers=workers, scheduler=scheduler) as cluster, Client(cluster) as client:
        client.wait_for_workers(2)
        listed = client.scheduler_info(n_workers=-1)["workers"]
        names = {address: str(worker["name"]) for address, worker in listed.items()}
        with dask.annotate(resources={"GPU": amount}):
            result = tv.analyze(
                PIXELS, spec, grid="8x8", client=client, merge="none", batch_size=2, **QUIET
            )
        assert {names[worker] for worker in result.tiles["worker"]} == {"gpu"}
        assert round(100 * max(result.findings.scores)) == most


@pytest.mark.slow
def test_runs_within_tasks_of_a_full_worker_end() -> None:
    """Each task gives its slot back while its run waits, so the run's tiles can have it."""

    def one(seed: int) -> tuple[bool, str, str]:
        result = tv.analyze(PIXELS + np.uint8(seed), slow(0.0), grid="2x2", **QUIET)
        return result.complete, set(result.tiles["worker"]).pop(), get_worker().address

    with LocalCluster(n_workers=1, **IN_PROCESS) as cluster, Client(cluster) as client:
        answers = client.gather(client.map(one, [0, 1]), direct=False)
    for complete, ran_on, address in answers:
        assert complete
        assert ran_on == address  # on the task's own cluster, not one beside it


@pytest.mark.slow
def test_a_paused_worker_loses_its_tiles_to_others() -> None:
    """What waits on a worker that Dask has paused runs elsewhere, and one line names it."""

    def pause(dask_worker: Any) -> None:
        from distributed.core import Status

        dask_worker.memory_manager.memory_pause_fraction = False
        dask_worker.status = Status.paused

    with LocalCluster(n_workers=2, **IN_PROCESS) as cluster, Client(cluster) as client:
        run = tv.start(PIXELS, slow(0.3), grid="6x6", client=client, checkpoint=None)
        while run.counts.get("done", 0) < 4:
            time.sleep(0.05)
        first = next(iter(client.scheduler_info(n_workers=-1)["workers"]))
        client.run(pause, workers=[first])
        result = run.result(timeout=200)
    assert result.complete
    assert set(result.tiles["attempts"]) == {1}
    assert result.tiles["worker"].value_counts().idxmax() != first
    assert sum(f"{first} is paused by Dask" in line for line in lines(run)) == 1


@pytest.mark.slow
def test_cancel_leaves_a_users_worker_that_hangs_with_one_line(tmp_path: Path) -> None:
    """The run ends; the user's worker stays as it is, and the line says which it is."""
    with LocalCluster(n_workers=1, **IN_PROCESS) as cluster, Client(cluster) as client:
        gate = tmp_path / "gate"
        run = tv.start(PIXELS, held(gate), grid="1x1", client=client, checkpoint=None)
        while not run.counts.get("running"):
            time.sleep(0.05)
        (address,) = client.scheduler_info(n_workers=-1)["workers"]
        run.cancel()
        run.cancel()
        assert run.wait(200)
        gate.touch()
        assert run.status == "cancelled"
        assert any(line.startswith(f"1 tiles still run on {address}") for line in lines(run))


def test_tasks_that_have_yet_to_reach_the_scheduler_are_asked_for_again() -> None:
    """Dask unpacks what a client sends beside its other work: a task unknown now may run later.

    The scheduler here is a stand-in, whose queue gets the task after the first question.
    """
    released: list[str] = []
    scheduler = SimpleNamespace(
        tasks={}, client_releases_keys=lambda keys, client: released.extend(keys)
    )

    class Asked:
        id = "client"

        async def run_on_scheduler(self, ask: Callable[..., Any], **arguments: Any) -> Any:
            answer = ask(**arguments, dask_scheduler=scheduler)
            scheduler.tasks["key"] = SimpleNamespace(processing_on=None, state="queued")
            return answer

    inbox: SimpleQueue[Any] = SimpleQueue()
    cluster: Any = SimpleNamespace(client=Asked())
    tasks = Tasks(cluster, cast("Any", None), "run", inbox)
    pending: Any = SimpleNamespace(status="pending", key="key")
    tasks.flights["task"] = Sent(Submit("task", (), ()), pending)
    asyncio.run(tasks._take_back({"key": "task"}, 0))
    assert [inbox.get().tasks for _ in range(inbox.qsize())] == [(), ("task",)]
    assert released == ["key"]


@pytest.mark.slow
@pytest.mark.parametrize("bound", [False, True])
def test_cancelled_tiles_are_computed_once(tmp_path: Path, bound: bool) -> None:
    """On a cluster known by its address, where tiles wait in its queue, none is begun in vain.

    Tasks that are bound to resources wait on the workers instead.
    """
    calls = tmp_path / "calls"

    def noted(pixels: Any) -> Any:
        with calls.open("ab", 0) as file:
            file.write(bytes([pixels[0, 0, 0]]))
        time.sleep(0.01)
        return []

    calls.touch()
    pixels = np.arange(120, dtype=np.uint8).reshape(10, 12).repeat(8, 0).repeat(8, 1)
    model = tv.model(noted, fingerprint="noted", thread_safe=True)
    wanted = {"resources": {"SLOT": 1}} if bound else {}
    kept = {"resources": {"SLOT": 1}} if bound else {}
    with (
        LocalCluster(n_workers=2, **IN_PROCESS, **kept) as cluster,
        Client(cluster.scheduler_address, set_as_default=False) as client,
        dask.annotate(**wanted),
    ):
        for least in (5, 20, 33, 58, 120):
            run = tv.start(
                pixels,
                model,
                grid=tv.Grid(10, 12, overlap=0),
                client=client,
                checkpoint=tmp_path / "ck",
                batch_size=1,
            )
            while not run.wait(0) and calls.stat().st_size < least:
                time.sleep(0.002)
            run.cancel()
            assert run.wait(200)
    assert sorted(calls.read_bytes()) == list(range(120))


@pytest.mark.slow
def test_jobs_of_a_queueing_system_do_the_work(tmp_path: Path) -> None:
    """dask-jobqueue's jobs, started as plain processes that come later, complete the run."""
    jobqueue = pytest.importorskip("dask_jobqueue.local", reason="needs dask-jobqueue")
    cluster = jobqueue.LocalCluster(
        cores=1,
        processes=1,
        memory="1GB",
        local_directory=str(tmp_path),
        scheduler_options={"dashboard": False},
    )
    with cluster, Client(cluster) as client:
        cluster.scale(jobs=2)
        result = tv.analyze(PIXELS, slow(0.1), grid="6x6", client=client, **QUIET)
    assert result.complete
    assert set(result.tiles["attempts"]) == {1}
