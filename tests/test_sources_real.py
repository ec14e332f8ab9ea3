"""Real files read pixel for pixel as the reference readers read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tilevision.geometry import Box
from tilevision.sources import open_source


def windows(size: tuple[int, int], count: int = 25) -> list[tuple[int, int, int, int]]:
    """Return random windows, and those at every edge and corner, the whole among them."""
    width, height = size
    rng = np.random.default_rng(7)
    found = [
        (0, 0, width, height),
        (0, 0, 1, 1),
        (width - 1, height - 1, width, height),
        (width - 3, 0, width, height),
        (0, height - 3, width, height),
    ]
    for _ in range(count):
        x0, x1 = sorted(int(v) for v in rng.choice(width + 1, 2, replace=False))
        y0, y1 = sorted(int(v) for v in rng.choice(height + 1, 2, replace=False))
        found.append((x0, y0, x1, y1))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "cmu-1-small-region.svs",
        "cog-uint16.tif",
        "trees-osbs-029.tif",
        "pyramid-boxes.tiff",
        "strips-10000x5000.tif",
    ],
)
def test_tiff_family_matches_tifffile(shared_data: Path, name: str) -> None:
    """Every window of every TIFF is what tifffile reads of the whole."""
    expected = tifffile.imread(shared_data / name, series=0, level=0)
    expected = expected.reshape(*expected.shape[:2], -1)
    source = open_source(shared_data / name)
    assert source.size == (expected.shape[1], expected.shape[0])
    for x0, y0, x1, y1 in windows(source.size, 12):
        np.testing.assert_array_equal(source.read(Box(x0, y0, x1, y1)), expected[y0:y1, x0:x1])
    source.close()


def test_a_photo_matches_pillow(shared_data: Path) -> None:
    """A JPEG decodes to Pillow's pixels."""
    expected = np.asarray(Image.open(shared_data / "small-vehicles.jpeg").convert("RGB"))
    source = open_source(shared_data / "small-vehicles.jpeg")
    for x0, y0, x1, y1 in windows(source.size):
        np.testing.assert_array_equal(source.read(Box(x0, y0, x1, y1)), expected[y0:y1, x0:x1])
    source.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cmu-1-small-region.svs", "pyramid-boxes.tiff"])
def test_slides_match_openslide(shared_data: Path, name: str) -> None:
    """Slides have OpenSlide's size, scale and pixels, and none of its associated images."""
    openslide = pytest.importorskip("openslide", reason="openslide-python is not installed")
    slide = openslide.OpenSlide(shared_data / name)
    source = open_source(shared_data / name)
    assert source.size == slide.dimensions
    if name.endswith(".svs"):  # of a plain TIFF, OpenSlide believes the 72 dpi too
        mpp = tuple(float(slide.properties[f"openslide.mpp-{axis}"]) for axis in "xy")
        assert source.metadata.mpp == pytest.approx(mpp)
    assert source.metadata.levels == slide.level_dimensions
    for x0, y0, x1, y1 in windows(source.size):
        region = slide.read_region((x0, y0), 0, (x1 - x0, y1 - y0)).convert("RGB")
        np.testing.assert_array_equal(source.read(Box(x0, y0, x1, y1)), np.asarray(region))
    source.close()


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_a_slide_is_the_same_by_gdal_openslide_and_us(shared_data: Path) -> None:
    """Every pixel of CMU-1's small region: GDAL 3.10 (as a TIFF), OpenSlide 4, and ours."""
    openslide = pytest.importorskip("openslide", reason="openslide-python is not installed")
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    path = shared_data / "cmu-1-small-region.svs"
    if not path.is_file():
        pytest.skip(f"{path.name} is not among the real images on this machine")
    source, slide = open_source(path), openslide.OpenSlide(path)
    found = source.read(Box(0, 0, *source.size))
    by_openslide = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    with rasterio.open(path) as dataset:
        by_gdal = np.moveaxis(dataset.read(), 0, -1)
    np.testing.assert_array_equal(found, by_openslide)
    np.testing.assert_array_equal(found, by_gdal)


def test_levels_are_what_openslide_stores_there(shared_data: Path) -> None:
    """Reading at a level's own scale returns the stored level, not a resampled one."""
    openslide = pytest.importorskip("openslide", reason="openslide-python is not installed")
    slide = openslide.OpenSlide(shared_data / "pyramid-boxes.tiff")
    source = open_source(shared_data / "pyramid-boxes.tiff")
    for level, (width, height) in enumerate(slide.level_dimensions):
        stored = np.asarray(slide.read_region((0, 0), level, (width, height)).convert("RGB"))
        np.testing.assert_array_equal(source.thumbnail(max(width, height)), stored)


@pytest.mark.parametrize("name", ["cog-uint16.tif", "trees-osbs-029.tif"])
def test_maps_match_rasterio(shared_data: Path, name: str) -> None:
    """GeoTIFFs have rasterio's pixels, coordinate system, transform and no-data value."""
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    source = open_source(shared_data / name)
    with rasterio.open(shared_data / name) as dataset:
        expected = np.moveaxis(dataset.read(), 0, -1)
        assert source.metadata.crs == dataset.crs.to_string()
        assert source.metadata.transform == pytest.approx(tuple(dataset.transform)[:6])
        assert source.metadata.nodata == dataset.nodata
    for x0, y0, x1, y1 in windows(source.size):
        np.testing.assert_array_equal(source.read(Box(x0, y0, x1, y1)), expected[y0:y1, x0:x1])


def test_overviews_of_a_map_serve_small_scales(shared_data: Path) -> None:
    """At the scale of an overview, that overview is what comes back."""
    with tifffile.TiffFile(shared_data / "cog-uint16.tif") as tif:
        overview = tif.series[0].levels[2].asarray()
    source = open_source(shared_data / "cog-uint16.tif")
    assert source.metadata.levels[2] == (665, 667)
    np.testing.assert_array_equal(source.thumbnail(667)[..., 0], overview)


@pytest.mark.parametrize("scale", [0.9, 0.5, 0.31, 0.1, 1.7])
def test_scaled_reads_look_like_pillows(shared_data: Path, scale: float) -> None:
    """Scaled windows stay close to Pillow's box filter (bilinear when enlarging)."""
    source = open_source(shared_data / "cmu-1-small-region.svs")
    box = Box(200, 300, 900, 800)
    found = source.read(box, scale)
    assert found.shape == (round(500 * scale), round(700 * scale), 3)
    picture = Image.fromarray(source.read(box))
    kind = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    expected = np.asarray(picture.resize(found.shape[1::-1], kind)).astype(int)
    inside = np.abs(found.astype(int) - expected)[2:-2, 2:-2]
    assert inside.mean() < (8 if 0.5 < scale < 1 else 1.5)
