"""What Dask's dashboard and its performance report show of a run, on a real scheduler."""

import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from distributed import Client
from foreign import wait_until

import tilevision as tv
from tilevision.cli import main
from tilevision.cluster import local_cluster, reported

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
TILE = 32


def spots(pixels: Any) -> Any:
    return np.array([[1.0, 1.0, 5.0, 5.0, 0.5, 0]])


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with local_cluster(1) as cluster, Client(cluster.client.scheduler.address) as client:
        yield client


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "scene.tif"
    tifffile.imwrite(path, np.zeros((128, 128), np.uint8), tile=(TILE, TILE))
    return path


def seen(dask_scheduler: Any) -> dict[tuple[str, ...], list[tuple[str, ...]]]:
    """Return each span's name with what the fine performance metrics have under it."""
    spans = dask_scheduler.extensions["spans"].spans.values()
    return {
        span.name: [
            tuple(map(str, key)) for key, seconds in span.cumulative_worker_metrics.items()
            if seconds > 0
        ]
        for span in spans
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("hosted", [False, True])
def test_time_is_split_by_run_stage_and_step(client: Client, image: Path, hosted: bool) -> None:
    """Each run has a span, its tiles one below it, and theirs are reading, inferring, encoding."""
    model = tv.model(spots, hosted=hosted)
    run = tv.start(image, model, grid=TILE, checkpoint=None, client=client)
    assert run.result(200).complete
    name = ("tilevision", run.id, "tiles")
    steps = {("execute", "tile-infer", f"tile-{s}", "seconds") for s in ("read", "infer", "encode")}
    # Workers send their metrics with the next heartbeat.
    wait_until(lambda: steps <= set(client.run_on_scheduler(seen).get(name, ())), "metrics are in")
    assert name[:2] in client.run_on_scheduler(seen)


@pytest.mark.slow
def test_the_dashboard_groups_tasks_by_stage(client: Client, image: Path) -> None:
    """Tasks are counted under their stage's name, and the link leads to a page that answers."""
    run = tv.start(image, spots, grid=TILE, checkpoint=None, client=client)
    assert run.result(200).complete
    prefixes = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes))
    assert "tile-infer" in prefixes
    assert run.dashboard_link
    with urllib.request.urlopen(run.dashboard_link, timeout=60) as answer:
        assert answer.status == 200
        assert b"Dask" in answer.read()


@pytest.mark.slow
@pytest.mark.parametrize("first", ["status", "individual-plots.json"])
def test_the_dashboard_is_built_when_it_is_first_asked_for(first: str) -> None:
    """Our scheduler starts without Bokeh; monitoring leaves it so, any page brings all pages."""
    with local_cluster(workers=1) as cluster:
        home = cluster.dashboard_link.removesuffix("status")

        def built() -> bool:
            return bool(cluster.client.run_on_scheduler(lambda: "bokeh" in sys.modules))

        assert not built()
        with urllib.request.urlopen(home + "health", timeout=60) as answer:
            assert answer.read() == b"ok"
        assert not built()
        for page in (first, "individual-plots.json", "status", "workers", "statics/css/base.css"):
            with urllib.request.urlopen(home + page, timeout=60) as answer:
                assert answer.status == 200
        assert built()


@pytest.mark.slow
def test_the_report_opens_without_a_network(
    client: Client, image: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`--report` writes a page that shows the run's tasks, and fetches nothing from elsewhere."""
    from click.testing import CliRunner

    page_file = tmp_path / "perf.html"
    words = ["run", str(image), "--model", "blobs", "--grid", "4x4", "--no-checkpoint", "--quiet"]
    with client.as_current():
        ran = CliRunner().invoke(main, [*words, "--report", str(page_file)])
    assert ran.exit_code == 0, ran.output
    text = page_file.read_text()
    assert "tile-infer" in text
    assert "_write(cluster" not in text  # none of our own code
    sync_api = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists():
        assert not os.environ.get("CI"), f"there is no {CHROMIUM}"
        pytest.skip(f"there is no {CHROMIUM}")
    asked: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=120_000
        )
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.set_default_timeout(120_000)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri())
        page.get_by_text("Dask Performance Report").wait_for()
        page.get_by_text("a run of tilevision").wait_for()
        page.get_by_text("Task Stream", exact=True).click()
        page.locator("canvas").first.wait_for()
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.slow
def test_a_report_in_no_folder_costs_no_work(client: Client, tmp_path: Path) -> None:
    """A misspelt folder is told before the work, which is done all the same."""
    from tilevision.cluster import attach

    told: list[str] = []
    done = False
    with reported(attach(client), tmp_path / "no" / "perf.html", told.append):
        assert len(told) == 1
        done = True
    assert done
    assert told == [
        f"There will be no performance report: folder {tmp_path / 'no'} does not exist."
    ]
