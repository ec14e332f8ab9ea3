"""Pictures as phones and browsers write them: HEIC, AVIF, JPEG XL, upright and in their colours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image, features

import tilevision as tv
from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import open_reference, open_source

HIGH, WIDE = np.mgrid[:60, :90]
RGB = np.stack([WIDE * 2, HIGH * 4, (WIDE + HIGH) % 256], axis=-1).astype(np.uint8)
RGBA = np.concatenate([RGB, (255 - HIGH * 4)[..., None].astype(np.uint8)], axis=2)
OVER_WHITE = np.asarray(
    Image.alpha_composite(Image.new("RGBA", (90, 60), "white"), Image.fromarray(RGBA)).convert(
        "RGB"
    )
)


def _whole(source: tv.ImageSource) -> np.ndarray:
    return source.read(Box(0, 0, *source.size))


def _difference(seen: np.ndarray, right: np.ndarray) -> int:
    assert seen.shape == right.shape
    return int(np.abs(seen.astype(int) - right.astype(int)).max())


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.skipif(not features.check("avif"), reason="Pillow here was built without AVIF")
@pytest.mark.parametrize("orientation", [1, 6])
def test_avif(tmp_path: Path, orientation: int) -> None:
    """An AVIF is what Pillow shows, turned as it says, also under a general brand."""
    path = tmp_path / "a.avif"
    exif: dict[str, Any] = {} if orientation == 1 else {"exif": _turned()}
    Image.fromarray(RGB).save(path, quality=100, subsampling="4:4:4", **exif)
    right = RGB if orientation == 1 else np.rot90(RGB, -1)
    source = open_source(path)
    assert source.metadata.format == "AVIF"
    assert _difference(_whole(source), right) <= 6
    general = tmp_path / "b.avif"
    general.write_bytes(path.read_bytes().replace(b"ftypavif", b"ftypmif1", 1))
    assert _difference(_whole(open_source(general)), right) <= 6


def test_avif_without_support_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Pillow without AVIF is named, with the remedy; the file is not called damaged."""
    path = tmp_path / "a.avif"
    path.write_bytes(b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1B")
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    with pytest.raises(SourceError, match=r"needs Pillow 11\.3 or later with AVIF"):
        open_source(path)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_heic(tmp_path: Path, mode: str, orientation: int) -> None:
    """A HEIC is what pillow-heif shows, upright once, over white where it is transparent."""
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif (extra heif) is not installed")
    path = tmp_path / "IMG_0001.HEIC"
    exif: dict[str, Any] = {} if orientation == 1 else {"exif": _turned().tobytes()}
    pixels = RGB if mode == "RGB" else RGBA
    heif.from_pillow(Image.fromarray(pixels)).save(path, quality=-1, chroma=444, **exif)
    right = RGB if mode == "RGB" else OVER_WHITE
    right = right if orientation == 1 else np.rot90(right, -1)
    source = open_source(path)
    assert source.metadata.format == "HEIF"
    assert _difference(_whole(source), right) <= 3
    assert _difference(_whole(open_reference(source.reference)), right) <= 3
    assert path in tv.sources.images_in(tmp_path)


def test_heic_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pillow-heif the line names the extra."""
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(SourceError, match=r"HEIC picture.*pip install 'tilevision\[heif\]'"):
        open_source(path)


jpeg_xl = pytest.mark.skipif(
    not imagecodecs.JPEGXL.available, reason="imagecodecs here was built without JPEG XL"
)
GREY16 = (WIDE * 700 + HIGH).astype(np.uint16)


@jpeg_xl
@pytest.mark.parametrize(
    ("stored", "right"),
    [
        (RGB, RGB),
        (RGB[..., 0], RGB[..., :1]),
        (GREY16, GREY16[..., None]),
        (RGBA, OVER_WHITE),
        (RGB[:56, :88], RGB[:56, :88]),
        (RGB[:60, :60], RGB[:60, :60]),
    ],
)
@pytest.mark.parametrize("container", [False, True])
def test_jpeg_xl(tmp_path: Path, stored: np.ndarray, right: np.ndarray, container: bool) -> None:
    """A lossless JPEG XL holds what was written, at its depth, bare or in boxes; so on a worker.

    Oracle: the pixels that libjxl (imagecodecs) was given.
    """
    path = tmp_path / "a.jxl"
    path.write_bytes(imagecodecs.jpegxl_encode(stored, lossless=True, usecontainer=container))
    source = open_source(path)
    assert source.dtype == stored.dtype
    assert _difference(_whole(source), right) <= 1
    assert source.metadata.format == "JPEG XL"
    assert _difference(_whole(open_reference(source.reference)), right) <= 1


@jpeg_xl
def test_what_a_jpeg_xl_stores_is_read_raw(tmp_path: Path) -> None:
    """Colours and transparency as libjxl was given them; what is transparent is no data."""
    path = tmp_path / "a.jxl"
    path.write_bytes(imagecodecs.jpegxl_encode(RGBA, lossless=True))
    source = open_source(path)
    options = tv.sources.read_options(source, dtype="raw")
    for one in (source, open_reference(source.reference)):
        pixels = tv.sources.read_pixels(one, Box(0, 0, *source.size), 1.0, options)
        np.testing.assert_array_equal(pixels, RGBA)
    share = source.data_share(max(source.size))
    np.testing.assert_array_equal(share > 0, RGBA[..., 3] > 0)
    assert options.revision and not tv.sources.read_options(source).revision


@jpeg_xl
def test_jpeg_xl_that_is_cut_off(tmp_path: Path) -> None:
    """A cut file is one line that says who could not decode it."""
    data = imagecodecs.jpegxl_encode(RGB, lossless=True)
    path = tmp_path / "a.jxl"
    for length in (6, len(data) // 2):
        path.write_bytes(data[:length])
        with pytest.raises(SourceError, match=r"incomplete|cannot be decoded by libjxl") as error:
            open_source(path)
        assert "\n" not in str(error.value)
