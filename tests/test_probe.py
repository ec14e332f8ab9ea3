"""What stops a run on a cluster is found before the first tile, and named with its remedy."""

import importlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import tifffile
from distributed import Client
from distributed import LocalCluster as DaskCluster
from foreign import OLDER, WITHOUT_US, ForeignCluster, wait_until
from hypothesis import given
from hypothesis import strategies as st

import tilevision as tv
from tilevision.adapters.modelfiles import content_of
from tilevision.catalogue import resolve
from tilevision.cluster import attach
from tilevision.errors import ClusterError, ModelError
from tilevision.events import StageDone
from tilevision.fanout import client, loop
from tilevision.fanout import survey as surveying
from tilevision.fanout.probe import Fitness, complaint, probe
from tilevision.fanout.survey import PACKAGES, Member, Survey, compare
from tilevision.infer import Work
from tilevision.modelspec import ModelSpec
from tilevision.readiness import examine
from tilevision.sources import SourceRef, open_source, read_options
from tilevision.sources.staging.stagingfile import staging_folder

SIDE = 8
TILE = 32
HERE = {"python": "3.11.7.final.0", **dict.fromkeys(PACKAGES, "2026.8.0")}
SCHEDULER = Member("scheduler tcp://10.0.0.1:8786", "tcp://10.0.0.1:8786")


def spots(pixels: Any) -> Any:
    """Find one spot on every tile."""
    return np.array([[1.0, 1.0, 5.0, 5.0, 0.5, 0]])


def work_on(image: Path) -> Work:
    source = open_source(image)
    return Work(source.reference, read_options(source), resolve(tv.model(spots)))


def without_namespaces() -> str:
    """Return why this machine gives a process no file system of its own; empty if it does."""
    if not sys.platform.startswith("linux"):
        return "mount namespaces are Linux's"
    tried = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return tried.stderr.decode().strip() if tried.returncode else ""


def hiding(folder: Path) -> tuple[str, ...]:
    """Return the command within which a process finds `folder` empty, as on another machine."""
    script = f'mount -t tmpfs none "{folder}" && exec "$@"'
    return ("unshare", "-rm", "sh", "-c", script, "sh")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "scene.tif"
    pixels = np.arange(SIDE * SIDE * TILE * TILE, dtype=np.uint8).reshape(SIDE * TILE, SIDE * TILE)
    tifffile.imwrite(path, pixels, tile=(TILE, TILE))
    return path


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[ForeignCluster]:
    cluster = ForeignCluster(tmp_path)
    yield cluster
    cluster.close()


# Versions ---------------------------------------------------------------------------------


@given(st.dictionaries(st.sampled_from(["python", *PACKAGES]), st.none() | st.text(max_size=12)))
def test_the_same_versions_differ_in_nothing(versions: dict[str, str | None]) -> None:
    """Whatever is installed, two alike have nothing to say; nor has one that knows nothing."""
    assert compare(versions, dict(versions), code=True) == compare(versions, {})
    assert compare(versions, {}).troubles == compare({}, versions).notes == ()


@given(
    st.dictionaries(st.sampled_from(["python", *PACKAGES]), st.text(max_size=12)),
    st.dictionaries(st.sampled_from(["python", *PACKAGES]), st.text(max_size=12)),
)
def test_a_difference_is_told_once(here: dict[str, str], there: dict[str, str]) -> None:
    """Each package that differs is a trouble or a note, never both, whatever versions look like."""
    found = compare(here, there)
    told = [line.split()[1] for line in found.troubles] + [n.split()[0] for n in found.notes]
    assert len(told) == len(set(told))
    assert set(told) <= {p for p in here if p in there and here[p] != there[p]}


