"""One picture in every container that can hold it, value by value as GDAL 3.10 reads that file.

Containers, kinds of values, bands, no-data, colour tables and levels, one with another: no
combination is read otherwise than by GDAL's own reader.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilevision.geometry import Box
from tilevision.sources import open_reference, open_source, read_options, read_pixels

rasterio = pytest.importorskip("rasterio")
copy = pytest.importorskip("rasterio.shutil").copy

WIDTH, HEIGHT = 160, 96
WHOLE = Box(0, 0, WIDTH, HEIGHT)
Y, X = np.mgrid[:HEIGHT, :WIDTH]
VALID = (X >= 51) & ((Y < 45) | (X > 125))
LOSSLESS = {"QUALITY": "100", "REVERSIBLE": "YES"}

# By driver of GDAL: suffix, options, and what kinds of values it holds.
CONTAINERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "GTiff": ("tif", {"TILED": "YES", "BLOCKXSIZE": "32", "BLOCKYSIZE": "32"}, "every"),
    "COG": ("tif", {"BLOCKSIZE": "128"}, "every"),
    "VRT": ("vrt", {}, "every"),
    "HFA": ("img", {}, "every"),
    "ENVI": ("dat", {}, "every"),
    "ERS": ("ers", {}, "every"),
    "PCIDSK": ("pix", {}, "uint8 int16 uint16 float32"),
    "EHdr": ("bil", {}, "uint8 int16 uint16 int32 float32"),
    "NITF": ("ntf", {}, "uint8 int16 uint16 int32 float32"),
    "JP2OpenJPEG": ("jp2", LOSSLESS, "uint8 int16 uint16"),
    "PNG": ("png", {}, "uint8 uint16"),
}
HOLES = {"uint8": 9, "int16": -999, "uint16": 65535, "int32": -(2**31), "float32": -9999.5}
CASES = [
    (driver, dtype, bands)
    for driver, (_, _, kinds) in CONTAINERS.items()
    for dtype in HOLES
    for bands in (1, 3)
    if kinds == "every" or dtype in kinds.split()
]
TABLE = {n: (n * 37 % 256, n * 91 % 256, 255 - n, 255) for n in range(256)}

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")


def _made(folder: Path, driver: str, pixels: np.ndarray, nodata: float | None, table: bool) -> Path:
    bands, height, width = pixels.shape
    profile = {"width": width, "height": height, "count": bands, "dtype": pixels.dtype.name}
    first = folder / "first.tif"
    with rasterio.open(first, "w", driver="GTiff", nodata=nodata, **profile) as dataset:
        dataset.write(pixels)
        if table:
            dataset.write_colormap(1, TABLE)
    with rasterio.open(first, "r+") as dataset:
        dataset.build_overviews([2], rasterio.enums.Resampling.nearest)
    suffix, options, _ = CONTAINERS[driver]
    path = folder / f"a.{suffix}"
    copy(first, path, driver=driver, **options)
    return path


def _check(path: Path, shown: bool) -> None:
    """Compare values, missing data, levels and, where they are `shown` as stored, colours."""
    with rasterio.open(path) as dataset:
        values = np.moveaxis(dataset.read(), 0, -1)
        there = (dataset.read_masks() != 0).any(axis=0)
        overviews = len(dataset.overviews(1))
        colours = dataset.colormap(1) if not shown else None
    source = open_source(path)
    for one in (source, open_reference(source.reference)):
        raw = read_pixels(one, WHOLE, 1.0, read_options(one, dtype="raw"))
        assert raw.dtype == values.dtype
        np.testing.assert_array_equal(raw, values)
        share = one.data_share(WIDTH)
        assert (share is None and there.all()) or np.array_equal(share == 1, there)
    if not source.is_staged:  # Pillow's pictures are read whole
        assert len(source.metadata.levels) == 1 + overviews
    if overviews and not source.is_staged:
        with rasterio.open(path, overview_level=0) as level:
            coarse = np.moveaxis(level.read(), 0, -1)
        found = read_pixels(source, WHOLE, 0.5, read_options(source, dtype="raw"))
        np.testing.assert_array_equal(found, coarse)
    if colours is not None:
        table = np.array([colours.get(n, (0, 0, 0, 0))[:3] for n in range(256)])
        np.testing.assert_array_equal(
            read_pixels(source, WHOLE, 1.0, read_options(source)), table[values[..., 0]]
        )
    elif values.dtype == np.uint8 and values.shape[2] == 3 and path.suffix != ".png":
        np.testing.assert_array_equal(read_pixels(source, WHOLE, 1.0, read_options(source)), values)
    source.close()


@pytest.mark.parametrize(("driver", "dtype", "bands"), CASES)
def test_values_and_missing_data(tmp_path: Path, driver: str, dtype: str, bands: int) -> None:
    """Grey and three bands of every kind of value, with a value for no data."""
    values = np.stack([(50 + X // 2 + Y // 4 + band) % 90 + 10 for band in range(bands)])
    pixels = np.where(VALID, values, HOLES[dtype]).astype(dtype)
    _check(_made(tmp_path, driver, pixels, HOLES[dtype], table=False), shown=True)


@pytest.mark.parametrize("nodata", [None, 7, 0])
@pytest.mark.parametrize("driver", ["GTiff", "COG", "VRT", "HFA", "PCIDSK", "PNG"])
def test_classes_and_their_colours(tmp_path: Path, driver: str, nodata: int | None) -> None:
    """A map of classes with a colour table; a PNG shows its transparent class white."""
    if driver == "PNG" and nodata is not None:
        nodata = 255  # which occurs nowhere
    classes = ((X // 3 + Y // 5) % 40).astype(np.uint8)[np.newaxis]
    _check(_made(tmp_path, driver, classes, nodata, table=True), shown=False)
