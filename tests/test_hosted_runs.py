"""Hosted models in whole runs: a real cluster, a real server, and nothing written down."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from openai_server import OpenAIServer, Reply, stats
from PIL import Image

import tilevision as tv
from tilevision.cluster import choosing

pytestmark = pytest.mark.slow

KEY = "tvtest-Kx7Vn2Qs9Wd4Hj6B"
GRID = tv.Grid(2, 3)
RETRY = tv.Retry(4, wait=0.01, max_wait=0.05)


@pytest.fixture(scope="module")
def environment():
    """The key in the environment before any cluster starts, as a user has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        # Of the client library on the workers: as talkative as it can be.
        patch.setenv("OPENAI_LOG", "debug")
        yield


@pytest.fixture
def server(environment):
    """A server that answers nobody without the key."""
    with OpenAIServer(key=KEY) as running:
        yield running


def spotter(server, form="pixels xyxy", **given):
    name = f"spots:{form}"
    given = {"box_format": form, "labels": ["spot"], "backend": "spots", **given}
    return tv.model("openai", model=name, base_url=server.url, **given)


def analyze(image, model, folder, **given):
    given = {"grid": GRID, "workers": 2, "retry": RETRY, "progress": False, **given}
    return tv.analyze(image, model, checkpoint=folder, **given)


def positions(found):
    return sorted((round(x / 10), round(y / 10)) for x, y in found.boxes[:, :2].tolist())


@pytest.mark.parametrize("form", ["pixels xyxy", "0-1000 yxyx", "0-1 cxcywh"])
def test_what_a_hosted_model_sees_is_found_in_the_image(server, spots, tmp_path, form):
    """Each spot once, where it is: cut, encoded, sent, answered, mapped back, joined."""
    result = analyze(spots, spotter(server, form), tmp_path / "ck")
    truth = [(x, y) for y in (20, 145, 260) for x in (30, 95, 195, 320)]
    assert result.complete and len(result.findings) == 12
    boxes = result.findings.boxes
    for x, y in truth:
        gaps = np.abs(boxes - [x, y, x + 10, y + 10]).max(axis=1)
        assert gaps.min() <= 2
    assert set(result.findings.labels) == {"spot"} and len(server.seen) == 6
    assert set(result.tiles.model) == {f"openai:spots:{form}"}


def test_only_what_changes_answers_is_asked_again(server, spots, tmp_path):
    """Another timeout or key variable restores every tile; another prompt none."""
    analyze(spots, spotter(server), tmp_path / "ck")
    again = analyze(spots, spotter(server, timeout=5, reasks=0), tmp_path / "ck")
    assert len(server.seen) == 6 and (again.tiles.status == "restored").all()
    analyze(spots, spotter(server, prompt="Find every spot."), tmp_path / "ck")
    assert len(server.seen) == 12


def test_faults_on_the_way_cost_no_tile(server, spots, tmp_path):
    """Throttling, errors, lost connections and nonsense, all in one run."""
    server.meets(
        [
            Reply(429, {"Retry-After": "0.05"}),
            Reply(500),
            Reply(content="I see spots"),
            Reply(0),
            Reply(503, {"retry-after": "0"}),
            None,
            Reply(body=b'{"error": "busy"}'),
        ]
    )
    result = analyze(spots, spotter(server), tmp_path / "ck")
    assert result.complete and len(result.findings) == 12
    assert len(server.seen) == 12 and max(result.tiles.attempts) > 1


def test_a_run_goes_on_by_its_number(server, spots, tmp_path):
    """The model is rebuilt from what the journal has of it: all but the key."""
    server.meets([Reply(404)])
    Image.fromarray(spots).save(tmp_path / "spots.png")
    with pytest.warns(UserWarning, match="INCOMPLETE"):
        first = analyze(tmp_path / "spots.png", spotter(server), tmp_path / "ck")
    assert len(first.failed) == 1
    result = tv.resume(first.run_id, tmp_path / "ck").result()
    assert result.complete and len(result.findings) == 12 and len(server.seen) == 7


