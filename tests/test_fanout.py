"""Tiles on a real Dask cluster: every tile ends once, whatever dies meanwhile."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import numpy as np
import psutil
import pytest
import tifffile

from tilevision.catalogue import model, resolve
from tilevision.cluster import Cluster, LocalCluster, local_cluster, shared_cluster
from tilevision.codec import decode
from tilevision.errors import ClusterError, Failure
from tilevision.fanout import run_tiles, worker
from tilevision.fanout.loop import Watchdog
from tilevision.grid import Grid, Tile
from tilevision.infer import TileOutcome, Work
from tilevision.schedule import Policy, Retry, Scheduler
from tilevision.schedule.messages import Announce, Cancelled, End, Happening
from tilevision.sources import SourceRef, open_source, read_options

SIDE = 6
TILE = 16
TILES = Grid(rows=SIDE, cols=SIDE, overlap=0.0).tiles((SIDE * TILE, SIDE * TILE))
PATIENCE = 200.0
QUICK = Retry(attempts=2, wait=0.01, max_wait=0.02)


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {PATIENCE:.0f} s until {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image in which each tile's pixels hold the tile's number."""
    numbers = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE)
    pixels = numbers.repeat(TILE, axis=0).repeat(TILE, axis=1)
    path = tmp_path_factory.mktemp("image") / "numbers.tif"
    tifffile.imwrite(path, pixels, tile=(TILE, TILE))
    return path


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster(2) as running:
        yield running


def scripted(faults: Mapping[int, str], seconds: float, calls: Path | None) -> Callable[..., Any]:
    """Return a model that does to the tiles of given numbers what `faults` says."""

    def detect(pixels: Any) -> Any:
        number = int(pixels.flat[0])
        if calls is not None:
            (calls / f"{number}-{uuid.uuid4().hex}").touch()
        time.sleep(seconds)
        match faults.get(number):
            case "exit":
                os._exit(3)
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "sys.exit":
                sys.exit(3)
            case "hang":
                time.sleep(600)
            case "raise":
                raise ValueError("no such thing")
        return np.array([[0, 0, 4, 4, 0.5, number]])

    return detect


def work_on(image: Path, function: Any) -> Work:
    source = open_source(image)
    spec = resolve(model(function, fingerprint=uuid.uuid4().hex))
    return Work(source.reference, read_options(source), spec)


@dataclass
class Run:
    """One call of `run_tiles`, with everything it told."""

    cluster: Cluster
    work: Work
    policy: Policy = field(default_factory=lambda: Policy(retry=QUICK))
    refuse: Callable[[list[TileOutcome]], dict[Tile, Failure]] = lambda _: {}
    committed: list[TileOutcome] = field(default_factory=list)
    kept: list[tuple[str, int, str]] = field(default_factory=list)
    announced: list[Announce] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    commands: "SimpleQueue[Happening]" = field(default_factory=SimpleQueue)
    end: End | None = None
    error: BaseException | None = None
    tiles: tuple[Tile, ...] = TILES

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.tiles, self.policy)

    def __call__(self) -> End:
        """Fan the tiles out, and return how it ended."""
        self.end = run_tiles(
            self.cluster, self.work, self.scheduler, self, run_id="test", commands=self.commands
        )
        return self.end

    def back(self, outcome: TileOutcome) -> None:
        """Nothing is charged here."""

    def commit(self, outcomes: list[TileOutcome]) -> dict[Tile, Failure]:
        """Take all outcomes but those to be refused."""
        refused = self.refuse(outcomes)
        self.committed.extend(o for o in outcomes if o.tile not in refused)
        return refused

    def keep(self, outcome: TileOutcome, attempt: int, worker: str) -> None:
        """Note a committed tile."""
        self.kept.append((outcome.tile.id, attempt, worker))

    def announce(self, change: Announce) -> None:
        """Note a status."""
        self.announced.append(change)

    def together(self) -> AbstractContextManager[None]:
        """Nothing is written here."""
        return nullcontext()

    def waiting(self, line: str) -> None:
        """Note a line."""
        self.words.append(line)

    def model(self, line: str) -> None:
        """On what the model runs is not looked at here."""

    def hold(self, reason: str) -> None:
        """No run here pauses by itself."""

    def in_background(self) -> threading.Thread:
        """Fan the tiles out in a thread; `end` or `error` tell how it went."""

        def target() -> None:
            try:
                self()
            except BaseException as error:
                self.error = error

        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        return thread

    def done(self) -> list[str]:
        """Return the ids of the tiles that were committed."""
        return sorted(outcome.tile.id for outcome in self.committed)

    def all_but(self, *numbers: int) -> list[str]:
        """Return the ids of all tiles but those with these numbers."""
        return [tile.id for i, tile in enumerate(self.tiles) if i not in numbers]


