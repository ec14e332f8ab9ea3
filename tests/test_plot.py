"""Drawing results: status without colour alone, partial shown as partial, labels as text."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from tilevision.colouring import CLASS_COLOURS, usualcolours
from tilevision.errors import RunError
from tilevision.findings import Findings
from tilevision.geometry import Box
from tilevision.grid import Grid, Tile
from tilevision.plot import STATUSES, STYLES, TileMap, class_colours, draw_result, shown
from tilevision.plot.palette import SENT_ON, hatch_pattern, rgb
from tilevision.plot.tile_map import status_codes

HOSTILE = [
    "$\\frac",
    "$\\undefined{x}$",
    "_leading",
    "<script>alert(1)</script>",
    "x" * 10_000,
    "😀👩‍👩‍👧",
    "שלום עולם",
    "نواة",
    "核",
    "\u202egnp.exe",
    "a\nb\tc\x00",
    "",
    "\ud800",
]
IMAGE = np.full((60, 80, 3), 200, dtype=np.uint8)


def _words(figure: Figure) -> list[str]:
    """Everything the figure says, in the order it was added."""
    texts = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        texts += [text.get_text() for text in axes.texts]
        if legend := axes.get_legend():
            texts += [text.get_text() for text in legend.get_texts()]
    return texts


def _tiles(*statuses: str) -> list[tuple[Tile, str]]:
    return list(zip(Grid(1, len(statuses)).tiles((80, 60)), statuses, strict=True))


@given(
    size=st.tuples(st.integers(8, 3000), st.integers(8, 3000)),
    grid=st.one_of(
        st.builds(Grid, st.integers(1, 4), st.integers(1, 4), st.sampled_from([0, 0.2, 0.5])),
        st.builds(Grid.by_tile, st.integers(4, 700), st.sampled_from([0, 0.2, 0.6])),
    ),
    shape=st.tuples(st.integers(1, 50), st.integers(1, 50)),
)
@settings(max_examples=60, deadline=None)
def test_every_pixel_of_the_map_belongs_to_a_tile_that_holds_it(size, grid, shape) -> None:
    """A pixel is never shown as the status of a tile it does not lie in."""
    if grid.tile and size[0] * size[1] > 2000 * grid.tile[0] * grid.tile[1]:
        return  # millions of tiles hold no other rule
    tiles = grid.tiles(size)
    index = TileMap(tiles, Box(0, 0, *size), shape).index
    assert (index >= 0).all()
    boxes = np.array([tile.box.as_tuple() for tile in tiles])[index]
    x = (np.arange(shape[1]) + 0.5) * size[0] / shape[1]
    y = ((np.arange(shape[0]) + 0.5) * size[1] / shape[0])[:, None]
    assert ((boxes[..., 0] <= x) & (x < boxes[..., 2])).all()
    assert ((boxes[..., 1] <= y) & (y < boxes[..., 3])).all()


def test_tiles_that_stand_in_no_rows_show_the_smaller_one_on_top() -> None:
    """A small tile within a large one is not hidden by it, and outside of all there is none."""
    tiles = [Tile(0, 0, Box(10, 10, 20, 20)), Tile(0, 1, Box(0, 0, 40, 40))]
    index = TileMap(tiles, Box(0, 0, 50, 50), (50, 50)).index
    assert index[15, 15] == 0
    assert index[30, 30] == 1
    assert index[45, 45] == -1


def test_a_view_shows_its_own_region_of_the_tiles() -> None:
    """Zoomed in, the map shows the tile under the view, edge included."""
    tiles = Grid(2, 2, overlap=0).tiles((100, 100))
    index = TileMap(tiles, Box(40, 60, 60, 80), (20, 20)).index
    assert (index[:, :10] == 2).all()
    assert (index[:, 10:] == 3).all()


def test_painting_gives_each_status_its_own_colour() -> None:
    """The colour of a tile on the map is that of its status in the legend."""
    tiles = Grid(1, len(STATUSES), overlap=0).tiles((len(STATUSES), 1))
    shape = (24, 24 * len(STATUSES))
    painted = TileMap(tiles, Box(0, 0, len(STATUSES), 1), shape).paint(status_codes(STATUSES))
    for i, status in enumerate(STATUSES):
        assert tuple(painted[12, 24 * i + 12, :3]) == rgb(STYLES[status].colour)
    outside = TileMap(tiles, Box(0, 5, 1, 6), (2, 2)).paint(status_codes(STATUSES))
    assert not outside[..., 3].any()


def test_statuses_differ_without_colour() -> None:
    """Hatch and opacity alone tell every status from the others, and so do the glyphs."""
    looks = {(style.hatch, style.fill) for style in STYLES.values()}
    assert len(looks) == len({style.glyph for style in STYLES.values()}) == len(STATUSES)
    masks = {hatch_pattern(style.hatch).tobytes() for style in STYLES.values()}
    assert len(masks) == len({style.hatch for style in STYLES.values()})


def test_a_partial_result_says_so() -> None:
    """Missing tiles are announced above the picture and counted below it."""
    figure = draw_result(None, IMAGE, _tiles("done", "failed", "skipped"), Findings(), title="t")
    assert "INCOMPLETE: 1 of 3 tiles were not analysed." in _words(figure)
    assert "1 tile failed" in _words(figure)


def test_a_complete_result_claims_nothing_is_missing() -> None:
    """Done, restored and skipped tiles make a complete result."""
    figure = draw_result(None, IMAGE, _tiles("done", "restored", "skipped"), Findings())
    assert not any("INCOMPLETE" in text for text in _words(figure))


@pytest.mark.parametrize("label", HOSTILE)
def test_labels_are_drawn_as_text_whatever_they_hold(label: str) -> None:
    """No label is read as markup, hides from the legend, warns, or breaks the drawing."""
    findings = Findings([[5, 5, 20, 20]], labels=[label])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw_result(None, IMAGE, _tiles("done"), findings, title=label, note=label)
        assert len(figure._repr_jpeg_()) > 1000
    entry = next(text for text in _words(figure) if text.startswith("1 ") and "tile" not in text)
    assert len(entry) <= 26
    if label in ("$\\frac", "_leading"):
        assert entry == f"1 {label}"


def test_shown_text_is_short_visible_and_on_one_line() -> None:
    """Nothing in a label can reverse the text around it, and nothing grows without bound."""
    assert shown("\u202egnp.exe") == "gnp.exe"
    assert shown("a\nb\x00c") == "a b c"
    assert shown("x" * 10_000) == "x" * 39 + "…"
    assert shown("x" * 40) == "x" * 40


@pytest.fixture
def no_colours_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No class has been drawn yet in this process."""
    monkeypatch.setattr(usualcolours, "_slots", {})


