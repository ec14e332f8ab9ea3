"""What a folder's commands have in common: tilevision.toml, variables, recipes, completion."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import tilevision as tv
from tilevision.cli import main

MODELS = """
def corner(pixels):
    return [(0, 0, 5, 5)]
"""


@pytest.fixture
def folder(elsewhere: Path) -> Path:
    """The current folder, with a picture of some bright squares."""
    pixels = np.zeros((120, 160, 3), np.uint8)
    pixels[20:32, 30:42] = pixels[80:90, 100:110] = 255
    Image.fromarray(pixels).save("a.png")
    return elsewhere


def _call(*words: str, **variables: str) -> Result:
    return CliRunner().invoke(main, list(words), env=variables)


def _arguments(monkeypatch: pytest.MonkeyPatch, *words: str, **variables: str) -> dict[str, object]:
    """Return what ``tilevision run`` would give to tv.start."""
    seen: list[dict[str, object]] = []

    def start(image: str, **given: object) -> None:
        seen.append(given)
        raise tv.RunError("Nothing runs here.")

    monkeypatch.setattr(tv, "start", start)
    said = _call("run", "a.png", *words, **variables)
    assert seen, said.output
    return seen[0]


def test_an_option_wins_over_a_variable_and_that_over_the_file(folder, monkeypatch) -> None:
    """The nearest word counts."""
    Path("tilevision.toml").write_text('checkpoint = "of-file"\n[run]\nmodel = "blobs"\n')
    assert _arguments(monkeypatch)["checkpoint"] == "of-file"
    variable = {"TILEVISION_CHECKPOINT": "of-variable", "TILEVISION_WORKERS": "3"}
    given = _arguments(monkeypatch, **variable)
    assert (given["checkpoint"], given["workers"]) == ("of-variable", 3)
    assert _arguments(monkeypatch, "--checkpoint", "mine", **variable)["checkpoint"] == "mine"


def test_a_table_holds_the_options_of_its_command(folder, monkeypatch) -> None:
    """By their long names, as numbers, texts, flags and lists; what all have in common stays."""
    Path("settings.toml").write_text(
        'workers = 2\n[run]\nmodel = "blobs"\ngrid = "2x3"\noverlap = 0.25\nstrict = true\n'
        'class = ["bright"]\nmin-score = 0.5\nmodel-arg = "max_diameter=9"\n'
    )
    given = _arguments(monkeypatch, TILEVISION_CONFIG="settings.toml")
    assert given["grid"] == tv.Grid(rows=2, cols=3, overlap=0.25)
    assert (given["strict"], given["classes"], given["workers"]) == (True, ("bright",), 2)
    assert given["min_score"] == 0.5
    assert given["model"] == tv.model("blobs", max_diameter=9)
    assert "no runs in .tilevision" in _call("runs", TILEVISION_CONFIG="settings.toml").output


def test_the_file_names_models(folder, monkeypatch) -> None:
    """With endpoint, parameters and price, for every stage; --model-arg replaces and adds some."""
    Path("tilevision.toml").write_text(
        '[models.guard]\nuse = "openai:small"\nbase_url = "http://127.0.0.1:9/v1"\n'
        'stages = ["moderation"]\n[models.guard.price]\ninput = 0.5\noutput = 1.5\n'
        '[models.dots]\nuse = "blobs"\nmax_diameter = 9\n'
    )
    given = _arguments(monkeypatch, "--model", "dots", "--moderation", "guard")
    assert given["model"] == tv.model("blobs", max_diameter=9)
    more = ("--model-arg", "max_diameter=12", "--model-arg", "min_diameter=3")
    given_more = _arguments(monkeypatch, "--model", "dots", *more)
    assert given_more["model"] == tv.model("blobs", max_diameter=12, min_diameter=3)
    guard = given["moderation"]
    assert isinstance(guard, tv.ModelSpec)
    assert guard.params["base_url"] == "http://127.0.0.1:9/v1"
    assert guard.price is not None
    assert (guard.price.input, guard.price.output) == (0.5, 1.5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grid = ", "tilevision.toml is not TOML"),
        ("grid = 3", "tilevision.toml has grid; it may have checkpoint, workers, [models.NAME]"),
        ("[run]\ngird = '2x2'", "has gird in [run], and `tilevision run` has no --gird"),
        ("[models.mine]\nname = 'blobs'", "has models.mine without use"),
        ("models = 3", "has models. without use"),
        ("[run]\ntimeout = 'soon'", "'soon' is not a valid float"),
        ("checkpoint = false", "has checkpoint = false; `tilevision run --checkpoint` takes a t"),
        ("workers = 1.9", "has workers = 1.9; `tilevision run --workers` takes a whole number"),
        ("[run]\nmin-score = true", "has min-score = true; `tilevision run --min-score` takes a n"),
        ("[run]\nmpp = [0.5, 0.5]", "has mpp = [0.5, 0.5]; `tilevision run --mpp` takes a number"),
        ("[run]\nstrict = 1", "has strict = 1; `tilevision run --strict` takes true or false"),
        ("[run]\nclass = ['a', true]", "--class` takes a text, or a list of texts"),
        ("[run]\ngrid = 2024-01-01", 'has grid = "2024-01-01"; `tilevision run --grid` takes a'),
        ("[models.blobs]\nuse = 'blobs'\nmin_diameter = 2024-01-01", "min_diameter of model blobs"),
        ("[models.blobs]\nuse = 'openai:m'\nstages = 3", "stages of model openai:m is 3; give s"),
        ("[models.blobs]\nuse = 'openai:m'\nextra = {a = 12:00:00}", "openai: extra is {'a': "),
        ("x = " + "[" * 5000, "tilevision.toml is not TOML"),
        ("x = '\udcff'", "tilevision.toml is not TOML"),
    ],
)
def test_a_file_that_makes_no_sense_is_one_line(folder, text, says) -> None:
    """Said before anything runs."""
    Path("tilevision.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    said = _call("run", "a.png", "--model", "blobs")
    assert said.exit_code == 2
    assert says in said.output


def test_an_empty_file_and_one_that_windows_wrote_are_read(folder) -> None:
    """A byte order mark is no word of the file; an empty variable names no file."""
    Path("tilevision.toml").write_bytes(b"")
    assert "no runs in .tilevision" in _call("runs").output
    Path("tilevision.toml").write_bytes('\ufeffcheckpoint = "mine"\r\n'.encode())
    assert "no runs in mine" in _call("runs", TILEVISION_CONFIG="").output


@pytest.mark.parametrize("make", ["mkdir", "ln -s nowhere", "mkfifo"])
def test_what_is_no_file_is_not_passed_over(folder, make) -> None:
    """Whoever made it counts on it; and a pipe is not waited for."""
    subprocess.run([*make.split(), "tilevision.toml"], check=True)
    said = _call("runs")
    assert said.exit_code == 2
    words = "cannot be read: No such file" if "ln" in make else "is not a file. Rename it"
    assert f"tilevision.toml {words}" in said.output


def test_a_path_that_cannot_be_is_one_line(folder) -> None:
    """As anywhere else where a path is given."""
    said = _call("runs", TILEVISION_CONFIG="~nobody-of-that-name/x.toml")
    assert said.exit_code == 2
    assert "TILEVISION_CONFIG is '~nobody-of-that-name/x.toml', which is no path" in said.output


def test_a_file_that_is_named_must_be_there(folder) -> None:
    """Unlike the one of the current folder."""
    said = _call("runs", TILEVISION_CONFIG="nowhere.toml")
    assert said.exit_code == 2
    assert "nowhere.toml cannot be read: No such file" in said.output


@pytest.mark.slow
def test_a_recipe_runs_in_the_shell(folder, cluster) -> None:
    """It repeats the run; what is said beside it replaces that part."""
    words = ("--model", "blobs", "--model-arg", "max_diameter=30", "--grid", "2x2")
    first = _call("run", "a.png", *words, "--min-score", "0", "--out", "found.recipe.json")
    assert first.exit_code == 0, first.output
    told = tv.recipe("found.recipe.json")
    assert told["model"] == tv.model("blobs", max_diameter=30)
    again = _call("run", "a.png", "--recipe", "found.recipe.json", "--json")
    assert again.exit_code == 0, again.output
    line = json.loads(again.stdout)
    assert (line["status"], line["restored"]) == ("complete", 4)
    stricter = ("--min-score", "1", "--out", "none.recipe.json")
    assert _call("run", "a.png", "--recipe", "found.recipe.json", *stricter).exit_code == 0
    assert tv.recipe("none.recipe.json")["min_score"] == 1
    assert tv.recipe("none.recipe.json")["grid"] == told["grid"]


def test_a_run_needs_a_model_or_a_recipe(folder) -> None:
    """And parameters of a model need the model."""
    assert "Give --model, or a --recipe." in _call("run", "a.png").output
    Path("r.recipe.json").write_text("{}")
    said = _call("run", "a.png", "--recipe", "r.recipe.json", "--model-arg", "a=1")
    assert "--model-arg needs --model" in said.output


@pytest.fixture
def own_model(folder: Path):
    """A file with a function, which no test has imported."""
    Path("own.py").write_text(MODELS)
    yield
    sys.modules.pop("own", None)


@pytest.mark.slow
def test_resume_goes_on_by_id(own_model, cluster) -> None:
    """One image, under its id; a function is given again."""
    first = _call("run", "a.png", "--model", "own.py:corner", "--grid", "2x2", "--json")
    run_id = json.loads(first.stdout)["run"]
    refused = _call("resume", run_id)
    assert refused.exit_code == 2
    assert "used the function corner" in refused.stderr
    again = _call("resume", run_id, "--model", "own.py:corner", "--json", "--out", "a.csv")
    line = json.loads(again.stdout)
    assert (line["run"], line["restored"], line["files"]) == (run_id, 4, ["a.csv"])
    assert Path("a.csv").is_file()
    gone = _call("resume", "20200101-000000-abcdef")
    assert gone.exit_code == 2
    assert f"the latest are {run_id}" in gone.stderr


@pytest.mark.slow
def test_resume_goes_on_with_many_images(folder, cluster) -> None:
    """Where they were written before; what names one image is refused."""
    Path("b.png").write_bytes(Path("a.png").read_bytes())
    words = ("--model", "blobs", "--grid", "2x2", "--out-dir", "found")
    assert _call("run", "a.png", "b.png", *words).exit_code == 0
    (run_id,) = tv.runs()["id"]
    Path("found/b.geojson").unlink()
    assert "--out names one image" in _call("resume", run_id, "--out", "a.csv").output
    again = _call("resume", run_id, "--quiet")
    assert again.exit_code == 0, again.output
    assert Path("found/b.geojson").is_file()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_what_the_shell_reads(shell) -> None:
    """Each shell has its own."""
    said = _call("completion", shell)
    assert said.exit_code == 0
    assert "_TILEVISION_COMPLETE=" + shell in said.output


@pytest.mark.slow
def test_bash_completes_commands() -> None:
    """Asked as its completion asks."""
    asked = {"COMP_WORDS": "tilevision res", "COMP_CWORD": "1"}
    said = subprocess.run(
        [sys.executable, "-c", "from tilevision.cli import main; main(prog_name='tilevision')"],
        env={**asked, "_TILEVISION_COMPLETE": "bash_complete", "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout == "plain,resume\n"


def _too_bright(pixels: np.ndarray) -> list[object]:
    if pixels.max() > 127:
        raise tv.PermanentError("too bright")
    return []


@pytest.mark.slow
def test_a_run_writes_its_log(cluster, caplog) -> None:
    """What it does as INFO, what goes wrong as WARNING, with the logger ``tilevision.run``."""
    caplog.set_level(logging.INFO, "tilevision")
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 100:] = 255
    run = tv.start(pixels, _too_bright, grid=tv.Grid(1, 2, overlap=0), checkpoint=None)
    run.result()
    lines = [record for record in caplog.records if record.name == "tilevision.run"]
    assert all(f"Run {run.id} of array: " in record.getMessage() for record in lines)
    wrong = [r.getMessage() for r in lines if r.levelno == logging.WARNING]
    assert any("failed, attempt 1: PermanentError: too bright" in line for line in wrong)
    assert any("partial" in line for line in wrong)
    assert any("running" in r.getMessage() for r in lines if r.levelno == logging.INFO)


@pytest.mark.slow
def test_without_a_log_nothing_is_written(folder) -> None:
    """Python writes warnings of loggers that nobody set up on standard error; this has a bar."""
    script = (
        "import numpy as np, tilevision as tv\n"
        "def bad(pixels):\n    if not pixels.all():\n        raise tv.PermanentError('never')\n"
        "    return []\n"
        "if __name__ == '__main__':\n"
        "    tv.analyze(np.indices((9, 9))[1], bad, grid=tv.Grid(1, 3, overlap=0), workers=1,\n"
        "               checkpoint=None, progress=False)\n"
    )
    Path("script.py").write_text(script)
    said = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, text=True, check=True, timeout=120
    )
    assert "INCOMPLETE" in said.stderr  # which is how it is told where nobody asked for a log
    assert "attempt" not in said.stderr
