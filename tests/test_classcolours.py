"""Colours that people choose for classes: used everywhere, kept beside the checkpoint, refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from exported import result_of

from tilevision.colouring import classcolours
from tilevision.errors import RunError
from tilevision.plot import class_colours
from tilevision.result import Result
from tilevision.sources import open_source
from tilevision.view.outcome.codelines import with_own
from tilevision.view.outcome.findingstable import packed
from tilevision.view.picture.boxes import BoxLayer

CHOSEN = "#123abc"
CLASS = "nucleus, big"


@pytest.fixture(autouse=True)
def own_colours(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No colour is chosen before a test, nor stays after it."""
    before = dict(classcolours.CHOSEN)
    classcolours.CHOSEN.clear()
    monkeypatch.setattr(classcolours, "_read", {})
    yield
    classcolours.CHOSEN.clear()
    classcolours.CHOSEN.update(before)


@pytest.fixture
def result(tmp_path: Path) -> Result:
    """A result that is kept in a folder."""
    made: Result = result_of(checkpoint=str(tmp_path))  # type: ignore[no-untyped-call]
    source = open_source(np.full((300, 400, 3), 200, np.uint8))
    parts = made.rows, made.tile_findings, made.settings, made.facts, made.name
    return Result(source, *parts)


def edges(result: Result) -> set[str]:
    """The colours of the lines that a plot has."""
    lines: Any = result.plot().axes[0].collections
    return {mpl.colors.to_hex(colour) for line in lines for colour in line.get_edgecolor()}


def test_a_chosen_colour_is_used_wherever_classes_are_drawn(result: Result, tmp_path: Path) -> None:
    """Plot, table, picture and QuPath; reset, each has what it had before."""
    usual, before = class_colours([CLASS])[CLASS], edges(result)
    result.set_colours({CLASS: CHOSEN.upper()})
    assert class_colours(["ship", CLASS])[CLASS] == CHOSEN
    assert CHOSEN in edges(result)
    assert CHOSEN in packed(result)[2]
    assert CHOSEN in BoxLayer.of(result.findings).colours
    saved = json.loads(result.save(tmp_path / "a.qupath.geojson").read_text())
    kinds = [one["properties"].get("classification", {}) for one in saved["features"]]
    assert {"name": CLASS, "color": [0x12, 0x3A, 0xBC]} in kinds
    result.set_colours({CLASS: None})
    assert class_colours([CLASS])[CLASS] == usual
    assert edges(result) == before


def test_they_are_kept_in_the_folder_for_another_process(result: Result, tmp_path: Path) -> None:
    """Read with the first picture; one that was reset elsewhere is reset here, too."""
    result.set_colours({CLASS: CHOSEN, "gone": "#ffffff"})
    code = f"""
from tilevision.colouring import choose, chosen_colours, load_colours
load_colours({str(tmp_path)!r})
print(chosen_colours([{CLASS!r}, "ship"]))
choose({{"gone": None, {CLASS!r}: "#00ff00"}}, {str(tmp_path)!r})
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == repr({CLASS: CHOSEN})
    assert "#00ff00" in edges(result)
    assert classcolours.chosen_colour("gone") is None


@pytest.mark.parametrize(
    "colours",
    [
        "red", {CLASS: "red"}, {CLASS: "#12345"}, {CLASS: "#12345g"}, {CLASS: 7}, {7: "#123456"},
        {"x" * 300: "#123456"}, {CLASS: "#123456; background:url(x)"}, {CLASS: "#123456\n"},
        {f"c{i}": "#123456" for i in range(1001)},
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_colour_is_refused_in_one_line(result: Result, colours: Any) -> None:
    """Nothing of it is used or kept, and what was chosen stays."""
    result.set_colours({"ship": CHOSEN})
    with pytest.raises(RunError) as said:
        result.set_colours(colours)
    assert "\n" not in str(said.value) and len(str(said.value)) < 300
    assert classcolours.CHOSEN == {"ship": CHOSEN}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"colours": {"a": "red"}}', '{"colours": 3}'])
def test_a_damaged_file_is_named_in_one_line(result: Result, tmp_path: Path, text: str) -> None:
    """It says which file, and what to do; a colour can be chosen once it is gone."""
    path = tmp_path / classcolours.FILE
    path.write_text(text)
    for act in (result.plot, lambda: result.set_colours({CLASS: CHOSEN})):
        with pytest.raises(RunError, match="mend or delete the file") as said:
            act()
        assert str(path) in str(said.value) and "\n" not in str(said.value)
    path.unlink()
    result.set_colours({CLASS: CHOSEN})
    assert json.loads(path.read_text()) == {"colours": {CLASS: CHOSEN}}


def test_code_repeats_them() -> None:
    """Copy as Python ends in the line that gives the classes their colours."""
    told = with_own("x", "y", corrected=True, colours={'a"b': CHOSEN})
    assert told["python"].splitlines()[-1] == "result.set_colours(" + repr({'a"b': CHOSEN}) + ")"
    assert with_own("x", "y", corrected=False, colours={}) == {"python": "x", "shell": "y"}
