"""Which models the panel offers, how two are put in a row, and how one is added by name."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tilevision as tv
from tilevision.view import notebook
from tilevision.view.panel.filters import Filters
from tilevision.view.panel.modelmenu import TileModelMenu
from tilevision.view.panel.settingsform import SettingsForm

DATA = Path(__file__).parents[2] / "shared" / "data"


def bright(pixels: np.ndarray) -> Any:
    """A model of the user's own."""
    return []


def careful(pixels: np.ndarray) -> Any:
    """Another one."""
    return None


def _choose_second(model: TileModelMenu, name: str) -> None:
    model.second.value = model.names.index(name)


def _choices(model: Any = bright, **arguments: Any) -> SettingsForm:
    return SettingsForm("a.png", model, (), arguments, lambda: None)


def test_a_second_model_makes_a_cascade() -> None:
    """It is asked for with the band that the slider shows, and said in words."""
    model = TileModelMenu([bright, careful])
    assert model.value is bright and model.words == "bright"
    _choose_second(model, "careful")
    model.band.value = (0.3, 0.8)
    made = model.value
    assert isinstance(made, tv.Cascade)
    assert (made.first, made.second, made.when) == (bright, careful, (0.3, 0.8))
    assert model.words == "bright, then careful where a score lies in 0.30 to 0.80"
    model.second.value = -1
    assert model.value is bright


def test_no_model_is_asked_after_itself() -> None:
    """It would say the same; what is chosen as the first is no longer the second."""
    model = TileModelMenu([bright, careful])
    assert "ask bright" not in [words for words, _ in model.second.options]
    _choose_second(model, "careful")
    model.menu.control.value = model.menu.number_of(careful)
    assert (model.value, model.second.value) == (careful, -1)
    assert "ask bright" in [words for words, _ in model.second.options]
    assert isinstance(TileModelMenu([tv.Cascade(bright, bright, when=(0, 1))]).value, tv.Cascade)


def test_the_band_is_there_when_it_means_something() -> None:
    """Without a second model there is nothing to be unsure for; a route has its own rules."""
    route = tv.Route("blobs", [(tv.Detailed(0.5), "nuclei")])
    model = TileModelMenu([bright, route])
    assert model.band.layout.display == "none"
    _choose_second(model, "nuclei")
    assert model.band.layout.display is None
    model.menu.control.value = model.menu.number_of(route)
    assert model.second.layout.display == model.band.layout.display == "none"
    assert model.value is route


def test_a_cascade_by_scores_is_shown_as_its_two_models() -> None:
    """It can be changed like one that was chosen; one that a function decides stays as it is."""
    model = TileModelMenu([tv.Cascade("blobs", bright, when=(0.1, 0.2))])
    assert (model.menu.value, model.names[model.second.value]) == ("blobs", "bright")
    assert model.band.value == (0.1, 0.2)
    assert model.value.second is bright
    decided = tv.Cascade("blobs", bright, when=lambda findings: True)
    assert TileModelMenu([decided]).value is decided


def test_a_past_cascade_is_put_together_again() -> None:
    """From the panel's own models and the band of that run, not the one chosen now."""
    model = TileModelMenu([bright, careful])
    told = {"kind": "cascade", "first": {"name": "bright"}, "second": {"name": "careful"}}
    made = model.called("bright then careful", told | {"when": [0.4, 0.5]})
    assert (made.first, made.second, made.when) == (bright, careful, (0.4, 0.5))
    assert model.called("bright then nobody", told | {"when": None}) is None
    assert model.called("careful") is careful


def _in_notebook(monkeypatch: pytest.MonkeyPatch, **names: Any) -> None:
    monkeypatch.setattr(notebook, "_shell", lambda: SimpleNamespace(user_ns=names))


def test_a_function_of_the_notebook_is_added_by_its_name(monkeypatch) -> None:
    """It is chosen at once and offered for the other stages; defined anew, it takes its place."""
    _in_notebook(monkeypatch, careful=careful)
    choices = _choices()
    choices.more.value = "careful"
    choices.add_model(choices.more.value)
    assert choices.more.value == ""
    assert choices.read()[1]["model"] is careful
    assert choices.moderation.called("careful") is careful
    assert choices.moderation.value is None

    def later(pixels: np.ndarray) -> Any:
        return 1

    later.__name__ = later.__qualname__ = "careful"
    _in_notebook(monkeypatch, careful=later)
    choices.add_model("careful")
    assert choices.read()[1]["model"] is later
    assert choices.model.names.count("careful") == 1


def test_weights_are_added_by_their_path(monkeypatch) -> None:
    """As analyze(model=...) takes them; the chosen second model stays."""
    weights = DATA / "fastestdet-coco.onnx"
    if not weights.exists():
        pytest.skip("the real detector is not here")
    pytest.importorskip("onnxruntime", reason="onnxruntime (extra onnx) is not installed")
    _in_notebook(monkeypatch)
    choices = _choices()
    _choose_second(choices.model, "nuclei")
    choices.add_model(str(weights))
    made = choices.read()[1]["model"]
    assert (made.first, made.second) == (str(weights), "nuclei")
    assert "fastestdet-coco" in choices.model.words


@pytest.mark.parametrize("text", ["nobody", "none.onnx", "number"])
def test_what_is_no_model_is_one_clear_line_and_changes_nothing(monkeypatch, text) -> None:
    """A name that is not there, a file that is not there, a variable that is none."""
    _in_notebook(monkeypatch, number=3)
    choices = _choices()
    before = choices.model.names[:]
    with pytest.raises(tv.ModelError):
        choices.add_model(text)
    assert choices.model.names == before


def test_a_slider_moved_while_classes_are_listed_is_heard() -> None:
    """Listing happens on another thread; what the user does meanwhile is not lost."""
    heard: list[int] = []
    filters = Filters(None, None, "seam", lambda: heard.append(1))

    def moved_meanwhile(_: object) -> None:
        mover = threading.Thread(target=setattr, args=(filters.score, "value", 0.7))
        mover.start()
        mover.join()

    filters.classes.observe(moved_meanwhile, names="options")
    filters._list({"a": 1, "b": 2})
    assert heard == [1]
    filters.classes.value = ("a",)
    assert heard == [1, 1]
