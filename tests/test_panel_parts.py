"""The parts of the panel: what its controls ask for, and what they say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tilevision as tv
from tilevision.analysis.account import RunFacts, TileRow
from tilevision.errors import Failure
from tilevision.events import RunChanged, TileChanged
from tilevision.findings import Findings, TileFindings
from tilevision.grid import Grid
from tilevision.pipeline.control import Control
from tilevision.result import Result
from tilevision.schedule.limits import Circuit
from tilevision.schedule.policy import Backoff, Retry
from tilevision.seams import MergeSettings
from tilevision.sources import open_source
from tilevision.status import RunStatus
from tilevision.view import notebook
from tilevision.view.jobs import JobQueue
from tilevision.view.panel import panel as panel_module
from tilevision.view.panel.controls import Tabs, run_options
from tilevision.view.panel.exportform import ExportForm
from tilevision.view.panel.filters import Filters
from tilevision.view.panel.modelmenu import ModelMenu
from tilevision.view.panel.runcontrols import RunControls
from tilevision.view.panel.settingsform import SettingsForm
from tilevision.view.picture.caption import Counted
from tilevision.view.picture.viewstate import fold, initial


def bright(pixels: np.ndarray) -> Any:
    """A model of the user's own."""
    return []


def _wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def _choices(image: Any = "a.png", model: Any = bright, **arguments: Any) -> SettingsForm:
    return SettingsForm(image, model, (), arguments, lambda: None)


# Lanes --------------------------------------------------------------------------------------


def test_of_one_kind_only_the_latest_job_waits() -> None:
    """A slider that was moved ten times while another job was at work asks for one answer."""
    gate, did = threading.Event(), []
    lane = JobQueue("tilevision-test-lane", did.append)
    lane.put("first", gate.wait)
    for number in range(10):
        lane.put("slide", lambda number=number: did.append(number))
    lane.put("other", lambda: did.append("other"))
    gate.set()
    _wait(lambda: "other" in did)
    assert did == [9, "other"]
    lane.close()


def test_a_lane_reports_errors_as_lines_and_goes_on() -> None:
    """A clear error is its message, any other says its kind too."""
    said: list[str] = []
    lane = JobQueue("tilevision-test-lane", said.append)
    lane.put("a", lambda: (_ for _ in ()).throw(tv.GridError("too many rows")))
    lane.put("b", lambda: 1 / 0)
    answers: list[str] = []
    lane.put("own", lambda: 1 / 0, answers.append)  # who asked has a place for the answer
    lane.put("c", lambda: said.append("went on"))
    _wait(lambda: "went on" in said)
    assert said == ["too many rows", "ZeroDivisionError: division by zero", "went on"]
    assert answers == ["ZeroDivisionError: division by zero"]
    lane.close()


def test_a_lane_without_work_has_no_thread_and_a_closed_one_does_none() -> None:
    """Nothing is left behind, and what comes late is forgotten."""
    lane = JobQueue("tilevision-test-lane", print)
    lane.put("a", lambda: None)
    _wait(lambda: "tilevision-test-lane" not in [t.name for t in threading.enumerate()])
    lane.close()
    did: list[int] = []
    lane.put("a", lambda: did.append(1))
    time.sleep(0.05)
    assert did == []


# Setup --------------------------------------------------------------------------------------


def test_the_menu_offers_own_models_then_those_with_a_name() -> None:
    """Each stage its own; the one that was given is chosen."""
    tiles = ModelMenu("Model", "tile", [bright, "nuclei"])
    assert tiles.value is bright
    assert tiles.names[0] == "bright"
    assert {"nuclei", "blobs", "textlines"} <= set(tiles.names)
    assert tiles.names.count("nuclei") == 1
    assert tiles.called("blobs") == "blobs" and tiles.called("nobody") is None
    assert ModelMenu("Model", "tile", ["nuclei"]).value == "nuclei"
    moderation = ModelMenu("Moderation", "moderation", [bright, "nuclei"])
    assert moderation.value is None
    assert "limits" in moderation.names and "nuclei" not in moderation.names
    assert ModelMenu("Synthesis", "synthesis", [], "summary").value == "summary"


