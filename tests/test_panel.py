"""The panel at work, without a browser: real runs, and nothing that keeps the notebook waiting."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import shapely

import tilevision as tv
from tilevision.regions import Region
from tilevision.view.panel import panel as panel_module
from tilevision.view.panel.panel import Panel
from tilevision.view.panel.pastruns import PastRunList

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def bright(pixels: np.ndarray) -> Any:
    """Find bright squares, white and red ones."""
    from skimage.measure import label, regionprops

    found = []
    for spot in regionprops(label(pixels[..., 0] > 128)):
        y, x, bottom, right = spot.bbox
        name = "white" if pixels[y, x, 1] else "red"
        found.append({"xmin": x, "ymin": y, "xmax": right, "ymax": bottom, "label": name})
    return found


def all_of_it(pixels: np.ndarray) -> Any:
    """Find one thing."""
    return [{"xmin": 0, "ymin": 0, "xmax": 9, "ymax": 9, "score": 0.5, "label": "all"}]


@pytest.fixture(scope="module")
def squares(spots: np.ndarray) -> np.ndarray:
    """The twelve spots, three of them red."""
    picture = spots.copy()
    picture[:, 300:, 1:] = 0
    return picture


def _wait(condition: Callable[[], object], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def _said(panel: Panel) -> str:
    return str(panel._controls.words.value)


def _headline(panel: Panel) -> str:
    return str(panel._screen.canvas.caption.get("headline", ""))


def _mine() -> list[str]:
    return [t.name for t in threading.enumerate() if "-panel-" in t.name or "-view-" in t.name]


def _failed(panel: Panel) -> list[int]:
    """Numbers of the tiles that are listed as failed; a busy machine may list slow ones too."""
    return [row[0] for row in panel._tile_list.notable["rows"] if row[2] == "failed"]


@pytest.fixture
def make(elsewhere: Path) -> Iterator[Callable[..., Panel]]:
    """A maker of panels on default settings, closed at the end."""
    made: list[Panel] = []

    def make(image: Any, model: Any = bright, models: tuple[Any, ...] = (), **given: Any) -> Panel:
        given = {"grid": tv.Grid(3, 4, overlap=0.2)} | given
        made.append(Panel(image, model, models, elsewhere / "kept", given))
        _wait(lambda: "tiles:" in _said(made[-1]))
        return made[-1]

    yield make
    for panel in made:
        panel.close()


def _run(panel: Panel) -> None:
    _wait(lambda: not panel._controls.run.disabled)
    before = panel.run
    panel._controls.run.click()
    _wait(lambda: panel.run is not before and panel._screen.run is panel.run)
    _wait(lambda: panel._screen.state.ended)
    _wait(lambda: "merged by" in _headline(panel))


def test_a_session(make, squares) -> None:
    """Plan, run, filter, inspect, another model, export; and all of it again from the past."""
    panel = make(squares, models=(all_of_it,))
    assert "12 tiles: 12 to run, 0 stored already" in _said(panel)
    assert panel.result is None
    _run(panel)
    assert len(panel.result.findings) == 12
    assert "12 detections merged by seam" in _headline(panel)

    panel._filters.classes.value = ("red",)
    _wait(lambda: "· 3 detections merged by seam" in _headline(panel))
    assert len(panel.result.findings) == 3
    panel._export.save.click()
    _wait(lambda: "Saved" in panel._export.answer.words.value)
    assert len(json.loads(Path("detections.geojson").read_text())["features"]) == 3

    panel._screen.canvas.picked = [35.0, 25.0, 1.0]
    _wait(lambda: panel._inspector.widget.picture)
    assert panel._inspector.widget.facts["id"] == "r000c000"
    assert panel._inspector.widget.picture.startswith(b"\xff\xd8")
    assert panel._screen.canvas.outline == [0.0, 0.0, 118.0, 116.0]
    panel._inspector.widget.asked = ["run", 1, 1]
    _wait(lambda: "found 1 detection" in panel._inspector.widget.other.get("words", ""))
    assert panel._inspector.widget.other["labels"] == ["all"]
    assert len(panel.result.findings) == 3  # a trial changes nothing

    run_id = panel.run.id
    panel._replan()
    _wait(lambda: "0 to run, 12 stored already" in _said(panel))
    panel._past_list.menu.value = run_id
    panel._past_list.open.click()
    _wait(lambda: panel.run.id == run_id and "merged by" in _headline(panel))
    _wait(lambda: "It cannot be resumed: all its tiles are done." in _said(panel))
    assert panel._controls.buttons["resume"].disabled
    assert len(panel.result.findings) == 3
    panel._screen.canvas.picked = [35.0, 25.0, 2.0]
    _wait(lambda: panel._inspector.widget.rows.get("total"))


def test_a_failed_tile_is_retried_from_the_inspector(make, spots, tmp_path) -> None:
    """Only that tile runs again, its inspector follows, and the picture turns."""
    mended = str(tmp_path / "mended")

    def picky(pixels: np.ndarray) -> Any:
        if pixels[20:30, 30:40].min() == 255 and not Path(mended).exists():
            raise tv.PermanentError("not yet")
        return []

    panel = make(spots, picky)
    _run(panel)
    (number,) = _failed(panel)
    panel._tile_list.picked = [number, 1]
    _wait(lambda: panel._inspector.widget.facts.get("can_retry"))
    assert panel._inspector.widget.facts["error"] == "PermanentError: not yet"
    Path(mended).touch()
    panel._inspector.widget.asked = ["retry", -1, 1]
    _wait(lambda: panel._screen.state.run_status == "complete")
    _wait(lambda: panel._inspector.widget.facts["status"] == "done")
    _wait(lambda: _failed(panel) == [])


def test_filters_count_while_the_run_goes_on(make, spots, tmp_path) -> None:
    """Thresholds apply to what is known by then, and the run takes no notice."""
    gate = str(tmp_path / "gate")

    def gated(pixels: np.ndarray) -> Any:
        while pixels[20:30, 30:40].min() == 255 and not Path(gate).exists():
            time.sleep(0.02)
        return [{"xmin": 1, "ymin": 1, "xmax": 9, "ymax": 9, "score": s} for s in (0.3, 0.8)]

    panel = make(spots, gated, batch_size=1, grid=tv.Grid(3, 4, overlap=0))
    panel._controls.run.click()
    _wait(lambda: panel._screen.state and panel._screen.state.counts.get("done", 0) > 1)
    panel._filters.score.value = 0.5
    _wait(lambda: "merged so far" in _headline(panel))
    assert panel._going
    known = panel._screen.state.counts["done"]
    assert len(panel.result.findings) >= known
    assert all(panel.result.findings.scores >= 0.5)
    Path(gate).touch()
    _wait(lambda: "Complete" in _headline(panel) and "12 detections merged" in _headline(panel))


def test_a_changed_setup_keeps_the_result(make, spots) -> None:
    """What is shown is counted, exported and named, be it the run or the plan since."""
    panel = make(spots)
    _run(panel)
    run_id = panel.run.id
    panel._settings.rows.value = 4
    _wait(lambda: "New setup, 16 tiles" in _said(panel))
    assert "12 detections merged by seam" in _headline(panel)
    assert f"Run {run_id}: <b>12</b> detections" in panel._filters.words.value
    assert len(panel.result.findings) == 12

    panel._subject.buttons.value = 1
    _wait(lambda: "Planned · 16 tiles · nothing stored yet" in _headline(panel))
    _wait(lambda: "No tile is stored for this setup yet" in panel._filters.words.value)
    assert panel.result is None
    panel._export.answer.say("Saved 12 detections.")
    panel._export.save.click()  # what is said below the button is what became of this click
    _wait(lambda: "nothing to export yet" in panel._export.answer.words.value)
    assert "Saved" not in panel._export.answer.words.value
    assert not Path("detections.geojson").exists()

    panel._subject.buttons.value = 0
    _wait(lambda: "12 detections merged by seam" in _headline(panel))
    panel._export.save.click()
    _wait(lambda: f"Saved 12 detections of run {run_id}" in panel._export.answer.words.value)


def test_what_is_stored_is_drawn_before_anything_runs(make, spots) -> None:
    """In a new kernel the same panel shows, filters and exports what the folder holds."""
    _run(make(spots))
    again = make(spots)
    stored = "Planned · 12 of 12 tiles stored · 12 detections merged by seam"
    _wait(lambda: stored in _headline(again))
    assert again.run is None and len(again.result.findings) == 12
    again._screen.canvas.picked = [35.0, 25.0, 1.0]
    _wait(lambda: again._inspector.widget.rows.get("total"))
    again._export.save.click()
    _wait(lambda: "Saved 12 detections of the tiles" in again._export.answer.words.value)
    assert again._screen.state.planned


def _hold_back(monkeypatch: pytest.MonkeyPatch, name: str) -> tuple[Any, Any]:
    """Have what the panel calls wait for the second event; the first says that it was called."""
    entered, gate, plain = threading.Event(), threading.Event(), getattr(panel_module, name)

    def held_back(*args: Any, **more: Any) -> Any:
        entered.set()
        assert gate.wait(120)
        return plain(*args, **more)

    monkeypatch.setattr(panel_module, name, held_back)
    return entered, gate


def test_a_setup_that_is_changed_while_a_run_is_being_started_is_planned_at_its_end(
    make, spots, monkeypatch
) -> None:
    """Once that has ended, Run can be pressed for the new setup."""
    panel = make(spots)
    entered, gate = _hold_back(monkeypatch, "start")
    panel._controls.run.click()
    assert entered.wait(120)
    panel._settings.rows.value = 4
    gate.set()
    _wait(lambda: "New setup, 16 tiles" in _said(panel))
    _wait(lambda: not panel._controls.run.disabled)


def test_a_setup_whose_plan_was_made_as_a_run_went_on_is_planned_at_its_end(
    make, spots, monkeypatch, tmp_path
) -> None:
    """Failed tiles are tried again while the image is looked at for the new setup."""
    go = str(tmp_path / "go")

    def picky(pixels: np.ndarray) -> Any:
        if pixels[20:30, 30:40].min() == 255 and not Path(go).exists():
            raise tv.PermanentError("not yet")
        return []

    panel = make(spots, picky)
    _run(panel)
    entered, gate = _hold_back(monkeypatch, "plan")
    panel._settings.rows.value = 4
    assert entered.wait(120)
    with monkeypatch.context() as going:
        going.setattr(tv.pipeline.Run, "status", "running")
        gate.set()
        heard = threading.Event()
        panel._work.put("heard", heard.set)
        assert heard.wait(120)
    assert "New setup" not in _said(panel)
    Path(go).touch()
    panel.run.retry_failed()
    _wait(lambda: "New setup, 16 tiles" in _said(panel))
    _wait(lambda: not panel._controls.run.disabled)


def test_the_end_of_a_run_is_not_said_of_the_next(make, spots) -> None:
    """A frame that was drawn of one run while another is shown says nothing of that one."""
    panel = make(spots)
    _run(panel)
    state, frame = panel._screen.state, SimpleNamespace()
    panel._screen.poke = lambda: None  # the next run is not drawn yet
    _wait(lambda: panel._screen._thread is None)
    panel._show(tv.start(spots, bright, checkpoint=None, grid=tv.Grid(3, 4)))
    panel._controls.say("Starting…")
    panel._on_frame(state, frame)
    assert "Starting" in _said(panel) and panel._announced == ()
    panel.run.result(200)


def test_the_picture_says_that_tissue_is_looked_for(make, spots) -> None:
    """From the press until it is found or there is none: it takes seconds on a slide."""
    panel = make(spots)
    said: list[str] = []
    panel._screen.canvas.observe(lambda change: said.append(change["new"]), names="doing")
    panel._regions._heard(None, {"tissue": True}, None)
    _wait(lambda: said == ["Looking for tissue…", ""])


def test_code_names_tissue_that_nobody_moved(make, spots) -> None:
    """As the word it is, beside what was drawn; moved corners are given as they are."""
    panel = make(spots)
    square = {"name": "core", "parts": [[[[0, 0], [90, 0], [90, 90], [0, 0]]]]}
    around = {"type": "Polygon", "coordinates": [[[5, 5], [80, 5], [80, 80], [5, 5]]]}
    panel._regions.add(Region(shapely.geometry.shape(around), "tissue"))
    assert panel._regions.told == "tissue"
    (tissue,) = panel._screen.canvas.regions
    panel._regions._heard(None, {"regions": [tissue, square]}, None)
    found, drawn = panel._regions.told
    assert found == "tissue"
    assert [one["properties"]["name"] for one in drawn["features"]] == ["core"]
    assert [one["properties"]["name"] for one in panel._regions.value["features"]] == [
        "tissue", "core",
    ]  # fmt: skip
    panel._regions._heard(None, {"regions": [square | {"name": "tissue"}]}, None)
    assert panel._regions.told == panel._regions.value


def test_runs_from_elsewhere_are_listed_while_the_tab_is_open(make, spots) -> None:
    """A run that another panel or the shell begins appears by itself, and so does its end."""
    panel = make(spots)
    panel._tabs.buttons.value = "Runs"
    run = tv.start(spots, bright, checkpoint=panel._checkpoint, grid=tv.Grid(3, 4))
    _wait(lambda: any(run.id == value for _, value in panel._past_list.menu.options))
    run.result(200)
    _wait(lambda: any("complete" in words for words, _ in panel._past_list.menu.options))
    panel._tabs.buttons.value = "Setup"
    _wait(lambda: "tilevision-panel-runs" not in _mine())


@pytest.mark.parametrize("fails", [False, True])
def test_past_runs_are_listed_once_there_is_a_picture(
    elsewhere, spots, monkeypatch, fails: bool
) -> None:
    """Journals are read while the user looks at the picture; or at once where there is none."""
    tv.analyze(spots, bright, checkpoint="kept", progress=False)
    plan, gate, listed = panel_module.plan, threading.Event(), []
    refresh = PastRunList.refresh

    def planned(*args: Any, **more: Any) -> Any:
        assert gate.wait(120)
        if fails:
            raise tv.RunError("no picture")
        return plan(*args, **more)

    def refreshed(past: PastRunList) -> None:
        listed.append(panel._screen.frames)
        refresh(past)

    monkeypatch.setattr(panel_module, "plan", planned)
    monkeypatch.setattr(PastRunList, "refresh", refreshed)
    panel = Panel(spots, bright, (), "kept", {})
    try:
        _wait(lambda: "Looking at the image" in _said(panel))
        assert listed == []
        gate.set()
        _wait(lambda: len(panel._past_list.rows) == 1)
        assert len(listed) == 1 and (listed[0] == 0) is fails
    finally:
        panel.close()


OPENED = """
import sys, time
import numpy as np
from tilevision.view import Panel

