"""Maps and scenes: the values, place and no-data that rasterio reads, in TIFF and elsewhere."""

from __future__ import annotations

import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import open_reference, open_source, read_options, read_pixels
from tilevision.sources.formats import vrtfiles
from tilevision.sources.formats.tiffframes import find_frame
from tilevision.sources.formats.tifflevels import TiffLevel
from tilevision.sources.staging.rows import OpenFile

rasterio = pytest.importorskip("rasterio", reason="rasterio (extra geo) is not installed")

PLACE = (10.0, 0.0, 500000.0, 0.0, -10.0, 4000000.0)


def _scene(width: int = 300, height: int = 200, dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(2).integers(0, 250, (4, height, width)).astype(dtype)


def _save(path: Path, driver: str, scene: np.ndarray, **options: Any) -> Path:
    bands, height, width = scene.shape
    profile = {"width": width, "height": height, "count": bands, "dtype": scene.dtype.name}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(*PLACE)}
    with rasterio.open(path, "w", driver=driver, **profile, **place, **options) as dataset:
        dataset.write(scene)
    return path


def _windows(size: tuple[int, int], count: int) -> list[tuple[int, int, int, int]]:
    width, height = size
    rng = np.random.default_rng(9)
    found = [(0, 0, width, height), (width - 1, height - 1, width, height)]
    for _ in range(count):
        x0, x1 = sorted(int(v) for v in rng.choice(width + 1, 2, replace=False))
        y0, y1 = sorted(int(v) for v in rng.choice(height + 1, 2, replace=False))
        found.append((x0, y0, x1, y1))
    return found


def test_a_cog_is_what_rasterio_reads(shared_data: Path) -> None:
    """A real COG has rasterio's place, no-data and pixels, at full resolution and overviews."""
    path = shared_data / "cog-uint16.tif"
    source = open_source(path)
    with rasterio.open(path) as dataset, tifffile.TiffFile(path) as tif:
        assert source.metadata.crs == f"EPSG:{dataset.crs.to_epsg()}"
        assert source.metadata.transform == pytest.approx(tuple(dataset.transform)[:6])
        assert source.metadata.nodata == dataset.nodata
        assert len(source.metadata.levels) == 1 + len(dataset.overviews(1))
        found = find_frame(tif, 0, str(path))
        levels = [TiffLevel(OpenFile(path), pages) for pages in found.levels]
        for x0, y0, x1, y1 in _windows(source.size, 15):
            expected = dataset.read(window=((y0, y1), (x0, x1)))
            read = source.read(Box(x0, y0, x1, y1))
            np.testing.assert_array_equal(read, np.moveaxis(expected, 0, -1))
    for number, level in enumerate(levels[1:]):
        with rasterio.open(path, overview_level=number) as overview:
            assert level.size == (overview.width, overview.height)
            for x0, y0, x1, y1 in _windows(level.size, 6):
                expected = overview.read(window=((y0, y1), (x0, x1)))
                read = level.window(x0, y0, x1, y1, None)
                np.testing.assert_array_equal(read, np.moveaxis(expected, 0, -1))


@pytest.mark.parametrize(
    ("driver", "name", "options"),
    [
        ("JP2OpenJPEG", "a.jp2", {"QUALITY": 100, "REVERSIBLE": "YES"}),
        ("HFA", "a scene ö#1.img", {"nodata": 0}),
        ("ENVI", "a.dat", {"nodata": 0}),
        ("ENVI", "bare", {"INTERLEAVE": "BIP"}),
    ],
)
def test_rasters_keep_values_and_place(
    tmp_path: Path, driver: str, name: str, options: dict[str, Any]
) -> None:
    """Every band as stored, its type, CRS, transform and no-data, by any window, on a worker."""
    scene = _scene()
    path = _save(tmp_path / name, driver, scene, **options)
    source = open_reference(open_source(path).reference)
    assert (source.size, source.bands, source.dtype) == ((300, 200), 4, np.uint16)
    assert (source.metadata.crs, source.metadata.transform) == ("EPSG:32633", PLACE)
    assert source.metadata.nodata == options.get("nodata")
    for x0, y0, x1, y1 in _windows(source.size, 8):
        expected = np.moveaxis(scene[:, y0:y1, x0:x1], 0, -1)
        np.testing.assert_array_equal(source.read(Box(x0, y0, x1, y1)), expected)
    part = source.read(Box(5, 6, 50, 40), bands=[3, 0])
    np.testing.assert_array_equal(part, np.moveaxis(scene[[3, 0], 6:40, 5:50], 0, -1))


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_jpeg_2000_without_a_place_and_colours_is_read(tmp_path: Path) -> None:
    """Three bands as rasterio writes them by default, which Pillow cannot decode."""
    pixels = _scene(dtype="uint8")[:3]
    profile = {"width": 300, "height": 200, "count": 3, "dtype": "uint8"}
    options = {"driver": "JP2OpenJPEG", "QUALITY": 100, "REVERSIBLE": "YES"}
    with rasterio.open(tmp_path / "a.jp2", "w", **profile, **options) as dataset:
        dataset.write(pixels)
    source = open_source(tmp_path / "a.jp2")
    np.testing.assert_array_equal(source.read(Box(0, 0, 300, 200)), np.moveaxis(pixels, 0, -1))