# The ordinary course ---------------------------------------------------------------------


@pytest.mark.slow
def test_each_tile_is_committed_once(cluster: LocalCluster, image: Path) -> None:
    """A run ends complete, with each tile's findings committed once and told after that."""
    run = Run(cluster, work_on(image, scripted({}, 0.0, None)))
    assert run().status == "complete"
    assert run.done() == run.all_but()
    for outcome in run.committed:
        findings = decode(outcome.records)
        assert findings.class_ids.tolist() == [TILES.index(outcome.tile)]
    assert sorted((tile, attempt) for tile, attempt, _ in run.kept) == [
        (tile, 1) for tile in run.all_but()
    ]
    assert {worker for _, _, worker in run.kept} <= set(cluster.workers())
    running = [a.tile.id for a in run.announced if a.status == "running"]  # hints: some come late
    assert running and len(set(running)) == len(running) and set(running) <= set(run.all_but())


@pytest.mark.slow
def test_a_run_leaves_nothing_on_the_cluster(cluster: LocalCluster, image: Path) -> None:
    """After a run the scheduler holds no task, no result and no work of it."""
    Run(cluster, work_on(image, scripted({}, 0.0, None)))()

    def remains(dask_scheduler: Any) -> tuple[int, list[str], bool]:
        plugins = [name for name in dask_scheduler.worker_plugins if name.startswith("tilevision")]
        return len(dask_scheduler.tasks), plugins, "tile-infer" in dask_scheduler.task_prefixes

    wait_until(
        lambda: cluster.client.run_on_scheduler(remains) == (0, [], True),
        "tasks and work are forgotten, and the dashboard has grouped them",
    )


@pytest.mark.slow
def test_a_large_model_travels_once_per_worker(cluster: LocalCluster, image: Path) -> None:
    """A task is small however large the model's payload is."""
    weights = np.random.default_rng(1).bytes(900_000)

    def detect(pixels: Any) -> Any:
        return [{"box": (0, 0, 4, 4), "label": "x", "score": weights[0] / 255}]

    sizes: list[int] = []
    run = Run(cluster, work_on(image, detect), policy=Policy(batch_size=1))
    original = cluster.client._graph_to_futures

    def measured(expr: Any, *rest: Any, **options: Any) -> Any:
        import cloudpickle

        sizes.append(len(cloudpickle.dumps(expr)))
        return original(expr, *rest, **options)

    cluster.client._graph_to_futures = measured
    try:
        assert run().status == "complete"
    finally:
        cluster.client._graph_to_futures = original
    assert len(run.work.model.payload) > 900_000
    assert max(sizes) < 50_000


def aloft(most: int) -> Callable[[list[Any]], list[Any]]:
    """Return a model that answers how many tasks have given their slot to the next one.

    It sleeps as a device would: the first time until the next task has begun, and then, as it is
    known that it waits, until there have been `most`.
    """
    reached: list[int] = []
    known: list[bool] = []

    def look(tiles: list[Any]) -> list[Any]:
        from tilevision.fanout import worker

        def counted() -> int:
            return max(worker._aloft.values(), default=0)

        deadline = time.monotonic() + PATIENCE
        while (
            not reached and time.monotonic() < deadline and counted() < (2 if not known else most)
        ):
            time.sleep(0.01)
        reached.extend([most] if counted() >= most else [])
        time.sleep(0.1)
        known.append(True)
        return [np.array([[0, 0, 4, 4, 0.5, counted()]]) for _ in tiles]

    return look


