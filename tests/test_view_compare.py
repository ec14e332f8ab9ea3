"""Two results in one picture: what is drawn, what is said, and what the panel offers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tilevision as tv
from tilevision.analysis.account import RunFacts, TileRow
from tilevision.errors import RunError
from tilevision.evaluation import Comparison, compare
from tilevision.evaluation.comparison import PARTS, WORDS
from tilevision.findings import Findings, TileFindings
from tilevision.grid import Grid
from tilevision.history import cascade_steps, runs
from tilevision.result import Result
from tilevision.seams import MergeSettings
from tilevision.sources import open_source
from tilevision.view.compare.compareview import CompareView
from tilevision.view.compare.sides import DIFFERENCES, WAYS, Sides
from tilevision.view.panel.panel import Panel
from tilevision.view.picture.caption import key_of

SHARED = [20.0, 20, 60, 60]
ALONE = {"a": [100.0, 20, 140, 60], "b": [180.0, 20, 220, 60]}


def result_of(boxes: list[list[float]], labels: list[str]) -> Result:
    """Return a finished result of one tile over a grey image."""
    source = open_source(np.full((100, 240, 3), 90, np.uint8))
    (tile,) = Grid(1, 1, overlap=0).tiles(source.size)
    seen = TileFindings(tile, Findings(boxes, [0.9] * len(boxes), labels))
    rows = [TileRow(1.0, tile, "done", n_findings=len(boxes))]
    facts = RunFacts("r1", "complete")
    return Result(source, rows, [seen], MergeSettings("none"), facts, "grey.png")


@pytest.fixture
def both() -> Comparison:
    """One object in both, one in each alone."""
    a = result_of([SHARED, ALONE["a"]], ["cell", "cell"])
    return compare(a, result_of([SHARED, ALONE["b"]], ["cell", "odd"]))


def _wait(condition: Callable[[], object], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_differences_are_one_layer_and_sides_are_two(both: Comparison) -> None:
    """Every object is drawn once as a difference; a part or a class that is hidden is not."""
    sides = Sides(both)
    layer, beside = sides.layers(DIFFERENCES, frozenset())
    assert beside is None and len(layer) == 3
    assert dict(zip(layer.labels, layer.colours, strict=True)) == {
        f"{label} · {WORDS[part]}": colour
        for label in ("cell", "odd")
        for part, (colour, _) in PARTS.items()
    }
    assert sides.words == "1 in both · 1 only in A · 1 only in B"
    none_of_a = sides.layers(DIFFERENCES, frozenset({key_of("only a")}))[0]
    assert {name: n for name, n in none_of_a.counts.items() if n} == {
        "cell · in both": 1,
        "odd · only in B": 1,
    }
    for way in WAYS[1:]:
        a, b = sides.layers(way, frozenset())
        assert b is not None and a.counts == {"cell": 2} and b.counts == {"cell": 1, "odd": 1}
        assert sides.layers(way, frozenset()) == (a, b)  # the same, so nothing is drawn twice
        hidden = sides.layers(way, frozenset({key_of("cell")}))[1]
        assert hidden is not None and len(hidden) == 1
        words = [entry["words"] for entry in sides.legend(way)]
        assert words == ["cell: 2 in A, 1 in B", "odd: 0 in A, 1 in B"]


@pytest.fixture
def view(both: Comparison) -> Iterator[CompareView]:
    """The comparison on a screen."""
    view = CompareView(both)
    yield view
    view.close()


def _drawn(jpeg: bytes, box: list[float]) -> bool:
    """Return True if a picture of the whole, grey image has the outline of `box`."""
    pixels = np.asarray(Image.open(BytesIO(jpeg)).convert("RGB")).astype(int)
    factor = pixels.shape[1] / 240
    x0, y0, x1, _ = (round(factor * value) for value in box)
    edge = pixels[y0 - 3 : y0 + 4, x0 + 9 : x1 - 9]
    return bool((np.abs(edge - 90).sum(axis=2) > 90).any())


def test_the_page_chooses_how_two_results_are_drawn(view: CompareView) -> None:
    """Differences are one picture; with a divider or in turn, the second comes beside it."""
    canvas = view.widget
    _wait(lambda: "in both" in canvas.caption.get("headline", ""))
    assert canvas.sides["way"] == DIFFERENCES
    assert canvas.beside == b""
    assert canvas.caption["headline"] == (
        "grey.png, two results · 1 in both · 1 only in A · 1 only in B"
    )
    assert _drawn(canvas.frame, ALONE["a"]) and _drawn(canvas.frame, ALONE["b"])
    view._screen._heard(None, {"hide": [key_of("only a")]}, None)
    _wait(lambda: [e["off"] for e in canvas.caption["legend"]] == [False, True, False])
    assert not _drawn(canvas.frame, ALONE["a"]) and _drawn(canvas.frame, ALONE["b"])
    view._screen._heard(None, {"way": "swipe"}, None)
    _wait(lambda: canvas.sides.get("way") == "swipe" and canvas.beside)
    assert _drawn(canvas.frame, ALONE["a"]) and not _drawn(canvas.frame, ALONE["b"])
    assert _drawn(canvas.beside, ALONE["b"]) and not _drawn(canvas.beside, ALONE["a"])
    for strange in ({"way": "<b>"}, {"way": None}, {"hide": 3}):
        view._screen._heard(None, strange, None)
    assert canvas.sides["way"] == "swipe"


def test_a_comparison_needs_a_notebook_to_be_explored(both: Comparison) -> None:
    """Elsewhere, one line says what draws it."""
    with pytest.raises(RunError, match=r"Use comparison\.plot\(\)"):
        tv.explore(both)


def dim(pixels: np.ndarray) -> Any:
    """Find every spot but those on the right, and be unsure of each."""
    return [one | {"score": 0.4} for one in sharp(pixels) if one["xmin"] < 60]


def sharp(pixels: np.ndarray) -> Any:
    """Find bright squares."""
    from skimage.measure import label, regionprops

    found = []
    for spot in regionprops(label(pixels[..., 0] > 128)):
        y, x, bottom, right = spot.bbox
        found.append(
            {"xmin": x, "ymin": y, "xmax": right, "ymax": bottom, "label": "spot", "score": 0.9}
        )
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("cluster", "elsewhere")
def test_the_panel_compares_with_past_runs_and_with_the_first_model_of_a_cascade(
    spots: np.ndarray,
) -> None:
    """What is chosen is drawn over what is shown, filtered alike; no model is run for it."""
    Image.fromarray(spots).save("spots.png")
    grid = tv.Grid(3, 4, overlap=0)
    more = {"grid": grid, "progress": False}
    tv.analyze("spots.png", dim, **more)
    cascade = tv.Cascade(dim, sharp, when=(0.3, 0.5))
    whole = tv.analyze("spots.png", cascade, **more)
    table = runs(".tilevision").set_index("model")
    panel = Panel("spots.png", sharp, (dim,), ".tilevision", {"grid": grid})
    try:
        _wait(lambda: len(panel._past_list.rows) == 2)
        panel._reopen(table.loc["dim then sharp", "id"])
        form = panel._compare
        _wait(lambda: panel._outcome.view.report)
        sent = len([row for row in whole.rows if row.model == "sharp"])
        _wait(
            lambda: (
                f"{sent} sent on to sharp (a score from 0.3 to 0.5)"
                in [entry["words"] for entry in panel._screen.canvas.caption["legend"]]
            )
        )
        its_own = "tv.Cascade(dim, sharp, when=(0.3, 0.5))"  # the run's, not Setup's
        _wait(lambda: its_own in panel._outcome.view.report["code"]["python"])
        _wait(lambda: form.menu.options[-2:][0][0] == "the first model of its cascade")
        form.menu.value = table.loc["dim", "id"]
        _wait(lambda: "only in A" in panel._screen.canvas.caption.get("headline", ""))
        assert len(whole.findings) == len(panel.result.findings)
        assert "<table>" in form.words.value
        form.menu.value = form.menu.options[1][1]
        _wait(lambda: "tiles were also given to sharp" in form.words.value)
        assert "a score in each lies in 0.3 to 0.5" in form.words.value
        form.menu.value = ""
        _wait(lambda: panel._screen.canvas.sides == {})
        steps = cascade_steps(panel.run, ".tilevision", model=cascade)
        assert len(steps.went_on) == len([row for row in whole.rows if row.model == "sharp"])
        assert set(map(str, steps.first.findings.scores)) == {"0.4"}
    finally:
        panel.close()
