"""One rule for the whole image turns stored values into what a model sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import (
    ReadOptions,
    depth,
    display_options,
    open_source,
    read_options,
    read_pixels,
    to_uint8,
)

WHOLE = Box(0, 0, 60, 40)


def ramp(dtype: str, bands: int = 1) -> np.ndarray:
    values = np.linspace(0, 1000, 40 * 60).reshape(40, 60, 1)
    return np.repeat(values, bands, axis=2).astype(dtype)


def test_eight_bit_colour_passes_through() -> None:
    """RGB bytes are not touched."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    source = open_source(pixels)
    options = read_options(source)
    assert options.stretch is None
    np.testing.assert_array_equal(read_pixels(source, WHOLE, 1.0, options), pixels)


@pytest.mark.parametrize(
    ("bands", "chosen"), [(1, (0,)), (2, (0,)), (3, (0, 1, 2)), (5, (0, 1, 2))]
)
def test_a_picture_has_three_bands(bands: int, chosen: tuple[int, ...]) -> None:
    """Grey is repeated, of two bands the first is grey, of many the first three are RGB."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, bands), dtype=np.uint8)
    source = open_source(pixels)
    options = display_options(source)
    assert options.bands == chosen
    shown = read_pixels(source, WHOLE, 1.0, options)
    assert shown.shape == (40, 60, 3) and shown.dtype == np.uint8
    np.testing.assert_array_equal(shown, np.broadcast_to(pixels[..., chosen], shown.shape))


def test_bands_can_be_chosen() -> None:
    """False colour: any three bands in any order, or any one as grey."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 5), dtype=np.uint8)
    source = open_source(pixels)
    shown = read_pixels(source, WHOLE, 1.0, read_options(source, bands=(4, 2, 0)))
    np.testing.assert_array_equal(shown, pixels[..., [4, 2, 0]])
    raw = read_pixels(source, WHOLE, 1.0, read_options(source, bands=[3, 1], dtype="raw"))
    np.testing.assert_array_equal(raw, pixels[..., [3, 1]])


@pytest.mark.parametrize("bands", [(0, 1), (0, 1, 2, 3), (9,), (-1,), ()])
def test_bands_that_make_no_picture_are_refused(bands: tuple[int, ...]) -> None:
    """Two or four bands are no 8-bit picture; a missing one is named."""
    source = open_source(np.zeros((40, 60, 5), np.uint8))
    with pytest.raises(SourceError, match="band"):
        read_options(source, bands=bands)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "float32", "float64"])
def test_other_depths_are_stretched_over_all_greys(dtype: str) -> None:
    """The 1st percentile becomes black, the 99th white, what lies between keeps its order."""
    source = open_source(ramp(dtype))
    options = read_options(source)
    assert options.stretch is not None
    assert options.stretch[0] == pytest.approx((10, 990), abs=1.5)
    shown = read_pixels(source, WHOLE, 1.0, options)[..., 0].ravel().astype(int)
    assert shown[0] == 0 and shown[-1] == 255
    assert (np.diff(shown) >= 0).all()


@pytest.mark.parametrize("dtype", ["int8", "uint16", ">u2", "int16", "<i2", "int32"])
@pytest.mark.parametrize("nodata", [None, 40.0, -9999.0, (None, 40.0)])
@pytest.mark.parametrize("masked", [False, True])
def test_each_depth_is_stretched_by_one_formula(
    dtype: str, nodata: float | tuple[float | None, ...] | None, masked: bool
) -> None:
    """Whether looked up or computed: rint(255 (value - low) / (high - low)), cut; else 0.

    By the definition in the README; the expected values come from Python's numbers, one by one.
    """
    pixels = np.random.default_rng(3).integers(-120, 120, (9, 11, 2)).astype(dtype)
    mask = np.random.default_rng(4).random((9, 11, 1)) < 0.7 if masked else None
    stretch = ((-20.0, 90.0), (3.5, 70.25))
    shown = depth.stretched(pixels, mask, stretch, nodata)
    for (y, x, band), value in np.ndenumerate(pixels):
        low, high = stretch[band]
        hole = nodata[band] if isinstance(nodata, tuple) else nodata
        grey = round(min(max((float(value) - low) * (255.0 / (high - low)), 0), 255))
        there = value != hole and (mask is None or mask[y, x, 0])
        assert shown[y, x, band] == (grey if there else 0)


def test_raw_values_are_as_stored() -> None:
    """A model that asks for raw values gets the file's own."""
    source = open_source(ramp("uint16", 4))
    options = read_options(source, dtype="raw")
    assert options == ReadOptions(bands=None, dtype="raw")
    np.testing.assert_array_equal(read_pixels(source, WHOLE, 1.0, options), ramp("uint16", 4))


def test_masks_are_black_and_white() -> None:
    """False is 0, true is 255."""
    mask = ramp("float32") > 500
    source = open_source(mask)
    shown = read_pixels(source, WHOLE, 1.0, read_options(source))
    np.testing.assert_array_equal(shown, np.where(mask, 255, 0).repeat(3, axis=2))


