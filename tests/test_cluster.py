"""The Dask cluster: up without a guard, quiet, and gone with its client."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import psutil
import pytest
from distributed import Client

from tilevision.cluster import (
    LocalCluster,
    attach,
    find_cluster,
    local_cluster,
    shared_cluster,
)
from tilevision.cluster import choosing as shelf
from tilevision.cluster import processes as starting
from tilevision.errors import ClusterError, RunError

MARK = "TILEVISION_TEST_MARK"
PATIENCE = 200.0


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for `condition`, and fail naming it."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {PATIENCE:.0f} s until {what}"
        time.sleep(0.05)


class Script:
    """A plain script in a process group of its own, and all processes that descend from it."""

    def __init__(self, folder: Path, code: str) -> None:
        self.mark = uuid.uuid4().hex
        (folder / "plain.py").write_text(textwrap.dedent(code))
        self.process = subprocess.Popen(
            [sys.executable, "plain.py"],
            cwd=folder,
            env=os.environ | {MARK: self.mark},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def line(self) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def finish(self) -> tuple[str, str, int]:
        """Return what it printed, what it complained about, and its exit code."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return out.strip(), err.strip(), self.process.returncode

    def living(self) -> list[psutil.Process]:
        """Return all processes that carry the mark, the script's own included."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[[str], Script]]:
    started: list[Script] = []

    def start(code: str) -> Script:
        started.append(Script(tmp_path, code))
        return started[-1]

    yield start
    for one in started:
        for process in one.living():
            process.kill()
        one.process.communicate()


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with (
        dask.config.set({"distributed.scheduler.unknown-task-duration": "77 s"}),
        local_cluster(2) as running,
    ):
        yield running


# Arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, -1, True, 1.5, "2"])
def test_workers_must_be_a_whole_number(workers: object) -> None:
    """A senseless number of workers is refused in one line that says what to give."""
    with pytest.raises(RunError, match=r"^workers is .*; give a whole number of 1 or more\.$"):
        local_cluster(workers)  # type: ignore[arg-type]


def test_shared_cluster_refuses_the_same_numbers() -> None:
    """The shared cluster checks its argument before it starts anything."""
    with pytest.raises(RunError, match="workers is 0"):
        shared_cluster(0)


@pytest.mark.parametrize("limit", ["lots", "-", object()])
def test_memory_limit_must_be_understood(limit: object) -> None:
    """A memory limit that is no size is refused in one line."""
    with pytest.raises(RunError, match=r"^memory_limit is .*give 'auto'"):
        local_cluster(1, memory_limit=limit)  # type: ignore[arg-type]


@pytest.mark.parametrize("client", ["tcp://127.0.0.1:1", None, 3])
def test_attach_takes_only_a_client(client: object) -> None:
    """What is not a Dask client is refused, with the way to make one."""
    with pytest.raises(ClusterError, match=r"give a dask\.distributed\.Client"):
        attach(client)


# A running cluster -----------------------------------------------------------------------


@pytest.mark.slow
def test_workers_take_over_the_environment_of_the_client(cluster: LocalCluster) -> None:
    """Workers get the client's paths, one native thread each, and ignore Ctrl-C."""

    def look() -> tuple[list[str], str | None, bool]:
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        return sys.path, os.environ.get("OMP_NUM_THREADS"), ignored

    seen = cluster.client.run(look)
    assert len(seen) == 2
    for path, threads, ignored in seen.values():
        assert set(sys.path) - {""} <= set(path)
        assert threads == os.environ.get("OMP_NUM_THREADS", "1")
        assert ignored


def test_processes_look_at_themselves_less_often_unless_the_user_says_how_often() -> None:
    """Dask's defaults are calmed in our processes; the client's own configuration stays."""
    before = dask.config.serialize(dask.config.config)
    ours = starting._portable_config()
    assert dask.config.get("distributed.worker.profile.interval", config=ours) == "100ms"
    assert dask.config.get("distributed.admin.tick.interval", config=ours) == "500ms"
    assert dask.config.serialize(dask.config.config) == before
    with dask.config.set({"distributed.worker.profile.interval": "25ms"}):
        theirs = starting._portable_config()
    assert dask.config.get("distributed.worker.profile.interval", config=theirs) == "25ms"