def test_a_refused_key_stops_the_run_with_one_line(environment, tmp_path):
    """Every tile would fail alike; the line names the variable and not the key."""
    with OpenAIServer(key="another") as server:
        image = np.zeros((400, 400, 3), np.uint8)
        with pytest.raises(tv.RunError) as stopped:
            analyze(image, spotter(server), tmp_path / "ck", grid=tv.Grid(10, 10))
        assert "environment variable OPENAI_API_KEY" in str(stopped.value)
        assert KEY not in str(stopped.value) and server.count < 60


def test_a_blocked_image_spends_nothing_on_tiles(server, tmp_path):
    """Moderation is asked first, and its verdict is remembered."""
    red = np.zeros((300, 400, 3), np.uint8)
    red[..., 0] = 255
    guard = tv.model("openai:omni-moderation-latest", base_url=server.url)
    for _ in range(2):
        with pytest.raises(tv.Blocked, match="violence"):
            analyze(red, spotter(server), tmp_path / "ck", moderation=guard)
    assert [seen.path for seen in server.seen] == ["/v1/moderations"]


def test_a_scene_is_written_once(server, spots, tmp_path):
    """From the digest and a thumbnail; the second run has it from the checkpoint."""
    writer = tv.model("openai:scene", base_url=server.url)
    for _ in range(2):
        result = analyze(spots, spotter(server), tmp_path / "ck", synthesis=writer)
        assert "A picture of 400 by 300 pixels." in result.summary
    assert len(server.seen) == 7
    assert '"spot": 12' in server.seen[-1].text


def test_tokens_are_paid_for(server, spots, tmp_path):
    """Those of answers that could not be read too; what is restored costs nothing."""
    server.meets([Reply(content="?")])
    model = spotter(server, price={"input": 1.0, "output": 10.0})
    result = analyze(spots, model, tmp_path / "ck")
    assert result.cost == pytest.approx(7 * (1000 * 1 + 20 * 10) / 1e6)
    assert not analyze(spots, model, tmp_path / "ck").cost


def test_tokens_that_nobody_counts_keep_the_budget(server, spots, tmp_path):
    """They are charged at the most there can be, and the summary says so."""
    message = {"role": "assistant", "content": '{"detections": []}'}
    server.meets([Reply(body={"choices": [{"message": message}]}) for _ in range(7)])
    model = spotter(server, price={"input": 1000.0, "output": 1000.0})
    with pytest.warns(UserWarning, match="budget"):
        result = analyze(spots, model, tmp_path / "ck", budget=5.0)
    assert len(server.seen) < 3 and result.cost > 4
    assert "at most" in result.summary and "did not count the tokens of 1 of them" in result.summary


def _said(run):
    return [event.message for event in run.events() if getattr(event, "message", "")]


def test_what_a_server_does_not_take_is_said_once(server, spots, tmp_path):
    """Each worker learns it for itself; the user is told once a run."""
    refused = {"error": {"message": "temperature is not supported", "param": "temperature"}}
    server.meets([Reply(400, body=refused)])
    model = spotter(server, "0-1 xyxy")
    given = {"grid": GRID, "workers": 1, "retry": RETRY, "checkpoint": tmp_path / "ck"}
    run = tv.start(spots, model, **given)
    assert run.result(200).complete
    (line,) = [line for line in _said(run) if "temperature" in line]
    assert line.endswith("temperature is not supported, so it is left out.")