panel = Panel(np.zeros((60, 80, 3), np.uint8), "blobs", (), "kept", {})
until = time.monotonic() + 200
while not panel._past_list.rows:
    assert time.monotonic() < until
    time.sleep(0.02)
print("pandas" in sys.modules, panel._screen.frames > 0)
panel.close()
"""


def test_a_panel_with_nothing_stored_loads_no_library_of_tables(elsewhere, spots) -> None:
    """It would take as long to load as all else before the first picture."""
    tv.analyze(spots, bright, checkpoint="kept", progress=False)
    command = [sys.executable, "-c", OPENED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert (done.stdout, done.returncode) == ("False True\n", 0), done.stderr


def test_nothing_that_takes_long_keeps_the_notebook_waiting(make, spots, monkeypatch) -> None:
    """A click returns at once though planning and starting take their time, and Pause overtakes."""
    panel = make(spots)
    entered, gate, in_time = threading.Event(), threading.Event(), []

    def slow(*args: Any, **more: Any) -> Any:
        entered.set()
        in_time.append(gate.wait(120))  # a click that waited for this would keep the gate shut
        raise tv.RunError("enough")

    monkeypatch.setattr(panel_module, "start", slow)
    monkeypatch.setattr(panel_module, "plan", slow)
    panel._controls.run.click()
    assert entered.wait(200)
    panel._settings.rows.value = 5
    panel._filters.score.value = 0.3
    panel._screen.canvas.picked = [5.0, 5.0, 1.0]
    _wait(lambda: panel._inspector.widget.facts)  # the inspector does not wait for the plan
    gate.set()
    _wait(lambda: "enough" in _said(panel))
    assert in_time and all(in_time)


def test_mistakes_are_one_line_in_the_panel(make, spots, tmp_path) -> None:
    """A file that is not there, a grid that does not fit: said, and mended by typing."""
    from PIL import Image

    path = tmp_path / "spots.png"
    Image.fromarray(spots).save(path)
    panel = make(path)
    panel._settings.image.value = str(tmp_path / "none.png")
    _wait(lambda: "none.png" in _said(panel) and "tilevision-alarm" in _said(panel))
    _wait(lambda: panel._controls.run.disabled)
    panel._settings.image.value = str(path)
    _wait(lambda: "12 tiles" in _said(panel))
    panel._settings.rows.value = 4000
    _wait(lambda: "tilevision-alarm" in _said(panel) and "rows" in _said(panel))


def test_where_no_image_can_be_opened_nothing_is_starting(elsewhere, spots) -> None:
    """The picture's headline says so, until one is there."""
    from PIL import Image

    panel = Panel("none.png", bright, (), ".tilevision", {"grid": tv.Grid(3, 4)})
    try:
        _wait(lambda: _headline(panel) == "No image to show")
        assert "none.png" in _said(panel)
        Image.fromarray(spots).save("there.png")
        panel._settings.image.value = "there.png"
        _wait(lambda: "there.png" in _headline(panel))
    finally:
        panel.close()


