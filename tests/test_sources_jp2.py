"""Colours of JPEG 2000: those that the header states, whoever decodes the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import open_source, read_options, read_pixels
from tilevision.sources.formats import georasters

rasterio = pytest.importorskip("rasterio", reason="rasterio (extra geo) is not installed")
imagecodecs = pytest.importorskip("imagecodecs")

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
WIDTH, HEIGHT = 96, 64
Y, X = np.mgrid[:HEIGHT, :WIDTH]
RGB = np.stack([X * 2, Y * 3, X + Y], axis=-1).astype(np.uint8)


def written(path: Path, pixels: np.ndarray, space: str) -> Path:
    """Write a file without loss that states a colour space, and no opacity."""
    number = getattr(imagecodecs.JPEG2K.CLRSPC, space)
    path.write_bytes(
        imagecodecs.jpeg2k_encode(pixels, colorspace=number, level=0, mct=False, codecformat="jp2")
    )
    return path


def shown(path: Path, dtype: str = "uint8") -> np.ndarray:
    source = open_source(path)
    return read_pixels(source, Box(0, 0, *source.size), 1.0, read_options(source, dtype=dtype))


def revision(path: Path) -> str:
    return read_options(open_source(path)).revision


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(("space", "mode"), [("SYCC", "YCbCr"), ("CMYK", "CMYK")])
def test_declared_colours_are_shown_by_every_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: str, mode: str, large: bool
) -> None:
    """Inks and sYCC, as Pillow shows them; GDAL, which reads large files, hands them on as stored.

    So sYCC of more than 16 million pixels or with a place, and inks of any size, had false colours.
    """
    stored = np.asarray(Image.fromarray(RGB).convert(mode))
    path = written(tmp_path / "a.jp2", stored, space)
    if large:
        monkeypatch.setattr(georasters, "_LARGE", 1)
    with Image.open(path) as reference:
        right = np.asarray(reference.convert("RGB")).astype(int)
    assert np.abs(shown(path) - right).max() <= 1
    assert np.abs(right - RGB).max() <= 3  # rounding of what is stored
    if large or mode == "CMYK":
        np.testing.assert_array_equal(shown(path, "raw"), stored)
        assert revision(path) == mode


def test_a_band_is_no_opacity_unless_the_file_says_so(tmp_path: Path) -> None:
    """Red, green, blue and near infrared, as GDAL calls them: the fourth hides nothing.

    Pillow takes any fourth component for opacity, so the picture was mixed with white by it.
    """
    bands = np.dstack([RGB, 255 - RGB[..., :1]])
    path = written(tmp_path / "rgbn.jp2", bands, "SRGB")
    with rasterio.open(path) as dataset:
        kinds = [kind.name for kind in dataset.colorinterp]
        right = np.moveaxis(dataset.read(), 0, -1)
    assert kinds == ["red", "green", "blue", "undefined"]
    np.testing.assert_array_equal(shown(path), right[..., :3])
    np.testing.assert_array_equal(shown(path, "raw"), right)
    assert revision(path) == "no opacity"
    two = written(tmp_path / "two.jp2", bands[..., 2:], "GRAY")
    np.testing.assert_array_equal(shown(two)[..., 0], bands[..., 2])


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_what_pillow_reads_rightly_keeps_its_keys(tmp_path: Path, mode: str) -> None:
    """Opacity that the file declares is shown over white, as before."""
    picture = Image.fromarray(np.dstack([RGB, 255 - RGB[..., :1]]), "RGBA").convert(mode)
    picture.save(tmp_path / "a.jp2")
    white = Image.new("RGBA", picture.size, "white")
    right = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    assert np.abs(shown(tmp_path / "a.jp2").astype(int) - np.asarray(right)).max() <= 1
    assert revision(tmp_path / "a.jp2") == ""


def test_colours_that_nothing_here_turns_into_rgb_are_refused(tmp_path: Path) -> None:
    """e-sYCC was shown as if it were red, green and blue; stored values are read."""
    stored = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
    path = written(tmp_path / "a.jp2", stored, "EYCC")
    with pytest.raises(SourceError, match=r"stores e-sYCC colours, .*dtype='raw'"):
        shown(path)
    np.testing.assert_array_equal(shown(path, "raw"), stored)


def test_subsampled_colours_are_turned_once(tmp_path: Path) -> None:
    """GDAL itself turns back those whose colours are coarser than their brightness (4:2:0)."""
    from rasterio.shutil import copy

    profile = {"width": WIDTH, "height": HEIGHT, "count": 3, "dtype": "uint8", "photometric": "rgb"}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", **profile) as dataset:
        dataset.write(np.moveaxis(RGB, -1, 0))
    options = {"REVERSIBLE": "YES", "QUALITY": "100", "YCBCR420": "YES"}
    copy(tmp_path / "a.tif", tmp_path / "a.jp2", driver="JP2OpenJPEG", **options)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(georasters, "_LARGE", 1)
        large = shown(tmp_path / "a.jp2").astype(int)
    assert np.abs(large - RGB).max() <= 8
    assert np.abs(large - shown(tmp_path / "a.jp2")).max() <= 8