@pytest.mark.slow
@pytest.mark.skipif(not starting.FORKING, reason="counts page faults as Linux does")
def test_workers_keep_the_memory_that_the_next_tile_needs(cluster: LocalCluster) -> None:
    """Arrays as large as a tile, made and freed again and again, lie in the same memory.

    Counted are the pages that the kernel had to provide: 2,048 for 8 MB each time that the
    memory is given back in between, which costs more than most models' work on a tile.
    """

    def provided() -> int:
        import resource

        import numpy as np

        def spent() -> int:
            np.ones(2**20)
            return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt

        spent()
        before = spent()
        return max(spent() for _ in range(20)) - before

    workers = cluster.workers()
    asked = [cluster.client.submit(provided, pure=False, workers=[one]) for one in workers]
    assert len(asked) == 2 and all(one.result(timeout=200) < 2048 for one in asked)


def test_memory_is_given_back_as_dask_does_it_where_the_user_says_how() -> None:
    """A threshold of the user's, in Dask's configuration or the environment, stays."""
    early = "distributed.nanny.pre-spawn-environ"
    with dask.config.set({f"{early}.MALLOC_TRIM_THRESHOLD_": 2**16 + 1}):
        theirs = starting._before_imports(dask.config.serialize(starting._portable_config()))
    assert theirs["MALLOC_TRIM_THRESHOLD_"] == "65537"
    assert "MALLOC_MMAP_THRESHOLD_" not in theirs
    ours = starting._before_imports(dask.config.serialize(starting._portable_config()))
    assert int(ours["MALLOC_TRIM_THRESHOLD_"]) > int(ours["MALLOC_MMAP_THRESHOLD_"]) > 2**24


@pytest.mark.slow
def test_our_cluster_tells_what_it_is(cluster: LocalCluster) -> None:
    """A local cluster is ours, counts its workers, links its dashboard, and is not the default."""
    assert cluster.owned and cluster.alive
    assert list(cluster.workers().values()) == [1, 1]
    assert cluster.dashboard_link.startswith("http://127.0.0.1:")
    with pytest.raises(ValueError, match="No clients found"):
        Client.current()


@pytest.mark.slow
def test_a_task_that_dies_is_not_tried_again_by_dask(cluster: LocalCluster) -> None:
    """Dask gives up a task at the first death; who is to blame is not its business."""
    failures = cluster.client.run_on_scheduler(
        lambda dask_scheduler: dask_scheduler.allowed_failures
    )
    assert failures == 0


@pytest.mark.slow
def test_restarting_a_worker_replaces_it(cluster: LocalCluster) -> None:
    """A worker stuck in a task is replaced by another while its neighbour stays."""
    victim, other = cluster.workers()
    stuck = cluster.client.submit(time.sleep, 600, workers=[victim], pure=False)
    wait_until(lambda: cluster.client.processing()[victim], "the worker is stuck")
    stuck.release()
    cluster.restart_worker(victim)
    wait_until(
        lambda: victim not in cluster.workers() and len(cluster.workers()) == 2,
        "the worker is replaced",
    )
    assert other in cluster.workers()


@pytest.mark.slow
def test_a_nanny_that_dies_is_replaced(cluster: LocalCluster) -> None:
    """Losing a whole worker entry, nanny included, leaves as many workers as asked for."""
    before = set(cluster.workers())
    victim = sorted(before)[0]
    nanny = cluster.client.run(os.getppid, workers=[victim])[victim]
    psutil.Process(nanny).kill()
    wait_until(
        lambda: victim not in cluster.workers() and len(cluster.workers()) == 2,
        "the nanny is replaced",
    )


@pytest.mark.slow
def test_configuration_reaches_scheduler_and_workers(cluster: LocalCluster) -> None:
    """Dask settings of the client hold in the scheduler and in the workers."""

    def setting() -> str:
        return str(dask.config.get("distributed.scheduler.unknown-task-duration"))

    assert cluster.client.run_on_scheduler(setting) == "77 s"
    assert set(cluster.client.run(setting).values()) == {"77 s"}