@pytest.mark.slow
def test_tiles_are_read_ahead_while_the_model_waits(image: Path) -> None:
    """A worker of one thread has five tasks under way; two until it is known that it waits."""
    source = open_source(image)
    spec = model(aloft(5), batched=True, batch_size=2, fingerprint=uuid.uuid4().hex)
    work = Work(source.reference, read_options(source), spec)
    with local_cluster(1) as single:
        run = Run(single, work, policy=Policy(retry=QUICK, model_batch=2, batch_size=2))
        assert run().status == "complete" and run.done() == run.all_but()
    counts = [int(decode(outcome.records).class_ids[0]) for outcome in run.committed]
    assert counts[0] == 2 and max(counts) == 5


@pytest.mark.parametrize(("read", "called"), [(0.3, 0.1), (0.2, 0.5)])
def test_a_task_beside_others_takes_the_longer_of_reading_and_calling(
    read: float, called: float
) -> None:
    """Two read at a time, and one calls: what it waits for them is the time of others."""
    outcome = TileOutcome(TILES[0], read_seconds=read, infer_seconds=called)
    share = worker._Pace.of([outcome] * 4).share(2)
    assert share == pytest.approx(4 * max(read / 2, called))


class Loop:
    """A worker's loop that does what it is told when the test says so; notes what is sent."""

    def __init__(self) -> None:
        self.loop = self
        self.due: list[Callable[[], None]] = []
        self.sent: list[tuple[str, Any]] = []

    def add_callback(self, call: Callable[[], None]) -> None:
        """As Tornado has it."""
        self.due.append(call)

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """In the test's time."""
        assert 0 < seconds < 0.1
        self.due.append(call)

    def log_event(self, topic: str, message: Any) -> None:
        """Send."""
        self.sent.append((topic, message))

    def passes(self) -> None:
        """Let one moment pass."""
        due, self.due = self.due, []
        for call in due:
            call()


def test_what_tasks_tell_in_a_moment_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, all of it, and also what is told once the last task is through."""
    monkeypatch.setitem(worker._aloft, "w", 1)
    loop = Loop()
    news = worker._News(loop, "w", "topic")
    news.tell({"n": 1})
    loop.passes()
    news.tell({"n": 2})
    news.tell({"n": 3})
    assert len(loop.due) == 1  # to tell is no call of the loop while it looks by itself
    loop.passes()
    assert loop.sent == [("topic", [{"n": 1}]), ("topic", [{"n": 2}, {"n": 3}])]
    worker._aloft["w"] = 0
    loop.passes()
    assert not loop.due and len(loop.sent) == 2
    news.tell({"n": 4})
    loop.passes()
    assert loop.sent[2:] == [("topic", [{"n": 4}])]


# Tiles that fail -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["exit", "segfault"])
def test_a_tile_that_kills_its_worker_fails_alone(
    cluster: LocalCluster, image: Path, fault: str
) -> None:
    """The process dies; the tile is found out and fails, and its neighbours complete."""
    run = Run(cluster, work_on(image, scripted({8: fault}, 0.0, None)))
    end = run()
    assert end.status == "partial"
    assert run.done() == run.all_but(8)
    ((tile, (failure, _)),) = end.failures.items()
    assert tile == TILES[8]
    assert failure.kind == "lost" and "worker died" in str(failure)
    wait_until(lambda: len(cluster.workers()) == 2, "both workers are back")


@pytest.mark.slow
def test_leaving_is_an_ordinary_error(cluster: LocalCluster, image: Path, tmp_path: Path) -> None:
    """A model that calls sys.exit fails its tile in the usual attempts, and the worker stays."""
    before = cluster.workers()
    run = Run(cluster, work_on(image, scripted({3: "sys.exit"}, 0.0, tmp_path)))
    end = run()
    assert run.done() == run.all_but(3)
    assert end.failures[TILES[3]][0].error == "SystemExit"
    assert len(list(tmp_path.glob("3-*"))) == end.failures[TILES[3]][1] == 2
    assert cluster.workers() == before


@pytest.mark.slow
def test_a_tile_that_hangs_is_given_up(cluster: LocalCluster, image: Path) -> None:
    """Past its deadline a tile costs its worker, which is replaced; the others complete.

    One of those may be held up as long by a busy machine, and is tried again.
    """
    policy = Policy(retry=Retry(attempts=2), timeout=2.0)
    run = Run(cluster, work_on(image, scripted({20: "hang"}, 0.0, None)), policy=policy)
    end = run()
    assert run.done() == run.all_but(20)
    assert end.failures[TILES[20]][0].kind == "timeout"
    wait_until(lambda: len(cluster.workers()) == 2, "both workers are back")


def unreadable() -> None:
    raise ValueError("made for another planet")


class Alien:
    """Pickles well, and raises wherever it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return unreadable, ()