@pytest.mark.parametrize(
    ("package", "theirs", "code", "stops"),
    [
        ("tilevision", "0.0.9", False, True),
        ("python", "3.12.1.final.0", True, True),
        ("python", "3.12.1.final.0", False, False),
        ("distributed", "2026.3.0", True, False),
        ("distributed", "2025.8.0", True, False),
        ("distributed", "2025.7.0", False, True),
        ("distributed", "2027.10.0", False, True),
        ("distributed", "0+untagged", False, False),
        ("numpy", "1.26.4", True, False),
        ("cloudpickle", "2.2.1", True, False),
    ],
)
def test_some_differences_stop_a_run(package: str, theirs: str, code: bool, stops: bool) -> None:
    """What cannot work together stops the run; what may differ in a digit is a note."""
    found = compare(HERE, HERE | {package: theirs}, code=code)
    assert [bool(found.troubles), bool(found.notes)] == [stops, not stops]
    assert package in (found.troubles + found.notes)[0]


def test_a_bug_fix_of_python_is_no_difference() -> None:
    """3.11.7 and 3.11.9 read the same bytecode."""
    assert compare(HERE, HERE | {"python": "3.11.9.final.0"}, code=True) == compare({}, {})


# What a process finds of itself -----------------------------------------------------------


def test_a_process_that_can_do_the_work_has_no_troubles(image: Path) -> None:
    """Where all is there, nothing is said, and where big pictures would be decoded is known."""
    work = work_on(image)
    found = examine(work.source, work.model)
    assert found.troubles == ()
    assert found.version == tv.__version__
    assert found.temp_free > 0


def test_an_image_that_is_not_there(image: Path) -> None:
    """The path is named, and what to do: mount it, or pass a URL."""
    source = replace(open_source(image).reference, path="/nowhere/scene.tif")
    (trouble,) = examine(source).troubles
    assert trouble == (
        "cannot read /nowhere/scene.tif: No such file or directory; "
        "mount the folder there, or pass a URL"
    )


def test_another_image_under_the_same_name(image: Path, tmp_path: Path) -> None:
    """A file whose content is not the client's is refused: its tiles would be stored as ours."""
    other = tmp_path / "scene.tif"
    other.write_bytes(image.read_bytes()[:-1] + b"x")
    (trouble,) = examine(replace(open_source(image).reference, path=str(other))).troubles
    assert trouble.startswith(f"has another file at {other}: ")


def test_an_array_that_is_staged_elsewhere(tmp_path: Path) -> None:
    """An image that was in the client's memory lies on the client's disk only."""
    source = open_source(np.zeros((64, 64, 3), np.uint8))
    gone = replace(source.reference, path=str(tmp_path / "gone.npy"))
    (trouble,) = examine(gone).troubles
    assert "this worker runs on another host" in trouble
    assert "pass the path" in trouble


def test_an_opener_that_is_not_there() -> None:
    """A source of the user's own has to be importable, and the message says so."""
    (trouble,) = examine(SourceRef("nowhere.sources:open", "/data/a.xyz")).troubles
    assert "importable on every worker" in trouble


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (ModelSpec("ships", "nowhere.models:load", "1"), "nowhere.models:load"),
        (ModelSpec("ships", "tilevision.adapters.function:from_function", "1", {}, b"x"), "Unpick"),
        (
            ModelSpec(
                *("ships", "tilevision.adapters.function:from_function", "1", {}),
                b"cno_such_library\nDetector\n.",
            ),
            "No module named 'no_such_library'",
        ),
    ],
)
def test_a_model_that_cannot_be_had(model: ModelSpec, says: str) -> None:
    """A factory, a library or code that is missing is told by the model's name."""
    (trouble,) = examine(model=model).troubles
    assert trouble.startswith("cannot run model ships: ")
    assert says in trouble


# One error --------------------------------------------------------------------------------


def test_hosts_with_the_same_trouble_are_told_together() -> None:
    """A folder that is mounted nowhere is one sentence, however many hosts lack it."""
    hosts = tuple(Member(f"10.0.0.{n}", "", troubles=("has no tilevision",)) for n in range(9))
    line = complaint(Survey(SCHEDULER, hosts))
    assert line == (
        "Worker hosts 10.0.0.0, 10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4, 10.0.0.5 "
        "and 3 more have no tilevision."
    )


def test_the_error_is_bounded() -> None:
    """A hundred hosts with a hundred troubles are still a message that can be read."""
    hosts = tuple(Member(f"10.0.0.{n}", "", troubles=("x" * 400 + str(n),)) for n in range(100))
    line = complaint(Survey(SCHEDULER, hosts))
    assert len(line) < 4000
    assert line.endswith("94 more hosts have other troubles.")


