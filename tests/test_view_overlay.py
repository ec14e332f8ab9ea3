"""Frames: what they show, that they only draw what is new, and that they are quick."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tilevision.colouring import usualcolours
from tilevision.events import TileChanged
from tilevision.findings import Findings
from tilevision.geometry import Box
from tilevision.grid import Grid
from tilevision.plot import STYLES, TileMap, class_colours
from tilevision.plot.palette import SENT_ON, rgb
from tilevision.view.picture.boxes import BoxLayer
from tilevision.view.picture.overlay import NARROWEST, Frame, Overlay, frame_size, whole_view
from tilevision.view.picture.viewstate import ViewState, fold, initial

SIZE = (900, 600)
TILES = Grid(2, 3, overlap=0).tiles(SIZE)
GREY = 90


@pytest.fixture(autouse=True)
def own_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class has the colour of its name, whatever earlier tests have drawn."""
    monkeypatch.setattr(usualcolours, "_slots", {})


def _read(box: Box, scale: float) -> np.ndarray:
    """A grey image whose right half is bright."""
    width, height = round(box.width * scale), round(box.height * scale)
    x = box.x0 + (np.arange(width) + 0.5) / scale
    row = np.where(x < SIZE[0] / 2, GREY, 220).astype(np.uint8)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def _pixels(frame: Frame) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(frame.jpeg)).convert("RGB")).astype(int)


def _state(*changes: tuple[int, str, tuple[tuple[int, int, int, int, str], ...]]) -> ViewState:
    events = [TileChanged(1.0, TILES[i], s, n_findings=len(b), boxes=b) for i, s, b in changes]
    return fold(initial(TILES), events)