@pytest.mark.usefixtures("no_colours_yet")
def test_no_colour_repeats_while_there_are_others() -> None:
    """As many classes as there are colours all differ; more of them do no harm."""
    names = [f"class {i}" for i in range(40)]
    first = class_colours(names[: len(CLASS_COLOURS)])
    assert len(set(first.values())) == len(CLASS_COLOURS)
    assert len(class_colours(names)) == 40


@given(st.lists(st.lists(st.text(max_size=3), max_size=8), min_size=1, max_size=6))
def test_a_class_keeps_its_colour(legends: list[list[str]]) -> None:
    """Whatever classes stand beside it, in whatever order, a name has one colour."""
    known: dict[str, str] = {}
    for labels in legends:
        colours = class_colours(labels)
        assert set(colours) == set(labels)
        for name, colour in colours.items():
            assert known.setdefault(name, colour) == colour


def test_a_lone_class_has_the_same_colour_in_every_process() -> None:
    """It follows from the name, so that a figure made tomorrow agrees with one made today."""
    code = "from tilevision.plot import class_colours; print(class_colours(['nucleus', 'car']))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(said) == 1


# What the three deficiencies make of linear RGB, at severity 1.0, as published by Machado, Oliveira
# and Fernandes in "A Physiologically-based Model for Simulation of Color Vision Deficiency", 2009.
SIGHT = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def _linear(colours: Sequence[str]) -> np.ndarray:
    srgb = np.array([rgb(colour) for colour in colours]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _oklab(linear: np.ndarray) -> np.ndarray:
    """Return Oklab, times 100, of linear sRGB (Ottosson, "A perceptual color space", 2020)."""
    to_cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return 100 * np.cbrt(np.clip(linear @ np.transpose(to_cones), 0, None)) @ np.transpose(to_lab)


@pytest.mark.parametrize("sight", SIGHT)
def test_class_colours_are_told_apart_with_any_colour_vision(sight: str) -> None:
    """Any two are 9 apart in Oklab, several times what can just be noticed; so are light ones."""
    linear = _linear(CLASS_COLOURS)
    seen = _oklab(np.clip(linear @ np.transpose(SIGHT[sight]), 0, 1))
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)
    assert apart[np.triu_indices(len(seen), 1)].min() >= 9
    assert (_oklab(linear)[:, 0] > 60).all()  # bright on the dark edge that each box gets


