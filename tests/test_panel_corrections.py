"""Corrections in the panel, without a browser: what the page sends, and what it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_panel import _headline, _run, _wait, bright, make, squares  # noqa: F401 - fixtures

from tilevision.view.panel.panel import Panel

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def doubtful(pixels: np.ndarray) -> Any:
    """Find white squares surely, and red ones not."""
    return [one | {"score": 0.95 if one["label"] == "white" else 0.5} for one in bright(pixels)]


def other_names(pixels: np.ndarray) -> Any:
    """Find the same squares, of one class."""
    return [one | {"label": "spot"} for one in bright(pixels)]


def send(panel: Panel, **content: Any) -> None:
    """Send what the page sends."""
    panel._screen.canvas._handle_custom_msg(content, [])


def told(panel: Panel) -> dict[str, Any]:
    """What the page is told."""
    return dict(panel._screen.canvas.correcting)


def select(panel: Panel, row: int) -> None:
    """Select an object."""
    panel._outcome.look_at(row)
    assert told(panel)["selected"]


def counted(panel: Panel, n: int) -> None:
    """Wait for the count on the picture."""
    _wait(lambda: f"· {n} detections merged by seam" in _headline(panel))


def test_a_session_of_corrections(make: Callable[..., Panel], squares: np.ndarray) -> None:  # noqa: F811
    """Each verb, undo, another panel, another filter, code and files."""
    panel = make(squares)
    assert told(panel) == {} or not told(panel)["selected"]
    _run(panel)
    send(panel, correct="delete")
    assert "Select an object first" in told(panel)["words"]
    select(panel, 3)
    seen: list[bool] = []
    panel._screen.canvas.observe(lambda now: seen.append(now["new"]["selected"]), "correcting")
    send(panel, correct="delete")
    assert not seen[0]  # at once: a second press must not delete another that nobody has seen
    counted(panel, 11)
    _wait(lambda: panel._outcome.table.selected == 3)  # what followed the deleted one
    assert told(panel)["words"] == "Corrected by hand: 1 deleted."
    send(panel, relabel="blue")
    _wait(lambda: told(panel)["label"] == "blue" and told(panel)["selected"])
    send(panel, reshape={"box": [5, 5, 40, 30]})
    _wait(lambda: told(panel)["object"] and told(panel)["object"]["parts"][0][0][2] == [40, 30])
    send(panel, add={"parts": [[[[100, 100], [130, 100], [130, 130]]]]})
    counted(panel, 12)
    send(panel, add={"box": [-90, 0, -20, 10]})
    assert told(panel)["alarm"] and "no area within the image" in told(panel)["words"]
    labels = panel.result.to_dataframe()["label"].value_counts()
    assert labels["blue"] == 2
    assert panel.result.correction_counts.added == 1
    _wait(lambda: "result = result.corrected()" in panel._outcome.view.report["code"]["python"])
    assert panel._outcome.view.report["checks"][0][1] == "Corrected by hand"
    legend = [entry["words"] for entry in panel._screen.canvas.caption["legend"]]
    assert "2 by hand" in legend
    other = make(squares)  # its stored tiles are corrected as well
    _wait(lambda: "12 detections merged by seam, corrected by hand" in _headline(other))
    send(other, correct="undo")
    counted(other, 11)
    send(other, correct="redo")
    counted(other, 12)
    panel._filters.classes.value = ("blue",)
    counted(panel, 2)
    _check_another_plan(panel)


def _check_another_plan(panel: Panel) -> None:
    """A plan with fewer tiles is drawn, without what the run's tiles were in doubt of."""
    panel._tile_list.tell_doubt([(tile, "in doubt") for tile in panel.run.tiles])
    panel._settings.rows.value = 1
    _wait(lambda: panel._plan is not None and len(panel._plan.plan.tiles) == 4)
    panel._switch(True)
    _wait(lambda: "4 tiles" in _headline(panel))
    _wait(lambda: panel._tile_list.notable["counts"] == {})  # which follows the picture
    assert "could not be drawn" not in panel._screen.canvas.caption["detail"]


def test_a_correction_shows_in_every_panel_of_the_kernel(make: Any, squares: np.ndarray) -> None:  # noqa: F811
    """Whichever was opened first, and if it was made in a cell; a selected object stays so."""
    first, second = make(squares), make(squares)
    _run(first)
    _run(second)
    select(second, 7)
    chosen = second._screen.canvas.chosen
    select(first, 3)
    send(first, correct="delete")
    for panel in (first, second):
        counted(panel, 11)
    _wait(lambda: second._outcome.table.selected == 6)
    assert second._screen.canvas.chosen == chosen
    assert told(second)["words"] == "Corrected by hand: 1 deleted."
    send(second, correct="undo")
    counted(first, 12)
    first.result.corrections.delete([0, 1])
    for panel in (first, second):
        counted(panel, 10)
    second.close()
    first.result.corrections.undo()
    counted(first, 12)