def test_models_that_lead_to_several_can_be_chosen() -> None:
    """A cascade is offered for tiles, under its models' names, and for nothing else."""
    cascade = tv.Cascade("blobs", bright, when=lambda findings: True)
    assert ModelMenu("Model", "tile", [cascade]).value is cascade
    assert ModelMenu("Model", "tile", [cascade]).names[0] == "blobs then bright"
    assert ModelMenu("Moderation", "moderation", [cascade]).called("blobs then bright") is None


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"grid": "3x5"},
        {"grid": 640, "resolution": "0.5mpp"},
        {"grid": tv.Grid.by_tile((200, 300), "64px"), "resolution": [1.0, 0.5]},
        {"grid": tv.Grid.adaptive(), "timeout": 5, "moderation": "limits", "synthesis": None},
    ],
)
def test_what_the_user_does_not_touch_is_passed_as_it_was_given(given) -> None:
    """The form shows what it can, and loses nothing that it cannot show."""
    image, arguments = _choices(**given).read()
    assert image == "a.png"
    defaults = {"moderation": None, "synthesis": "summary"}
    assert arguments == defaults | given | {"model": bright}


def test_what_the_user_changes_is_asked_for() -> None:
    """Grid by rows, by tile, as the model likes; overlap as a share or in pixels; a scale."""
    choices = _choices(grid="3x5")
    choices.rows.value = 4
    assert choices.read()[1]["grid"] == Grid(4, 5)
    choices.overlap.value = "64px"
    assert choices.read()[1]["grid"] == Grid(4, 5, overlap="64px")
    choices.kind.value, choices.tile.value, choices.overlap.value = "tile", 500, "0.1"
    assert choices.read()[1]["grid"] == Grid.by_tile(500, 0.1)
    choices.kind.value, choices.resolution.value = "model", "0.5"
    assert choices.read()[1]["grid"] is None and choices.read()[1]["resolution"] == 0.5
    choices.resolution.value = "20x"
    assert choices.read()[1]["resolution"] == "20x"
    choices.image.value = "b.png"
    assert choices.read()[0] == "b.png"


def test_a_wrong_overlap_is_one_clear_line() -> None:
    """What was typed is quoted, with what would do."""
    choices = _choices(grid="3x5")
    choices.overlap.value = "a lot"
    with pytest.raises(tv.GridError, match=r"'a lot'.*0\.2 or 64px"):
        choices.read()


def test_an_image_in_memory_stays_the_image() -> None:
    """There is no path to type; the object itself is passed on."""
    pixels = np.zeros((5, 5, 3), np.uint8)
    choices = _choices(pixels)
    assert choices.image.disabled
    assert choices.read()[0] is pixels


def test_controls_that_do_not_apply_are_taken_away() -> None:
    """Rows and columns for one kind of grid, the side of a tile for another."""
    choices = _choices(grid="3x5")
    assert choices.tile.layout.display == "none" and choices.rows.layout.display is None
    choices.kind.value = "tile"
    assert choices.tile.layout.display is None and choices.rows.layout.display == "none"


def test_pages_turn_without_the_kernel() -> None:
    """The button and its page are linked in the browser: a busy kernel need not answer."""
    import ipywidgets

    tabs = Tabs({"One": [ipywidgets.HTML("1")], "Two": [ipywidgets.HTML("2")]})
    assert tabs.link.get_state(["_model_name"]) == {"_model_name": "LinkModel"}
    assert tabs.link.source == (tabs.buttons, "index")
    assert tabs.link.target == (tabs.stack, "selected_index")
    assert [len(page.children) for page in tabs.stack.children] == [1, 1]


def test_a_cell_at_work_is_told_of_after_a_while(monkeypatch) -> None:
    """While it blocks no click is heard, and the panel says so; a short one is not worth a word."""
    heard: dict[str, Any] = {}
    events = SimpleNamespace(register=heard.__setitem__, unregister=lambda name, _: heard.pop(name))
    monkeypatch.setattr(notebook, "_shell", lambda: SimpleNamespace(events=events, kernel=None))
    told: list[bool] = []
    watch = notebook.CellWatch(told.append, seconds=0.05)
    heard["pre_run_cell"](None)
    _wait(lambda: told == [True])
    heard["post_run_cell"](None)
    assert told == [True, False]
    watch.close()
    assert heard == {}
    notebook.CellWatch(told.append, seconds=60)
    heard["pre_run_cell"](None)
    heard["post_run_cell"](None)
    assert told == [True, False]


