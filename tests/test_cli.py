"""The shell command: exit codes, one line per error, and lines that resume."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from labs import free_port
from PIL import Image

from tilevision import __version__
from tilevision.cli import jupyter as notebook
from tilevision.cli import main
from tilevision.cli.options import model_argument
from tilevision.display import printable
from tilevision.errors import ModelError
from tilevision.events import list_runs

PATIENCE = 200.0

MODELS = """
import time
import numpy as np

def squares(pixels):
    bright = pixels[..., 0] > 127
    return [
        {"box": (x, y, x + 10, y + 10), "label": "square", "score": 0.9}
        for y in range(0, pixels.shape[0] - 9)
        for x in range(0, pixels.shape[1] - 9)
        if bright[y:y + 10, x:x + 10].all()
    ]

def held(pixels):
    # The lower half waits until a file is there.
    while pixels[0, 0, 2] == 1 and not Path(GATE).exists():
        time.sleep(0.01)
    return squares(pixels)

def only_dark(pixels):
    if pixels.max() > 127:
        raise ValueError("too bright for me")
    return []

def nonsense(pixels):
    return "hello"

def refuse(thumbnail):
    return False, "nobody consented"
"""


@pytest.fixture
def folder(elsewhere, spots):
    """The current folder, with a picture and a file of models that no test has imported."""
    Image.fromarray(spots).save("spots.png")
    Path("seen.py").write_text(MODELS)
    yield elsewhere
    sys.modules.pop("seen", None)


def _call(*words):
    """Run a command in this process; what needs a cluster takes the current client's."""
    return CliRunner().invoke(main, list(words))


def _shell(*words, **options):
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "tilevision", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, check=False, **options
    )


def _until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_version():
    """--version says which, and nothing else."""
    assert _call("--version").output == f"tilevision {__version__}\n"


def test_help_lists_the_commands():
    """--help names every command and what the exit codes mean."""
    text = _call("--help").output
    for word in ("run", "demo", "lab", "runs", "models", "doctor", "130 interrupted"):
        assert word in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere.png", "--model", "blobs"], "nowhere.png does not exist"),
        (["hollow", "--model", "blobs"], "no image in 'hollow'"),
        (["scans/*.tif", "--model", "blobs"], "no image in 'scans/*.tif'"),
        (["text.png", "--model", "blobs"], "text.png"),
        (["empty.png", "--model", "blobs"], "empty.png is empty"),
        (["spots.png", "--model", "blbos"], "Did you mean 'blobs'"),
        (["spots.png", "--model", "blobs", "--grid", "0x4"], "rows is 0"),
        (["spots.png", "--model", "blobs", "--grid", "4x4", "--overlap", "1"], "overlap is 1.0"),
        (
            ["spots.png", "--model", "blobs", "--grid", "4x4", "--overlap", "9mm"],
            "overlap is '9mm'",
        ),
        (["spots.png", "--model", "blobs", "--workers", "0"], "workers is 0"),
        (["spots.png", "--model", "blobs", "--merge", "glue"], "merge is 'glue'"),
        (["spots.png", "--model", "blobs", "--min-score", "7"], "min_score is 7"),
        (["spots.png", "--model", "blobs", "--out", "a.xml"], "the suffix decides the format"),
        (["spots.png", "--model", "blobs", "--out", "no/a.json"], "no such folder"),
        (["spots.png", "--model", "blobs", "--checkpoint", "spots.png"], "is not a folder"),
        (["spots.png", "--model", "blobs", "--out-dir", "spots.png"], "Cannot write spots.png"),
        (["spots.png", "--model", "seen.py:gone"], "seen.py has no function gone"),
        (["spots.png", "--model", "gone.py:slow"], "there is no file"),
        (["spots.png", "--model", "blobs", "--moderation", "blobs"], "not moderation"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(folder, words, says):
    """Whatever is wrong with what was asked for: one line on standard error, no traceback."""
    (folder / "text.png").write_text("this is no picture, whatever its name says\n" * 20)
    (folder / "empty.png").touch()
    (folder / "hollow").mkdir()
    done = _call("run", "--quiet", *words)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert says in done.stderr
    assert done.stderr.startswith("tilevision: error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["run", "a.png"],
        ["run", "--model", "blobs"],
        ["run", "a.png", "b.png", "--model", "blobs", "--out", "a.json"],
        ["run", ".", "--model", "blobs", "--out", "a.json"],
        ["run", "a.png", "--model", "blobs", "--overlap", "0.1"],
        ["run", "a.png", "--model", "blobs", "--workers", "two"],
        ["dance"],
    ],
)
def test_bad_usage_is_exit_2(folder, words):
    """A command line that makes no sense is refused with the usage."""
    done = _call(*words)
    assert done.exit_code == 2
    assert "Usage:" in done.stderr


def test_a_missing_output_folder_is_refused_before_the_work(folder):
    """Nothing is computed where the result could not be written: no checkpoint is made."""
    assert _call("run", "spots.png", "--model", "blobs", "--out", "no/a.json").exit_code == 2
    assert not (folder / ".tilevision").exists()