@pytest.mark.slow
def test_a_lost_scheduler_is_noticed_and_rebuilt() -> None:
    """A killed scheduler shows at once; rebuilding gives a working cluster, without leftovers.

    Closed, it is not alive and has taken its temporary folder along; closing again is harmless.
    """
    with local_cluster(1) as cluster:
        scheduler = psutil.Process(cluster.client.run_on_scheduler(os.getpid))
        nanny = psutil.Process(next(iter(cluster.client.run(os.getppid).values())))
        scheduler.kill()
        wait_until(lambda: not cluster.alive, "the loss is noticed")
        cluster.rebuild()
        assert cluster.alive
        assert cluster.client.submit(sum, [1, 2]).result() == 3
        wait_until(lambda: not nanny.is_running(), "the old nanny is gone")
        local = cluster.client.run(lambda dask_worker: dask_worker.local_directory)
    cluster.close()  # again
    assert not cluster.alive
    wait_until(lambda: not Path(next(iter(local.values()))).exists(), "the folder is gone")
    with pytest.raises(ClusterError, match="was closed"):
        cluster.rebuild()


@pytest.mark.slow
def test_a_cluster_that_cannot_start_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the first process died of is in the error, in one line, and nothing is left over."""
    monkeypatch.setattr(starting, "_hosts", {})
    monkeypatch.setattr(starting, "BOOTSTRAP", "raise SystemExit('no luck today')")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ClusterError, match=r"did not start \(no luck today\); try fewer workers"):
        local_cluster(1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_clusters_of_one_client_are_forked_from_one_host(cluster: LocalCluster) -> None:
    """Costly imports happen once; environment, folder and random numbers are each one's own."""

    def look() -> tuple[str | None, str, float, bool]:
        import numpy as np

        mark = os.environ.get("TILEVISION_TEST_OWN")
        number = float(np.random.rand())  # noqa: NPY002 old code of users draws like this
        return mark, str(Path.cwd()), number, "distributed.scheduler" in sys.modules

    users = cluster._host.users
    with dask.config.set({"distributed.scheduler.unknown-task-duration": "77 s"}):
        os.environ["TILEVISION_TEST_OWN"] = "later"
        try:
            with local_cluster(2) as second:
                assert second._host is cluster._host and second._host.users == users + 1
                seen = {**cluster.client.run(look), **second.client.run(look)}
        finally:
            del os.environ["TILEVISION_TEST_OWN"]
    assert cluster.alive and cluster._host.users == users
    assert Counter(mark for mark, *_ in seen.values()) == {None: 2, "later": 2}
    assert {folder for _, folder, _, _ in seen.values()} == {str(Path.cwd())}
    assert len({number for _, _, number, _ in seen.values()}) == 4
    assert all(warm for *_, warm in seen.values())


@pytest.mark.slow
def test_a_cluster_outlives_the_host_of_its_processes() -> None:
    """Where the host is killed its processes end, and the cluster can be built anew."""
    with (
        dask.config.set({"distributed.scheduler.unknown-task-duration": "78 s"}),
        local_cluster(1) as mine,
    ):
        family = psutil.Process(mine._host._shared._process.pid)
        members = family.children(recursive=True)
        family.kill()
        psutil.wait_procs(members, timeout=PATIENCE)
        wait_until(lambda: not mine.alive, "the loss is noticed")
        mine.rebuild()
        assert mine.client.submit(sum, [1, 2]).result() == 3
    assert not any(member.is_running() for member in members)