def test_a_long_wait_is_said_with_its_length(server, spots, tmp_path):
    """A bar that stands still for an hour must not look like one that hangs."""
    server.meets([Reply(429, {"Retry-After": "3600"})] * 6)
    run = tv.start(spots, spotter(server), grid=GRID, workers=1, checkpoint=tmp_path / "ck")
    deadline = time.monotonic() + 200
    while not (lines := [line for line in _said(run) if "60 min" in line]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.cancel()
    assert run.wait(200) and len(lines) == 1


def test_the_runs_timeout_bounds_a_request(server, spots, tmp_path):
    """A server that is silent is given up after the run's seconds, not its own 120."""
    server.meets([Reply(seconds=3600)] * 6)
    given = {"timeout": 0.5, "retry": tv.Retry(attempts=1), "workers": 1}
    with pytest.warns(UserWarning, match="within 0.5 s"):
        result = analyze(spots, spotter(server), tmp_path / "ck", **given)
    assert len(result.failed) == 6


def test_the_other_stages_are_paid_for_by_the_token_too(server, spots, tmp_path):
    """A scene and a chat that moderates, and what was asked twice, twice."""
    price = {"input": 1.0, "output": 10.0}
    server.meets([Reply(content="hm")])
    result = analyze(
        spots,
        spotter(server),
        tmp_path / "ck",
        moderation=tv.model("openai:guard", base_url=server.url, price=price),
        synthesis=tv.model("openai:scene", base_url=server.url, price=price),
    )
    assert result.cost == pytest.approx(3 * (1000 * 1 + 20 * 10) / 1e6)


def test_a_wrong_box_format_is_pointed_out(server, spots, tmp_path):
    """The model counts pixels of a large picture and is read as if it wrote shares."""
    model = spotter(server, box_format="0-1")
    summary = analyze(spots, model, tmp_path / "ck").summary
    assert "6 tiles have remarks; r000c000: " in summary and "Is box_format right?" in summary


def everything_written(folders):
    """Yield each file under `folders`, and what is in it."""
    for folder in folders:
        for path in Path(folder).rglob("*"):
            if path.is_file():
                yield path, path.read_bytes()


def test_the_key_is_nowhere(server, spots, tmp_path, capfd, caplog, monkeypatch):
    """Not in checkpoint, journal, exports, cluster logs, prints, logs, reprs, errors, pickles."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    quoting = {"error": {"message": f"bad: Authorization: Bearer {KEY}"}}
    server.meets([None, *(Reply(status, body=quoting) for status in (400, 429, 500))])
    model = spotter(server)
    run = tv.start(
        spots,
        model,
        grid=GRID,
        workers=2,
        retry=RETRY,
        checkpoint="ck",
        moderation=tv.model("openai:guard", base_url=server.url),
        synthesis=tv.model("openai:scene", base_url=server.url),
        progress=True,
    )
    heard = []
    run.subscribe(heard.append)
    result = run.result()
    assert len(result.failed) == 1
    for suffix in ("json", "csv", "geojson", "coco.json"):
        result.save(tmp_path / f"out.{suffix}")
    print(result, result.summary, result.tiles.to_string(), repr(run), repr(model))
    log_folder = choosing._shelf.cluster._folder
    written = list(everything_written([tmp_path, log_folder]))
    names = {path.name for path, _ in written}
    assert {"out.json", "out.coco.json", "scheduler.log"} <= names
    assert any(name.startswith("worker-") for name in names)
    assert any(b"gpt" in data or b"spots" in data for _, data in written)
    for path, data in written:
        assert KEY.encode() not in data, path
    told = "".join(capfd.readouterr()) + caplog.text + repr(heard) + repr(result.failed)
    assert "openai:spots" in told and KEY not in told
    assert KEY.encode() not in pickle.dumps((model, heard))


@contextmanager
def served(seconds, together):
    """A server in a process of its own; yields its port."""
    program = Path(__file__).with_name("openai_server.py")
    process = subprocess.Popen(
        [sys.executable, program, str(seconds), str(together)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield int(process.stdout.readline())
    finally:
        process.communicate(timeout=200)


def test_hundreds_of_calls_are_in_flight_on_two_workers(environment, tmp_path):
    """600 calls that wait for the service: the allowed 200 at once, and never more.

    However slowly a machine sends them: the service answers none before 200 are there.
    """
    image = np.random.default_rng(0).integers(0, 255, (640, 960, 3), np.uint8)
    image = image.repeat(4, axis=0).repeat(4, axis=1)
    with served(0.5, together=200) as port:
        model = tv.model("openai:nothing", base_url=f"http://127.0.0.1:{port}/v1")
        given = {"quota": tv.Quota(concurrency=200), "grid": tv.Grid(20, 30, overlap=0)}
        result = analyze(image, model, tmp_path / "kept", **given)
        counted = stats(port)
    assert result.complete and counted["count"] == 600
    assert counted["most"] == 200