def test_another_image_is_shown_whole(make, spots, tmp_path) -> None:
    """A part of one image that was looked at means nothing in another."""
    from PIL import Image

    for name, side in (("one.png", 200), ("other.png", 120)):
        Image.fromarray(spots[:side, :side]).save(tmp_path / name)
    panel = make(tmp_path / "one.png")
    canvas = panel._screen.canvas
    canvas.viewport = [60.0, 60.0, 50.0, 50.0]
    _wait(lambda: canvas.shown == [60.0, 60.0, 50.0, 50.0])
    subject = canvas.subject
    panel._settings.image.value = str(tmp_path / "other.png")
    _wait(lambda: canvas.shown == [0.0, 0.0, 120.0, 120.0])
    assert canvas.subject > subject


def test_an_image_that_is_decoded_first_tells_how_far_it_is(make, spots, tmp_path) -> None:
    """While a PNG goes into the temp folder the panel says the share, the size and where."""
    from PIL import Image

    small, path = tmp_path / "small.png", tmp_path / "Large.png"
    Image.fromarray(spots).save(small)
    Image.fromarray(np.zeros((3000, 3000, 3), np.uint8)).save(path)
    panel = make(small)
    said: list[str] = []
    panel._controls.words.observe(lambda change: said.append(change["new"]), names="value")
    panel._settings.image.value = str(path)
    _wait(lambda: "3,000 × 3,000 px" in _said(panel))
    shares = [line for line in said if "Preparing the image: " in line]
    assert "100% of 27 MB in /" in shares[-1]
    assert len(shares) == len(set(shares)) <= 101


