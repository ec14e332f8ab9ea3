"""Where an image has no data: one notion, whatever a file says it with, as GDAL 3.10 has it.

A value for each band, NaN, masks in the file, in the codec and beside it, and alpha bands.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tilevision.analysis.account import Digest, Ground, digest
from tilevision.analysis.units import units_of
from tilevision.findings import Findings
from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.regions import Region, read_region
from tilevision.sources import (
    depth,
    open_reference,
    open_source,
    read_options,
    read_pixels,
    to_uint8,
)

rasterio = pytest.importorskip("rasterio")
copy = pytest.importorskip("rasterio.shutil").copy

WIDTH, HEIGHT = 320, 192
WHOLE = Box(0, 0, WIDTH, HEIGHT)
TILES = {"tiled": True, "blockxsize": 64, "blockysize": 64}
Y, X = np.mgrid[:HEIGHT, :WIDTH]
VALID = (X >= 101) & ((Y < 90) | (X > 250))

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")


def ramp(dtype: str, bands: int = 1) -> np.ndarray:
    """Return values that rise from left to right, ``(bands, h, w)``."""
    return np.stack([1000 + (X * 7 + Y * (band + 1)) for band in range(bands)]).astype(dtype)


def save(path: Path, pixels: np.ndarray, driver: str = "GTiff", **options: Any) -> Path:
    mask, colours = options.pop("mask", None), options.pop("colours", None)
    inside = options.pop("inside", True)
    bands, height, width = pixels.shape
    profile = {"width": width, "height": height, "count": bands, "dtype": pixels.dtype.name}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside),
        rasterio.open(path, "w", driver=driver, **profile, **options) as dataset,
    ):
        dataset.write(pixels)
        if mask is not None:
            dataset.write_mask(mask)
        if colours is not None:
            dataset.colorinterp = [getattr(rasterio.enums.ColorInterp, name) for name in colours]
    return path


def _holes(dtype: str, hole: float, bands: int = 1) -> np.ndarray:
    return np.where(VALID, ramp(dtype, bands), np.asarray(hole, dtype))


def _by_value(folder: Path) -> Path:
    return save(folder / "value.tif", _holes("int16", -9999), nodata=-9999, **TILES)


def _by_nan(folder: Path) -> Path:
    return save(folder / "nan.tif", _holes("float32", np.nan), nodata=np.nan, **TILES)


def _by_mask(folder: Path) -> Path:
    return save(folder / "mask.tif", _holes("uint16", 40_000, 3), mask=VALID, **TILES)


def _by_mask_in_strips(folder: Path) -> Path:
    return save(folder / "strips.tif", _holes("int16", -7, 2), mask=VALID, compress="deflate")


def _by_mask_beside(folder: Path) -> Path:
    return save(folder / "beside.tif", _holes("uint16", 9), mask=VALID, inside=False, **TILES)


def _by_cloud_mask(folder: Path) -> Path:
    below = _by_mask(folder)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        copy(below, folder / "cloud.tif", driver="COG", BLOCKSIZE=128, OVERVIEWS="NONE")
    return folder / "cloud.tif"


def _by_alpha(folder: Path) -> Path:
    bands = np.concatenate([ramp("uint16", 3), VALID[np.newaxis].astype("uint16") * 65535])
    options = {"photometric": "rgb", "alpha": "yes", **TILES}
    return save(folder / "alpha.tif", bands, **options)


def _by_alpha_in_a_mosaic(folder: Path) -> Path:
    copy(_by_alpha(folder), folder / "alpha.vrt", driver="VRT")
    return folder / "alpha.vrt"


def _by_mask_in_a_mosaic(folder: Path) -> Path:
    copy(_by_mask(folder), folder / "mask.vrt", driver="VRT")
    return folder / "mask.vrt"


def _by_lerc(folder: Path) -> Path:
    pixels = _holes("float32", np.nan)
    return save(folder / "lerc.tif", pixels, compress="lerc_deflate", nodata=np.nan, **TILES)


def _by_img(folder: Path) -> Path:
    return save(folder / "a.img", _holes("int16", -5), "HFA", nodata=-5)


def _by_each_band(folder: Path) -> Path:
    files = []
    for number, hole in enumerate((0, 65535, 7)):
        name = folder / f"band{number}.tif"
        save(name, _holes("uint16", hole, 3)[number : number + 1], nodata=hole, **TILES)
        files.append(
            f'<VRTRasterBand dataType="UInt16" band="{number + 1}"><NoDataValue>{hole}'
            f'</NoDataValue><SimpleSource><SourceFilename relativeToVRT="1">{name.name}'
            "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        )
    head = f'<VRTDataset rasterXSize="{WIDTH}" rasterYSize="{HEIGHT}">'
    (folder / "bands.vrt").write_text(f"{head}{''.join(files)}</VRTDataset>")
    return folder / "bands.vrt"


WAYS = [
    *(_by_value, _by_nan, _by_mask, _by_mask_in_strips, _by_mask_beside, _by_cloud_mask),
    *(_by_alpha, _by_alpha_in_a_mosaic, _by_mask_in_a_mosaic, _by_lerc, _by_img, _by_each_band),
]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__.removeprefix("_by_"))
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An image without data outside `VALID`, said in one of many ways."""
    found: Path = request.param(tmp_path)
    with rasterio.open(found) as dataset:
        assert ((dataset.read_masks(1) != 0) == VALID).all()
    return found