def test_nothing_to_complain_about() -> None:
    """A cluster without workers yet, or with good ones, is used."""
    assert complaint(Survey(SCHEDULER, ())) == ""
    assert complaint(Survey(SCHEDULER, (Member("10.0.0.5", "", notes=("numpy 2",)),))) == ""


# Weights ----------------------------------------------------------------------------------


def test_weights_that_are_not_there_or_are_others(tmp_path: Path) -> None:
    """A host is told which file it lacks, or has with another content, before the first tile."""
    weights = tmp_path / "weights.onnx"
    weights.write_bytes(b"not opened here")
    spec = ModelSpec(
        name="weights.onnx",
        factory="tilevision.adapters.onnx.detector:load",
        fingerprint="x",
        params={"path": str(weights), "content": content_of(weights)},
    )
    assert not any(str(weights) in trouble for trouble in examine(model=spec).troubles)
    weights.write_bytes(b"another one")
    (other,) = [t for t in examine(model=spec).troubles if "content is not the client's" in t]
    assert other.startswith(f"has another model at {weights}")
    weights.unlink()
    (gone,) = [t for t in examine(model=spec).troubles if t.startswith("cannot see")]
    assert str(weights) in gone and "all workers share" in gone


# Clusters ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_host_that_joins_later_and_cannot_work_is_left_out(
    foreign: ForeignCluster, image: Path, tmp_path: Path
) -> None:
    """It examines itself before its first tile; its tiles go to the others, without blame."""
    reason = without_namespaces()
    if reason:
        pytest.skip(f"no mount namespaces here: {reason}")
    foreign.add("127.0.0.2")
    foreign.ready()

    gate = tmp_path / "open"

    def gated(pixels: Any) -> Any:
        while not gate.exists():
            time.sleep(0.05)
        return []

    def said() -> list[str]:
        waiting = [e for e in run.events() if isinstance(e, StageDone) and e.stage == "waiting"]
        return [event.message for event in waiting if "left out" in event.message]

    run = tv.start(image, gated, grid=TILE, client=foreign.client, checkpoint=None, batch_size=1)
    wait_until(lambda: run.counts.get("running"), "the run has looked who is there")
    foreign.add("127.0.0.5", within=hiding(image.parent))
    wait_until(said, "the host is left out")
    gate.touch()
    result = run.result(timeout=200)
    assert result.complete
    assert set(result.tiles["attempts"]) == {1}
    assert all("127.0.0.2" in worker for worker in result.tiles["worker"])
    (line,) = said()
    assert line.startswith(f"Worker host 127.0.0.5 is left out of this run: it cannot read {image}")


