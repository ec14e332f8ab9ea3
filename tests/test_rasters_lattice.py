"""Tiles lie on the pixels of their map: a model that returns its pixels gives the image back."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_tiles import Inline, inline_runs  # noqa: F401 - fixtures

import tilevision as tv
from tilevision.geometry import Box
from tilevision.pipeline.lattice import MOST, NEAR, on_lattice, residual, snapped
from tilevision.pipeline.tiling import Tiling
from tilevision.sources import open_source

RNG = np.random.default_rng(183)
GRIDS = st.one_of(
    st.builds(tv.Grid.by_tile, st.integers(16, 90), st.sampled_from([0, 0.1, 0.25, 0.5])),
    st.builds(tv.Grid, st.integers(1, 5), st.integers(1, 5), st.sampled_from([0, 0.2, 0.4])),
)
OWN: dict[str, Any] = {"returns": "values", "fingerprint": "own pixels"}


def grey(pixels: np.ndarray) -> np.ndarray:
    """The pixels themselves."""
    return pixels[..., 0].astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(
    grid=GRIDS,
    width=st.integers(60, 900),
    height=st.integers(60, 900),
    scale=st.sampled_from([0.5, 1 / 3, 0.25, 0.4, 0.3, 0.6, 0.7, 0.8, 1.5, 0.123]),
)
def test_moved_tiles_cover_the_image_in_their_order(
    grid: Any, width: int, height: int, scale: float
) -> None:
    """No gap, no tile beyond the border, none moved far; of one size, they still have it."""
    size = width, height
    try:
        before = grid.tiles(size, scale)
    except tv.GridError:
        return
    equal = grid.tile is not None
    after = on_lattice(before, size, equal=equal)
    assert [(t.row, t.col, t.id) for t in after] == [(t.row, t.col, t.id) for t in before]
    covered = np.zeros((height, width), bool)
    for old, new in zip(before, after, strict=True):
        box = new.box
        covered[box.y0 : box.y1, box.x0 : box.x1] = True
        assert 0 <= box.x0 < box.x1 <= width and 0 <= box.y0 < box.y1 <= height
        moves = np.subtract(box.as_tuple(), old.box.as_tuple())
        assert np.abs(moves).max() <= MOST
        assert not equal or new.output_size == old.output_size
    assert covered.all()
    for one, two in itertools.pairwise(after):
        assert one.row < two.row or one.box.x0 < two.box.x0
    assert on_lattice(after, size, equal=equal) == after or equal


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 5),
    across=st.integers(40, 200),
    down=st.integers(40, 200),
    grid=GRIDS,
)
def test_scales_that_divide_pixels_leave_nothing_off(
    n: int, across: int, down: int, grid: Any
) -> None:
    """Exactly, where the image has whole pixels of the map."""
    size = across * n, down * n
    try:
        tiles = grid.tiles(size, 1 / n)
    except tv.GridError:
        return
    assert max(residual(on_lattice(tiles, size, equal=grid.tile is not None), size)) < 1e-9


@pytest.mark.parametrize("scale", [0.4, 0.3, 0.6, 0.55, 0.123])
def test_other_scales_come_within_a_tenth_where_tiles_can_be_moved(scale: float) -> None:
    """Edges of rows and columns do; tiles of one size, as far as their size allows."""
    size = (3000, 2311)
    tiles = tv.Grid(8, 8).tiles(size, scale)
    assert residual(on_lattice(tiles, size, equal=False), size)[0] <= NEAR + 1e-9
    equal = on_lattice(tv.Grid.by_tile(256).tiles(size, scale), size, equal=True)
    inner = [t for t in equal if t.box.x1 < size[0] and t.box.y1 < size[1]]
    lean = abs(round(256 / scale) * scale - 256)  # all of it at the end of the first
    assert residual(inner, size)[0] <= max(NEAR + lean / 2, lean) + 1e-9


def test_scales_are_taken_that_divide_pixels() -> None:
    """Within 5 %; what a file has stored stays, as do others."""
    assert snapped(0.505, [1.0]) == 0.5 and snapped(0.98, [1.0]) == 1.0
    assert snapped(0.34, [1.0]) == 1 / 3 and snapped(0.0777, [1.0]) == 1 / 13
    assert snapped(0.4, [1.0]) == 0.4 and snapped(0.41, [1.0, 0.4]) == 0.4
    assert snapped(0.2501, [1.0, 0.2501]) == 0.2501 and snapped(2.02, [1.0]) == 2.02
    for scale in np.linspace(0.01, 1.2, 400).tolist():
        once = snapped(scale, [1.0, 0.4, 0.11])
        assert snapped(once, [1.0, 0.4, 0.11]) == once
        assert max(once / scale, scale / once) <= 1.05


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("grid", [tv.Grid.by_tile(32, 0.25), tv.Grid(3, 4), tv.Grid(2, 2, 0.0)])
@pytest.mark.parametrize("asked", [1.0, 0.5, 1 / 3, 0.505])
def test_a_model_that_returns_its_pixels_gives_the_image_back(
    tmp_path: Path, grid: Any, asked: float
) -> None:
    """Byte for byte, in every way of blending, at scales 1, 1/2, 1/3, and 0.505, taken as 1/2."""
    pixels = np.repeat(RNG.integers(0, 255, (180, 264, 1), np.uint8), 3, axis=2)
    np.save(tmp_path / "noise.npy", pixels)
    run = Inline(tmp_path / "noise.npy", tv.model(grey, **OWN), grid=grid, resolution=asked)
    result = run.conduct()
    scale = {0.505: 0.5}.get(asked, asked)
    source = open_source(tmp_path / "noise.npy")
    right = source.read(Box(0, 0, 264, 180), scale)[..., 0].astype(np.float32)
    for blend in ("smooth", "core", "mean"):
        np.testing.assert_array_equal(np.asarray(result.with_(blend=blend).raster), right)


@pytest.mark.usefixtures("inline")
def test_at_other_scales_the_image_comes_back_within_a_tenth_of_a_pixel(tmp_path: Path) -> None:
    """A slope says where a pixel of the map lies: moved by a pixel, it is a step of it higher."""
    slope = np.tile(np.arange(900, dtype=np.float32) * 100, (640, 1))
    np.save(tmp_path / "slope.npy", slope)
    model = tv.model(lambda p: p[..., 0], **OWN, bands=(0,), dtype="raw")
    for grid in (tv.Grid(4, 5), tv.Grid.by_tile(100, 0.3)):
        run = Inline(tmp_path / "slope.npy", model, grid=grid, resolution=0.4)
        found = np.asarray(run.conduct().with_(blend="core").raster)
        right = ((np.arange(found.shape[1]) + 0.5) / 0.4 - 0.5) * 100
        assert np.abs(found - right)[:, 2:-2].max() * 0.4 / 100 <= 0.1


def test_plans_say_what_was_taken_and_what_is_left(tmp_path: Path) -> None:
    """Of models with maps alone: the tiles of others are where they always were."""
    image = RNG.integers(0, 255, (640, 901, 3), np.uint8)
    model = tv.model(grey, **OWN)

    def notes(model: Any, **more: Any) -> str:
        return "\n".join(tv.plan(image, model, checkpoint=None, **more).notes)

    assert "The map has scale 0.5 in place of 0.505" in notes(model, resolution=0.505, grid=256)
    assert "pixels off the pixels of the map at scale 0.6" in notes(model, resolution=0.6, grid=250)
    odd = notes(model, resolution=0.5, grid="2x2")
    assert "no whole number of the map's pixels at scale 0.5: in the last row or column" in odd
    image = image[:, :900]
    assert "map" not in notes(model, resolution=0.5, grid="2x2")
    boxes = tv.model(grey, fingerprint="boxes")
    plan = tv.plan(image, boxes, checkpoint=None, resolution=0.505, grid=256)
    assert plan.tiling.scales == (0.505,) and "map" not in "\n".join(plan.notes)
    assert plan.tiles == tv.Grid.by_tile(256).tiles((900, 640), 0.505)
    assert "lattice" not in plan.tiling.to_dict()
    kept = tv.plan(image, model, checkpoint=None, resolution=0.6, grid=256)
    again = Tiling.from_dict(kept.tiling.to_dict())
    assert again == kept.tiling and again.tiles((900, 640)) == kept.tiles
    assert math.isclose(kept.tiling.scales[0], 0.6)


def phased(pixels: np.ndarray) -> np.ndarray:
    """Where in its cell of 8 pixels each pixel lies, as a network that pools thrice sees it."""
    high, wide = pixels.shape[:2]
    return np.add.outer(np.arange(high) % 8, np.arange(wide) % 8).astype(np.float32)


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("grid", [tv.Grid.by_tile(64, 0.2), tv.Grid(3, 4)])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_declared_stride_has_tiles_begin_where_the_model_pools(
    tmp_path: Path, grid: Any, scale: float
) -> None:
    """Then a model that pools says the same wherever its tile begins; without it, it does not."""
    pixels = np.zeros((288, 384, 3), np.uint8)
    np.save(tmp_path / "blank.npy", pixels)
    whole = phased(pixels[: int(288 * scale), : int(384 * scale)])
    same = []
    for stride in (8, None):
        model = tv.model(phased, returns="values", fingerprint="phased", stride=stride)
        run = Inline(tmp_path / "blank.npy", model, grid=grid, resolution=scale)
        found = np.asarray(run.conduct().raster)
        same.append(bool((found == whole).all()))
        kept = run.plan.tiling.to_dict()
        assert ("stride" in kept) == bool(stride) and Tiling.from_dict(kept) == run.plan.tiling
        assert not any("stride" in note for note in run.plan.notes)
    assert same == [True, False]


def test_a_stride_is_no_part_of_what_a_model_is() -> None:
    """Tiles that begin where they did are found again; other tiles are as they always were."""
    image = RNG.integers(0, 255, (512, 512, 3), np.uint8)
    plain, strided = (tv.model(grey, **OWN, stride=stride) for stride in (None, 8))
    assert plain.fingerprint == strided.fingerprint
    assert strided.stride == tv.model(tv.model(grey, **OWN), stride=8).stride == 8
    grid = tv.Grid.by_tile(256, "64px")
    plans = [tv.plan(image, one, grid=grid, checkpoint=None) for one in (plain, strided)]
    assert plans[0].tiles == plans[1].tiles
    with pytest.raises(tv.ModelError, match="stride of model grey is 0"):
        tv.model(grey, **OWN, stride=0)


def test_plans_say_which_tiles_begin_off_the_stride() -> None:
    """The last ones, as they end with the image; all, where the grid leaves no room."""
    model = tv.model(grey, **OWN, stride=16)

    def notes(side: int, **more: Any) -> str:
        image = np.zeros((side, side, 3), np.uint8)
        return "\n".join(tv.plan(image, model, checkpoint=None, **more).notes)

    assert "stride" not in notes(512, grid=tv.Grid.by_tile(128, 0.2))
    last = notes(517, grid=tv.Grid.by_tile(128, 0.2))
    assert "The last row or column of tiles begins 5 pixels off a multiple of 16" in last
    dense = notes(200, grid=tv.Grid.by_tile(64, 0.9))
    assert "off multiples of 16, the stride of model grey" in dense
    boxes = tv.model(lambda p: [], fingerprint="boxes", input_size=128)
    route = tv.Cascade(boxes, model, when=lambda found: True)
    plan = tv.plan(np.zeros((512, 512, 3), np.uint8), route, checkpoint=None)
    assert any("off multiples of 16" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"grid": "adaptive"}, "an adaptive grid"),
        ({"resolution": [1.0, 0.5]}, "several resolutions"),
        ({"full_image": True}, "full_image=True"),
    ],
)
def test_tiles_of_several_sizes_or_scales_are_refused(asked: dict[str, Any], what: str) -> None:
    """In one line, whichever model of the run gives the map."""
    image = RNG.integers(0, 255, (300, 300, 3), np.uint8)
    boxes = tv.model(lambda p: [], fingerprint="boxes")
    mapped = tv.model(grey, **OWN)
    for model in (mapped, tv.Cascade(boxes, mapped, when=lambda found: True)):
        with pytest.raises(tv.GridError) as caught:
            tv.plan(image, model, checkpoint=None, **({"grid": 100} | asked))
        said = str(caught.value)
        assert said.startswith(
            "Model grey gives a map, which has tiles of one size and scale, not "
        )
        assert what in said and "\n" not in said
