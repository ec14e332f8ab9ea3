"""Resampling is an exact area average down and a bilinear blend up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilevision.sources import resampling as module
from tilevision.sources.depth import Nodata
from tilevision.sources.levels import Axis
from tilevision.sources.resampling import resample, shrunk


def shrink(pixels: np.ndarray, x: Axis, y: Axis, nodata: float | None = None) -> np.ndarray:
    values = Nodata((0,), () if nodata is None else (nodata,))

    def read(x0: int, y0: int, x1: int, y1: int) -> tuple[np.ndarray, np.ndarray | None]:
        assert 0 <= x0 < x1 <= pixels.shape[1] and 0 <= y0 < y1 <= pixels.shape[0]
        block = pixels[y0:y1, x0:x1]
        return block, values.there(block)

    holes = nodata is not None or pixels.dtype.kind == "f"
    empty = values.empty(pixels.dtype) * pixels.shape[2] if holes else None
    return resample(read, x, y, pixels.shape[2], pixels.dtype, empty)[0]


def weights(axis: Axis) -> np.ndarray:
    """Return the dense weights ``(outputs, extent)`` put together from blocks."""
    dense = np.zeros((axis.outputs, axis.extent))
    for low, high in axis.blocks(7):
        first, part = axis.weights(low, high)
        dense[first : first + part.shape[0], low:high] += part.toarray()
    return dense


@given(
    extent=st.integers(1, 60),
    outputs=st.integers(1, 90),
    chunk=st.integers(1, 9),
    edges=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_weights_of_every_output_sum_to_one(
    extent: int, outputs: int, chunk: int, edges: tuple[float, float]
) -> None:
    """Whatever the window and the blocks, an output is a mean: weights are >= 0 and sum to 1."""
    start, stop = sorted(edge * extent for edge in edges)
    if stop - start < 0.01:
        start, stop = 0.0, float(extent)
    dense = weights(Axis(start, stop, outputs, extent, chunk))
    assert (dense >= 0).all()
    np.testing.assert_allclose(dense.sum(axis=1), 1, atol=1e-6)


@given(extent=st.integers(2, 60), outputs=st.integers(1, 60))
def test_shrinking_keeps_every_pixel_in_equal_share(extent: int, outputs: int) -> None:
    """Area averaging gives each stored sample the same total weight."""
    outputs = min(outputs, extent)
    dense = weights(Axis(0, extent, outputs, extent))
    np.testing.assert_allclose(dense.sum(axis=0), outputs / extent, atol=1e-6)


def test_an_integer_factor_is_the_plain_mean() -> None:
    """Shrinking by 4 is the mean of 4×4 blocks, rounded."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    found = shrink(pixels, Axis(0, 96, 24, 96), Axis(0, 64, 16, 64))
    means = pixels.reshape(16, 4, 24, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(found, means, atol=0.501)


def test_a_broken_factor_weighs_the_pixels_at_its_edges() -> None:
    """An output that ends inside a stored sample takes that part of it."""
    pixels = np.array([0, 90, 30], np.float64).reshape(1, 3, 1)
    found = shrink(pixels, Axis(0, 3, 2, 3), Axis(0, 1, 1, 1))
    np.testing.assert_allclose(found[0, :, 0], [(0 + 45) / 1.5, (45 + 30) / 1.5])


def test_enlarging_is_bilinear() -> None:
    """Twice as large: quarters of the way between neighbours, edges held."""
    pixels = np.array([10, 50], np.float32).reshape(1, 2, 1)
    found = shrink(pixels, Axis(0, 2, 4, 2), Axis(0, 1, 1, 1))
    np.testing.assert_allclose(found[0, :, 0], [10, 20, 40, 50])


@settings(max_examples=15)
@given(
    seed=st.integers(0, 99),
    outputs=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    chunks=st.tuples(st.integers(4, 20), st.integers(4, 20)),
)
def test_blocks_do_not_show(seed: int, outputs: tuple[int, int], chunks: tuple[int, int]) -> None:
    """Cut into small blocks or read at once: the same picture."""
    pixels = np.random.default_rng(seed).normal(size=(50, 40, 2))
    x = Axis(3.5, 39, outputs[0], 40, chunks[0])
    y = Axis(0, 47.25, outputs[1], 50, chunks[1])
    whole = shrink(pixels, x, y)
    before = module.BLOCK_SAMPLES
    module.BLOCK_SAMPLES = 100
    try:
        blocks = shrink(pixels, x, y)
    finally:
        module.BLOCK_SAMPLES = before
    np.testing.assert_allclose(blocks, whole, atol=1e-9)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "int64"])
