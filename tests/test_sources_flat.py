"""Flat pictures come out as Pillow shows them: upright, opaque, at their own depth."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import ImageSource, open_source
from tilevision.sources import capacity as limits
from tilevision.sources.formats import pictures
from tilevision.sources.staging import jpegrows


def picture(mode: str = "RGB") -> Image.Image:
    """Return a 90×60 picture with colour, shades and, where `mode` has it, transparency."""
    y, x = np.mgrid[:60, :90]
    rgba = np.stack([x * 2, y * 4, (x + y) % 256, 255 - y * 4], axis=-1).astype(np.uint8)
    return Image.fromarray(rgba, "RGBA").convert(mode)


def whole(source: ImageSource) -> np.ndarray:
    width, height = source.size
    return source.read(Box(0, 0, width, height))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".gif", ".ppm", ".jp2"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_formats_match_pillow(tmp_path: Path, suffix: str, mode: str) -> None:
    """Each flat format decodes to Pillow's pixels; greys stay one band where the file says so."""
    path = tmp_path / f"a{suffix}"
    picture(mode).save(path)
    with Image.open(path) as reference:
        grey = reference.mode == "L"
        expected = np.asarray(reference if grey else reference.convert("RGB"))
        assert open_source(path).metadata.format == reference.format
    source = open_source(path)
    np.testing.assert_array_equal(whole(source), expected.reshape(60, 90, -1))
    assert source.bands == (1 if grey else 3)
    assert source.dtype == np.uint8
    assert "MB" in source.metadata.notes[0]


def test_the_name_does_not_matter_but_the_content_does(tmp_path: Path) -> None:
    """A JPEG called .png opens as the JPEG it is, and equal content has one fingerprint."""
    picture().save(tmp_path / "a.jpg")
    (tmp_path / "b with ümlaut.png").write_bytes((tmp_path / "a.jpg").read_bytes())
    first, second = open_source(tmp_path / "a.jpg"), open_source(tmp_path / "b with ümlaut.png")
    assert second.metadata.format == "JPEG"
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_shown_over_white(tmp_path: Path, mode: str) -> None:
    """What is transparent is white, as in a document viewer; what is half so is half white."""
    image = picture("RGBA" if mode == "P" else mode)
    if mode == "P":
        image = image.quantize(32)
    image.save(tmp_path / "a.png")
    rgba = np.asarray(image.convert("RGBA")).astype(float)
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    if mode == "LA":
        expected = expected[..., :1]
    found = whole(open_source(tmp_path / "a.png"))
    np.testing.assert_allclose(found, expected, atol=1.01)


