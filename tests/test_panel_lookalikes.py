"""Tiles that look alike in the panel: found, gone to, labelled, and the map painted by a probe."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from inline_tiles import (
    Inline,
    inline_runs,  # noqa: F401 - a fixture
)

import tilevision as tv
from tilevision.view.panel.lookalikes import LookAlikes
from tilevision.view.picture.heatlayer import TileGroups, TileHeat

pytest.importorskip("sklearn")


def direction(pixels: np.ndarray) -> np.ndarray:
    """Dark and bright tiles point in two directions."""
    value = float(pixels[0, 0, 0])
    return np.array([value, 70 - value, 5.0])


@pytest.fixture
def panel(inline: Any) -> Any:
    """What the panel has of a run of six tiles, from dark to bright; and what it was asked for."""
    return _panel(inline(tv.model(direction, returns="embedding")))


def _panel(run: Inline) -> Any:
    result = run.conduct()
    tiles = tuple(row.tile for row in result.rows)
    shown = SimpleNamespace(tiles=tiles, source=result.source)
    gone: list[int] = []
    counts: list[int] = []
    jobs: Any = SimpleNamespace(put=lambda _, work: work())  # at once
    alike = LookAlikes(
        jobs, lambda: result, lambda _, number: gone.append(number), lambda: counts.append(1)
    )
    state: Any = SimpleNamespace(tiles=tiles, index={tile: i for i, tile in enumerate(tiles)})

    def ask(what: str, argument: Any = "") -> None:
        alike.widget.asked = [what, argument, len(alike.widget.asked) and alike.widget.asked[2] + 1]

    return SimpleNamespace(
        alike=alike, page=alike.widget, run=shown, result=result, state=state, ask=ask, gone=gone,
        counts=counts,
    )  # fmt: skip


def test_the_nearest_are_shown_as_pictures_and_gone_to(panel: Any) -> None:
    """As `Result.similar` orders them, each a JPEG; a click opens that tile."""
    panel.alike.show(panel.run, 0)
    assert panel.page.tile == "r000c000" and panel.page.near == []
    panel.ask("similar")
    expected = panel.result.similar("r000c000")
    assert [row[1] for row in panel.page.near] == expected["id"].tolist()
    assert [panel.run.tiles[row[0]].id for row in panel.page.near] == expected["id"].tolist()
    assert len(panel.page.pictures) == 5
    assert all(picture.startswith(b"\xff\xd8") for picture in panel.page.pictures)
    panel.ask("go", panel.page.near[2][0])
    panel.ask("go", 77)
    assert panel.gone == [panel.page.near[2][0]]
    panel.alike.show(panel.run, 3)
    assert panel.page.near == [] and panel.page.tile == "r001c000"
    panel.alike.show(panel.run, None)
    assert panel.page.tile == ""


def test_a_tile_without_a_vector_has_no_look_alikes(inline: Any) -> None:
    """Nothing is offered for runs without an encoder."""
    panel = _panel(inline())
    panel.alike.show(panel.run, 0)
    assert panel.page.tile == ""


def test_labels_are_kept_by_class(panel: Any) -> None:
    """A tile has one; empty classes go; what is asked without a tile changes nothing."""
    panel.ask("label", "dark")
    assert panel.alike.labels == {}
    for number, name in ((0, "dark"), (1, "dark"), (5, " bright "), (1, "bright")):
        panel.alike.show(panel.run, number)
        panel.ask("label", name)
    assert panel.alike.labels == {"dark": ["r000c000"], "bright": ["r001c002", "r000c001"]}
    assert panel.page.own == "bright" and [row[:2] for row in panel.page.labels] == [
        ["dark", 1],
        ["bright", 2],
    ]
    panel.alike.show(panel.run, 0)
    panel.ask("unlabel")
    assert panel.alike.labels == {"bright": ["r001c002", "r000c001"]} and panel.page.own == ""


def test_a_probe_of_the_labels_paints_the_tiles(panel: Any) -> None:
    """Its probabilities are the colours, its summary is said, and it can be had from code."""
    panel.alike.show(panel.run, 0)
    panel.ask("probe")
    assert panel.page.words.startswith("Label tiles of two classes") and not panel.counts
    for number, name in ((0, "dark"), (1, "dark"), (4, "bright"), (5, "bright")):
        panel.alike.show(panel.run, number)
        panel.ask("label", name)
    panel.ask("probe")
    assert panel.page.words == panel.alike.probe.summary and panel.counts == [1]
    assert panel.page.mode == "probe bright"
    layer = panel.alike.layer(panel.state)
    assert isinstance(layer, TileHeat) and layer.label == "bright"
    np.testing.assert_allclose(layer.values, panel.alike.probe.probabilities["bright"], atol=1e-6)
    panel.ask("colour", "probe dark")
    np.testing.assert_allclose(panel.alike.layer(panel.state).values, 1 - layer.values, atol=1e-6)
    assert [mode[0] for mode in panel.page.modes][-2:] == ["probe bright", "probe dark"]
    panel.ask("colour", "none")
    assert panel.alike.layer(panel.state) is None


def test_tiles_are_coloured_by_similarity_and_by_cluster(panel: Any) -> None:
    """The open tile is the brightest; clusters have colours and counts of their own."""
    panel.alike.show(panel.run, 5)
    panel.ask("colour", "alike")
    layer = panel.alike.layer(panel.state)
    assert layer.values.argmax() == 5 and layer.values.min() == 0 and layer.values.max() == 1
    least = panel.result.similar("r001c002")["similarity"].min()
    assert [words for words, _ in layer.keys][::2] == [f"similarity {least:.2f}", "similarity 1.00"]
    panel.ask("colour", "cluster")
    groups = panel.alike.layer(panel.state)
    assert isinstance(groups, TileGroups) and groups.n_known == 6
    assert groups.values.tolist() == panel.result.cluster(3)["cluster"].tolist()
    index = np.arange(-1, 6, dtype=np.int32)[None]
    painted = groups.paint(index)
    assert painted[0, 0, 3] == 0 and (painted[0, 1:, 3] > 0).all()
    same = groups.values[:, None] == groups.values
    colours = painted[0, 1:, :3].astype(int)
    np.testing.assert_array_equal((colours[:, None] == colours).all(axis=2), same)
    assert sum(int(words.split("(")[1][:-1]) for words, _ in groups.keys) == 6


def test_another_run_drops_what_was_said_and_keeps_labels_of_the_same_tiles(panel: Any) -> None:
    """Its vectors may be others; where its tiles are others, labels mean nothing."""
    panel.alike.show(panel.run, 0)
    panel.ask("label", "dark")
    panel.ask("colour", "alike")
    panel.alike.show(SimpleNamespace(tiles=panel.run.tiles, source=panel.run.source), 0)
    assert panel.page.mode == "none" and panel.alike.layer(panel.state) is None
    assert panel.alike.labels == {"dark": ["r000c000"]}
    panel.alike.show(SimpleNamespace(tiles=panel.run.tiles[:2], source=panel.run.source), 0)
    assert panel.alike.labels == {}


def test_what_cannot_be_found_is_said_beside_the_buttons(panel: Any) -> None:
    """As where the result is not available: one line, no traceback."""
    panel.alike.show(panel.run, 0)
    panel.alike._result = lambda: None
    panel.ask("similar")
    assert panel.page.words == "The result of this run is not available here."
