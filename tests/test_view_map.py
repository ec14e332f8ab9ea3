"""The map over the live picture: what is drawn is the map, and final blocks stay as they are."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_tiles import Inline, inline_runs  # noqa: F401 - fixtures
from test_rasters_blending import KINDS, map_from

import tilevision as tv
from tilevision.checkpoint.payloadstore import PayloadMemory
from tilevision.errors import CheckpointCorrupt
from tilevision.geometry import Box
from tilevision.rasters import BLENDS, Cells, MapSettings, RasterMap, Samples
from tilevision.rasters.placement import place_of
from tilevision.view.mapping.mapchoice import CLEAR, MapChoice, choices_of, class_key
from tilevision.view.mapping.maplegend import legend_of, read_at
from tilevision.view.mapping.mappainter import MapPainter, MapSeen, map_seen
from tilevision.view.mapping.mapsheet import MapSheet
from tilevision.view.outcome.mapreport import map_report
from tilevision.view.picture.viewstate import initial

RNG = np.random.default_rng(186)
SIZE = (150, 131)
TILES = tv.Grid.by_tile(40, 0.4).tiles(SIZE)
NAMES = ("a", "b", "c")
Make = Callable[..., Inline]


def answers(kind: str = "probabilities", tiles: Any = TILES) -> dict[str, np.ndarray]:
    """Tiles that disagree where they overlap."""
    told = {}
    for tile in tiles:
        h, w = tile.box.height, tile.box.width
        told[tile.id] = {
            "probabilities": RNG.random((3, h, w)),
            "classes": RNG.integers(0, 3, (h, w)),
            "values": RNG.normal(size=(h, w)) * 20,
            "floats": RNG.normal(size=(h, w)).astype(np.float32) * 20,
        }[kind]
    return told


def seen_of(raster: RasterMap, open_: Any = ()) -> MapSeen:
    """The map as a run has it while the tiles `open_` have yet to end."""
    cells = Cells(TILES, raster.size)
    there = np.array([tile in raster.tiles for tile in TILES])
    waiting = np.array([tile in open_ for tile in TILES])
    return MapSeen(raster, cells, cells.counted(there), cells.counted(waiting))


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(list(KINDS)),
    blend=st.sampled_from(BLENDS),
    margin=st.integers(0, 6),
    step=st.integers(1, 9),
    row=st.integers(0, 13),
    column=st.integers(0, 13),
)
def test_a_map_that_is_sampled_is_the_map(
    kind: str, blend: str, margin: int, step: int, row: int, column: int
) -> None:
    """Each so many-th pixel, of any window that begins at one, byte for byte."""
    made = map_from(TILES, answers(kind), SIZE, MapSettings(blend, margin), **KINDS[kind])
    blender = made.sampled(step, Samples())
    read = blender.values if kind in ("values", "floats") else blender.classes
    x, y = column * step, row * step
    right = made.window(x, y, 150, 131, step)
    np.testing.assert_array_equal(
        read(x, y, 150, 131, step),
        right[0] if right.ndim > 2 and kind not in ("values", "floats") else right,
    )
    other = read(x + 1, y, 150, 131, step + 1)  # a step that is not its own
    np.testing.assert_array_equal(
        other.reshape(-1), made.window(x + 1, y, 150, 131, step + 1).reshape(-1)
    )


@settings(max_examples=40, deadline=None)
@given(
    grid=st.sampled_from([tv.Grid.by_tile(40, 0.4), tv.Grid.by_tile(33, 0.7), tv.Grid(3, 4)]),
    scale=st.sampled_from([1.0, 0.5, 0.31]),
    seed=st.integers(0, 99),
)
def test_a_cell_knows_the_tiles_that_reach_into_it(grid: Any, scale: float, seed: int) -> None:
    """Cells cover the map once; those of a row may be reached from two rows away."""
    tiles = grid.tiles(SIZE, scale)
    size = round(SIZE[0] * scale), round(SIZE[1] * scale)
    cells, places = Cells(tiles, size), [place_of(tile, size) for tile in tiles]
    marked = np.random.default_rng(seed).random(len(tiles)) < 0.5
    counted = cells.counted(marked)
    covered = np.zeros(size[::-1], int)
    for row in range(cells.shape[0]):
        for column in range(cells.shape[1]):
            x0, y0, x1, y1 = cells.window(row, column)
            covered[y0:y1, x0:x1] += 1
            reach = [
                mark
                for (left, top, right, bottom), mark in zip(places, marked, strict=True)
                if left < x1 and right > x0 and top < y1 and bottom > y0
            ]
            assert counted[row, column] == sum(reach)
    assert (covered == 1).all()


@pytest.mark.parametrize("kind", ["probabilities", "floats"])
def test_final_blocks_are_drawn_once_and_stay(kind: str) -> None:
    """Tiles end in any order, one fails: what is drawn is the final map wherever it is drawn."""
    told = answers(kind)
    failed = TILES[7]
    del told[failed.id]
    final = map_from(TILES, told, SIZE, **KINDS[kind])
    choice = choices_of(final)[0]
    order = [tile for tile in TILES if tile != failed]
    random.shuffle(order)
    sheet = MapSheet(choice, Cells(TILES, SIZE), final, Box(0, 0, *SIZE), 2, Samples())
    right = final.window(0, 0, *SIZE, 2)[0]
    for n in range(1, len(order) + 1):
        have = {tile.id: told[tile.id] for tile in order[:n]}
        seen = seen_of(map_from(TILES, have, SIZE, **KINDS[kind]), order[n:])
        sheet.paint(seen.raster, seen.there, seen.open, time.monotonic() + 60)
        np.testing.assert_array_equal(sheet.values[sheet.known], right[sheet.known])
        assert n == len(order) or not sheet.known.all()
    assert sheet.known.all()


def test_a_failed_tile_that_is_tried_again_is_drawn_then() -> None:
    """Its cells, and no others, are drawn anew."""
    told = answers()
    less = {name: one for name, one in told.items() if name != TILES[7].id}
    made = [map_from(TILES, one, SIZE, classes=NAMES) for one in (less, told)]
    sheet = MapSheet(
        choices_of(made[0])[0], Cells(TILES, SIZE), made[0], Box(0, 0, *SIZE), 1, Samples()
    )
    for raster in made:
        seen = seen_of(raster)
        sheet.paint(raster, seen.there, seen.open, time.monotonic() + 60)
        np.testing.assert_array_equal(sheet.values, np.asarray(raster))
    assert sheet.paint(made[1], seen.there, seen.open, 0) == (False, False)


# The painter ------------------------------------------------------------------------------------


class Drawn:
    """A painter whose pictures are waited for."""

    def __init__(self, seen: MapSeen) -> None:
        self.painter = MapPainter(lambda: None)
        self.whole = Box(0, 0, *SIZE)
        self.painter.cover(self.whole, self.whole, SIZE)
        self.painter.update(self, seen)

    def cover(self, view: Box | None = None, size: tuple[int, int] = SIZE) -> np.ndarray:
        """The map over a view, once nothing more is painted."""
        view = view or self.whole
        self.painter.cover(view, self.whole, size)
        for _ in range(400):
            thread = self.painter._jobs._thread
            if thread is None:
                break
            thread.join(0.05)
        found = self.painter.cover(view, self.whole, size)
        assert found is not None
        return found


def test_the_picture_has_the_colours_of_the_map() -> None:
    """At the opacity asked for; hidden classes are clear; zoomed in, each pixel is a block."""
    made = map_from(TILES, answers(), SIZE, classes=NAMES)
    drawn = Drawn(seen_of(made))
    numbers = np.asarray(made)
    right = made.colours[numbers]
    np.testing.assert_array_equal(drawn.cover()[..., :3], right[..., :3])
    assert (drawn.cover()[..., 3] == round(255 * 0.6)).all()
    drawn.painter.choose("classes", 1.0)
    zoomed = drawn.cover(Box(20, 30, 50, 60), (90, 90))
    np.testing.assert_array_equal(zoomed, right[30:60, 20:50].repeat(3, 0).repeat(3, 1))
    drawn.painter.hidden = frozenset({class_key("b")})
    assert np.array_equal(drawn.cover()[..., 3] == 0, numbers == 1)
    drawn.painter.choose("share2", 1.0)
    shares = made.probability("c").steps(0, 0, *SIZE)[0]
    palette = MapChoice("share2", "", 2).palette(made, frozenset())
    np.testing.assert_array_equal(drawn.cover(), palette[shares])
    drawn.painter.choose("off", 1.0)
    assert drawn.painter.cover(drawn.whole, drawn.whole, SIZE) is None
    assert drawn.painter.legend() == []
    drawn.painter.close()


def test_nothing_is_drawn_outside_the_region() -> None:
    """Nor counted in the legend."""
    from tilevision.regions import read_region
    from tilevision.sources import open_source

    image = open_source(np.zeros((SIZE[1], SIZE[0]), np.uint8))
    region = read_region((20, 30, 70, 90), image)
    made = map_from(TILES, answers(), SIZE, region=region, classes=NAMES)
    drawn = Drawn(seen_of(made))
    inside = np.zeros(SIZE[::-1], bool)
    inside[30:90, 20:70] = True
    assert np.array_equal(drawn.cover()[..., 3] > 0, inside)
    counted = sum(made.areas()["pixels"])
    assert counted == inside.sum()
    words = [entry["words"] for entry in drawn.painter.legend()]
    shares = made.areas().sort_values("pixels", ascending=False)["share"]
    assert [w.rpartition("(")[2] for w in words] == [f"{share:.0%})" for share in shares]
    drawn.painter.close()


def test_each_tile_is_decoded_once_for_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of its neighbours' cells it reaches into, and whichever layer is shown."""
    made = map_from(TILES, answers(), SIZE, classes=NAMES)
    loads: list[Any] = []
    gather = PayloadMemory.gather
    monkeypatch.setattr(
        PayloadMemory, "gather", lambda self, *asked: loads.append(asked) or gather(self, *asked)
    )
    drawn = Drawn(seen_of(made))
    drawn.cover(size=(75, 66))
    drawn.painter.choose("share1", 0.5)
    drawn.cover(size=(75, 66))
    assert len(loads) == len(TILES)
    drawn.painter.close()