@pytest.mark.slow
def test_work_that_cannot_be_read_fails_with_its_reason(cluster: LocalCluster, image: Path) -> None:
    """Work that no worker can unpickle fails its tiles with that very error."""
    work = work_on(image, scripted({}, 0.0, None))
    run = Run(cluster, replace(work, source=cast(SourceRef, Alien())), tiles=TILES[:2])
    end = run()
    assert [failure.message for failure, _ in end.failures.values()] == [
        "made for another planet",
        "made for another planet",
    ]


@pytest.mark.slow
def test_what_the_checkpoint_refuses_fails(cluster: LocalCluster, image: Path) -> None:
    """A tile whose findings cannot be stored fails and is never told as done."""

    def refuse(outcomes: list[TileOutcome]) -> dict[Tile, Failure]:
        too_large = Failure("permanent", "CheckpointTooLarge", "300 KiB")
        return {o.tile: too_large for o in outcomes if o.tile == TILES[5]}

    run = Run(cluster, work_on(image, scripted({}, 0.0, None)), refuse=refuse)
    end = run()
    assert {tile.id for tile in end.failures} == {TILES[5].id}
    assert sorted(tile for tile, _, _ in run.kept) == run.all_but(5)


@pytest.mark.slow
def test_a_broken_checkpoint_ends_the_run_and_frees_the_cluster(
    cluster: LocalCluster, image: Path
) -> None:
    """An error while committing reaches the caller, and the next run has the cluster to itself."""

    def full(_: list[TileOutcome]) -> dict[Tile, Failure]:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        Run(cluster, work_on(image, scripted({}, 0.05, None)), refuse=full)()
    assert Run(cluster, work_on(image, scripted({}, 0.0, None)))().status == "complete"


# Commands --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_command_wakes_the_loop(cluster: LocalCluster, image: Path, tmp_path: Path) -> None:
    """Cancelling from another thread ends the run once what is in flight is back."""
    policy = Policy(batch_size=1, concurrency=2)
    run = Run(cluster, work_on(image, scripted({}, 0.3, tmp_path)), policy=policy)
    thread = run.in_background()
    wait_until(lambda: len(run.kept) >= 2, "tiles are done")
    run.commands.put(Cancelled())
    thread.join(PATIENCE)
    assert run.end is not None and run.end.status == "cancelled"
    assert 2 <= len(run.committed) < len(TILES)
    assert run.done() == sorted(tile for tile, _, _ in run.kept)