def test_the_stretch_leaves_it_out_and_it_is_shown_black(path: Path) -> None:
    """Valid values alone span 0 to 255, by their percentiles; the rest is 0."""
    source = open_source(path)
    options = read_options(source)
    with rasterio.open(path) as dataset:
        colours = [1, 2, 3] if dataset.count >= 3 else [1]
        bands = [dataset.read(band)[VALID] for band in colours]
    assert options.stretch is not None
    np.testing.assert_allclose(
        options.stretch, [np.percentile(band, (1, 99)) for band in bands], rtol=1e-6
    )
    pixels = read_pixels(open_reference(source.reference), WHOLE, 1.0, options)
    assert (pixels[~VALID] == 0).all()
    assert pixels[VALID].max() == 255


def test_averages_leave_it_out(path: Path) -> None:
    """A quarter as large: the mean of what is there, as GDAL averages; else no data."""
    found = open_source(path).stored.read_masked(WHOLE, 0.25)
    with rasterio.open(path) as dataset:
        shape = (HEIGHT // 4, WIDTH // 4)
        expected = dataset.read(
            out_shape=(dataset.count, *shape), resampling=rasterio.enums.Resampling.average
        )
        alpha = rasterio.enums.ColorInterp.alpha in dataset.colorinterp
    cells = VALID.reshape(shape[0], 4, shape[1], 4).any(axis=(1, 3))
    pixels, there = found
    assert there is not None
    for band in range(pixels.shape[2] - alpha):
        seen = np.broadcast_to(there, pixels.shape)[..., band]
        np.testing.assert_array_equal(seen, cells)
        difference = pixels[..., band].astype(float) - expected[band]
        assert np.abs(difference[cells]).max() <= 1


def test_scaled_values_are_nan_there(path: Path) -> None:
    """With a declared scale: NaN is what is not there."""
    source = open_source(path)
    source.metadata = replace(source.metadata, scaling=((0.5, 3.0),) * source.bands)
    pixels = read_pixels(source, WHOLE, 1.0, read_options(source, dtype="scaled"))
    assert np.isnan(pixels[~VALID][:, 0]).all()
    assert not np.isnan(pixels[VALID]).any()


def test_thumbnails_show_it_black(path: Path) -> None:
    """The small picture that people and tissue finders see has black there."""
    source = open_source(path)
    picture = to_uint8(source.thumbnail(80), read_options(source))
    cells = VALID.reshape(HEIGHT // 4, 4, WIDTH // 4, 4).any(axis=(1, 3))
    assert (picture[~cells] == 0).all()


def test_the_share_of_data_is_known(path: Path) -> None:
    """Each cell of the small picture knows which part of it has data."""
    share = open_source(path).data_share(80)
    assert share is not None
    expected = VALID.reshape(HEIGHT // 4, 4, WIDTH // 4, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(share, expected, atol=1e-6)


def test_what_is_all_there_knows_no_share(tmp_path: Path) -> None:
    """An image that declares nothing is not read for it."""
    assert open_source(save(tmp_path / "a.tif", ramp("uint16"))).data_share(80) is None


@pytest.mark.parametrize("bits", [12, 16])
def test_inverted_values_invert_what_means_no_data(tmp_path: Path, bits: int) -> None:
    """Where 0 is white, a no-data value of 0 is black with what is turned round; raw it is 0."""
    stored = np.where(VALID, 4000 - X, 0).astype(np.uint16)
    path = save(
        tmp_path / "a.tif", stored[np.newaxis], nodata=0, photometric="miniswhite", nbits=bits
    )
    source = open_source(path)
    pixels = read_pixels(source, WHOLE, 1.0, read_options(source))
    assert (pixels[~VALID] == 0).all()
    shown = pixels[10, 101:, 0].astype(int)
    assert (np.diff(shown) >= 0).all() and shown[0] < 3 and shown[-1] > 252
    assert source.stored.metadata.nodata == 0
    np.testing.assert_array_equal(source.stored.read(WHOLE)[..., 0], stored)


def test_coarse_levels_have_the_mask_of_the_full_resolution(tmp_path: Path) -> None:
    """Overviews without a mask of their own are masked all the same."""
    full, coarse = ramp("uint16")[0], ramp("uint16")[0, ::2, ::2]
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(full, tile=(64, 64), subifds=1, metadata=None)
        file.write(coarse, tile=(64, 64), subfiletype=1, metadata=None)
        file.write(VALID, photometric="mask", subfiletype=4, metadata=None, tile=(64, 64))
    source = open_source(path)
    assert source.metadata.levels == ((WIDTH, HEIGHT), (WIDTH // 2, HEIGHT // 2))
    there = source.read_masked(WHOLE, 0.5)[1]
    assert there is not None
    np.testing.assert_array_equal(there[..., 0], VALID[1::2, 1::2])


def test_another_mask_beside_it_is_another_image(tmp_path: Path) -> None:
    """What is read depends on the mask, so its content is part of the identity."""
    path = _by_mask_beside(tmp_path)
    with_mask = open_source(path).fingerprint
    (tmp_path / "beside.tif.msk").unlink()
    without = open_source(path)
    assert without.fingerprint != with_mask
    assert not without.masked


def test_masked_images_have_other_keys_only_where_values_differ(tmp_path: Path) -> None:
    """8-bit and raw values at full size were right; shrunk they averaged what is not there."""
    pixels = np.where(VALID, 90, 0).astype(np.uint8)
    path = save(tmp_path / "a.tif", np.stack([pixels] * 3), mask=VALID, photometric="rgb", **TILES)
    source = open_source(path)
    for dtype in ("uint8", "raw"):
        options = read_options(source, dtype=dtype)
        assert set(options.identity(1.0)) == {"bands", "dtype", "stretch", "nodata", "scaling"}
        assert options.identity(0.5)["resampled"] == "no data"


def _digest(source: Any, tiles: list[tuple[Tile, str]], region: Region | None) -> Digest:
    units = units_of(source.metadata)
    share = source.data_share(1024)
    findings = Findings(np.array([[120, 10, 130, 20]] * 3), np.ones(3), ["spot"] * 3)
    where: dict[str, Any] = {"size": source.size, "units": units, "region": region}
    return digest(findings, Ground.of(tiles, data_share=share, **where), **where)


def test_analysed_area_leaves_it_out(path: Path) -> None:
    """Areas and densities are of what has data: of the image, of a region, of what was analysed."""
    source = open_source(path)
    left, right = Tile(0, 0, Box(0, 0, 160, 192), 1.0), Tile(0, 1, Box(160, 0, 320, 192), 1.0)
    for statuses, seen in (
        (("done", "done"), VALID),
        (("failed", "restored"), VALID & (X >= 160)),
    ):
        tiles = list(zip((left, right), statuses, strict=True))
        facts = _digest(source, tiles, None)
        assert facts.analysed_area == pytest.approx(seen.sum(), rel=1e-9)
        assert facts.analysed_share == pytest.approx(seen.sum() / VALID.sum())
        assert facts.density is not None
        assert facts.density[0] == pytest.approx(3e6 / seen.sum())
    lower = read_region((0, 50, 320, 192), source)
    facts = _digest(source, [(left, "done"), (right, "done")], lower)
    assert facts.analysed_area == pytest.approx((VALID & (Y >= 50)).sum(), rel=1e-9)
    assert facts.analysed_share == pytest.approx(1)
    assert facts.region_share == pytest.approx(142 / 192)


@pytest.mark.parametrize("name", ["alpha", "mask"])
@pytest.mark.parametrize("holes", [False, True])
def test_a_mask_that_hides_nothing_changes_no_key(tmp_path: Path, name: str, holes: bool) -> None:
    """Averages are what they were, unless something is left out of them."""
    mask = VALID if holes else np.ones_like(VALID)
    bands = ramp("uint16", 3)
    if name == "alpha":
        bands = np.concatenate([bands, mask[np.newaxis].astype("uint16") * 65535])
        path = save(tmp_path / "a.tif", bands, photometric="rgb", alpha="yes", **TILES)
    else:
        path = save(tmp_path / "a.tif", bands, mask=mask, **TILES)
    identity = read_options(open_source(path), dtype="raw").identity(0.5)
    assert identity.get("resampled") == ("no data" if holes else None)


@pytest.mark.parametrize("how", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16}])
def test_the_share_with_data_of_a_large_level_is_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    """Where a level is too large to be read whole, windows stand for their surroundings."""
    path = save(tmp_path / "a.tif", _holes("int16", -9999), nodata=-9999, **how)
    source = open_source(path)
    exact = source.data_share(100)
    monkeypatch.setattr(type(source), "readable_pixels", WIDTH * HEIGHT // 2)
    monkeypatch.setattr(depth, "_PROBE_SIDE", 16)
    about = source.data_share(100)
    assert exact is not None and about is not None and about.shape == exact.shape
    assert about.mean() == pytest.approx(VALID.mean(), abs=0.1)
    assert about[:, :10].max() == 0 and about[:20, 40:].min() == 1
    monkeypatch.setattr(type(source), "readable_pixels", 16 * 16)  # a window, where nothing is
    assert source.data_share(100) is None


@pytest.mark.parametrize("said", ["-3.40282e+38", "-3.4e+38", "-3.4028234663852886e+038", "3.4e38"])
@pytest.mark.parametrize("as_said", [True, False])
def test_the_limit_of_floats_may_be_written_in_few_digits(
    tmp_path: Path, said: str, as_said: bool
) -> None:
    """As GDAL 3.10 has it: both the value that is written and the limit that is meant."""
    limit = float(np.finfo(np.float32).max)
    hole = float(said) if as_said else float(np.copysign(limit, float(said)))
    path = tmp_path / "a.tif"
    tag = (42113, "s", 0, said, True)
    tifffile.imwrite(path, _holes("float32", hole)[0], extratags=[tag], metadata=None)
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read_masks(1) != 0, VALID)
    source = open_source(path)
    np.testing.assert_array_equal(source.data_share(WIDTH), VALID)
    options = read_options(source, dtype="scaled")
    scaled = read_pixels(source, WHOLE, 1.0, options)
    np.testing.assert_array_equal(np.isnan(scaled[..., 0]), ~VALID)
    exact = said.startswith("-3.40282346")
    assert options.revision == ("" if exact else "no data near the limit")
    raw = read_options(source, dtype="raw")  # which is what it was, but for averages
    assert not raw.revision
    assert ("near the limit" in raw.resampled) == (not exact)


@pytest.mark.parametrize("bands", [1, 3])
def test_a_transparent_value_of_16_bits_is_no_data(tmp_path: Path, bands: int) -> None:
    """PNG's tRNS chunk of grey and colours of 16 bits, which is GDAL's no-data value there."""
    save(tmp_path / "0.tif", _holes("uint16", 65535, bands), nodata=65535)
    path = tmp_path / "a.png"
    copy(tmp_path / "0.tif", path, driver="PNG")
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal((dataset.read_masks() != 0).any(axis=0), VALID)
        values = np.moveaxis(dataset.read(), 0, -1)
    source = open_source(path)
    np.testing.assert_array_equal(source.data_share(WIDTH), VALID)
    stretch = read_options(source).stretch
    assert stretch is not None
    for band, found in enumerate(stretch):
        assert found == pytest.approx(np.percentile(values[VALID, band], (1, 99)), abs=1)
    raw = read_pixels(source, WHOLE, 1.0, read_options(source, dtype="raw"))
    np.testing.assert_array_equal(raw, values)


@pytest.mark.parametrize("hole", [0, 1])
@pytest.mark.parametrize("photometric", ["miniswhite", "minisblack"])
def test_no_data_of_single_bits(tmp_path: Path, photometric: str, hole: int) -> None:
    """It is turned round with the values where white is 0."""
    bits = np.where(VALID, 1 - hole, hole).astype(np.uint8)[np.newaxis]
    path = save(tmp_path / "a.tif", bits, nodata=hole, nbits=1, photometric=photometric)
    source = open_source(path)
    np.testing.assert_array_equal(source.data_share(WIDTH), VALID)
    np.testing.assert_array_equal(source.stored.data_share(WIDTH), VALID)