def test_classes_and_places_of_another_run_mean_nothing(make: Any, squares: np.ndarray) -> None:  # noqa: F811
    """Buttons name the classes of the model that is shown; a tile that is no more is left."""
    panel = make(squares, models=(other_names,))
    _run(panel)
    assert set(told(panel)["classes"]) == {"white", "red"}
    send(panel, relabel="mine")
    _wait(lambda: told(panel)["label"] == "mine")
    for place in range(3):
        panel._correcting._next_uncertain()
        assert panel._correcting._place == place
    panel._settings.rows.value = panel._settings.cols.value = 1
    _run(panel)
    counted(panel, 12)
    select(panel, 2)
    panel._correcting._heard(None, {"correct": "delete"}, None)
    counted(panel, 11)
    assert "mine" in told(panel)["classes"]
    panel._settings.model.menu.control.value = 1
    _run(panel)
    _wait(lambda: told(panel)["classes"] == ["spot"])
    assert told(panel)["label"] != "mine"


def test_the_tile_most_in_doubt_is_next(make: Callable[..., Panel], squares: np.ndarray) -> None:  # noqa: F811
    """One press goes to the tile, and says why it is in doubt."""
    panel = make(squares)
    _run(panel)
    send(panel, uncertain=True)
    _wait(lambda: "1 of 12 by doubt" in told(panel)["words"])
    first = panel.result.uncertain().iloc[0]
    x, _, width, _ = panel._screen.canvas.viewport
    assert x + width / 2 == pytest.approx((first.xmin + first.xmax) / 2)


def chosen(panel: Panel) -> tuple[float, ...]:
    """The box of the selected object; empty where none is."""
    row, result = panel._outcome.table.selected, panel._outcome.result
    return () if row < 0 or result is None else tuple(result.findings.boxes[row].tolist())


def test_decisions_go_on_and_undo_returns(make: Any, squares: np.ndarray) -> None:  # noqa: F811
    """In the order that the table is sorted by, past what was decided; undo selects its object."""
    panel = make(squares)
    _run(panel)
    panel._outcome.table._handle_custom_msg({"sort": [2, True]}, [])
    order = panel._outcome.table.order()
    assert (np.diff(panel.result.areas[order]) <= 0).all()
    boxes = [tuple(panel.result.findings.boxes[row].tolist()) for row in order]
    panel._outcome.step(1)
    assert chosen(panel) == boxes[0]
    send(panel, correct="accept")
    _wait(lambda: chosen(panel) == boxes[1])
    send(panel, correct="delete")
    _wait(lambda: chosen(panel) == boxes[2])
    send(panel, correct="undo")
    _wait(lambda: chosen(panel) == boxes[1])
    counted(panel, 12)
    send(panel, correct="undo")
    _wait(lambda: panel.result.correction_counts is None and chosen(panel) == boxes[0])
    panel._outcome.step(-1)
    assert chosen(panel) == boxes[-1]
    send(panel, correct="accept")
    _wait(lambda: "the last object" in told(panel)["words"] and not told(panel)["selected"])


def test_decisions_follow_the_doubt_if_chosen(make: Any, squares: np.ndarray) -> None:  # noqa: F811
    """The objects in doubt of the tile, the most first, then those of the next tile by doubt."""
    panel = make(squares, doubtful)
    _run(panel)
    tiles = panel.result.uncertain()
    assert tiles["doubtful"].tolist()[:4] == [1, 1, 1, 0]
    send(panel, uncertain=True)
    for place in range(3):
        tile, said = tiles.iloc[place], f"{place + 1} of 12 by doubt"
        _wait(lambda said=said: said in told(panel)["words"] and told(panel)["selected"])
        (x0, y0, x1, y1), row = chosen(panel), panel._outcome.table.selected
        assert tile.xmin <= x0 < x1 <= tile.xmax and tile.ymin <= y0 < y1 <= tile.ymax
        assert panel._outcome.result.findings.labels[row] == "red"
        send(panel, correct="accept")
    _wait(lambda: "4 of 12 by doubt" in told(panel)["words"] and not told(panel)["selected"])
    assert panel.result.correction_counts.accepted == 3


def test_hostile_messages_change_nothing(make: Callable[..., Panel], squares: np.ndarray) -> None:  # noqa: F811
    """A page may send anything."""
    panel = make(squares)
    _run(panel)
    select(panel, 0)
    for content in (
        {"correct": "all"},
        {"relabel": 7},
        {"relabel": "  "},
        {"class": 99},
        {"reshape": {"box": [1, 2, "x", None]}},
        {"reshape": {"parts": "no"}},
        {"reshape": {"parts": [[[[0, 0], [1e308, 1], [float("nan"), 3]]]]}},
        {"add": {}},
    ):
        send(panel, **content)
    assert panel.result.correction_counts is None