@pytest.mark.parametrize("sight", SIGHT)
def test_the_frame_of_tiles_sent_on_is_like_no_class_and_no_status(sight: str) -> None:
    """It is 16 in Oklab from each of them: dark, where classes are light."""
    others = [*CLASS_COLOURS, *(style.colour for style in STYLES.values())]
    frame, *seen = _oklab(
        np.clip(_linear([SENT_ON.colour, *others]) @ np.transpose(SIGHT[sight]), 0, 1)
    )
    assert np.linalg.norm(np.array(seen) - frame, axis=1).min() >= 16


def test_polygons_are_drawn_with_their_holes() -> None:
    """A ring within a ring is a line of its own."""
    square = np.array([[0, 0], [40, 0], [40, 40], [0, 40]])
    findings = Findings([[0, 0, 40, 40], [50, 0, 60, 9]], polygons=[[[square, square / 2]], None])
    figure = draw_result(None, IMAGE, [], findings)
    lines = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    assert [len(c.get_segments()) for c in lines] == [3, 3]
    assert all((s[0] == s[-1]).all() for s in lines[0].get_segments())


def test_it_draws_on_given_axes_and_in_a_given_figure() -> None:
    """A caller's axes keep the caller's figure, and show full-resolution pixels."""
    figure = Figure()
    axes = figure.add_subplot(1, 2, 1)
    out = draw_result(axes, IMAGE, _tiles("done"), Findings(), size=(800, 600), title="here")
    assert out is figure
    assert axes.get_xlim() == (0, 800)
    assert axes.get_ylim() == (600, 0)
    assert "here" in _words(figure)
    assert len(draw_result(Figure(), IMAGE, [], Findings()).axes) == 1


def test_a_file_to_draw_on_is_refused_with_what_writes_one() -> None:
    """As people try who know other libraries."""
    with pytest.raises(RunError, match=r"'out.png' is nothing to draw on; .* \.savefig"):
        draw_result("out.png", IMAGE, [], Findings())


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 900, 3), (900, 3, 3), (50, 50)])
def test_every_shape_of_image_can_be_drawn(shape: tuple[int, ...]) -> None:
    """Single pixels, strips and grey images give a picture too."""
    image = np.zeros(shape, dtype=np.uint8)
    figure = draw_result(None, image, [], Findings(), title="title", note="note")
    assert len(figure._repr_jpeg_()) > 1000


@pytest.mark.slow
def test_drawing_leaves_pyplot_alone() -> None:
    """No global figure is made, so nothing leaks and no backend is chosen for the user."""
    code = (
        "import sys, numpy as np; from tilevision.plot import draw_result;"
        "from tilevision.findings import Findings;"
        "assert 'matplotlib' not in sys.modules;"
        "draw_result(None, np.zeros((9, 9, 3), np.uint8), [], Findings())._repr_jpeg_();"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)