def test_palettes_bilevel_and_cmyk(tmp_path: Path) -> None:
    """Palettes and CMYK are RGB; bilevel is 0 and 255."""
    picture().quantize(16).save(tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as reference:
        assert reference.mode == "P"
        expected = np.asarray(reference.convert("RGB"))
    np.testing.assert_array_equal(whole(open_source(tmp_path / "p.png")), expected)
    picture("1").save(tmp_path / "b.png")
    assert set(np.unique(whole(open_source(tmp_path / "b.png")))) == {0, 255}
    picture("CMYK").save(tmp_path / "c.jpg")
    with Image.open(tmp_path / "c.jpg") as reference:
        assert reference.mode == "CMYK"
        expected = np.asarray(reference.convert("RGB"))
    np.testing.assert_array_equal(whole(open_source(tmp_path / "c.jpg")), expected)


@pytest.mark.parametrize("bands", [1, 3])
def test_sixteen_bits_stay_sixteen(tmp_path: Path, bands: int) -> None:
    """A 16-bit PNG keeps every bit, in grey and in colour."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 65536, (60, 90, bands), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    source = open_source(tmp_path / "a.png")
    assert source.dtype == np.uint16
    np.testing.assert_array_equal(whole(source), pixels)


@pytest.mark.parametrize("bands", [2, 4])
def test_sixteen_bit_transparency_is_shown_over_white(tmp_path: Path, bands: int) -> None:
    """At 16 bits, too, what is transparent is white."""
    pixels = np.full((60, 90, bands), 1000, np.uint16)
    pixels[:30, :, -1] = 0
    pixels[30:, :, -1] = 65535
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    found = whole(open_source(tmp_path / "a.png"))
    assert found.dtype == np.uint16 and found.shape[2] == bands - 1
    assert (found[:30] == 65535).all() and (found[30:] == 1000).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_exif_orientation_is_applied_and_recorded(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    """A photo taken sideways comes out upright, as Pillow's exif_transpose has it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture().save(tmp_path / f"a{suffix}", exif=exif)
    with Image.open(tmp_path / f"a{suffix}") as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
        in_memory = open_source(stored)
    source = open_source(tmp_path / f"a{suffix}")
    assert source.metadata.orientation == orientation
    np.testing.assert_array_equal(whole(source), expected)
    np.testing.assert_array_equal(whole(in_memory), expected)


def test_animations_give_their_first_frame_and_tell_of_the_others(tmp_path: Path) -> None:
    """Of a GIF, the first frame is the image; how many there are is in the metadata."""
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    source = open_source(tmp_path / "a.gif")
    assert source.metadata.frames == 3
    assert (whole(source) == [255, 0, 0]).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
@pytest.mark.parametrize("kept", [0.0, 0.05, 0.5, 0.97])
@pytest.mark.parametrize("lenient", [False, True])
def test_truncated_pictures_are_refused(
    tmp_path: Path, suffix: str, kept: float, lenient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a picture never passes for a whole, even where another library made Pillow lenient."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    path = tmp_path / f"a{suffix}"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(SourceError, match=r"damaged|empty"):
        open_source(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient


def test_a_png_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    """Checksums are there to be checked: one wrong byte in the pixels is damage."""
    path = tmp_path / "a.png"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(SourceError, match="damaged"):
        open_source(path)


def test_pillows_own_size_limit_does_not_stop_a_big_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fits in memory is decoded, however low the limit of the process is set."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    picture().save(tmp_path / "a.png")
    assert open_source(tmp_path / "a.png").size == (90, 60)


KINDS = ["L", "LA", "RGB", "RGBA", "1", "P", "P transparent", "4 bits", "L keyed", "RGB keyed"]


def _png(path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    noisy = np.asarray(picture("RGBA")) // 2 + rng.integers(0, 99, (60, 90, 4), dtype=np.uint8)
    image = Image.fromarray(noisy, "RGBA")
    if kind == "P transparent":
        image.quantize(99).save(path)
    elif kind == "4 bits":
        image.convert("RGB").quantize(16).save(path, bits=4)
    elif kind.endswith("keyed"):
        grey = kind.startswith("L")
        key: Any = 60 if grey else tuple(noisy[5, 5, :3].tolist())
        image.convert("L" if grey else "RGB").save(path, transparency=key)
    elif kind.endswith("deep"):
        deep = noisy[..., -int(kind[0]) :].astype(np.uint16) * 257 + noisy[::-1, :, :1]
        path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(deep)))
    else:
        image.convert(kind).save(path)


def _in_bands_of_rows(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Have even the smallest picture decoded by rows, so many at a time."""
    monkeypatch.setattr(pictures, "_SMALL_PIXELS", 0)

    def blocks(height: int, size: int) -> Iterator[tuple[int, int]]:
        for start in range(0, height, rows):
            yield start, min(start + rows, height)

    monkeypatch.setattr(pictures, "row_blocks", blocks)


@pytest.mark.parametrize("kind", [*KINDS, "1 deep", "2 deep", "3 deep", "4 deep"])
def test_a_png_by_rows_is_the_png_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Large PNG are decoded by rows: each kind gives the pixels that it gives decoded whole."""
    path = tmp_path / "a.png"
    _png(path, kind)
    with closing(open_source(path)) as source:
        expected = whole(source)
    _in_bands_of_rows(monkeypatch, 7)
    monkeypatch.setattr(pictures, "_whole", None)
    monkeypatch.setattr(pictures, "_deep", None)
    with closing(open_source(path)) as source:
        np.testing.assert_array_equal(whole(source), expected)
        assert source.dtype == expected.dtype


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("subsampling", [0, 1, 2, "4:1:1"])
def test_a_jpeg_by_rows_is_the_jpeg_as_a_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    subsampling: Any,
    orientation: int,
) -> None:
    """Large JPEG are decoded by rows, by pyvips: bit for bit what Pillow makes of them."""
    pytest.importorskip("pyvips", reason="the extra huge is not installed")
    exif = Image.Exif()
    exif[0x0112] = orientation
    rng = np.random.default_rng(0)
    noisy = np.asarray(picture()) // 2 + rng.integers(0, 99, (60, 90, 3), dtype=np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(noisy).convert(mode).save(path, exif=exif, subsampling=subsampling)
    with closing(open_source(path)) as source:
        expected = whole(source)
    _in_bands_of_rows(monkeypatch, 7)
    monkeypatch.setattr(pictures, "_whole", None)
    with closing(open_source(path)) as source:
        np.testing.assert_array_equal(whole(source), expected)


def test_pictures_whose_rows_do_not_follow_each_other_are_decoded_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A progressive JPEG and an interlaced or animated PNG come out right, too."""
    _in_bands_of_rows(monkeypatch, 7)
    picture().save(tmp_path / "a.jpg", progressive=True)
    picture().save(tmp_path / "a.png", save_all=True, append_images=[picture("L").convert("RGB")])
    for path in tmp_path.iterdir():
        with Image.open(path) as reference:
            assert pictures.PictureLayout.of(reference, str(path)).by_rows is None
            expected = np.asarray(reference)
        np.testing.assert_array_equal(whole(open_source(path)), expected)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.97])
def test_truncation_shows_by_rows_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, kept: float
) -> None:
    """Rows that are missing are damage, and nothing stays in the temp folder."""
    _in_bands_of_rows(monkeypatch, 7)
    path = tmp_path / f"a{suffix}"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(SourceError, match=r"damaged"):
        open_source(path)


def test_a_flipped_bit_shows_by_rows_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checksum over all pixels of a PNG is looked at, though they come in bands."""
    _in_bands_of_rows(monkeypatch, 7)
    path = tmp_path / "a.png"
    picture().save(path, compress_level=0)  # stored as they are: any value inflates
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(SourceError, match="damaged"):
        open_source(path)


def test_a_jpeg_too_large_for_memory_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without pyvips, memory decides; the error says what would need none."""
    _in_bands_of_rows(monkeypatch, 7)
    picture().save(tmp_path / "a.jpg")
    monkeypatch.setattr(limits, "available_memory", lambda: 10_000)
    monkeypatch.setattr(pictures, "has_decoder", lambda: False)
    with pytest.raises(SourceError, match=r"pip install 'tilevision\[huge\]'.* or convert"):
        open_source(tmp_path / "a.jpg")
    if jpegrows.has_decoder():
        monkeypatch.undo()
        assert open_source(tmp_path / "a.jpg").size == (90, 60)


def _bomb(path: Path, width: int, height: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))


@pytest.mark.parametrize("size", [(200_000, 200_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1)])
def test_bombs_are_refused_before_memory_is_gone(tmp_path: Path, size: tuple[int, int]) -> None:
    """A header that claims a huge picture costs nothing but an error with the remedy."""
    _bomb(tmp_path / "bomb.png", *size)
    with pytest.raises(SourceError, match="made to exhaust memory"):
        open_source(tmp_path / "bomb.png")


def test_a_picture_that_needs_more_memory_than_there_is_is_refused(tmp_path: Path) -> None:
    """A long file with a huge picture is believed, and still refused in time."""
    _bomb(tmp_path / "big.png", 1_000_000, 1_000_000)
    with (tmp_path / "big.png").open("ab") as file:
        file.truncate(1 << 27)
    with pytest.raises(SourceError, match="tiled TIFF"):
        open_source(tmp_path / "big.png")


def test_what_does_not_fit_in_memory_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full machine the same picture is refused, saying how much it needs."""
    picture().save(tmp_path / "a.png")
    monkeypatch.setattr(limits, "available_memory", lambda: 10_000)
    with pytest.raises(SourceError, match="tiled TIFF"):
        open_source(tmp_path / "a.png")


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16"]
)
def test_pillow_images_in_memory(mode: str) -> None:
    """Every mode of a Pillow image is an image; files and memory follow the same rules."""
    if mode == "I;16":
        image = Image.fromarray(np.arange(5400, dtype=np.uint16).reshape(60, 90))
    else:
        image = picture(mode) if mode not in ("I", "F") else picture("L").convert(mode)
    source = open_source(image)
    kinds: dict[str, Any] = {"I": np.int32, "F": np.float32, "I;16": np.uint16}
    assert source.dtype == kinds.get(mode, np.uint8)
    assert source.bands == (1 if mode in ("1", "L", "LA", "I", "F", "I;16") else 3)
    assert whole(source).shape == (60, 90, source.bands)


def test_an_empty_pillow_image_is_refused() -> None:
    """No pixels, no picture."""
    with pytest.raises(SourceError, match="empty"):
        open_source(Image.new("RGB", (0, 5)))