def test_models_lists_the_built_in_ones():
    """`models` shows each name and whether it can be used; --json is a line each."""
    assert "textlines" in _call("models").output
    rows = [json.loads(line) for line in _call("models", "--json").output.splitlines()]
    assert {"blobs", "nuclei", "textlines"} <= {row["model"] for row in rows if row["installed"]}


def test_runs_of_an_empty_folder(elsewhere):
    """`runs` where nothing has run says so."""
    done = _call("runs")
    assert (done.exit_code, done.output) == (0, "There are no runs in .tilevision.\n")


def test_functions_are_found_beside_what_they_import(elsewhere):
    """FILE.py:NAME imports the file as a script would: modules beside it are found."""
    Path("beside_it.py").write_text("LEVEL = 7\n")
    Path("my_model.py").write_text("from beside_it import LEVEL\ndef f(p): return LEVEL\n")
    assert model_argument("my_model.py:f")(None) == 7
    assert model_argument("blobs") == "blobs"
    assert model_argument(None) is None


def test_a_file_named_like_another_module_is_refused(elsewhere):
    """A model file that another module hides is an error, not the other module."""
    Path("json.py").write_text("def f(p): return []\n")
    with pytest.raises(ModelError, match="another module is named json"):
        model_argument("json.py:f")


def test_labels_cannot_steer_the_terminal():
    """Control characters of a model's text are shown, never obeyed."""
    assert printable("a\x1b[2Jb\nc\x07\u202e") == "a\ufffd[2Jb\nc\ufffd\ufffd"


@pytest.fixture
def launched(monkeypatch):
    """What `lab` would have become."""
    calls = []
    monkeypatch.setattr(os, "execv", lambda program, words: calls.append((program, words)))
    return calls


def test_lab_opens_a_copy(elsewhere, launched):
    """`lab` copies the quick start and hands JupyterLab every further option."""
    assert _call("lab", "--no-browser", "--port", "8899").exit_code == 0
    assert Path(notebook.COPY).read_bytes() == notebook.quickstart().read_bytes()
    address = f"--LabApp.default_url=/lab/tree/{notebook.COPY}"
    root = ["--allow-root"] if os.geteuid() == 0 else []
    assert launched == [
        (
            sys.executable,
            [
                sys.executable,
                "-m",
                "jupyterlab",
                address,
                *root,
                "--no-browser",
                "--port",
                "8899",
            ],
        )
    ]


def test_lab_leaves_an_edited_copy_alone(elsewhere, launched):
    """A copy that is there is opened as it is."""
    Path(notebook.COPY).write_text("edited")
    done = _call("lab")
    assert Path(notebook.COPY).read_text() == "edited"
    assert "already exists" in done.output
    assert len(launched) == 1


@pytest.mark.slow
def test_run_writes_what_was_asked_for(folder):
    """One image: exit 0, a summary with the count, each file in its format."""
    words = ["run", "spots.png", "--model", "seen.py:squares", "--grid", "2x3", "--workers", "1"]
    done = _shell(*words, "--out", "a.json", "--out", "a.geojson", "--out", "a.csv")
    assert done.returncode == 0, done.stderr
    assert "squares found 12 detections (12 square)" in done.stdout
    assert done.stdout.count("Class numbers: 0 square.") == 1
    assert "Wrote a.geojson" in done.stdout
    boxes = [tuple(row["box"]) for row in json.loads(Path("a.json").read_text())["detections"]]
    expected = {(x, y, x + 10, y + 10) for x in (30, 95, 195, 320) for y in (20, 145, 260)}
    assert len(boxes) == 12
    assert set(boxes) == expected
    assert len(json.loads(Path("a.geojson").read_text())["features"]) == 12
    assert len(Path("a.csv").read_text().splitlines()) == 13

    again = _call(*words, "--json", "--quiet")
    facts = json.loads(again.stdout)
    assert again.stderr == ""
    assert (facts["detections"], facts["restored"], facts["complete"]) == (12, 6, True)
    assert facts["classes"] == {"square": 0}

    listed = [json.loads(line) for line in _call("runs", "--json").stdout.splitlines()]
    assert [row["status"] for row in listed] == ["complete", "complete"]
    assert {row["done"] for row in listed} == {6}


@pytest.mark.slow
def test_failed_tiles_are_exit_3(folder, cluster):
    """Some tiles failed: the rest is written and says so, each reason is told once."""
    picture = np.zeros((100, 400, 3), np.uint8)
    picture[40:50, 350:360] = 255
    Image.fromarray(picture).save("corner.png")
    done = _call(
        *("run", "corner.png", "--model", "seen.py:only_dark", "--grid", "1x4"),
        *("--out", "a.json"),
    )
    assert done.exit_code == 3, done.stderr
    assert "ValueError: too bright for me" in done.stderr
    assert "INCOMPLETE: 1 of 4 tiles" in done.stdout
    document = json.loads(Path("a.json").read_text())
    assert document["complete"] is False
    assert [missing["tile"] for missing in document["not_analysed"]] == ["r000c003"]


