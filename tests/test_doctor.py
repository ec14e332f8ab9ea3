"""What ``tilevision doctor`` says of an image, a model and somebody else's cluster."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result
from foreign import WITHOUT_US, ForeignCluster
from shares import as_share

import tilevision as tv
from tilevision.checkpoint import folder as checkpoint_folder
from tilevision.checkpoint import trial
from tilevision.checkpoint.trial import Promises
from tilevision.cli import diagnosis, main
from tilevision.cluster import connecting

NOBODY = "tcp://127.0.0.1"  # without a port: refused at once


def doctor(*words: object) -> Result:
    return CliRunner().invoke(main, ["doctor", *map(str, words)])


def said(done: Result, mark: str) -> dict[str, str]:
    """Return the lines with a mark: subject to finding."""
    pattern = rf"(?m)^{mark:8}(.{{22}}..)(.*)$"
    return {subject.strip(): finding for subject, finding in re.findall(pattern, done.output)}


@pytest.fixture
def image(elsewhere: Path) -> Path:
    path = elsewhere / "scene.tif"
    tifffile.imwrite(path, np.zeros((96, 128, 3), np.uint8), tile=(32, 32))
    return path


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForeignCluster]:
    cluster = ForeignCluster(tmp_path_factory.mktemp("cluster"))
    cluster.add("127.0.0.2")
    cluster.ready()
    yield cluster
    cluster.close()


def test_what_is_given_is_looked_at_here(image: Path) -> None:
    """The image is opened and the model looked for in this process, each in a line."""
    lines = said(doctor("--image", image, "--model", "nuclei", "--scheduler", NOBODY), "ok")
    assert lines["image"] == f"{image}: 128 × 96 px, 3 bands of uint8, TIFF"
    assert lines["model"].startswith("nuclei ")


def test_versions_below_the_lower_bound_are_a_problem(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package or extra that is older than what is allowed is a problem, with the remedy."""
    found = diagnosis.version
    old = {"tifffile": "2024.1.30", "av": "12.0.0", "numpy": "1.26.0rc1"}
    asked = ["tifffile>=2026.2.24", "numpy>=1.26", "av>=17; extra == 'video'"]
    monkeypatch.setattr(diagnosis, "version", lambda name: old.get(name) or found(name))
    monkeypatch.setattr(diagnosis, "requires", lambda _: asked)
    done = doctor("--scheduler", NOBODY)
    problems = said(done, "PROBLEM")
    assert problems["tifffile"].startswith("2024.1.30 is older than 2026.2.24. Run: pip install -U")
    assert "av 12.0.0 is older than 17" in problems["extra video"]
    assert "numpy" not in problems


def test_functions_in_files_are_models_too(elsewhere: Path) -> None:
    """`--model` takes what `tilevision run --model` takes."""
    (elsewhere / "mine_for_doctor.py").write_text("def find(pixels):\n    return []\n")
    lines = said(doctor("--model", "mine_for_doctor.py:find", "--scheduler", NOBODY), "ok")
    assert lines["model"].startswith("find ")


def test_what_is_wrong_with_both_is_told(elsewhere: Path) -> None:
    """One problem hides no other."""
    done = doctor("--image", "no.tif", "--model", "nuclie", "--scheduler", NOBODY)
    problems = said(done, "PROBLEM")
    assert problems["image"].startswith("no.tif does not exist")
    assert "Did you mean 'nuclei'" in problems["model"]
    assert "No Dask scheduler answers at tcp://127.0.0.1" in problems["scheduler"]
    assert done.exit_code == 1


@pytest.mark.parametrize("address", ["nonsense", "foo://a:1", "", "http://127.0.0.1:1/status"])
def test_an_address_that_is_none_is_refused_at_once(elsewhere: Path, address: str) -> None:
    """A misspelt address is one line, and nothing is waited for."""
    done = doctor("--scheduler", address)
    assert done.exit_code == 1
    assert said(done, "PROBLEM")["scheduler"].startswith("No Dask scheduler answers at ")