def test_a_cell_at_work_blocks_no_click_that_comes_to_a_subshell(monkeypatch) -> None:
    """JupyterLab opens one. Visual Studio Code opens none in a kernel that could have them."""
    heard: dict[str, Any] = {}
    events = SimpleNamespace(register=heard.__setitem__)
    opened: list[str] = []
    asked = threading.Event()

    def list_subshell() -> list[str]:
        asked.set()
        return opened

    thread = SimpleNamespace(manager=SimpleNamespace(list_subshell=list_subshell))
    kernel = SimpleNamespace(shell_channel_thread=thread)
    monkeypatch.setattr(notebook, "_shell", lambda: SimpleNamespace(events=events, kernel=kernel))
    told: list[bool] = []
    notebook.CellWatch(told.append, seconds=0.01)
    for ids, expected in (([], [True, False]), (["one"], [])):
        opened[:], told[:] = ids, []
        asked.clear()
        heard["pre_run_cell"](None)
        assert asked.wait(200)
        heard["post_run_cell"](None)
        assert told == expected


# RunControls -----------------------------------------------------------------------------------


def _steering(**given: Any) -> RunControls:
    actions = dict.fromkeys(("run", "pause", "resume", "cancel", "retry"), lambda: None)
    return RunControls(actions, given.get("concurrency"), lambda number: None)


@pytest.mark.parametrize(
    ("status", "failed", "ready", "enabled"),
    [
        (None, 0, False, set()),
        (None, 0, True, {"run"}),
        ("running", 0, True, {"pause", "cancel"}),
        ("running", 2, True, {"pause", "cancel", "retry"}),
        ("paused", 0, True, {"resume", "cancel"}),
        ("partial", 2, True, {"run", "retry"}),
        ("complete", 0, True, {"run"}),
        ("stopped", 2, True, {"run"}),
    ],
)
def test_buttons_that_make_no_sense_cannot_be_pressed(status, failed, ready, enabled) -> None:
    """Each status of a run has its buttons."""
    steering = _steering()
    steering.fit(status and RunStatus(status), failed=failed, ready=ready)
    assert {name for name, made in steering.buttons.items() if not made.disabled} == enabled


def test_a_page_that_opens_is_told_how_the_buttons_are(monkeypatch) -> None:
    """It may have taken them over while they changed, and would show them as they were."""
    controls = _steering()
    told: list[Any] = []
    for part in (*controls.buttons.values(), controls.words):
        monkeypatch.setattr(part, "send_state", lambda part=part: told.append(part))
    controls.tell_again()
    assert told == [*controls.buttons.values(), controls.words]


def test_a_run_of_the_past_can_only_be_gone_on_with() -> None:
    """Where it cannot, neither Resume nor Retry; one of another process is steered there."""
    steering = _steering()

    def enabled(status: str, failed: int, resumable: bool) -> set[str]:
        past = {"past": True, "resumable": resumable}
        steering.fit(RunStatus(status), failed=failed, ready=True, **past)
        return {name for name, made in steering.buttons.items() if not made.disabled}

    assert enabled("partial", 2, True) == {"run", "resume", "retry"}
    assert enabled("interrupted", 0, True) == {"run", "resume"}
    assert enabled("partial", 2, False) == {"run"}
    assert enabled("running", 1, False) == {"run"}


def test_a_pause_is_ended_by_the_button() -> None:
    """Whoever paused it: a script is told what to call, here there is something to press."""
    circuit = Circuit(Backoff(Retry(), 0), hosted=False)
    for second in range(10):
        circuit.died(Failure("lost", "WorkerDied", "it died"), second)
    reasons = [signature(Control.pause).parameters["reason"].default, circuit.outage(1, 10)]
    steering = _steering()
    for reason in reasons:
        assert "run.resume()" in reason
        paused = fold(initial(()), [RunChanged(1.0, "paused", reason)])
        steering.show_run(SimpleNamespace(id="r"), paused)
        said = steering.words.value
        assert "run.resume()" not in said and "Resume" in said