@pytest.mark.slow
def test_hosted_models_wait_outside_the_slots(
    cluster: LocalCluster, image: Path, tmp_path: Path
) -> None:
    """Two workers of one thread hold many more requests in flight."""

    class Hosted:
        def encode(self, batch: Any) -> Any:
            return [int(pixels.flat[0]) for pixels in batch]

        def request(self, payload: Any) -> Any:
            from tilevision.findings import Findings

            (tmp_path / f"begun-{payload[0]}").touch()
            deadline = time.monotonic() + 200
            while len(list(tmp_path.glob("begun-*"))) < 10 and time.monotonic() < deadline:
                time.sleep(0.02)
            (tmp_path / f"saw-{len(list(tmp_path.glob('begun-*')))}").touch()
            return [Findings(np.zeros((0, 4))) for _ in payload]

    source = open_source(image)
    spec = resolve(model(Hosted(), fingerprint="hosted", hosted=True))
    policy = Policy(hosted=True, concurrency=10, batch_size=1)
    run = Run(cluster, Work(source.reference, read_options(source), spec), policy=policy)
    run.scheduler = Scheduler(TILES[:10], policy)
    end = run()
    assert end == End("complete")
    assert [path.name for path in tmp_path.glob("saw-*")] == ["saw-10"]


# The cluster fails -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_worker_costs_no_tile(cluster: LocalCluster, image: Path) -> None:
    """Kill -9 of a worker in the middle of a run: every tile is committed all the same."""
    run = Run(cluster, work_on(image, scripted({}, 0.1, None)))
    thread = run.in_background()
    wait_until(lambda: run.kept, "the first tile is done")
    pids = cluster.client.run(os.getpid)
    psutil.Process(next(iter(pids.values()))).kill()
    thread.join(PATIENCE)
    assert run.error is None
    assert run.end == End("complete")
    assert run.done() == run.all_but()


@pytest.mark.slow
def test_our_own_scheduler_is_replaced(image: Path) -> None:
    """Kill -9 of our scheduler in the middle of a run: the cluster is rebuilt, nothing is lost."""
    with local_cluster(2) as cluster:
        run = Run(cluster, work_on(image, scripted({}, 0.1, None)))
        scheduler = psutil.Process(cluster.client.run_on_scheduler(os.getpid))
        thread = run.in_background()
        wait_until(lambda: run.kept, "the first tile is done")
        scheduler.kill()
        thread.join(PATIENCE)
        assert run.error is None
        assert run.end == End("complete")
        assert run.done() == run.all_but()
        assert run.words == ["The Dask scheduler was lost; the cluster has been started again."]


