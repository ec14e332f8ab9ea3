"""The shell's view of runs: following one, pruning old ones, and the options of a run."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

import tilevision as tv
from tilevision.checkpoint import Checkpoint, RunLock
from tilevision.cli import main
from tilevision.cli.inventory import days
from tilevision.cli.options import arguments
from tilevision.events import Journal, RunChanged, TileChanged, list_runs
from tilevision.grid import Grid
from tilevision.pipeline.tiling import Tiling

PATIENCE = 200.0
DAY = 86400.0
SIZE = (90, 60)
TILES = Grid(2, 3).tiles(SIZE)

MODELS = """
import time

def slow(pixels):
    time.sleep(0.2)
    return []

def picky(pixels):
    if pixels[0, 0, 0] == 0:
        raise ValueError("too dark for me")
    return []
"""


def _call(*words: str, answer: str = "") -> Result:
    return CliRunner().invoke(main, list(words), input=answer)


def _shell(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tilevision", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def _journal(run_id: str) -> Journal:
    manifest = {
        "id": run_id,
        "started": 1.0,
        "image": "a.png",
        "size": list(SIZE),
        "model": "m\x1b[2J",
        "n_tiles": 6,
        "path": None,
        "source": "",
        "tiling": Tiling(Grid(2, 3)).to_dict(),
        "settings": {"mpp": None},
    }
    return Journal(Path(".tilevision/runs") / f"{run_id}.jsonl", manifest)


def _write(run_id: str, status: str) -> None:
    """Leave the journal of a run that ended with `status`: one tile failed, five done."""
    with _journal(run_id) as journal:
        journal(RunChanged(1.0, "running"))
        journal(TileChanged(2.0, TILES[0], "failed", attempt=3, error="ValueError: dark\x1b[2J"))
        for tile in TILES[1:]:
            journal(TileChanged(2.0, tile, "done"))
        journal(RunChanged(3.0, status, "because"))


# Following --------------------------------------------------------------------------------


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("status", "code"), [("complete", 0), ("partial", 3), ("blocked", 4), ("running", 1)]
)
def test_follow_ends_as_the_run_ended(status, code) -> None:
    """Failures, then counts; the exit code says how it went; nothing steers the terminal."""
    _write("r1", status)
    said = _call("runs", "--follow", "r1")
    assert said.exit_code == code
    shown = "interrupted" if status == "running" else status
    lines = said.stdout.splitlines()
    assert lines[0].startswith("Run r1: a.png with m")
    assert f"Tile {TILES[0].id} failed after 3 attempts: ValueError: dark" in said.stdout
    assert lines[-1] == f"{shown}: 1 failed, 5 done"
    assert "\x1b" not in said.stdout


@pytest.mark.usefixtures("elsewhere")
def test_follow_as_json_is_a_line_an_event() -> None:
    """Each line is one event, with its kind and status; nothing else is printed."""
    _write("r1", "complete")
    said = _call("runs", "--follow", "r1", "--json")
    events = [json.loads(line) for line in said.stdout.splitlines()]
    assert [event["status"] for event in events if event["kind"] == "tile"].count("done") == 5
    assert events[-1]["status"] == "complete"


@pytest.mark.usefixtures("elsewhere")
def test_follow_what_is_not_there_is_one_clear_line() -> None:
    """The error names the runs there are."""
    _write("r1", "complete")
    said = _call("runs", "--follow", "r2")
    assert said.exit_code == 2
    assert "no run r2" in said.stderr
    assert "the latest are r1" in said.stderr


@pytest.mark.slow
def test_follow_in_a_terminal_and_leave_with_ctrl_c(elsewhere) -> None:
    """Counts change in place; Ctrl-C ends the following and leaves the run at work."""
    with RunLock(".tilevision", "r1"), _journal("r1") as journal:
        journal(RunChanged(1.0, "running"))
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "tilevision", "runs", "--follow", "r1"],
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(theirs)
        seen = ""
        while "6 pending" not in seen:
            seen += os.read(ours, 4096).decode()
        journal(TileChanged(2.0, TILES[0], "failed", attempt=3, error="dark"))
        while "5 pending, 1 failed" not in seen:
            seen += os.read(ours, 4096).decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        os.close(ours)
    assert "\r\x1b[Krunning: 5 pending, 1 failed" in seen
    assert "\x1b[KTile" in seen
    assert "Stopped following run r1" in process.stderr.read()


@pytest.mark.slow
def test_follow_a_run_of_another_shell(elsewhere) -> None:
    """`tilevision run` in one shell, `runs --follow` in another: it hears of the end."""
    Image.new("RGB", (400, 300), "grey").save("grey.png")
    Path("seen.py").write_text(MODELS)
    words = ["run", "grey.png", "--model", "seen.py:slow", "--grid", "4x5", "--workers", "1"]
    process = subprocess.Popen([sys.executable, "-m", "tilevision", *words, "--quiet"])
    try:
        _until(lambda: Path(".tilevision/runs").is_dir() and list_runs(".tilevision"))
        said = _shell("runs", "--follow", list_runs(".tilevision")[0].id)
    finally:
        process.wait(PATIENCE)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[-1] == "complete: 20 done"
    assert "local cluster of 1 worker" in said.stdout


# Pruning ----------------------------------------------------------------------------------


@pytest.fixture
def aged(elsewhere: Path) -> Path:
    """A checkpoint with an old run, a new one, and two stored tiles of now."""
    with Checkpoint.open(".tilevision") as checkpoint:
        checkpoint.commit({"tile-a": (b"[]",), "tile-b": (b"[]",)})
    for run_id in ("old", "new"):
        _write(run_id, "complete")
    _age("old")
    return elsewhere


def _age(run_id: str) -> None:
    before = time.time() - 40 * DAY
    os.utime(f".tilevision/runs/{run_id}.jsonl", (before, before))


def _runs() -> set[str]:
    return {run.id for run in list_runs(".tilevision")}


def _stored() -> int:
    with Checkpoint.open(".tilevision") as checkpoint:
        return len(checkpoint.done(["tile-a", "tile-b"]))


@pytest.mark.usefixtures("aged")
def test_prune_removes_what_is_older_and_says_so() -> None:
    """Runs by their last line, tiles by when they were stored; asked first."""
    said = _call("runs", "--prune", "30d", answer="y\n")
    assert said.exit_code == 0
    assert "Remove 1 run and every stored tile from before" in said.stdout
    assert "1 run removed; 0 stored tiles" in said.stdout
    assert (_runs(), _stored()) == ({"new"}, 2)
    time.sleep(0.01)
    said = _call("runs", "--prune", "0", "--yes")
    assert "1 run removed; 2 stored tiles" in said.stdout
    assert (_runs(), _stored()) == (set(), 0)


@pytest.mark.usefixtures("aged")
@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        ("n\n", 0, "Nothing was removed."),
        ("\n", 0, "Nothing was removed."),
        ("", 2, "nobody is there to answer. Give --yes"),
    ],
)
def test_prune_without_a_yes_removes_nothing(answer: str, code: int, says: str) -> None:
    """No, just Enter, or nobody there to answer."""
    said = _call("runs", "--prune", "0", answer=answer)
    assert (said.exit_code, says in said.output) == (code, True)
    assert (_runs(), _stored()) == ({"old", "new"}, 2)


@pytest.mark.usefixtures("aged")
def test_prune_keeps_a_run_at_work_and_every_tile_meanwhile() -> None:
    """However long it has been silent, it may rely on what is stored."""
    with RunLock(".tilevision", "old"):
        said = _call("runs", "--prune", "0", "--yes")
    assert "1 run removed; stored tiles are kept while old is running" in said.stdout
    assert (_runs(), _stored()) == ({"old"}, 2)


@pytest.mark.usefixtures("aged")
def test_prune_leaves_files_that_are_no_run_alone() -> None:
    """Such as a copy somebody made by hand; the others are pruned all the same."""
    copy = Path(".tilevision/runs/old (copy).jsonl")
    copy.write_bytes(Path(".tilevision/runs/old.jsonl").read_bytes())
    said = _call("runs", "--prune", "0", "--yes")
    assert "2 runs removed" in said.stdout
    assert copy.is_file()


@pytest.mark.usefixtures("elsewhere")
def test_prune_creates_nothing() -> None:
    """Where there is no checkpoint there will be none."""
    assert (
        "nothing to remove in nowhere"
        in _call("runs", "--prune", "3", "--yes", "--checkpoint", "nowhere").stdout
    )
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(("text", "number"), [("30", 30), ("30d", 30), ("0.5 d", 0.5), ("0", 0)])
def test_days(text, number) -> None:
    """With and without the unit."""
    assert days(text) == number


@pytest.mark.parametrize("text", ["-1", "month", "30h", "", "nan", "1e9"])
def test_days_that_are_none(text) -> None:
    """One line that says what is understood."""
    said = _call("runs", f"--prune={text}")
    assert said.exit_code == 2
    assert "Give 30 or 30d" in said.stderr


def test_follow_and_prune_exclude_each_other() -> None:
    """They are two things."""
    assert _call("runs", "--follow", "a", "--prune", "3").exit_code == 2


# Options of a run -------------------------------------------------------------------------


def _given(*words: str) -> dict[str, object]:
    """Return the arguments of tv.start that the words of ``tilevision run`` stand for."""
    command = main.commands["run"]
    context = command.make_context("run", ["a.png", "--model", "blobs", *words])
    for name in ("images", "outs", "out_dir", "as_json", "report"):
        context.params.pop(name)
    return arguments(context.params)


def test_every_option_reaches_start() -> None:
    """Each stands for the argument of its name; left out, for the default of tv.start."""
    given = _given(
        *("--concurrency", "5", "--batch-size", "2", "--timeout", "1.5", "--retries", "4"),
        *("--max-failures", "0.1", "--no-reuse", "--strict", "--quota", "3", "--per-minute", "90"),
        *("--merge", "nms", "--merge-threshold", "0.3", "--merge-metric", "ios"),
        *("--blend", "core", "--margin", "8", "--threshold", "a=b=0.4", "--unsure", "0.6"),
    )
    wanted = {"concurrency": 5, "batch_size": 2, "timeout": 1.5, "retry": tv.Retry(attempts=5)}
    wanted |= {"max_failures": 0.1, "reuse": False, "strict": True}
    wanted |= {"merge": "nms", "match_threshold": 0.3, "match_metric": "ios"}
    wanted |= {"blend": "core", "margin": 8, "thresholds": {"a=b": 0.4}, "unsure": 0.6}
    wanted |= {"quota": tv.Quota(concurrency=3, per_minute=90.0)}
    assert given.items() >= wanted.items()
    plain = _given()
    assert "retry" not in plain
    assert plain["quota"] is None
    assert (plain["reuse"], plain["strict"], plain["timeout"]) == (True, False, None)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--concurrency", "0"], "concurrency is 0"),
        (["--batch-size", "-1"], "batch_size is -1"),
        (["--timeout", "0"], "timeout is 0"),
        (["--retries", "-1"], "--retries is -1"),
        (["--quota", "0"], "Quota concurrency is 0"),
        (["--per-minute", "-1"], "Quota per_minute is -1"),
        (["--merge-threshold", "2"], "match_threshold is 2"),
        (["--blend", "best"], "blend is 'best'; give one of smooth, linear, core, mean"),
        (["--margin", "-1"], "margin is -1"),
        (["--threshold", "cloud"], "--threshold 'cloud' is not CLASS=SHARE"),
        (["--threshold", "cloud=7"], "threshold of cloud is 7"),
        (["--model-arg", "min_area"], "--model-arg 'min_area' is not KEY=VALUE"),
        (["--model-arg", "size=3"], "Model blobs has no parameter 'size'"),
        (["--recipe", "a.png"], "a.png is not a recipe"),
        (["--max-failures", "few"], "--max-failures"),
        (["--report", "nowhere/a.html"], "no such folder"),
        (["--report", "."], "is a folder"),
    ],
)
def test_nonsense_is_one_line(elsewhere, words, says) -> None:
    """Said before anything runs."""
    Image.new("RGB", SIZE).save("a.png")
    said = _call("run", "a.png", "--model", "blobs", *words)
    assert said.exit_code == 2
    assert says in said.stderr
    assert not Path(".tilevision/runs").exists()


@pytest.fixture
def own_models(elsewhere: Path) -> Iterator[None]:
    """A file of models in the current folder, that no test has imported."""
    Path("seen.py").write_text(MODELS)
    yield
    sys.modules.pop("seen", None)


@pytest.mark.slow
def test_strict_retries_and_report_of_a_real_run(own_models, cluster) -> None:
    """Strict fails where a tile failed, after the tries asked for; the report is a page."""
    picture = Image.new("RGB", (400, 300), "grey")
    picture.paste("black", (0, 0, 50, 50))
    picture.save("a.png")
    words = ["run", "a.png", "--model", "seen.py:picky", "--grid", "2x2"]
    said = _call(*words, "--strict", "--retries", "1", "--report", "perf.html")
    assert said.exit_code == 1, said.stderr
    assert "1 of 4 tiles failed" in said.stderr
    page = Path("perf.html").read_text()
    assert "bokeh" in page
    assert "Dask Performance Report" in page
    followed = _call("runs", "--follow", list_runs(".tilevision")[0].id)
    assert followed.exit_code == 3
    assert "failed after 2 attempts: ValueError: too dark for me" in followed.stdout


@pytest.mark.slow
def test_no_reuse_computes_again_and_a_report_of_nothing_is_said(own_models, cluster) -> None:
    """Stored tiles are not run, and then there is no report; with --no-reuse they are."""
    Image.new("RGB", (400, 300), "grey").save("a.png")
    words = ["run", "a.png", "--model", "seen.py:picky", "--grid", "2x2"]
    assert json.loads(_call(*words, "--json").stdout)["restored"] == 0
    again = _call(*words, "--json", "--report", "perf.html")
    assert json.loads(again.stdout)["restored"] == 4
    assert "no performance report" in again.stderr
    assert not Path("perf.html").exists()
    assert json.loads(_call(*words, "--json", "--no-reuse").stdout)["restored"] == 0