def test_tiles_agree_with_the_whole() -> None:
    """The rule is the image's: a tile of it is cut from the shown whole."""
    source = open_source(ramp("float32"))
    options = read_options(source)
    whole = read_pixels(source, WHOLE, 1.0, options)
    tile = read_pixels(source, Box(20, 10, 50, 30), 1.0, options)
    np.testing.assert_array_equal(tile, whole[10:30, 20:50])


def test_nan_infinity_and_no_data_neither_count_nor_show(tmp_path: Path) -> None:
    """Holes do not move the stretch, and are black."""
    values = ramp("float32")[..., 0]
    plain = read_options(open_source(values)).stretch
    assert plain is not None
    holed = values.copy()
    holed[::7, ::5] = np.nan
    holed[1, 1] = np.inf
    options = read_options(open_source(holed))
    assert options.stretch is not None
    np.testing.assert_allclose(options.stretch, plain, atol=5)
    shown = read_pixels(open_source(holed), WHOLE, 1.0, options)
    assert (shown[::7, ::5] == 0).all()
    holed = values.copy()
    holed[:, :30] = -9999
    tag = (42113, "s", 0, "-9999", True)
    tifffile.imwrite(tmp_path / "a.tif", holed, extratags=[tag], metadata=None)
    source = open_source(tmp_path / "a.tif")
    options = read_options(source)
    assert options.nodata == -9999
    assert options.stretch is not None and options.stretch[0][0] >= 0
    assert (read_pixels(source, WHOLE, 1.0, options)[:, :30] == 0).all()
    assert (read_pixels(source, WHOLE, 0.5, options)[:, 16:, 0] > 0).any()


@pytest.mark.parametrize("value", [0, 7, -3.5])
def test_a_flat_image_is_still_an_image(value: float) -> None:
    """Without any contrast there is nothing to stretch, and nothing to divide by."""
    source = open_source(np.full((40, 60), value, np.float32))
    assert (read_pixels(source, WHOLE, 1.0, read_options(source)) == 0).all()


def test_an_image_of_holes_is_black() -> None:
    """Nothing but NaN: black, and no warning."""
    source = open_source(np.full((40, 60), np.nan, np.float32))
    assert (read_pixels(source, WHOLE, 1.0, read_options(source)) == 0).all()


def test_few_bright_spots_do_not_make_all_else_black() -> None:
    """Stars on a dark ground: the range between them is kept where 99 % are equal."""
    values = np.zeros((40, 60), np.uint16)
    values[3, 3] = 60000
    source = open_source(values)
    shown = read_pixels(source, WHOLE, 1.0, read_options(source))
    assert shown[3, 3, 0] == 255 and shown[0, 0, 0] == 0


def test_the_sample_of_a_big_image_is_bounded_and_repeatable() -> None:
    """The rule of a 9000×7000 scene comes from windows of it, and stands for all of it."""
    patch = np.random.default_rng(0).normal(3000, 500, (1000, 1000)).astype(np.uint16)
    values = np.tile(patch, (7, 9))
    source = open_source(values)
    read = 0
    original = source.read

    def counted(box: Box, scale: float = 1.0, bands: object = None) -> np.ndarray:
        nonlocal read
        read += int(box.area)
        return original(box, scale, bands)  # type: ignore[arg-type]

    source.read = counted  # type: ignore[method-assign]
    options = read_options(source)
    assert read <= 1 << 23
    assert options == read_options(source)
    assert options.stretch is not None
    np.testing.assert_allclose(options.stretch[0], np.percentile(patch, (1, 99)), rtol=0.01)


def test_a_pyramid_is_sampled_at_a_coarse_level(shared_data: Path) -> None:
    """The rule of a map with overviews is close to that of all its pixels."""
    source = open_source(shared_data / "cog-uint16.tif")
    options = read_options(source)
    assert options.stretch is not None
    stored = source.read(Box(0, 0, *source.size))
    low, high = np.percentile(stored, (1, 99))
    assert options.stretch[0] == pytest.approx((low, high), abs=0.1 * (high - low))


@given(st.integers(1, 6), st.integers(1, 400))
def test_a_thumbnail_is_shown_as_tiles_are(bands: int, side: int) -> None:
    """`to_uint8` picks the bands of pixels that hold them all."""
    pixels = np.arange(4 * 5 * bands, dtype=np.uint8).reshape(4, 5, bands)
    source = open_source(pixels)
    shown = to_uint8(source.thumbnail(side), display_options(source))
    assert shown.shape[2] == 3 and shown.dtype == np.uint8
    assert max(shown.shape[:2]) == min(side, 5)
    source.close()


def test_an_unknown_depth_is_refused() -> None:
    """Only 8-bit pictures and raw values are offered."""
    with pytest.raises(SourceError, match="uint8"):
        read_options(open_source(np.zeros((4, 4), np.uint8)), dtype="float32")  # type: ignore[arg-type]
