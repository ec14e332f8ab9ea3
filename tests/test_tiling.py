"""Which tiles an image becomes, and at which resolution."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilevision.errors import GridError
from tilevision.grid import Grid
from tilevision.modelspec import ModelSpec
from tilevision.pipeline.settings import Settings
from tilevision.pipeline.tiling import Tiling, decide
from tilevision.sources import open_source


def _decide(mpp: float | None = None, spec: dict[str, Any] | None = None, **arguments: Any) -> Any:
    model = ModelSpec("m", "nowhere:f", "fp", **(spec or {}))
    source = open_source(np.zeros((600, 800, 3), np.uint8), mpp=mpp)
    try:
        return decide(Settings(model, **arguments), source, model)
    finally:
        source.close()


def test_default_is_the_models_input_size_else_1024() -> None:
    """At the stored resolution, or at the one the model was made for."""
    assert _decide()[0] == Tiling(Grid.by_tile(1024))
    assert _decide(spec={"input_size": (640, 480)})[0].grid.tile == (640, 480)
    assert _decide(mpp=0.25, spec={"mpp": 0.5})[0].scales == (0.5,)


@pytest.mark.parametrize(
    ("resolution", "mpp", "scale"),
    [
        ("0.5mpp", 0.25, 0.5),
        ("20x", 0.25, 0.5),
        ("40x", 0.25, 1.0),
        (" 0.5 MPP", 0.25, 0.5),
        ("20X", 0.25, 0.5),
        (0, None, 1.0),
        (0.25, None, 0.25),
    ],
)
def test_resolution_is_microns_magnification_level_or_scale(
    resolution: Any, mpp: float | None, scale: float
) -> None:
    """All become output pixels per image pixel; an assumed mpp is told."""
    tiling, notes = _decide(mpp=mpp, resolution=resolution)
    assert tiling.scales == (scale,)
    assert bool(notes) == str(resolution).endswith(("x", "X"))


def test_a_resolution_that_the_file_does_not_have_is_told() -> None:
    """40x of a slide that was scanned at 20x is more tiles of enlarged pixels, and no error."""
    tiling, notes = _decide(mpp=0.5, resolution="0.25mpp")
    assert tiling.scales == (2.0,)
    assert notes == (
        "Pixels are enlarged 2.0 times: this takes more tiles and shows no more detail than the "
        "file has.",
    )
    assert "enlarged 2.0 times" in _decide(mpp=0.5, spec={"mpp": 0.25})[1][0]
    assert _decide(mpp=0.5, resolution="0.45mpp")[1] == ()


@pytest.mark.parametrize("bad", ["0.5", "mpp", "0mpp", "..5x", 7, -1, 0.0, 99.0, True, [], {}])
def test_other_resolutions_are_refused(bad: Any) -> None:
    """One line that says what it takes."""
    with pytest.raises(GridError, match="resolution"):
        _decide(mpp=0.25, resolution=bad)


def test_missing_mpp_names_the_argument() -> None:
    """A resolution-bound model on an image that does not say its own."""
    with pytest.raises(GridError, match="pass mpp="):
        _decide(resolution="0.5mpp")
    with pytest.raises(GridError, match="pass mpp="):
        _decide(spec={"mpp": 0.5})


def test_tiles_the_model_would_shrink_more_than_twice_are_told() -> None:
    """A 500 px tile for a 200 px model."""
    assert "2.5 times" in _decide(grid=500, spec={"input_size": (200, 200)})[1][0]
    assert not _decide(grid=400, spec={"input_size": (200, 200)})[1]


def test_the_whole_image_is_one_tile_more() -> None:
    """It is as large as a tile, so the model sees what no single tile holds."""
    tiling, _ = _decide(grid=200, full_image=True)
    tiles = tiling.tiles((800, 600))
    assert tiles[-1].id == "whole"
    assert tiles[-1].box.as_tuple() == (0, 0, 800, 600)
    assert tiles[-1].output_size == (200, 150)
    assert len(tiles) == len(Grid.by_tile(200).tiles((800, 600))) + 1


def test_a_grid_of_one_tile_is_the_whole_image_already() -> None:
    """No region is analysed twice at the same scale."""
    tiling, _ = _decide(grid="1x1", full_image=True)
    assert len(tiling.tiles((800, 600))) == 1


def test_an_adaptive_grid_looks_at_the_image_and_is_judged_by_its_largest_tile() -> None:
    """Texture in one corner; what a tile of 1000 px would lose in a small model is told."""
    picture = np.zeros((2400, 3200, 3), np.uint8)
    picture[:400, :400] = np.random.default_rng(0).integers(0, 255, (400, 400, 1))
    model = ModelSpec("m", "nowhere:f", "fp", input_size=(200, 200))
    source = open_source(picture)
    try:
        settings = Settings(model, grid=Grid.adaptive(128, 1024), full_image=True)
        tiling, notes = decide(settings, source, model)
    finally:
        source.close()
    tiles = tiling.tiles(source.size)
    longest = max(max(tile.output_size) for tile in tiles)
    assert longest > 700
    assert max(tiles[0].output_size) < 200
    assert f"{longest}×" in notes[0] or f"×{longest}" in notes[0]
    assert max(tiles[-1].output_size) == pytest.approx(longest, rel=0.1)
    assert tiles[-1].id == "whole"


@given(
    st.lists(st.sampled_from([1.0, 0.5, 0.25, 2.0]), min_size=1, max_size=3, unique=True),
    st.sampled_from([None, 0.1, 0.5]),
)
def test_regions_and_ids_are_unique_and_round_trip(
    scales: list[float], whole: float | None
) -> None:
    """Several scales in one run stay apart; a manifest can hold them."""
    tiling = Tiling(Grid.by_tile(100), tuple(scales), whole)
    tiles = tiling.tiles((730, 410))
    assert len({tile.region for tile in tiles}) == len({tile.id for tile in tiles}) == len(tiles)
    assert Tiling.from_dict(tiling.to_dict()).tiles((730, 410)) == tiles