def test_run_can_be_pressed_again_though_a_frame_came_during_planning(
    make, spots, monkeypatch
) -> None:
    """A frame finds no plan while one is made; with the plan, Run is ready again."""
    panel, gate = make(spots), threading.Event()
    _run(panel)
    planned = panel_module.plan

    def slow(*given: Any, **options: Any) -> Any:
        assert gate.wait(120)
        return planned(*given, **options)

    monkeypatch.setattr(panel_module, "plan", slow)
    panel._replan()
    _wait(lambda: not panel._ready)
    panel._screen.poke()
    _wait(lambda: panel._controls.run.disabled)
    gate.set()
    _wait(lambda: not panel._controls.run.disabled)


def test_a_cascade_chosen_in_the_panel_asks_the_second_model(make, spots, tmp_path) -> None:
    """Where a score of the first lies in the band, the second's detections count."""

    def unsure(pixels: np.ndarray) -> Any:
        return [one | {"score": 0.5} for one in bright(pixels)]

    panel = make(spots, unsure, (all_of_it,))
    tiles = panel._settings.model
    tiles.second.value = tiles.names.index("all_of_it")
    _wait(
        lambda: "Model: unsure, then all_of_it where a score lies in 0.25 to 0.60" in _said(panel)
    )
    _run(panel)
    assert set(panel.result.findings.labels) == {"all"}
    assert panel.result.models == {"all_of_it": 12}
    tiles.band.value = (0.6, 0.9)
    _wait(lambda: "0 to run, 12 stored already" in _said(panel))
    _run(panel)
    assert len(panel.result.findings) == 12
    assert set(panel.result.findings.labels) == {"white"}