def test_a_server_that_keeps_silent_is_given_up(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something else that listens at the address costs seconds, not for ever."""
    monkeypatch.setattr(connecting, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = doctor("--scheduler", f"tcp://127.0.0.1:{server.getsockname()[1]}")
    assert done.exit_code == 1
    assert "No Dask scheduler answers at" in said(done, "PROBLEM")["scheduler"]


def test_workers_are_of_the_local_cluster(elsewhere: Path) -> None:
    """`--workers` beside `--scheduler` is a mistake, and is called one."""
    done = doctor("--scheduler", NOBODY, "--workers", 2)
    assert done.exit_code == 2
    assert "Leave it out with --scheduler" in done.output


@pytest.mark.slow
def test_each_host_says_what_it_is(foreign: ForeignCluster, image: Path) -> None:
    """Size, packages and temp folder of each host, and that image and model are good there."""
    done = doctor("--scheduler", foreign.address, "--image", image, "--model", "nuclei")
    assert done.exit_code == 0, done.output
    lines = said(done, "ok")
    assert lines["scheduler"] == foreign.address
    assert re.fullmatch(
        r"1 worker, 1 thread, [\d.]+ GiB; tcp://127\.0\.0\.2:\d+", lines["host 127.0.0.2"]
    )
    assert f"tilevision {tv.__version__}" in lines["packages"]
    assert "python 3." in lines["packages"]
    last = done.output[done.output.index("host 127.0.0.2") :]
    assert re.search(r"  temporary files +/\S+ \([\d.]+ GiB free\)", last)
    assert re.search(r"  image +opens, with the same content", last)
    assert re.search(r"  model +nuclei ", last)


@pytest.mark.slow
def test_a_bad_image_alone_is_exit_2(foreign: ForeignCluster, elsewhere: Path) -> None:
    """A good cluster and a bad image is bad input, as everywhere in the shell."""
    done = doctor("--scheduler", foreign.address, "--image", "no.tif")
    assert done.exit_code == 2
    assert list(said(done, "PROBLEM")) == ["image"]


@pytest.mark.slow
def test_a_host_in_trouble_is_a_problem(foreign: ForeignCluster, elsewhere: Path) -> None:
    """The host, what it lacks and the remedy; the others are still told of."""
    foreign.add("127.0.0.3", startup=WITHOUT_US)
    foreign.ready()
    done = doctor("--scheduler", foreign.address)
    assert done.exit_code == 1
    problems = said(done, "PROBLEM")
    assert list(problems) == ["host 127.0.0.3", "trouble"]
    assert problems["trouble"] == f"it has no tilevision; install tilevision {tv.__version__} there"
    assert "host 127.0.0.2" in said(done, "ok")


@pytest.mark.slow
def test_a_workers_address_is_told_from_a_schedulers(
    foreign: ForeignCluster, elsewhere: Path
) -> None:
    """Addresses are easily mixed up: what is there is said."""
    worker = next(iter(foreign.client.nthreads()))
    problem = said(doctor("--scheduler", worker), "PROBLEM")["scheduler"]
    assert problem == f"There is a Dask worker at {worker}; give the scheduler's address."


def checkpoint_line(folder: Path) -> diagnosis.Check:
    found = diagnosis.check_installation(folder)
    return next(check for check in found if check.subject == "checkpoint")


def test_the_form_of_a_checkpoint_and_its_cost_are_said(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By trying: a database on a local disk, segments where there are no shared maps."""
    local = checkpoint_line(elsewhere)
    assert local.fine and "a database" in local.finding
    assert re.search(r"\d+\.\d ms for a commit of 16 tiles", local.finding)
    found = Promises(maps=False, locks=True, exclusive=True, rename=True, sync=True, listed=True)
    with monkeypatch.context() as drive:
        drive.setattr(checkpoint_folder, "is_local", lambda _: False)
        drive.setattr(checkpoint_folder, "_tried", {})
        drive.setattr(checkpoint_folder, "try_out", lambda *_, **__: found)
        drive.setattr(trial, "try_out", lambda *_, **__: found)
        other = checkpoint_line(elsewhere)
    assert other.fine and "segments" in other.finding
    assert "does not work there: shared memory maps" in other.finding
    kept = checkpoint_line(as_share(elsewhere / "kept"))
    assert kept.fine and "segments" in kept.finding and "does not work" not in kept.finding
    assert [path.name for path in (elsewhere / "kept").iterdir()] == ["meta.json"]