@pytest.mark.slow
def test_a_model_that_returns_nonsense_is_exit_2(folder, cluster):
    """A model no tile can be analysed with is bad input: one line, nothing written."""
    done = _call(
        *("run", "spots.png", "--model", "seen.py:nonsense", "--quiet"),
        *("--out", "a.json"),
    )
    assert done.exit_code == 2
    assert "nonsense returned a" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("a.json").exists()


@pytest.mark.slow
def test_moderation_blocks_with_exit_4(folder, cluster):
    """Moderation refused: its reason, exit 4, and no tile was run."""
    words = ["run", "spots.png", "--model", "seen.py:squares", "--moderation", "seen.py:refuse"]
    done = _call(*words, "--quiet")
    assert done.exit_code == 4
    assert "nobody consented" in done.stderr


@pytest.mark.slow
def test_many_images_stop_at_none(folder, cluster):
    """A bad image among many is told and stops nothing; exit 3 says something is missing."""
    Path("bad.png").write_bytes(b"")
    done = _call(
        *("run", "spots.png", "bad.png", "gone.png", "--model", "seen.py:squares"),
        *("--out-dir", "found", "--json", "--quiet"),
    )
    assert done.exit_code == 3
    rows = {row["image"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert rows["spots.png"]["detections"] == 12
    assert rows["bad.png"]["status"] == rows["gone.png"]["status"] == "error"
    assert sorted(path.name for path in Path("found").iterdir()) == ["spots.geojson", "summary.csv"]


@pytest.mark.slow
@pytest.mark.parametrize("image", ["scans", "scans/*.png"])
def test_a_folder_needs_no_out_dir(folder, cluster, image):
    """A folder or a pattern is all its images, also where nothing is to be written."""
    Path("scans").mkdir()
    Path("spots.png").rename("scans/spots.png")
    words = ["run", image, "--model", "seen.py:squares", "--json", "--quiet"]
    done = _call(*words)
    assert done.exit_code == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["image"], row["detections"]) for row in rows] == [("spots.png", 12)]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_line_it_prints(folder, spots, cluster):
    """Ctrl-C: exit 130 and a command; that command restores what is done and ends the same."""
    spots = spots.copy()
    spots[100:, :, 2] = 1
    Image.fromarray(spots).save("spots.png")
    gate = folder / "gate"
    Path("seen.py").write_text(f"from pathlib import Path\nGATE = {str(gate)!r}\n{MODELS}")
    words = ["run", "spots.png", "--model", "seen.py:held", "--grid", "2x3", "--batch-size", "1"]
    command = [sys.executable, "-m", "tilevision", *words, "--out", "a.json", "--quiet"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        _until(lambda: any(run.counts.get("done", 0) > 1 for run in list_runs(".tilevision")))
        process.send_signal(signal.SIGINT)
        # At once, while the tiles that have begun still wait for their gate.
        said = next(line for line in process.stderr if "Ctrl-C again ends at once" in line)
        assert "kept" not in said  # without a checkpoint nothing is
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Interrupted" not in told and "Traceback" not in told
    line = told.strip().splitlines()[-1].partition("run the same command again: ")[2]
    assert not Path("a.json").exists()

    gate.touch()
    again = shlex.split(line)
    assert again[:3] == ["python", "-m", "tilevision"]
    done = _call(*again[3:])
    assert done.exit_code == 0, done.stderr
    assert "restored" in {k for run in list_runs(".tilevision") for k in run.counts}
    clean = _call(*words, "--checkpoint", "other", "--out", "b.json", "--quiet")
    assert clean.exit_code == 0, clean.stderr
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()


@pytest.mark.slow
def test_doctor_starts_a_cluster(elsewhere):
    """`doctor` looks at everything and is content here."""
    done = _shell("doctor", "--workers", "1")
    assert done.returncode == 0, done.stdout
    for word in ("python", "extra onnx", "checkpoint", "temporary files", "1 workers up"):
        assert word in done.stdout
    assert not Path(".tilevision").exists()


@pytest.mark.slow
def test_demo_does_the_main_job(elsewhere):
    """`demo` analyses three real pictures and leaves an overlay and a GeoJSON of each."""
    done = _shell("demo", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "dashboard: http" in done.stdout
    for scene in ("sky", "tissue", "page"):
        features = json.loads(Path(f"demo-{scene}.geojson").read_text())["features"]
        assert len(features) > 20
        with Image.open(f"demo-{scene}-overlay.png") as overlay:
            assert min(overlay.size) > 300
        assert f"demo-{scene}.png: " in done.stdout


@pytest.mark.slow
def test_lab_serves_the_notebook(elsewhere):
    """`lab` is JupyterLab, with the quick start in its root folder."""
    port = free_port()
    command = [sys.executable, "-m", "tilevision", "lab", "--no-browser", "--allow-root"]
    command += [f"--port={port}", "--ip=127.0.0.1", "--IdentityProvider.token=t"]
    address = f"http://127.0.0.1:{port}/api/contents/{notebook.COPY}?content=0&token=t"

    def is_served():
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                return json.load(answer)["type"] == "notebook"
        except OSError:
            return False

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as lab:
        try:
            _until(is_served)
        finally:
            lab.terminate()
            lab.wait(PATIENCE)