def test_an_image_at_a_url_is_explored(make, spots, tmp_path) -> None:
    """It is planned and run like a file, and no secret of its address is shown."""
    from PIL import Image
    from range_server import range_server

    Image.fromarray(spots).save(tmp_path / "spots.png")
    with range_server() as server:
        panel = make(server.put("spots.png", tmp_path / "spots.png") + "?token=hush-hush")
        _run(panel)
        assert len(panel.result.findings) == 12
        shown = [_said(panel), _headline(panel), panel._settings.image.value, repr(panel)]
        assert "spots.png" in shown[1] and not any("hush" in text for text in shown)


def test_two_panels_run_at_once(make, spots) -> None:
    """Each shows its own run, and both finish."""
    first, second = make(spots), make(spots[:, ::-1].copy())
    first._controls.run.click()
    second._controls.run.click()
    for panel in (first, second):
        _wait(lambda panel=panel: panel.run and panel._screen.state.ended)
        _wait(lambda panel=panel: "12 detections merged" in _headline(panel))
    assert first.run.id != second.run.id


def test_a_second_click_on_run_starts_nothing(make, spots, elsewhere, tmp_path) -> None:
    """Neither one that waits while the run is being started, nor one that is heard of later."""
    gate = str(tmp_path / "go")

    def waiting(pixels: np.ndarray) -> Any:
        while not Path(gate).exists():
            time.sleep(0.02)
        return []

    panel = make(spots, waiting)
    _wait(lambda: not panel._controls.run.disabled)
    for _ in range(3):
        panel._controls.run.click()
    _wait(lambda: panel.run is not None)
    run = panel.run
    panel._controls.run.click()
    heard = threading.Event()
    panel._work.put("heard", heard.set)
    assert heard.wait(60)
    Path(gate).touch()
    run.result(60)
    assert panel.run is run
    assert tv.runs(elsewhere / "kept")["id"].tolist() == [run.id]


