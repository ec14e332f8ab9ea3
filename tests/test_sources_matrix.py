"""TIFF layouts, compressions, colours, levels and scales, beside a reference reader."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tilevision.geometry import Box
from tilevision.sources import open_source

SIZE = (200, 140)
LAYOUTS = {"tiled": {"tile": (64, 48)}, "strips": {"rowsperstrip": 16}}
LOSSLESS = (None, "zlib", "lzw", "zstd")
PICTURES = ("jpeg", "jpeg2000", "webp")
DTYPES = ("uint8", "uint16", "float32")


def picture(bands: int, dtype: str, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return something smooth, that every codec takes, with a little noise."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (9 + 4 * band)) + np.cos(y / (7 + 5 * band)) for band in range(bands)]
    noise = np.random.default_rng(bands).random((height, width, bands)) / 8
    values = (np.stack(waves, axis=-1) + noise + 2) / 4.2
    if dtype == "float32":
        return values.astype(dtype)
    # Never 0, which as an alpha would be no data.
    return np.maximum((values * np.iinfo(dtype).max).astype(dtype), 1)


def windows(size: tuple[int, int], name: str) -> list[tuple[int, int, int, int]]:
    """Return the whole, its corners and edges, and windows that `name` draws."""
    width, height = size
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    found = [
        (0, 0, width, height),
        (0, 0, 1, 1),
        (width - 1, height - 1, width, height),
        (width - 3, 0, width, height),
        (0, height - 3, width, height),
    ]
    for _ in range(6):
        x0, x1 = sorted(int(v) for v in rng.choice(width + 1, 2, replace=False))
        y0, y1 = sorted(int(v) for v in rng.choice(height + 1, 2, replace=False))
        found.append((x0, y0, x1, y1))
    return found


def check(path: Path, expected: np.ndarray) -> None:
    """Compare windows, bands on their own, and scales, with what a reference reader gave."""
    expected = expected.reshape(*expected.shape[:2], -1)
    height, width, bands = expected.shape
    source = open_source(path)
    assert (source.size, source.bands, source.dtype) == ((width, height), bands, expected.dtype)
    for x0, y0, x1, y1 in windows(source.size, path.name):
        np.testing.assert_array_equal(source.read(Box(x0, y0, x1, y1)), expected[y0:y1, x0:x1])
    last = source.read(Box(5, 6, 90, 70), bands=[bands - 1])
    np.testing.assert_array_equal(last, expected[6:70, 5:90, -1:])
    half = expected[20:120, 10:130].astype(float).reshape(50, 2, 60, 2, bands).mean(axis=(1, 3))
    found = source.read(Box(10, 20, 130, 120), 0.5).astype(float)
    slack = 1e-5 if expected.dtype.kind == "f" else 0.5 + 1e-3
    assert np.abs(found - half).max() <= slack
    assert source.thumbnail(50).shape == (round(height * 50 / width), 50, bands)
    source.close()


def write(path: Path, pixels: np.ndarray, **options: Any) -> None:
    bands = 1 if pixels.ndim == 2 else pixels.shape[2]
    kind = {"photometric": "rgb" if bands >= 3 else "minisblack", "metadata": None}
    if bands == 4:
        kind["extrasamples"] = "unassalpha"
    tifffile.imwrite(path, pixels, **{**kind, **options})


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("codec", LOSSLESS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_lossless_files_hold_what_was_written(
    tmp_path: Path, layout: str, codec: str | None, dtype: str, bands: int
) -> None:
    """Grey, RGB and RGBA of 8 and 16 bits and floats: written by tifffile, read exactly."""
    pixels = picture(bands, dtype)
    path = tmp_path / f"{layout}-{codec}-{dtype}-{bands}.tif"
    write(path, pixels[..., 0] if bands == 1 else pixels, compression=codec, **LAYOUTS[layout])
    check(path, pixels)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("codec", LOSSLESS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_planar_files_hold_what_was_written(
    tmp_path: Path, layout: str, codec: str | None, dtype: str
) -> None:
    """Bands stored one after the other come out side by side."""
    pixels = picture(3, dtype)
    path = tmp_path / f"planar-{layout}-{codec}-{dtype}.tif"
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    options = {"photometric": "rgb", "planarconfig": "separate", "metadata": None}
    tifffile.imwrite(path, planes, compression=codec, **options, **LAYOUTS[layout])
    check(path, pixels)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("codec", PICTURES)
@pytest.mark.parametrize("bands", [1, 3])
def test_picture_codecs_are_what_tifffile_decodes(
    tmp_path: Path, layout: str, codec: str, bands: int
) -> None:
    """JPEG, JPEG 2000 and WebP, in tiles and in strips."""
    if codec == "webp" and bands == 1:
        pytest.skip("WebP has no grey")
    pixels = picture(bands, "uint8")
    path = tmp_path / f"{layout}-{codec}-{bands}.tif"
    write(path, pixels[..., 0] if bands == 1 else pixels, compression=codec, **LAYOUTS[layout])
    check(path, tifffile.imread(path))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
@pytest.mark.parametrize("mode", ["P", "CMYK", "YCbCr", "1", "L", "RGB"])
def test_colours_are_what_pillow_shows(tmp_path: Path, compression: str, mode: str) -> None:
    """Palettes, inks and luminance become the RGB that Pillow shows of the same file."""
    if compression == "jpeg" and mode in ("P", "1"):
        pytest.skip(f"JPEG has no {mode}")
    path = tmp_path / f"{mode}-{compression}.tif"
    stored = Image.fromarray(picture(3, "uint8")).convert(mode)
    stored.save(path, compression=compression)
    with Image.open(path) as reference:
        # For luminance without loss Pillow asks libtiff, which rounds in its own way.
        given = stored if mode == "YCbCr" and compression != "jpeg" else reference
        shown = given if mode in ("1", "L") else given.convert("RGB")
        expected = np.asarray(shown)
    if mode != "1":
        check(path, expected)
        return
    source = open_source(path)  # booleans have no mean
    np.testing.assert_array_equal(source.read(Box(0, 0, *SIZE))[..., 0], expected)


@pytest.mark.parametrize(
    ("layout", "dtype", "bigtiff"),
    [("tiled", "uint8", True), ("tiled", "float32", False), ("strips", "uint16", False)],
)
def test_every_level_is_what_rasterio_reads(
    tmp_path: Path, layout: str, dtype: str, bigtiff: bool
) -> None:
    """Full resolution and overviews of a GeoTIFF, window by window."""
    rasterio = pytest.importorskip("rasterio", reason="rasterio (extra geo) is not installed")
    path = tmp_path / f"{layout}-{dtype}-{bigtiff}.tif"
    pixels = picture(3, dtype, (512, 384))
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64} if layout == "tiled" else {}
    profile = {"driver": "GTiff", "width": 512, "height": 384, "count": 3, "dtype": dtype}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 4e6)}
    big = {"BIGTIFF": "YES" if bigtiff else "NO", "compress": "deflate"}
    with rasterio.open(path, "w", **profile, **place, **tiles, **big) as dataset:
        dataset.write(np.moveaxis(pixels, -1, 0))
        dataset.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    source = open_source(path)
    assert source.metadata.levels == ((512, 384), (256, 192), (128, 96))
    assert source.metadata.crs == "EPSG:32633"
    for number, scale in enumerate([1.0, 0.5, 0.25]):
        options = {"overview_level": number - 1} if number else {}
        with rasterio.open(path, **options) as level:
            for x0, y0, x1, y1 in windows((level.width, level.height), path.name):
                expected = np.moveaxis(level.read(window=((y0, y1), (x0, x1))), 0, -1)
                box = Box(*(round(edge / scale) for edge in (x0, y0, x1, y1)))
                np.testing.assert_array_equal(source.read(box, scale), expected)
