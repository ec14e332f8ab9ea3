"""What several test files share."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from labs import jupyter, lab, page  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from tilevision.cluster import LocalCluster

# The tests start hundreds of processes; without bytecode each would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell starts background jobs with Ctrl-C ignored, and all their processes inherit that: what
# is interrupted here, and by whom, is for the tests to decide.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about what else the machine does than about the code.
for profile, examples in (("suite", 60), ("quick", 20)):
    settings.register_profile(
        profile,
        deadline=None,
        max_examples=examples,
        suppress_health_check=[HealthCheck.too_slow],
    )

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Try fewer examples of each property in the quick subset."""
    settings.load_profile("quick" if config.option.markexpr == "not slow" else "suite")


@pytest.fixture(autouse=True)
def own_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test puts on ``sys.path`` stays its own: workers of later tests inherit it."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(autouse=True)
def own_interrupt() -> Iterator[None]:
    """What a library that a test imports makes of Ctrl-C (dask-jobqueue ends the process) goes."""
    before = signal.getsignal(signal.SIGINT)
    yield
    if signal.getsignal(signal.SIGINT) is not before:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real slides, scenes and photos, where this machine has it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real images (../shared/data) is not on this machine")
    return SHARED_DATA


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, so that default checkpoints and outputs stay apart."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def spots() -> np.ndarray:
    """A dark 300×400 picture with 12 bright squares of 10 pixels, some across any seam."""
    picture = np.zeros((300, 400, 3), dtype=np.uint8)
    for y in (20, 145, 260):
        for x in (30, 95, 195, 320):
            picture[y : y + 10, x : x + 10] = 255
    return picture


@pytest.fixture(scope="session")
def host() -> Iterator[None]:
    """The process that clusters of this one are forked from: it has imported everything once.

    It costs nothing while it waits, and a cluster less than a quarter of what it would.
    """
    from tilevision.cluster.processes import engage, leave

    engaged = engage()
    yield
    leave(engaged)


@pytest.fixture(autouse=True)
def quick_clusters(request: pytest.FixtureRequest) -> None:
    """Have a host ready where a test may start clusters."""
    if request.node.get_closest_marker("slow"):
        request.getfixturevalue("host")


@pytest.fixture(scope="module")
def two_workers(host: None) -> "Iterator[LocalCluster]":
    """A cluster of two workers for one file; no run finds it without a client of its own.

    Idle workers look at the clock all the time: one for the whole session would cost more.
    """
    from tilevision.cluster import local_cluster

    with local_cluster(workers=2) as ours:
        yield ours


@pytest.fixture
def cluster(two_workers: "LocalCluster") -> Iterator[None]:
    """Two workers behind the current Dask client, for this test alone; runs use it by default.

    The client knows the cluster, and so that it stays as large as it is.
    """
    from distributed import Client

    with Client(two_workers.client.cluster):
        yield