def test_regions_from_files_answer_below_their_buttons(make, spots, tmp_path) -> None:
    """What was done, or why not; and nothing is written as GeoJSON that is called otherwise."""
    panel = make(spots)
    form = panel._region_form

    def answer(button: Any, path: str) -> str:
        form.answer.words.value = ""
        form.path.value = path
        button.click()
        _wait(lambda: form.answer.words.value)
        return str(form.answer.words.value)

    assert "There is no region yet" in answer(form.save, str(tmp_path / "none.geojson"))
    panel._regions.add(Region(shapely.box(0, 0, 90, 90), "mine"))
    kept = str(tmp_path / "kept.geojson")
    assert "Saved 1 region to" in answer(form.save, kept)
    refused = answer(form.save, str(tmp_path / "kept.csv"))
    assert "end " in refused and "in .geojson" in refused and 'role="alert"' in refused
    assert not (tmp_path / "kept.csv").exists()
    assert "There is no file" in answer(form.load, str(tmp_path / "absent.geojson"))
    assert "Imported 1 region." in answer(form.load, kept)
    assert "tilevision-alarm" not in _said(panel)


def test_the_number_of_tiles_at_once_moves_while_it_runs(
    make, spots, tmp_path, monkeypatch
) -> None:
    """From the moment it is set to one, no two tiles are worked on at the same time."""
    log, heard = tmp_path / "log", []
    (log / "hold").mkdir(parents=True)

    def counting(pixels: np.ndarray) -> Any:
        when = "early" if (log / "hold").exists() else "late"
        mark = log / f"{uuid.uuid4().hex}.busy"
        mark.touch()
        mark.with_suffix(f".{when}").write_text(str(len(list(log.glob("*.busy")))))
        while (log / "hold").exists():
            time.sleep(0.01)
        time.sleep(0.02)
        mark.unlink()
        return []

    def seen(when: str) -> list[str]:
        return [path.read_text() for path in log.glob(f"*.{when}")]

    plain = tv.pipeline.Run.set_concurrency

    def noted(run: tv.Run, number: int | None) -> None:
        plain(run, number)
        heard.append(number)

    monkeypatch.setattr(tv.pipeline.Run, "set_concurrency", noted)
    panel = make(spots, counting, batch_size=1, grid=tv.Grid(5, 6, overlap=0))
    panel._controls.concurrency.value = 2
    panel._controls.run.click()
    _wait(lambda: panel._going and len(seen("early")) == 2)
    panel._controls.concurrency.value = 1
    _wait(lambda: heard == [1])
    (log / "hold").rmdir()
    assert panel.run.result(120).complete
    assert len(seen("early")) == 2 and seen("late") == ["1"] * 28