def test_overviews_are_levels(tmp_path: Path) -> None:
    """A scale below one is read from the overview rasterio has for it."""
    path = _save(tmp_path / "a.img", "HFA", _scene(512, 512))
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    source = open_source(path)
    assert source.metadata.levels == ((512, 512), (256, 256), (128, 128))
    with rasterio.open(path, overview_level=1) as overview:
        expected = np.moveaxis(overview.read(window=((10, 100), (20, 110))), 0, -1)
    np.testing.assert_array_equal(source.read(Box(80, 40, 440, 400), 0.25), expected)


def test_a_mosaic_is_the_files_it_names(tmp_path: Path) -> None:
    """A VRT reads through to its files; another file under it is another image, a lost one told."""
    scene = _scene()
    below = _save(tmp_path / "below.tif", "GTiff", scene)
    vrt = tmp_path / "mosaic.vrt"
    bands = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{n}"><SimpleSource><SourceFilename '
        f'relativeToVRT="1">below.tif</SourceFilename><SourceBand>{3 - n}</SourceBand>'
        "</SimpleSource></VRTRasterBand>"
        for n in (1, 2)
    )
    vrt.write_text(f'<VRTDataset rasterXSize="300" rasterYSize="200">{bands}</VRTDataset>')
    source = open_source(vrt)
    read = source.read(Box(7, 8, 100, 90))
    np.testing.assert_array_equal(read, np.moveaxis(scene[[1, 0], 8:90, 7:100], 0, -1))
    _save(below, "GTiff", scene + 1)
    again = open_source(vrt)
    assert again.fingerprint != source.fingerprint
    np.testing.assert_array_equal(again.read(Box(7, 8, 100, 90)), read + 1)
    with pytest.raises(SourceError, match="has changed since it was opened"):
        open_reference(source.reference)
    lost = tmp_path / "lost.vrt"
    lost.write_text(vrt.read_text().replace("below", "nowhere"))
    with pytest.raises(SourceError, match=r"names .*nowhere\.tif, which is missing"):
        open_source(lost)