def test_words_are_text_and_links_lead_to_pages() -> None:
    """Markup in an error is shown, not obeyed, and a link is a web address or no link."""
    steering = _steering()
    steering.say("<img onerror=x>", "<b>", alarm=True, link="javascript:alert(1)")
    assert "&lt;img onerror=x&gt;" in steering.words.value
    assert "<b>" not in steering.words.value
    assert "href" not in steering.words.value
    steering.say("x", link='http://h/?"onclick=x')
    assert 'href="http://h/?&quot;onclick=x"' in steering.words.value
    steering.say("x", link="/user/ada/proxy/8787/status")  # as behind JupyterHub
    assert 'href="/user/ada/proxy/8787/status"' in steering.words.value
    for elsewhere in ("//evil", "/\\evil", "data:text/html,x"):
        steering.say("x", link=elsewhere)
        assert "href" not in steering.words.value


def test_the_number_in_flight_can_be_any_that_was_given() -> None:
    """A concurrency that is not a step of the slider becomes one."""
    assert _steering(concurrency=7).concurrency.value == 7
    assert _steering().concurrency.value == 0  # automatic


def test_no_two_runs_of_a_menu_read_the_same() -> None:
    """Two of one minute, or whose long names are cut, are told apart by the end of their ids."""
    runs = [
        ("18:55 · nuclei", "20261130-185555-ba3c87"),
        ("18:55 · nuclei", "20261130-185501-0c11d2"),
    ]
    runs += [(f"18:50 · {'x' * 80}{i}", f"20261130-185000-00000{i}") for i in range(2)]
    offered = run_options([*runs, ("18:40 · blobs", "20261130-184000-abcdef")])
    words = [each for each, _ in offered]
    assert len(set(words)) == len(words)
    assert words[0].endswith("nuclei · ba3c87")
    assert words[-1].endswith("blobs")  # nothing more where nothing more is needed
    assert [run_id for _, run_id in offered[:2]] == [run_id for _, run_id in runs[:2]]


# What counts --------------------------------------------------------------------------------


def _result(labels: list[str], scores: list[float], model: str = "m") -> Result:
    source = open_source(np.zeros((100, 100, 3), np.uint8))
    tile = Grid(1, 1).tiles((100, 100))[0]
    corners = [(10 * i, 0, 10 * i + 8, 8) for i in range(len(labels))]
    found = TileFindings(tile, Findings(corners, scores=scores, labels=labels))
    rows = [TileRow(0.0, tile, "done", n_findings=len(labels))]
    facts = RunFacts(run_id="r", status="running", model=model)
    return Result(source, rows, [found], MergeSettings(), facts, "x")


TILES = Grid(1, 1).tiles((100, 100))
STATE = fold(initial(TILES), [TileChanged(1.0, TILES[0], "done"), RunChanged(2.0, "complete")])


def _filters(**given: Any) -> Filters:
    return Filters(given.get("min_score"), given.get("classes"), "seam", lambda: None)


def _applied(filters: Filters, known: Result) -> Counted:
    return filters.apply(known, known.with_(**filters.read()), STATE)


def test_counts_follow_score_and_class() -> None:
    """What is left is counted and drawn; nothing picked means all classes."""
    filters, known = _filters(), _result(["a", "a", "b"], [0.9, 0.4, 0.6])
    assert _applied(filters, known).counts == {"a": 2, "b": 1}
    filters.score.value = 0.5
    assert _applied(filters, known).counts == {"a": 1, "b": 1}
    assert filters.touched
    filters.classes.value = ("b",)
    counted = _applied(filters, known)
    assert counted.counts == {"b": 1} and len(counted.layer) == 1
    assert "<b>1</b> detection merged by seam, from 3" in filters.words.value
    filters.reset.click()
    assert not filters.touched


def test_classes_keep_their_place_and_their_pick_as_counts_grow() -> None:
    """A list that jumps cannot be used; what is gone for now stays listed with 0."""
    filters = _filters()
    _applied(filters, _result(["a", "b"], [0.5, 0.5]))
    filters.classes.value = ("b",)
    _applied(filters, _result(["b", "b", "c", "a"], [0.5] * 4))
    names = [name for _, name in filters.classes.options]
    assert names == ["a", "b", "c"]
    assert filters.classes.value == ("b",)
    assert filters.classes.options[1][0] == "b  2"