def test_a_partial_run_is_opened_and_gone_on_with(make, spots, tmp_path) -> None:
    """From the list, in another panel: its failed tile runs again, under the run's own id."""
    mended, go = str(tmp_path / "mended"), str(tmp_path / "go")

    def picky(pixels: np.ndarray) -> Any:
        if pixels[20:30, 30:40].min() == 255:
            if not Path(mended).exists():
                raise tv.PermanentError("not yet")
            while not Path(go).exists():
                time.sleep(0.02)
        return []

    first = make(spots, picky)
    _run(first)
    run_id = first.run.id
    first.close()

    stranger = make(spots)  # it has another model
    _wait(lambda: "Cannot be resumed" in stranger._past_list.words.value)
    assert (
        "picky" in stranger._past_list.words.value
        and "Add a model" in stranger._past_list.words.value
    )
    assert stranger._past_list.resume.disabled and not stranger._past_list.open.disabled

    second = make(spots, picky)
    _wait(lambda: not second._past_list.resume.disabled)
    assert second._past_list.menu.value == run_id
    second._past_list.open.click()
    _wait(lambda: "Resume keeps" in _said(second) and "1 of 12 tiles failed" in _said(second))
    steering = second._controls
    _wait(lambda: not steering.retry.disabled and not steering.resume.disabled)
    Path(mended).touch()
    alarms: list[str] = []
    second._work._on_error = alarms.append
    steering.retry.click()
    _wait(lambda: isinstance(second.run, tv.pipeline.Run))
    second._past_list.resume.click()  # a second click, heard of once it is running
    heard = threading.Event()
    second._work.put("heard", heard.set)
    assert heard.wait(60)
    Path(go).touch()
    _wait(lambda: second._screen.state.run_status == "complete")
    assert alarms == []
    assert isinstance(second.run, tv.pipeline.Run) and second.run.id == run_id
    _wait(lambda: "all its tiles are done" in second._past_list.words.value)
    assert second._past_list.resume.disabled