@pytest.mark.slow
def test_where_nothing_can_be_forked_each_server_is_an_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cluster works without forks (as on macOS), replaces a dead nanny, and leaves nothing."""
    start = "order = next_order"
    unable = f"from tilevision.cluster import child\nchild.FORKING = False\n{start}"
    monkeypatch.setattr(starting, "BOOTSTRAP", starting.BOOTSTRAP.replace(start, unable))
    monkeypatch.setattr(starting, "FORKING", False)
    monkeypatch.setattr(starting, "_hosts", {})
    before = psutil.Process().children(recursive=True)
    with local_cluster(1) as mine:
        nanny = next(iter(mine._processes.workers.values())).process
        assert mine.client.submit(sum, [1, 2]).result() == 3
        orphan = set(mine.workers())
        psutil.Process(nanny.pid).kill()
        wait_until(lambda: nanny.returncode is not None, "the death is noticed")
        wait_until(lambda: not orphan & set(mine.workers()), "its worker is gone as well")
        assert mine.client.submit(sum, [2, 2]).result(timeout=PATIENCE) == 4
        started = psutil.Process().children(recursive=True)
        ours = [process for process in started if process not in before]
        assert len(ours) >= 3
    _, alive = psutil.wait_procs(ours, timeout=PATIENCE)
    assert alive == []


@pytest.mark.slow
def test_a_cluster_that_is_expected_is_used_or_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """What starts beside other work is the cluster of the next run; without one it ends."""
    monkeypatch.setattr(shelf, "_shelf", shelf._Shelf())
    shelf.expect_cluster(workers=1)
    begun = shelf._shelf.cluster
    assert begun is not None and begun.size == 1
    shelf.no_cluster_yet()
    assert begun.closed and shelf._shelf.cluster is None
    shelf.expect_cluster(workers=2, usual=1)
    begun = shelf._shelf.cluster
    shelf.expect_cluster(workers=1)
    assert shelf._shelf.cluster is begun and begun is not None
    with shared_cluster(2):
        shelf.no_cluster_yet()
    shelf.no_cluster_yet()
    assert shelf._shelf.cluster is begun and begun.alive
    begun.close()


def test_where_the_user_gives_a_client_no_cluster_is_expected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is begun for a run that has its cluster already."""
    monkeypatch.setattr(shelf, "_shelf", shelf._Shelf())
    shelf.expect_cluster(client=object())
    monkeypatch.setattr(shelf, "_current", object)
    shelf.expect_cluster()
    assert shelf._shelf.cluster is None


@pytest.mark.slow
def test_a_fork_of_the_client_may_end(cluster: LocalCluster) -> None:
    """A forked child that closes what it inherited does not take the parent's cluster along."""
    child = os.fork()
    if child == 0:
        cluster.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert cluster.alive
    assert cluster.client.submit(sum, [1, 2], pure=False).result() == 3


# A user's cluster ------------------------------------------------------------------------


@pytest.mark.slow
def test_an_attached_cluster_stays_the_users(cluster: LocalCluster) -> None:
    """Closing what was attached closes nothing, and it cannot be rebuilt by us."""
    with Client(cluster.client.scheduler.address, set_as_default=False) as client:
        with attach(client) as attached:
            assert not attached.owned and attached.alive
            assert attached.workers() == cluster.workers()
        assert client.status == "running"
        with pytest.raises(ClusterError, match="start it again"):
            attached.rebuild()
    assert not attached.alive
    with pytest.raises(ClusterError, match="is closed"):
        attach(client)


@pytest.mark.slow
def test_a_current_client_is_used_and_said_so(cluster: LocalCluster) -> None:
    """Without client= the user's current client is taken, and named."""
    address = cluster.client.scheduler.address
    with Client(address) as client:
        found, note = find_cluster()
        assert found.client is client and note == f"Using the current Dask client: {address}"
        assert find_cluster(client)[1] == ""


@pytest.mark.slow
def test_a_cluster_that_repeats_crashes_is_taken_as_it_is() -> None:
    """What a user's cluster does about crashes is accepted, and said in one line."""
    with Client(processes=False, dashboard_address=":0", set_as_default=False) as client:
        found, note = find_cluster(client)
        assert found.client is client
        assert note.startswith("This Dask cluster repeats a task on 4 workers")


# The shared cluster ----------------------------------------------------------------------


@pytest.fixture
def empty_shelf() -> Iterator[None]:
    yield
    if shelf._shelf.cluster is not None:
        shelf._shelf.cluster.close()
    shelf._shelf.cluster = None
    shelf._shelf.users = 0


@pytest.mark.slow
@pytest.mark.usefixtures("empty_shelf")
def test_the_shared_cluster_is_started_once() -> None:
    """A second run borrows the cluster of the first; a dead one is started anew.

    Asking for another size while it is in use gets a cluster of its own, which is closed after
    use; once it is free, the shared one is replaced by one of that size.
    """
    with shared_cluster(1) as first:
        address = first.client.scheduler.address
    with shared_cluster(1) as second, shared_cluster() as third:
        assert second.client.scheduler.address == third.client.scheduler.address == address
    psutil.Process(second.client.run_on_scheduler(os.getpid)).kill()
    wait_until(lambda: not second.alive, "the loss is noticed")
    with shared_cluster(1) as fourth:
        assert fourth.alive and fourth.client.scheduler.address != address
        with shared_cluster(2) as fifth:
            assert len(fifth.workers()) == 2
        assert not fifth.alive
        assert fourth.alive and len(fourth.workers()) == 1
    with shared_cluster(2) as sixth:
        assert len(sixth.workers()) == 2 and not fourth.alive