def vrt_of(path: Path, name: str) -> Path:
    """Write a VRT of one band of bytes, 64 px a side, of the file that GDAL calls `name`."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        '<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1">'
        f'<SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    return path


@pytest.mark.parametrize("depth", [2, 3])
def test_a_mosaic_of_mosaics_is_the_files_of_all(tmp_path: Path, depth: int) -> None:
    """GDAL lists one level, and shows what is missing below as zeros; both were taken from it."""
    below = tmp_path / "below.tif"
    tifffile.imwrite(below, np.full((64, 64), 50, np.uint8))
    outer = vrt_of(tmp_path / "0.vrt", "below.tif")
    for number in range(1, depth):
        named = f"../{outer.relative_to(tmp_path)}"
        outer = vrt_of(tmp_path / str(number) / f"{number}.vrt", named)
    source = open_source(outer)
    assert source.read(Box(0, 0, 1, 1)).ravel().tolist() == [50]
    tifffile.imwrite(below, np.full((64, 64), 60, np.uint8))
    again = open_source(outer)
    assert again.read(Box(0, 0, 1, 1)).ravel().tolist() == [60]
    assert again.fingerprint != source.fingerprint
    with pytest.raises(SourceError, match="has changed since it was opened"):
        open_reference(source.reference)
    below.unlink()
    with pytest.raises(SourceError, match=r"0\.vrt names .*below\.tif, which is missing"):
        open_source(outer)


def test_another_attempt_at_a_window_is_no_less_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is away for a moment: GDAL tells it once, and reads zeros while a VRT is open.

    By every dataset of every VRT that has the file, and when it is there again: tiles that were
    tried again were black.
    """
    monkeypatch.setattr(vrtfiles, "_unreadable", set())
    for name, value in (("other", 1), ("below", 50)):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.full((64, 64), value, np.uint8))
        vrt_of(tmp_path / f"{name}.vrt", f"{name}.tif")
    vrt_of(tmp_path / "two.vrt", "below.tif")
    other, first = open_source(tmp_path / "other.vrt"), open_source(tmp_path / "below.vrt")
    second = open_source(tmp_path / "two.vrt")
    assert other.read(Box(0, 0, 4, 4)).max() == 1
    (tmp_path / "below.tif").rename(tmp_path / "away.tif")
    with pytest.raises(SourceError, match="cannot be read at 0, 0"):
        first.read(Box(0, 0, 4, 4))
    (tmp_path / "away.tif").rename(tmp_path / "below.tif")
    said = r"reads zeros in its place.*new process"
    for source in (first, second, first):
        with pytest.raises(SourceError, match=said):
            source.read(Box(0, 0, 4, 4))
    with pytest.raises(SourceError, match=said):
        open_source(tmp_path / "below.vrt")
    assert other.read(Box(0, 0, 4, 4)).max() == 1


@pytest.mark.parametrize("kind", ["directory", "archive"])
def test_a_mosaic_of_a_part_is_the_whole_file(tmp_path: Path, kind: str) -> None:
    """One directory of a TIFF, or a file in an archive: GDAL lists neither as a file."""

    def fill(value: int) -> None:
        with tifffile.TiffWriter(tmp_path / "two.tif") as tif:
            for one in (1, value):
                tif.write(np.full((64, 64), one, np.uint8))
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.write(tmp_path / "two.tif", "two.tif")

    fill(50)
    named = {"directory": "GTIFF_DIR:2:two.tif", "archive": f"/vsizip/{tmp_path}/a.zip/two.tif"}
    vrt = vrt_of(tmp_path / "a.vrt", named[kind])
    before = open_source(vrt).fingerprint
    fill(60)
    assert open_source(vrt).fingerprint != before


def test_many_threads_read_one_raster(tmp_path: Path) -> None:
    """Threads that read at once get each their own window."""
    scene = _scene()
    source = open_source(_save(tmp_path / "a.img", "HFA", scene))
    wrong: list[Any] = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(30):
            x, y = int(rng.integers(0, 200)), int(rng.integers(0, 100))
            window = source.read(Box(x, y, x + 64, y + 64))
            if not np.array_equal(window, np.moveaxis(scene[:, y : y + 64, x : x + 64], 0, -1)):
                wrong.append((x, y))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    source.close()
    with pytest.raises(SourceError, match="is closed"):
        source.read(Box(0, 0, 5, 5))