def test_extreme_integers_survive(dtype: str) -> None:
    """Averages of the extremes stay within the type, and a constant stays itself."""
    info = np.iinfo(dtype)
    for value in (info.min, info.max // 3):
        pixels = np.full((9, 9, 1), value, dtype)
        found = shrink(pixels, Axis(0, 9, 4, 9), Axis(0, 9, 4, 9))
        assert found.dtype == np.dtype(dtype)
        np.testing.assert_allclose(found.astype(float), float(value), rtol=1e-12)


def test_booleans_go_with_the_majority() -> None:
    """A mask stays a mask: half or more makes it true."""
    pixels = np.zeros((4, 4, 1), bool)
    pixels[:2, :2] = True
    pixels[2, 2] = True
    found = shrink(pixels, Axis(0, 4, 2, 4), Axis(0, 4, 2, 4))
    np.testing.assert_array_equal(found[..., 0], [[True, False], [False, False]])


@pytest.mark.parametrize(
    ("dtype", "hole"), [("float32", np.nan), ("float32", -9999), ("int16", -9999)]
)
def test_no_data_is_left_out_of_averages(dtype: str, hole: float) -> None:
    """Holes neither pull the mean of their neighbours nor vanish where nothing else is."""
    pixels = np.full((4, 8, 1), 6, dtype)
    pixels[:, :4] = hole
    pixels[1, 5] = hole
    found = shrink(pixels, Axis(0, 8, 2, 8), Axis(0, 4, 1, 4), None if np.isnan(hole) else hole)
    np.testing.assert_array_equal(found[0, :, 0], np.array([hole, 6], dtype))


@settings(max_examples=15)
@given(
    seed=st.integers(0, 99),
    outputs=st.tuples(st.integers(20, 90), st.integers(20, 90)),
    chunks=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    corner=st.tuples(st.floats(0, 60), st.floats(0, 60)),
    bands=st.sampled_from([1, 3]),
    samples=st.sampled_from([500, 5000, 1 << 22]),
)
def test_what_people_look_at_is_about_the_same(
    seed: int,
    outputs: tuple[int, int],
    chunks: tuple[int, int],
    corner: tuple[float, float],
    bands: int,
    samples: int,
) -> None:
    """By up to 12 grey levels of a smooth picture, and by less on average, however it is cut."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:301, :257]
    waves = [np.sin(x / rng.uniform(9, 40) + y / rng.uniform(9, 40)) for _ in range(bands)]
    pixels = np.clip(128 + 100 * np.stack(waves, axis=2), 0, 255).astype(np.uint8)
    across = Axis(corner[0], 255.5, outputs[0], 257, chunks[0])
    down = Axis(corner[1], 301, outputs[1], 301, chunks[1])

    def read(x0: int, y0: int, x1: int, y1: int) -> tuple[np.ndarray, None]:
        assert 0 <= x0 < x1 <= 257 and 0 <= y0 < y1 <= 301
        return pixels[y0:y1, x0:x1], None

    before = module.BLOCK_SAMPLES
    module.BLOCK_SAMPLES = samples
    try:
        found = shrunk(read, across, down)
    finally:
        module.BLOCK_SAMPLES = before
    exact = resample(read, across, down, bands, np.dtype(np.uint8))[0]
    assert found.shape == exact.shape and found.dtype == np.uint8
    off = np.abs(found.astype(int) - exact)
    assert off.max() <= 12 and off.mean() <= 4