def script(folder: Path, image: Path, body: str) -> tuple[str, str]:
    """Run a guarded script that has `Run` and an image at hand; return what it printed."""
    text = """
        import os, sys, time
        from pathlib import Path
        from distributed import Client, LocalCluster
        from tilevision.cluster import attach
        from tilevision.errors import ClusterError
        from test_fanout import Run, scripted, wait_until, work_on

        def main():
            image = Path(sys.argv[1])
    """
    text = textwrap.dedent(text) + textwrap.indent(textwrap.dedent(body), " " * 4)
    (folder / "guarded.py").write_text(text + '\nif __name__ == "__main__":\n    main()\n')
    done = subprocess.run(
        [sys.executable, "guarded.py", str(image)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.stdout.strip(), done.stderr


@pytest.mark.slow
def test_a_users_cluster_works_and_stays(tmp_path: Path, image: Path) -> None:
    """On a cluster of the user's, with its own settings, a killer is found out just the same."""
    out, err = script(
        tmp_path,
        image,
        """
        with LocalCluster(2, threads_per_worker=1) as theirs, Client(theirs) as client:
            run = Run(attach(client), work_on(image, scripted({8: "exit"}, 0.0, None)))
            end = run()
            print(end.status, [t.id for t in end.failures], run.done() == run.all_but(8))
            print(client.submit(sum, [1, 2]).result())
        """,
    )
    assert out.splitlines() == ["partial ['r001c002'] True", "3"], err


@pytest.mark.slow
def test_a_users_lost_cluster_is_one_error(tmp_path: Path, image: Path) -> None:
    """A user's cluster closed in the middle of a run ends it with one error, at once."""
    out, err = script(
        tmp_path,
        image,
        """
        theirs = LocalCluster(2, threads_per_worker=1)
        client = Client(theirs)
        run = Run(attach(client), work_on(image, scripted({}, 0.2, None)))
        thread = run.in_background()
        wait_until(lambda: run.kept, "the first tile is done")
        theirs.close()
        began = time.monotonic()
        thread.join(200)
        print(type(run.error).__name__, time.monotonic() - began < 30)
        print(run.error)
        """,
    )
    first, second = out.splitlines()
    assert first == "ClusterError True", err
    assert second.startswith("The Dask cluster was closed or lost its scheduler; ")


@pytest.mark.slow
def test_a_cluster_closed_under_a_run_is_one_error(image: Path) -> None:
    """Our own cluster, once it is closed on purpose, is not started again by a run."""
    with local_cluster(1) as cluster:
        run = Run(cluster, work_on(image, scripted({}, 0.2, None)))
        thread = run.in_background()
        wait_until(lambda: run.kept, "the first tile is done")
    thread.join(PATIENCE)
    assert isinstance(run.error, ClusterError)


@pytest.mark.slow
def test_two_runs_share_a_cluster(cluster: LocalCluster, image: Path) -> None:
    """Runs side by side on one cluster complete, and one's killer costs the other no tile."""
    killer = Run(cluster, work_on(image, scripted({8: "exit"}, 0.02, None)))
    innocent = Run(cluster, work_on(image, scripted({}, 0.02, None)))
    threads = [killer.in_background(), innocent.in_background()]
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert killer.error is None and innocent.error is None
    assert killer.done() == killer.all_but(8)
    assert innocent.end == End("complete") and innocent.done() == innocent.all_but()


@pytest.mark.slow
def test_two_runs_survive_the_loss_of_their_scheduler(image: Path) -> None:
    """Runs that share our cluster rebuild it once, and both complete."""
    with shared_cluster(2) as one, shared_cluster() as two:
        runs = [Run(c, work_on(image, scripted({}, 0.1, None))) for c in (one, two)]
        threads = [run.in_background() for run in runs]
        wait_until(lambda: all(run.kept for run in runs), "both have begun")
        psutil.Process(one.client.run_on_scheduler(os.getpid)).kill()
        for thread in threads:
            thread.join(2 * PATIENCE)
        assert [run.error for run in runs] == [None, None]
        assert all(run.end == End("complete") for run in runs)
        assert all(run.done() == run.all_but() for run in runs)
        assert one.client is two.client and one.alive and two.alive


# The watchdog ----------------------------------------------------------------------------


def test_the_watchdog_speaks_once_a_minute() -> None:
    """Standing still is told after a minute, again after another, and not while things move."""
    words: list[str] = []
    dog = Watchdog(words.append, now=0.0)
    for second in range(1, 150):
        dog.saw(2, float(second))
        dog.check(3, float(second))
    assert [word.split(";")[0] for word in words] == [
        "No tile has come back for 60 s (3 tasks in progress)",
        "No tile has come back for 120 s (3 tasks in progress)",
    ]
    dog.moved(150.0)
    dog.check(3, 151.0)
    dog.saw(2, 290.0)
    dog.check(0, 290.0)
    assert len(words) == 2


def test_the_watchdog_tells_of_missing_workers() -> None:
    """A cluster without workers is told after a few seconds, and its age is known."""
    words: list[str] = []
    dog = Watchdog(words.append, now=0.0)
    dog.saw(0, 4.0)
    dog.check(1, 4.0)
    assert not words
    dog.check(1, 6.0)
    assert words == ["The Dask cluster has had no worker for 6 s; waiting for one."]
    assert dog.workerless(6.0) == 6.0
    dog.saw(1, 7.0)
    assert dog.workerless(7.0) == 0.0
    dog.check(1, 8.0)
    assert len(words) == 1