@pytest.mark.slow
@pytest.mark.usefixtures("empty_shelf")
def test_edited_modules_reach_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that was edited between two runs is not run in its old form by kept workers."""
    monkeypatch.syspath_prepend(tmp_path)
    beside = tmp_path / "beside_shared.py"
    beside.write_text("def answer():\n    return 1\n")
    import beside_shared  # type: ignore[import-not-found]  # written just above

    def call() -> int:
        import beside_shared

        return int(beside_shared.answer())

    try:
        with shared_cluster(1) as cluster:
            assert set(cluster.client.run(call).values()) == {1}
        beside.write_text("def answer():\n    return 22\n")
        with shared_cluster(1) as cluster:
            assert set(cluster.client.run(call).values()) == {22}
    finally:
        del sys.modules["beside_shared"]
    assert beside_shared.answer() == 1  # the client's own copy is the client's business


# Whole processes -------------------------------------------------------------------------

PLAIN = """
from tilevision.cluster import local_cluster
import beside
cluster = local_cluster(1)
print(cluster.client.submit(beside.answer, 6).result(), flush=True)
"""


@pytest.mark.slow
def test_a_plain_script_needs_no_guard(tmp_path: Path, script: Callable[[str], Script]) -> None:
    """A top-level script with a module beside it runs, says nothing else, and leaves no process."""
    (tmp_path / "beside.py").write_text("def answer(x):\n    print('loud')\n    return 7 * x\n")
    one = script(PLAIN)
    assert one.finish() == ("42", "", 0)
    wait_until(lambda: not one.living(), "all processes are gone")


@pytest.mark.slow
def test_nothing_survives_a_killed_client(tmp_path: Path, script: Callable[[str], Script]) -> None:
    """After kill -9 of the client no process and no temporary folder is left."""
    one = script(
        """
        import time
        from tilevision.cluster import local_cluster
        cluster = local_cluster(1)
        print(cluster._folder, flush=True)
        stuck = cluster.client.submit(time.sleep, 600)
        time.sleep(600)
        """
    )
    folder = Path(one.line())
    assert len(one.living()) >= 4  # the script, the scheduler, a nanny, a worker
    one.process.kill()
    wait_until(lambda: not one.living(), "all processes are gone")
    wait_until(lambda: not folder.exists(), "the folder is gone")


@pytest.mark.slow
def test_ctrl_c_reaches_only_the_client(script: Callable[[str], Script]) -> None:
    """An interrupt of the whole process group leaves workers and scheduler at work."""
    one = script(
        """
        import os, sys
        from tilevision.cluster import local_cluster
        cluster = local_cluster(1)
        before = cluster.client.run(os.getpid)
        try:
            print("up", flush=True)
            sys.stdin.read()
        except KeyboardInterrupt:
            print(cluster.client.run(os.getpid) == before, flush=True)
        """
    )
    assert one.line() == "up"
    os.killpg(one.process.pid, signal.SIGINT)
    assert one.finish() == ("True", "", 0)
    wait_until(lambda: not one.living(), "all processes are gone")


@pytest.mark.slow
def test_deaths_are_not_reported_on_the_terminal(script: Callable[[str], Script]) -> None:
    """Workers that die, a killed scheduler and an unclosed cluster leave the terminal clean."""
    one = script(
        """
        import os, time
        from tilevision.cluster import local_cluster
        cluster = local_cluster(1)
        doomed = cluster.client.submit(os._exit, 3)
        print(type(doomed.exception()).__name__, flush=True)
        os.kill(cluster.client.run_on_scheduler(os.getpid), 9)
        while cluster.alive:
            time.sleep(0.05)
        """
    )
    assert one.finish() == ("KilledWorker", "", 0)
    wait_until(lambda: not one.living(), "all processes are gone")