def test_bands_of_several_types_share_one_that_holds_them(tmp_path: Path) -> None:
    """A VRT of bytes and floats is read as floats."""
    _save(tmp_path / "a.tif", "GTiff", _scene(20, 10, "uint8"))
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{n}"><SimpleSource><SourceFilename '
        f'relativeToVRT="1">a.tif</SourceFilename><SourceBand>{n}</SourceBand></SimpleSource>'
        "</VRTRasterBand>"
        for n, kind in ((1, "Byte"), (2, "Float32"))
    )
    vrt = tmp_path / "a.vrt"
    vrt.write_text(f'<VRTDataset rasterXSize="20" rasterYSize="10">{bands}</VRTDataset>')
    source = open_source(vrt)
    assert (source.dtype, source.metadata.crs, source.metadata.transform) == ("float32", None, None)
    expected = np.moveaxis(_scene(20, 10, "uint8")[:2], 0, -1)
    np.testing.assert_array_equal(source.read(Box(0, 0, 20, 10)), expected)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.vrt", b"<VRTDataset", "not a raster that GDAL can open"),
        ("a.img", b"EHFA_HEADER_TAG\0" + bytes(50), "not a raster that GDAL can open"),
        ("a.bin", b"\1\2\3 nothing", "is not an image that tilevision reads"),
        ("empty.vrt", b"<VRTDataset/>", "not a raster that GDAL can open|holds no image"),
    ],
)
def test_what_is_no_raster_says_so_in_a_line(
    tmp_path: Path, name: str, content: bytes, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Damaged files are one line, and GDAL prints none of its own."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=said) as error:
        open_source(tmp_path / name)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_without_rasterio_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A raster names the extra that reads it; JPEG 2000 is decoded whole by Pillow instead."""
    raster = _save(tmp_path / "a.img", "HFA", _scene())
    options = {"QUALITY": 100, "REVERSIBLE": "YES"}
    scene = _scene(dtype="uint8")[:1]
    picture = _save(tmp_path / "a.jp2", "JP2OpenJPEG", scene, **options)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(SourceError, match=r"pip install 'tilevision\[geo\]'"):
        open_source(raster)
    shown = open_source(picture).read(Box(0, 0, 300, 200))
    np.testing.assert_array_equal(shown[..., 0], scene[0])


def test_an_absurd_mosaic_is_refused(tmp_path: Path) -> None:
    """A mosaic that says it is a million times its files is told, not read for hours."""
    _save(tmp_path / "below.tif", "GTiff", _scene(20, 10))
    band = (
        '<VRTRasterBand dataType="UInt16" band="1"><SimpleSource><SourceFilename relativeToVRT="1">'
        "below.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
    )
    vrt = tmp_path / "a.vrt"
    vrt.write_text(f'<VRTDataset rasterXSize="80" rasterYSize="2147483647">{band}</VRTDataset>')
    with pytest.raises(SourceError, match="made to exhaust memory"):
        open_source(vrt)


@pytest.mark.parametrize("suffix", ["tif", "vrt"])
def test_values_are_scaled_as_the_file_declares(tmp_path: Path, suffix: str) -> None:
    """A model that asks for it gets stored · scale + offset of its bands, and NaN for no-data."""
    from rasterio.shutil import copy

    scene = _scene()
    scene[:, :20, :30] = 0
    path = _save(tmp_path / "scene.tif", "GTiff", scene, nodata=0, tiled=True)
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (1, 1e-4, 2e-4, 1), (0, -0.1, 0, 0)
    if suffix == "vrt":
        copy(path, tmp_path / "scene.vrt", driver="VRT")
    source = open_source(tmp_path / f"scene.{suffix}")
    assert source.metadata.scaling == ((1, 0), (1e-4, -0.1), (2e-4, 0), (1, 0))
    found = read_pixels(
        source, Box(10, 5, 60, 45), 1.0, read_options(source, (2, 1), dtype="scaled")
    )
    third, second = scene[[2, 1], 5:45, 10:60].astype(float)
    expected = np.dstack([third * 2e-4, second * 1e-4 - 0.1])
    expected[np.dstack([third, second]) == 0] = np.nan
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_whole_numbers_without_a_scale_are_not_taken_for_scaled(tmp_path: Path) -> None:
    """Nobody guesses what counts stand for; floats are what they are."""
    whole = open_source(_save(tmp_path / "whole.tif", "GTiff", _scene()))
    with pytest.raises(SourceError, match="declares no scale and offset"):
        read_options(whole, None, "scaled")
    scene = _scene(dtype="float32")
    real = open_source(_save(tmp_path / "real.tif", "GTiff", scene, nodata=-9999))
    found = read_pixels(real, Box(0, 0, 300, 200), 1.0, read_options(real, None, "scaled"))
    np.testing.assert_array_equal(found, scene.transpose(1, 2, 0))


@pytest.mark.parametrize("said", ["<Item", '<Item role="scale" sample="9">2<', "\0\0", "<x>1</x>"])
def test_a_damaged_scale_costs_nothing(tmp_path: Path, said: str) -> None:
    """What cannot be understood is taken for not said; the picture is there."""
    path = tmp_path / "odd.tif"
    pixels = _scene()[0]
    tifffile.imwrite(path, pixels, extratags=[(42112, "s", 0, said, True)])
    source = open_source(path)
    assert source.metadata.scaling is None
    np.testing.assert_array_equal(source.read(Box(0, 0, 300, 200))[..., 0], pixels)
