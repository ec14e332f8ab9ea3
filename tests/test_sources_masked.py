"""Masked arrays as images: what is masked is no data, whatever lies below."""

from pathlib import Path

import numpy as np
import pytest

from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import open_reference, open_source, read_options, read_pixels

HEIGHT, WIDTH = 40, 60
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[:10] = True


def values(dtype: str) -> np.ma.MaskedArray:
    """Return a ramp from 1000 (of bytes: 100) whose first rows are masked, and extreme below."""
    first = 100 if dtype.endswith("int8") else 1000
    ramp = np.linspace(first, first * 1.2, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(dtype)
    ramp[MASK] = 0 if np.dtype(dtype).kind == "u" else -9999 if dtype != "int8" else -99
    return np.ma.masked_array(ramp, MASK.copy())  # which a test may add to


def whole(source, dtype="uint8", scale=1.0):
    return read_pixels(source, Box(0, 0, *source.size), scale, read_options(source, dtype=dtype))


DTYPES = ["uint8", "int8", "uint16", ">u2", "int16", "int32", "int64", "float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_masked_does_not_set_the_stretch(dtype: str) -> None:
    """The rest is shown as the rest alone, and the share with data is that of the mask."""
    source = open_source(values(dtype))
    shown = whole(source)[..., 0]
    if dtype != "uint8":  # which is not stretched
        assert (shown[MASK] == 0).all()
        alone = whole(open_source(values(dtype).data[10:]))[..., 0]
        np.testing.assert_array_equal(shown[10:], alone)
    share = source.data_share(HEIGHT)
    assert share is not None and share.mean() == pytest.approx(0.75, abs=0.01)
    np.testing.assert_array_equal(whole(source, "raw")[10:, :, 0], values(dtype).data[10:])


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_averages_leave_out_what_is_masked(dtype: str) -> None:
    """A row of blocks half of which is masked has the mean of the other half."""
    array = values(dtype)
    array[10] = np.ma.masked
    found = whole(open_source(array), "raw", 0.5)[5, :, 0]
    right = array.data[11].reshape(-1, 2).mean(axis=1)
    np.testing.assert_allclose(found, right, atol=0.5)


def test_a_worker_reads_it_alike() -> None:
    """The value that means no data travels with the reference."""
    source = open_source(values("int16"))
    np.testing.assert_array_equal(whole(open_reference(source.reference)), whole(source))
    assert open_source(values("int16").data).fingerprint != source.fingerprint


def test_a_mask_that_hides_nothing_changes_nothing() -> None:
    """The same image as without."""
    plain = values("int16").data
    masked = open_source(np.ma.masked_array(plain, False))
    assert masked.fingerprint == open_source(plain).fingerprint
    assert masked.metadata.nodata is None


def test_an_array_without_a_free_value_names_the_remedy() -> None:
    """All 256 values are in use, and one is masked in a place of its own."""
    full = np.ma.masked_array(np.arange(512, dtype=np.uint8).reshape(16, 32), False)
    full[0, 0] = np.ma.masked
    with pytest.raises(SourceError, match=r"has every value, .*astype\('float32'\)\.filled"):
        open_source(full)
    left = np.isnan(whole(open_source(full.astype("float32").filled(np.nan)), "raw"))
    assert left.sum() == 1


def test_masks_of_a_raster_are_those_of_its_file(tmp_path: Path) -> None:
    """The array that rasterio reads with masks is shown as its file."""
    rasterio = pytest.importorskip("rasterio", reason="rasterio (extra geo) is not installed")
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "width": WIDTH, "height": HEIGHT, "count": 1, "nodata": -9999}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 4e6)}
    with rasterio.open(path, "w", dtype="int16", **profile, **place) as dataset:
        dataset.write(values("int16").data, 1)
    with rasterio.open(path) as dataset:
        array = dataset.read(1, masked=True)
    np.testing.assert_array_equal(whole(open_source(array)), whole(open_source(path)))


def test_masks_of_dask_count_too() -> None:
    """Floats are NaN there; whole numbers have none, and are refused with the remedy."""
    da = pytest.importorskip("dask.array")
    array = values("float32")
    lazy = da.ma.masked_array(da.from_array(array.data, chunks=16), da.from_array(MASK, chunks=16))
    np.testing.assert_array_equal(whole(open_source(lazy)), whole(open_source(array)))
    numbers = da.ma.masked_array(lazy.map_blocks(np.ma.getdata).astype("int16"), MASK)
    with pytest.raises(SourceError, match=r"is masked and of int16, .*map_blocks"):
        open_source(numbers)