def test_classes_of_another_model_are_left_with_it() -> None:
    """A run that was opened is not hidden by names it does not have; what both have stays."""
    counts: list[int] = []
    filters = Filters(None, None, "seam", lambda: counts.append(1))
    _applied(filters, _result(["car", "bus", "tree"], [0.5] * 3, model="roads"))
    filters.classes.value = ("car", "tree")
    other = _result(["tree", "tree", "bush"], [0.5] * 3, model="woods")
    assert _applied(filters, other).counts == {"tree": 2}
    assert [name for _, name in filters.classes.options] == ["tree", "bush"]
    filters.classes.value = ("bush",)
    counts.clear()
    _applied(filters, _result(["nucleus"] * 3, [0.5] * 3, model="nuclei"))
    assert filters.classes.value == () and counts == [1]  # which counts again, all of them
    assert [name for _, name in filters.classes.options] == ["nucleus"]


def test_classes_that_a_run_was_started_for_are_kept() -> None:
    """It found none of them: that is its result."""
    filters = _filters()
    _applied(filters, _result(["car"], [0.5], model="roads"))
    filters.classes.value = ("car",)
    run = _result(["tree"], [0.5], model="woods").with_(classes=("car",))
    assert _applied(filters, run).counts == {}
    assert filters.classes.value == ("car",)


def test_labels_from_models_are_cut_and_made_visible_in_the_list() -> None:
    """10,000 characters do not fill the page, and none turns the text around."""
    filters = _filters()
    _applied(filters, _result(["x" * 10_000, "\u202egnp", ""], [0.5] * 3))
    words = [words for words, _ in filters.classes.options]
    assert max(map(len, words)) < 60
    assert "\u202e" not in "".join(words)


def test_a_models_own_score_is_offered_unless_the_user_chose_one() -> None:
    """A detector made for 0.25 starts there; a slider that was moved stays."""
    filters = _filters()
    filters.offer(0.25)
    assert filters.score.value == 0.25
    filters.score.value = 0.6
    filters.offer(0.4)
    assert filters.score.value == 0.6
    assert _filters(min_score=0.3).at_start()["min_score"] == 0.3


def test_the_format_changes_the_files_ending() -> None:
    """Whatever ending was there, also one of two parts."""
    saving = ExportForm(lambda path: None)
    saving.format.value = ".coco.json"
    assert saving.path.value == "detections.coco.json"
    saving.format.value = ".csv"
    assert saving.path.value == "detections.csv"


def test_the_format_is_that_of_the_files_ending() -> None:
    """What is typed decides; an ending that is none leaves the format as it was."""
    saving = ExportForm(lambda path: None)
    saving.path.value = "truth.qupath.geojson"
    assert (saving.format.value, saving.path.value) == (".qupath.geojson", "truth.qupath.geojson")
    saving.path.value = "truth.xyz"
    assert (saving.format.value, saving.path.value) == (".qupath.geojson", "truth.xyz")


def test_what_was_saved_is_named() -> None:
    """A map without a detection is no file of 0 detections."""
    saving = ExportForm(lambda path: None)
    result: Any = SimpleNamespace(findings=[], save=Path, correction_counts="Corrected by hand.")
    for name, words in {
        "land.tif": "the map", "land.ome.zarr": "the map", "land.heatmap.tif": "the heatmap",
        "land.embeddings.h5": "the vectors", "land.GeoJSON": "0 detections",
    }.items():  # fmt: skip
        saving.write(name, result, "run r")
        assert f"Saved {words} of run r to {name}." in saving.answer.words.value
        assert ("Corrected" in saving.answer.words.value) is (words == "0 detections")


# The front door -----------------------------------------------------------------------------


def test_explore_outside_a_notebook_is_one_clear_line() -> None:
    """The error says where it would work and what to use here."""
    with pytest.raises(tv.RunError, match=r"notebook.*tv\.analyze"):
        tv.explore(np.zeros((5, 5, 3), np.uint8))


def test_an_argument_that_does_not_exist_is_one_clear_line(monkeypatch) -> None:
    """A typing mistake is named before anything is shown."""
    monkeypatch.setattr(panel_module, "require_notebook", lambda *names: None)
    with pytest.raises(tv.RunError, match="no argument 'gird'"):
        tv.explore(Path("a.png"), gird="8x8")


def test_a_model_that_is_none_is_one_clear_line(monkeypatch) -> None:
    """What cannot be a model is refused before anything is shown."""
    monkeypatch.setattr(panel_module, "require_notebook", lambda *names: None)
    with pytest.raises(tv.ModelError, match="no model 'nuclie'"):
        tv.explore(Path("a.png"), "nuclie")
    with pytest.raises(tv.ModelError):
        tv.explore(Path("a.png"), models=[SimpleNamespace()])