def test_a_tile_that_cannot_be_read_is_said_and_leaves_a_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line; the rest of the map is drawn, and the painter comes to rest."""
    made = map_from(TILES, answers(), SIZE, classes=NAMES)
    placed = made._blender.layout.placed
    bad = next(one for one in placed if one.tile == TILES[0]).array.ref.digest
    gather = PayloadMemory.gather

    def torn(self: Any, digests: Any, size: int, out: Any = None) -> Any:
        if bad in digests:
            raise CheckpointCorrupt("1 array(s) are damaged or missing.")
        return gather(self, digests, size, out)

    monkeypatch.setattr(PayloadMemory, "gather", torn)
    drawn = Drawn(seen_of(made))
    there = drawn.cover()[..., 3] > 0
    right, below = Cells(TILES, SIZE).window(1, 1)[2:]  # what the tile reaches into, and no more
    assert not there[:below, :right].any() and there[below:].all() and there[:, right:].all()
    assert drawn.painter.fault == (
        "A part of the map could not be read: 1 array(s) are damaged or missing."
    )
    assert drawn.painter.reading(1, 1).startswith("The map could not be read: ")
    drawn.painter.close()


# What it says -----------------------------------------------------------------------------------


def test_the_legend_counts_what_is_drawn() -> None:
    """Exactly where every pixel is; about, and said so, where each so many-th is."""
    made = map_from(TILES, answers("classes"), SIZE, classes=NAMES)
    choice = choices_of(made)[0]
    table = made.areas().set_index("class")["pixels"]
    for step, about in ((1, ""), (3, "≈ ")):
        sheet = MapSheet(choice, Cells(TILES, SIZE), made, Box(0, 0, *SIZE), step, Samples())
        seen = seen_of(made)
        sheet.paint(made, seen.there, seen.open, time.monotonic() + 60)
        entries = {entry["words"][0]: entry["words"] for entry in legend_of(made, choice, sheet)}
        if step == 1:
            told = f"{table['a'] / 1e6:,.3g} Mpx ({table['a'] / table.sum():.0%})"
            assert entries["a"] == f"a · {told}"
        assert all(f" · {about}" in words for words in entries.values())


def test_values_have_a_colour_bar_with_their_unit() -> None:
    """From the lowest to the highest that is drawn."""
    told = answers("floats")
    made = map_from(TILES, told, SIZE, kind="values", unit="m")
    (choice,) = choices_of(made)
    drawn = Drawn(seen_of(made))
    drawn.cover()
    (bar,) = drawn.painter.legend()
    low, high = np.asarray(made).min(), np.asarray(made).max()
    assert choice.words == "values (m)"
    assert bar["words"] == f"values (m): {low:.4g} to {high:.4g} m" and len(bar["ramp"]) > 4
    x, y = 77, 50
    assert drawn.painter.reading(x, y) == f"Map at 77, 50: {np.asarray(made)[y, x]:.6g} m"
    drawn.painter.close()


def test_a_click_reads_class_and_shares() -> None:
    """Blended for real at that pixel; none, no data and off the image are said."""
    p = np.zeros((3, 4, 6))
    p[:, :, :3] = np.array([0.2, 0.7, 0.1])[:, None, None]
    p[:, :, 3:] = 0.3
    tiles = tv.Grid(1, 1).tiles((6, 4))
    made = map_from(tiles, {tiles[0].id: p}, (6, 4), MapSettings(unsure=0.5), classes=NAMES)
    assert read_at(made, 1.5, 2) == "Map at 1, 2: b (b 0.70, a 0.20, c 0.10)"
    assert read_at(made, 5, 2).startswith("Map at 5, 2: none of the classes (a 0.30")
    assert read_at(made, 6.0, 2) == "" and read_at(made, -0.1, 2) == ""
    empty = map_from(tiles, {tiles[0].id: np.full((4, 6), CLEAR)}, (6, 4), classes=NAMES)
    assert read_at(empty, 1, 1) == "Map at 1, 1: no data"


def test_the_map_of_a_result_is_seen_by_the_state_of_its_run(inline: Make) -> None:
    """Tiles that may still come are open; once the run is at rest none is."""
    run = inline(
        tv.model(lambda p: p[..., 0] % 2, returns="classes", classes=("x", "y"), fingerprint="v")
    )
    result = run.conduct()
    state = initial(run.plan.tiles)
    seen = map_seen(result, state)
    assert seen is not None and (seen.there == 1).all() and (seen.open == 1).all()
    seen = map_seen(result, replace(state, planned=True))
    assert seen is not None and not seen.open.any()
    assert map_seen(inline().conduct(), state) is None


@pytest.mark.slow
def test_a_run_that_is_replayed_or_reopened_draws_its_map_from_stored_tiles(
    tmp_path: Path, cluster: Any
) -> None:
    """Also where its function is not at hand: what it declared of its tiles is known."""
    from tilevision.history import FollowedRun, ReplayedRun
    from tilevision.view.picture.viewstate import fold
    from tilevision.view.results import ResultLookup

    pixels = RNG.integers(0, 255, (96, 128, 2), np.uint8)
    model = tv.model(
        lambda p: p[..., 0] / 255, returns="values", bands=(1,), dtype="raw", fingerprint="w"
    )
    np.save(tmp_path / "two.npy", pixels)
    image, folder = tmp_path / "two.npy", tmp_path / "kept"
    grid = tv.Grid.by_tile(48, 0.25)
    run = tv.start(image, model, grid=grid, checkpoint=folder, client=cluster, blend="core")
    right = np.asarray(run.result().raster)
    for again in (ReplayedRun(run.id, folder, seconds=0), FollowedRun(run.id, folder)):
        lookup = ResultLookup(folder)
        events = run.events()
        state = fold(initial(again.tiles), [e for e in events if hasattr(e, "tile")])
        going = lookup.of(again, state)
        assert going is not None and np.array_equal(np.asarray(going.raster), right)
        ended = lookup.of(again, fold(initial(again.tiles), events))
        assert ended is not None and np.array_equal(np.asarray(ended.raster), right)


def test_the_results_tab_says_how_much_each_class_has() -> None:
    """As `areas()`: largest first, in the unit of large areas; nothing before the run is over."""
    made = map_from(TILES, answers("classes"), SIZE, **KINDS["classes"])
    told = map_report(made, "Mpx", ended=True)
    assert told["head"] == "Map of 3 classes" and told["heads"] == ["Class", "Mpx", "Share"]
    table = made.areas().set_index("class")
    assert sorted(name for name, *_ in told["rows"]) == ["a", "b", "c"]
    shares = [share for *_, share in told["rows"]]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)
    for name, colour, area, share in told["rows"]:
        assert area == pytest.approx(table.loc[name, "pixels"] / made.units.areas_per)
        assert share == pytest.approx(table.loc[name, "share"])
        assert colour.startswith("#") and len(colour) == 7
    early = map_report(made, "Mpx", ended=False)
    assert early["head"] == told["head"] and early["rows"] == []


def test_the_results_tab_says_what_values_there_are() -> None:
    """Mean, least and most, with their unit; none where there is no number."""
    made = map_from(TILES, answers("values"), SIZE, **KINDS["values"])
    told = map_report(made, "Mpx", ended=True)
    row = made.stats().iloc[0]
    assert told["head"] == "Map of values" and told["heads"][0] == "Region"
    assert told["rows"][0][2:] == pytest.approx([row["mean"], row["min"], row["max"]])