def test_a_run_at_work_elsewhere_is_followed_not_steered(make, spots, tmp_path) -> None:
    """It is opened from the list like any other, and its end is seen."""
    gate = str(tmp_path / "gate")

    def gated(pixels: np.ndarray) -> Any:
        while pixels[20:30, 30:40].min() == 255 and not Path(gate).exists():
            time.sleep(0.02)
        return []

    worker = make(spots, gated, batch_size=1)
    worker._controls.run.click()
    _wait(lambda: worker._screen.state and worker._screen.state.counts.get("done", 0) > 1)
    other = make(spots, gated)
    _wait(lambda: other._past_list.menu.value == worker.run.id)
    other._past_list.open.click()
    _wait(lambda: "Another process runs it" in _said(other))
    buttons = other._controls.buttons
    assert all(buttons[name].disabled for name in ("pause", "resume", "cancel", "retry"))
    Path(gate).touch()
    _wait(lambda: other._screen.state.run_status == "complete")
    assert worker.run.result(200).complete


def test_the_dashboard_is_linked_as_dask_is_told_to(make, spots, monkeypatch) -> None:
    """Behind JupyterHub's proxy, by the template that its users set for Dask."""
    import dask

    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ada/")
    link = "{JUPYTERHUB_SERVICE_PREFIX}proxy/{port}/status"
    with dask.config.set({"distributed.dashboard.link": link}):
        panel = make(spots)
        _run(panel)
    _wait(lambda: 'href="/user/ada/proxy/' in _said(panel))


def test_a_past_run_is_opened_on_its_own_image(make, spots, tmp_path) -> None:
    """A run on a file is opened from its path, though the panel is on pixels in memory."""
    from PIL import Image

    path = tmp_path / "spots.png"
    Image.fromarray(spots).save(path)
    first = make(path)
    _run(first)
    second = make(spots[:, ::-1].copy())
    _wait(lambda: second._past_list.menu.value == first.run.id)
    second._past_list.open.click()
    _wait(lambda: "spots.png" in _headline(second) and "merged by" in _headline(second))


def _session(image: np.ndarray, checkpoint: Path) -> tuple[Any, weakref.ref[Panel]]:
    """Use a panel, close it, and return its run."""
    panel = Panel(image, bright, (), checkpoint, {"grid": tv.Grid(3, 4)})
    _wait(lambda: "tiles:" in _said(panel))
    _run(panel)
    panel._screen.canvas.picked = [35.0, 25.0, 1.0]
    _wait(lambda: panel._inspector.widget.facts)
    panel.close()
    panel._replan()  # what comes late starts nothing
    return panel.run, weakref.ref(panel)


def test_closing_leaves_nothing_behind(elsewhere, spots) -> None:
    """No thread, no listener and no panel in memory; the run goes on to its end."""
    run, gone = _session(spots, elsewhere / "kept")
    _wait(lambda: not _mine())  # a cancelled timer takes a moment to end
    assert run.result().complete
    listeners = run._bus._listeners.values()
    assert not [one for one in listeners if one.__module__.startswith("tilevision.view")]
    gc.collect()
    assert gone() is None