@pytest.mark.slow
def test_a_run_whose_only_host_cannot_work_stops_with_its_reason(
    foreign: ForeignCluster, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster that had no worker at first gets one that cannot: one error, no hang.

    Also where that worker answers before the client has looked who is there.
    """
    reason = without_namespaces()
    if reason:
        pytest.skip(f"no mount namespaces here: {reason}")
    monkeypatch.setattr(loop, "HEARTBEAT_SECONDS", 3600.0)
    run = tv.start(image, spots, grid=TILE, client=foreign.client, checkpoint=None)
    foreign.add("127.0.0.5", within=hiding(image.parent))
    with pytest.raises(ClusterError, match=r"Worker host 127\.0\.0\.5 cannot read"):
        run.result(timeout=200)


@pytest.mark.slow
def test_hosts_that_cannot_work_are_named_once_and_left_out(
    foreign: ForeignCluster, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line names every host, what it lacks and the remedy; the others do the work.

    A host that hangs costs no hang. A run stops only where no host is left.
    """
    reason = without_namespaces()
    if reason:
        pytest.skip(f"no mount namespaces here: {reason}")
    monkeypatch.setattr(surveying, "ANSWER_SECONDS", 6.0)
    monkeypatch.setattr(client, "UNFIT_BRING_SECONDS", 0.5)
    foreign.add("127.0.0.2")
    foreign.add("127.0.0.3", startup=WITHOUT_US)
    foreign.add("127.0.0.4", startup=OLDER)
    foreign.add("127.0.0.5", "127.0.0.6", within=hiding(image.parent))
    foreign.add("127.0.0.7")
    foreign.ready()
    foreign.processes["127.0.0.7"].send_signal(signal.SIGSTOP)
    run = tv.start(image, spots, grid=TILE, client=foreign.client, checkpoint=None)
    result = run.result(timeout=200)
    assert result.complete
    assert set(result.tiles["attempts"]) == {1}
    assert all("//127.0.0.2:" in worker for worker in result.tiles["worker"])
    waiting = [e for e in run.events() if isinstance(e, StageDone) and e.stage == "waiting"]
    (line,) = [event.message for event in waiting if "left out" in event.message]
    ours = tv.__version__
    assert line.startswith("5 of 6 worker hosts are left out of this run. Worker host ")
    assert f"Worker host 127.0.0.3 has no tilevision; install tilevision {ours} there" in line
    assert f"Worker host 127.0.0.4 has tilevision 0.0.9 and the client {ours}" in line
    assert f"127.0.0.5 and 127.0.0.6 cannot read {image}: No such file or directory; mount" in line
    assert re.search(r"Worker host 127\.0\.0\.7 does not answer within 6 s \(tcp://", line)
    assert "127.0.0.2" not in line
    assert "\n" not in line
    for host in ("127.0.0.2", "127.0.0.3", "127.0.0.6", "127.0.0.7"):
        foreign.stop(host)
    wait_until(lambda: len(foreign.client.nthreads()) == 2, "no good worker is left")
    with pytest.raises(ClusterError, match=r"^Worker host 127\.0\.0\.4 has .*127\.0\.0\.5 cannot"):
        tv.analyze(image, spots, grid=TILE, client=foreign.client, checkpoint=None)


@pytest.mark.slow
def test_a_scheduler_without_tilevision_is_named(tmp_path: Path, image: Path) -> None:
    """The scheduler opens the graph, which names our functions: without them the run would hang."""
    cluster = ForeignCluster(tmp_path, startup=WITHOUT_US)
    try:
        with pytest.raises(ClusterError, match=r"^The scheduler tcp://\S+ has no tilevision; "):
            probe(attach(cluster.client), work_on(image), print)
    finally:
        cluster.close()


@pytest.mark.slow
def test_an_image_in_memory_is_on_its_own_host_only(foreign: ForeignCluster) -> None:
    """A worker elsewhere cannot see the staging file, and says to save the image."""
    source = open_source(np.zeros((64, 64, 3), np.uint8))
    reason = without_namespaces()
    if reason:
        pytest.skip(f"no mount namespaces here: {reason}")
    foreign.add("127.0.0.2", within=hiding(staging_folder()))
    foreign.ready()
    work = Work(source.reference, read_options(source), resolve(tv.model(spots)))
    with pytest.raises(ClusterError, match=r"^Worker host 127\.0\.0\.2 cannot open the image: "):
        probe(attach(foreign.client), work, print)


@pytest.mark.slow
def test_a_lost_cluster_is_one_error_with_the_line_that_goes_on(
    foreign: ForeignCluster, image: Path, tmp_path: Path, elsewhere: Path
) -> None:
    """A user's scheduler that dies ends the run at once; the line it prints completes it."""

    def slow_spots(pixels: Any) -> Any:
        time.sleep(0.05)
        return np.array([[1.0, 1.0, 5.0, 5.0, 0.5, 0]])

    foreign.add("127.0.0.2")
    foreign.ready()
    run = tv.start(image, slow_spots, grid=TILE, client=foreign.client)
    wait_until(lambda: run.counts.get("done"), "the first tile is done")
    began = time.monotonic()
    foreign.stop("scheduler")
    with pytest.raises(ClusterError) as caught:
        run.result(200)
    assert time.monotonic() - began < 30  # workers that are only slow are waited for longer
    assert str(caught.value) == (
        "The Dask cluster was closed or lost its scheduler; start it again, and make a new client. "
        f"What is done is kept; tv.resume({run.id!r}, client=client) resumes the run."
    )
    done = run.counts["done"]
    with (
        DaskCluster(1, threads_per_worker=1, processes=False, dashboard_address=None) as theirs,
        Client(theirs, set_as_default=False) as client,
    ):
        result = tv.resume(run.id, model=slow_spots, client=client).result(200)
    assert result.complete
    assert result.facts.restored >= done > 0


@pytest.fixture
def one_process() -> Iterator[Client]:
    """A foreign cluster within this process: quickly there, and it imports what we do."""
    with (
        DaskCluster(1, threads_per_worker=1, processes=False, dashboard_address=None) as theirs,
        Client(theirs, set_as_default=False) as client,
    ):
        yield client


may_open = threading.Event()


def open_slowly(path: str, **options: Any) -> Any:
    """Open an image as over a slow network, once the test says so."""
    assert may_open.wait(200)
    return open_source(path)


@pytest.mark.slow
def test_an_image_that_opens_slowly_is_waited_for(
    one_process: Client, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is busy opening is no hung host, and the user hears what is waited for."""
    monkeypatch.setattr(surveying, "ANSWER_SECONDS", 2.0)
    source = SourceRef(f"{__name__}:open_slowly", str(image), {}, "")
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        may_open.set()

    may_open.clear()
    probe(attach(one_process), replace(work_on(image), source=source), tell)
    assert told
    assert all("is still getting ready" in line for line in told)
    monkeypatch.setattr(surveying, "OPEN_SECONDS", 2.0)
    source = replace(source, options={"mpp": None})
    may_open.clear()
    with pytest.raises(ClusterError, match="has not opened the image within"):
        probe(attach(one_process), replace(work_on(image), source=source), told.append)
    may_open.set()


@pytest.mark.slow
def test_a_cluster_without_workers_is_waited_for(foreign: ForeignCluster, image: Path) -> None:
    """Workers that have yet to come are no reason to refuse."""
    assert probe(attach(foreign.client), work_on(image), print) == Fitness()


# On what the model runs -------------------------------------------------------------------

TELLING = """
    from tilevision.errors import ModelError
    from tilevision.adapters.function import FunctionModel

    def load(spec):
        return FunctionModel(lambda pixels: [], spec.name)

    def runtime(spec):
        if spec.device != "auto":
            raise ModelError(f"model {spec.name}: there is no device {spec.device} here")
        return "the abacus on its frame"
"""


@pytest.fixture
def telling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """A model whose module knows on what it runs."""
    name = f"telling_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(re.sub(r"(?m)^    ", "", TELLING))
    monkeypatch.syspath_prepend(str(tmp_path))
    return ModelSpec("abacus", f"{name}:load", name)


@pytest.mark.slow
@pytest.mark.parametrize("ours", [True, False])
def test_a_run_says_first_on_what_the_model_runs(
    telling: ModelSpec, image: Path, one_process: Client, ours: bool
) -> None:
    """The line comes before any tile; a device that is not there stops the run with one line."""
    given: dict[str, Any] = {"workers": 1} if ours else {"client": one_process}
    run = tv.start(image, telling, grid=TILE, checkpoint=None, **given)
    assert run.result(200).complete
    stages = [event for event in run.events() if isinstance(event, StageDone)]
    assert [event.message for event in stages if event.stage == "model"] == [
        "abacus runs on the abacus on its frame"
    ]
    missing = replace(telling, device="cuda:0", fingerprint="another")
    with pytest.raises(ModelError if ours else ClusterError) as caught:
        tv.analyze(image, missing, grid=TILE, checkpoint=None, **given)
    assert "model abacus: there is no device cuda:0 here" in str(caught.value)


def test_a_model_that_has_nothing_to_say_is_not_asked(image: Path) -> None:
    """A local run waits for no answer that is known to be empty."""
    work = work_on(image)
    importlib.import_module(work.model.factory.partition(":")[0])  # it says what it has to say
    scheduler = SimpleNamespace(address="tcp://127.0.0.1:8786")
    ours = SimpleNamespace(owned=True, client=SimpleNamespace(scheduler=scheduler))
    assert probe(cast("Any", ours), work, print) == Fitness(fit=frozenset({"127.0.0.1"}))