def test_tiles_that_were_sent_on_have_a_frame() -> None:
    """Along their inside, all the way round, in a colour of no status; the rest stays as it is."""
    overlay = Overlay(SIZE, _read)
    state = _state(*((i, "done", ()) for i in range(6)))
    plain = _pixels(overlay.frame(state))
    framed = _pixels(overlay.frame(state, framed=np.arange(6) == 4))
    height, width = plain.shape[:2]
    here = slice(height // 2, height), slice(width // 3, 2 * width // 3)
    line = np.abs(framed - rgb(SENT_ON.colour)).sum(axis=2) < 160
    tile = line[here]
    assert all(edge.mean() > 0.95 for edge in (tile[2], tile[-3], tile[:, 2], tile[:, -3]))
    assert not tile[20:-20, 20:-20].any()
    lightest = framed[here].min(axis=2)  # on either side of the line, on any image
    assert (np.median(lightest[[0, 3]], axis=1) > 200).all()
    rest = np.ones((height, width), bool)
    rest[height // 2 - 16 :, width // 3 - 16 : 2 * width // 3 + 16] = False  # blocks of a JPEG
    assert (framed[rest] == plain[rest]).all()


def test_frames_of_small_tiles_are_seen_on_dark_and_on_light() -> None:
    """A line one pixel wide has light gaps."""
    tiles = Grid(10, 10, overlap=0).tiles((100, 100))
    drawn = TileMap(tiles, Box(0, 0, 100, 100), (100, 100)).frames(
        np.arange(100) == 55, SENT_ON.colour
    )
    line = drawn[drawn[..., 3] > 0][:, :3]
    assert len(line) == 36
    assert set(map(tuple, line.tolist())) == {rgb(SENT_ON.colour), (255, 255, 255)}


def test_an_outline_is_drawn_as_one() -> None:
    """A triangle is a triangle: nothing is drawn at the corners of its box where it does not go."""
    overlay = Overlay(SIZE, _read)
    triangle = np.array([[20, 40], [220, 40], [20, 240]])
    findings = Findings([[20, 40, 220, 240]], labels=["cell"], polygons=[[[triangle]]])
    state = replace(_state(), boxes=BoxLayer.of(findings))
    plain = _pixels(overlay.frame(_state())).astype(int)
    change = abs(_pixels(overlay.frame(state)).astype(int) - plain).sum(axis=2)
    scale = change.shape[1] / SIZE[0]

    def drawn(x: int, y: int) -> bool:
        x, y = round(x * scale), round(y * scale)
        return bool(change[y - 4 : y + 5, x - 4 : x + 5].max() > 100)

    assert drawn(120, 140) and drawn(20, 140) and drawn(120, 40)
    assert not drawn(220, 140) and not drawn(120, 240) and not drawn(220, 240)


def test_the_region_is_drawn_and_stays_where_it_is() -> None:
    """Its outline is on the picture, of the whole image and of a part, and goes with the run."""
    overlay = Overlay(SIZE, _read)
    ring = np.array([[100, 100], [300, 100], [300, 200], [100, 200], [100, 100]], float)
    plain = _pixels(overlay.frame(_state())).astype(int)
    pixels = _pixels(overlay.frame(_state(), outline=(ring,))).astype(int)
    scale = pixels.shape[1] / SIZE[0]
    edge = abs(pixels - plain)[round(100 * scale), round(120 * scale) : round(280 * scale)]
    assert (edge.sum(axis=1) > 100).mean() > 0.9
    assert abs(pixels - plain)[round(150 * scale), round(200 * scale)].sum() < 30
    assert (_pixels(overlay.frame(_state())) == plain).all()
    view = overlay.settled(Box(50, 50, 250, 180))
    part = _pixels(overlay.frame(_state(), view)).astype(int)
    shown = abs(_pixels(overlay.frame(_state(), view, outline=(ring,))).astype(int) - part)
    x = round((100 - view.x0) * pixels.shape[1] / view.width)
    y = round((150 - view.y0) * pixels.shape[0] / view.height)
    assert shown[y, x - 3 : x + 4].max() > 60


def test_a_frame_shows_each_tile_by_its_status() -> None:
    """A failed tile turns towards its colour, a finished one is left clear."""
    overlay = Overlay(SIZE, _read)
    frame = overlay.frame(_state((0, "failed", ()), (1, "done", ())))
    pixels, scale = _pixels(frame), frame.size[0] / SIZE[0]
    at = [pixels[round(150 * scale), round(x * scale)] for x in (156, 450 - 20)]
    blend = np.array(rgb(STYLES["failed"].colour)) * 0.45 + GREY * 0.55
    hatch = np.array(rgb(STYLES["failed"].colour))
    failed = pixels[
        round(100 * scale) : round(200 * scale), round(100 * scale) : round(200 * scale)
    ]
    distance = np.minimum(abs(failed - blend).sum(2), abs(failed - hatch).sum(2))
    assert np.median(distance) < 40
    assert abs(at[1] - GREY).max() < 12


def test_boxes_appear_where_they_are_and_go_when_the_tile_is_run_again() -> None:
    """A box is drawn on its edge in image pixels; a tile that failed again shows none."""
    overlay = Overlay(SIZE, _read)
    box = ((20, 40, 120, 140, "cell"),)
    done = overlay.frame(_state((0, "done", box)))
    scale = done.size[0] / SIZE[0]
    edge = _pixels(done)[round(90 * scale), round(20 * scale) - 3 : round(20 * scale) + 4]
    colour = rgb(class_colours(["cell"])["cell"])
    assert abs(edge - colour).sum(axis=1).min() < 90 < abs(GREY - np.array(colour)).sum()
    gone = _pixels(overlay.frame(_state((0, "done", ()))))
    assert (
        abs(gone[round(90 * scale), round(20 * scale) - 3 : round(20 * scale) + 4] - GREY).max()
        < 12
    )


def test_the_same_state_gives_the_same_frame_however_it_was_reached() -> None:
    """Drawing step by step leaves no trace that drawing at once would not."""
    steps, once = Overlay(SIZE, _read), Overlay(SIZE, _read)
    state = initial(TILES)
    for i in range(6):
        boxes = ((10 + 150 * i, 30, 60 + 150 * i, 90, "cell"),)
        state = fold(state, [TileChanged(1.0, TILES[i], "done", n_findings=1, boxes=boxes)])
        frame = steps.frame(state)
    assert frame.jpeg == once.frame(state).jpeg


def test_coming_back_from_a_zoom_gives_the_whole_picture_again() -> None:
    """Another view and back shows what was there, boxes included."""
    overlay = Overlay(SIZE, _read)
    state = _state((0, "done", ((20, 40, 120, 140, "cell"),)))
    before = overlay.frame(state)
    zoomed = overlay.frame(state, Box(0, 0, 90, 60))
    assert zoomed.jpeg != before.jpeg
    assert overlay.frame(state).jpeg == before.jpeg


def test_only_what_is_shown_is_read_and_at_its_resolution() -> None:
    """A zoomed view reads its own region, and never more pixels than the frame has."""
    asked: list[tuple[Box, float]] = []

    def read(box: Box, scale: float) -> np.ndarray:
        asked.append((box, scale))
        return np.zeros(
            (max(1, round(box.height * scale)), max(1, round(box.width * scale)), 3), "u1"
        )

    size = (90_000, 60_000)
    state = initial(Grid(3, 3).tiles(size))
    overlay = Overlay(size, read)
    overlay.frame(state)
    overlay.frame(state)
    overlay.frame(state, Box(30_000, 20_000, 39_000, 26_000))
    assert len(asked) == 2  # the second frame reads nothing
    for box, scale in asked:
        assert round(box.width * scale) <= overlay.size[0] + 2
    assert asked[1][0].width <= 9_002


@given(st.tuples(st.integers(1, 100_000), st.integers(1, 100_000)))
def test_every_image_fits_its_frame(size) -> None:
    """The whole view holds the whole image, in the frame's shape, and no frame is a sliver."""
    frame = frame_size(size)
    view = whole_view(size, frame)
    assert min(frame) >= NARROWEST
    assert view.x0 <= 1e-6 and view.y0 <= 1e-6
    assert view.x1 >= size[0] * (1 - 1e-9) and view.y1 >= size[1] * (1 - 1e-9)
    assert view.width / view.height == pytest.approx(frame[0] / frame[1], rel=1e-6)


@given(
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.tuples(*[st.floats(-1e7, 1e7)] * 2, *[st.floats(1e-3, 1e7)] * 2),
)
def test_a_view_asked_for_is_kept_on_the_image_in_the_frames_shape(size, asked) -> None:
    """Whatever a page sends, what is shown is a region of the whole view."""
    overlay = Overlay(size, _read)
    x, y, width, height = asked
    view, whole = overlay.settled(Box(x, y, x + width, y + height)), overlay.whole
    slack = 1e-6 * whole.width + 1e-6
    assert view.x0 >= whole.x0 - slack and view.x1 <= whole.x1 + slack
    assert view.y0 >= whole.y0 - slack and view.y1 <= whole.y1 + slack
    assert view.width / view.height == pytest.approx(whole.width / whole.height, rel=1e-5)
    assert view.width > 0


@pytest.mark.parametrize("size", [(1, 1), (5000, 3), (3, 5000)])
def test_odd_images_give_frames(size: tuple[int, int]) -> None:
    """A pixel and slivers are drawn with room around them."""
    state = initial(Grid(1, 1).tiles(size))
    frame = Overlay(size, lambda box, scale: np.zeros((1, 1, 3), np.uint8)).frame(state)
    assert Image.open(BytesIO(frame.jpeg)).size == frame.size


@pytest.mark.slow
def test_many_boxes_fade_so_that_they_do_not_hide_the_tiles() -> None:
    """The picture of a crowd still tells a failed tile from one that is done."""
    rng = np.random.default_rng(0)
    size = (90_000, 60_000)
    tiles = Grid(1, 2, overlap=0).tiles(size)
    state = initial(tiles)
    corners = rng.uniform((0, 0), (45_000, 60_000), (60_000, 2)).astype(int).tolist()
    crowd = tuple((x, y, x + 900, y + 900, "cell", 0.5) for x, y in corners)
    layer = state.boxes
    for start in range(0, len(crowd), 200):  # one tile's events hold no more than 256
        layer = layer.with_tiles({start: crowd[start : start + 200]})
    overlay = Overlay(size, lambda box, scale: np.full((1, 1, 3), GREY, np.uint8))
    shown = {}
    for status in ("done", "failed"):
        events = [TileChanged(1.0, tiles[0], status)]
        folded = fold(state, events)
        shown[status] = _pixels(overlay.frame(replace(folded, boxes=layer)))[:, :400].mean(
            axis=(0, 1)
        )
    assert shown["failed"][0] - shown["done"][0] > 15


def test_what_lies_over_the_image_can_be_made_fainter() -> None:
    """At 0 there is the image alone; halfway lies between."""
    tiles = Grid(2, 2).tiles((400, 300))
    state = fold(initial(tiles), [TileChanged(1.0, tile, "failed") for tile in tiles])
    overlay = Overlay((400, 300), lambda box, scale: np.full((300, 400, 3), 200, np.uint8))
    full, half, none = (
        np.asarray(Image.open(BytesIO(overlay.frame(state, opacity=value).jpeg))).mean()
        for value in (1.0, 0.5, 0.0)
    )
    assert none == pytest.approx(200, abs=1)
    assert full < half - 10 < none - 20


def _of_colour(frame: Frame, label: str) -> int:
    """How many pixels of a frame have about the colour of a class."""
    wanted = np.array(rgb(class_colours([label])[label]))
    return int((np.abs(_pixels(frame) - wanted).sum(axis=2) < 90).sum())


def test_a_few_small_objects_are_found_among_many() -> None:
    """Five dots of a rare class keep their colour through the compression of a busy frame."""
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 580, (2500, 2)) * (1.5, 1)
    small = Findings(np.hstack([corners, corners + 2]), labels=["common"] * 2495 + ["rare"] * 5)
    frame = Overlay(SIZE, _read).frame(replace(initial(TILES), boxes=BoxLayer.of(small)))
    assert _of_colour(frame, "rare") >= 5 * 6


def test_dots_of_a_class_are_of_one_size_however_they_came() -> None:
    """A class that is rare no more, as tiles end, has small dots, the first ones too."""
    rows = [
        [(9 * i + 2, 9 * k + 2, 9 * i + 4, 9 * k + 4, "cell") for i in range(30)] for k in (0, 60)
    ]
    state = _state((0, "done", tuple(rows[0])))
    grown = _state((0, "done", tuple(rows[0])), (3, "done", tuple(rows[1])))
    overlay = Overlay(SIZE, _read)
    few = _of_colour(overlay.frame(state), "cell")
    both = overlay.frame(grown)
    assert few > _of_colour(both, "cell")
    assert both.jpeg == Overlay(SIZE, _read).frame(grown).jpeg


def test_a_hidden_class_is_not_drawn() -> None:
    """The others stay, with their labels; a layer of which nothing is hidden is the same one."""
    layer = BoxLayer.of(Findings([[0, 0, 5, 5], [9, 9, 12, 12]], [0.9, 0.8], ["a", "b"]))
    assert layer.showing(lambda _: True) is layer
    left = layer.showing(lambda label: label != "a")
    assert left.counts == {"a": 0, "b": 1}
    assert left.chunks[0].boxes.tolist() == [[9, 9, 12, 12]]
