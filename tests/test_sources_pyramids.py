"""Aperio's JPEG 2000 colours, and tiles that a coarser level leaves out: as OpenSlide has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

import tilevision as tv
from tilevision.sources.identity import fingerprint_of_file

openslide = pytest.importorskip("openslide")

HEADER = "Aperio Image Library v11.2.1 \r\n512x512 [0,0 512x512] (256x256) J2K/YUV16 Q=70|MPP = 0.5"
SIDE = 512
YY, XX = np.mgrid[:SIDE, :SIDE]
RGB = np.stack([XX // 2, YY // 2, 255 - XX // 2], axis=2).astype(np.uint8)
RGB[100:140, 300:340] = (255, 10, 10)


def _encoded(stored: np.ndarray) -> Iterator[bytes]:
    for y in range(0, SIDE, 256):
        for x in range(0, SIDE, 256):
            tile = np.ascontiguousarray(stored[y : y + 256, x : x + 256])
            how = {"reversible": True, "codecformat": "J2K", "mct": False}
            yield imagecodecs.jpeg2k_encode(tile, level=0, **how)


def _subsampled(folder: Path) -> Iterator[bytes]:
    """Codestreams whose colour samples are half as many each way, by GDAL."""
    rasterio = pytest.importorskip("rasterio")
    copy = pytest.importorskip("rasterio.shutil").copy

    for number, (y, x) in enumerate(((0, 0), (0, 256), (256, 0), (256, 256))):
        plain, coded = folder / f"{number}.tif", folder / f"{number}.jp2"
        size: dict[str, Any] = {"width": 256, "height": 256, "count": 3, "dtype": "uint8"}
        with rasterio.open(plain, "w", photometric="rgb", **size) as file:
            file.write(RGB[y : y + 256, x : x + 256].transpose(2, 0, 1))
        copy(plain, coded, driver="JP2OpenJPEG", YCBCR420="YES", QUALITY="90")
        data = coded.read_bytes()
        yield data[data.index(b"\xff\x4f\xff\x51") :]


def _slide(path: Path, tiles: Iterator[bytes], compression: int, tag: str) -> Path:
    more = {"subsampling": (1, 1)} if tag == "ycbcr" else {}
    with tifffile.TiffWriter(path) as file:
        file.write(
            tiles,
            shape=RGB.shape,
            dtype="uint8",
            tile=(256, 256),
            photometric=tag,
            compression=compression,
            description=HEADER,
            metadata=None,
            **more,
        )
        small = np.ascontiguousarray(RGB[::4, ::4])
        file.write(small, photometric="rgb", compression="jpeg", metadata=None, rowsperstrip=16)
    return path


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("tag", ["rgb", "ycbcr"])
@pytest.mark.parametrize("stored", ["YCbCr", "YCbCr 4:2:0", "RGB"])
def test_the_compression_says_what_the_samples_are(tmp_path, stored, tag):
    """33003 is YCbCr of any subsampling, 33005 RGB, whatever the tag says.

    A file that was shown wrongly has a new fingerprint.

    Oracle: OpenSlide 4.0 on the same file.
    """
    if stored == "YCbCr":
        tiles = _encoded(np.asarray(Image.fromarray(RGB).convert("YCbCr")))
    else:
        tiles = _subsampled(tmp_path) if stored == "YCbCr 4:2:0" else _encoded(RGB)
    path = _slide(tmp_path / "slide.svs", tiles, 33005 if stored == "RGB" else 33003, tag)
    with openslide.OpenSlide(path) as slide:
        right = np.asarray(slide.read_region((0, 0), 0, (SIDE, SIDE)).convert("RGB"))
    source = tv.open_source(path)
    seen = source.read(tv.Box(0, 0, SIDE, SIDE))
    assert np.abs(seen.astype(int) - right).max() <= 2
    was_right = (stored, tag) in {("YCbCr", "ycbcr"), ("YCbCr 4:2:0", "rgb"), ("RGB", "rgb")}
    assert (source.fingerprint == fingerprint_of_file(path)) == was_right


def test_subsampled_by_a_tag_without_its_figures(tmp_path):
    """A YCbCr tag alone means 2 × 2 (TIFF 6.0); the codestream says what is true."""
    tiles = _encoded(np.asarray(Image.fromarray(RGB).convert("YCbCr")))
    path = _slide(tmp_path / "slide.svs", tiles, 33003, "ycbcr")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags[530].overwrite((2, 2))
    seen = tv.open_source(path).read(tv.Box(0, 0, SIDE, SIDE))
    assert np.abs(seen.astype(int) - RGB).max() <= 3


def _pyramid(path: Path, levels: list[np.ndarray], left_out: dict[int, list[int]]) -> Path:
    """Write levels of 128 px tiles, without those that `left_out` lists for a level."""
    head = HEADER.replace("J2K/YUV16", "JPEG/RGB")
    how: dict[str, Any] = {"photometric": "rgb", "compression": "deflate", "metadata": None}
    with tifffile.TiffWriter(path) as file:
        file.write(levels[0], tile=(128, 128), description=head, **how)
        small = np.ascontiguousarray(levels[0][::8, ::8])
        file.write(small, rowsperstrip=16, description=head + " thumb", **how)
        for level in levels[1:]:
            coarse = head.replace("JPEG/RGB", f"-> {level.shape[1]}x{level.shape[0]} JPEG/RGB")
            file.write(np.ascontiguousarray(level), tile=(128, 128), description=coarse, **how)
    with tifffile.TiffFile(path, mode="r+") as file:
        for level, tiles in left_out.items():
            page = file.pages[level + 1 if level else 0]
            offsets, counts = list(page.dataoffsets), list(page.databytecounts)
            for tile in tiles:
                offsets[tile] = counts[tile] = 0
            page.tags[324].overwrite(offsets)
            page.tags[325].overwrite(counts)
    return path


HIGH, WIDE = np.mgrid[:1024, :1024] // 4
BASE = np.stack([HIGH, WIDE, np.full_like(WIDE, 90)], axis=2).astype(np.uint8)
LEVELS = [BASE, BASE[::2, ::2], BASE[::4, ::4]]


@pytest.mark.parametrize("left_out", [{1: [5]}, {1: [5, 6], 2: [0, 3]}, {1: list(range(16))}])
def test_a_coarse_tile_left_out_is_filled(tmp_path, left_out):
    """What a coarser level leaves out is shrunk from the finer one, at every scale.

    Oracle: OpenSlide 4.0 on the same file.
    """
    path = _pyramid(tmp_path / "slide.svs", LEVELS, left_out)
    source = tv.open_source(path)
    with openslide.OpenSlide(path) as slide:
        for number, side in ((1, 512), (2, 256)):
            right = np.asarray(slide.read_region((0, 0), number, (side, side)).convert("RGB"))
            seen = source.read(tv.Box(0, 0, 1024, 1024), side / 1024)
            assert np.abs(seen.astype(int) - right).max() <= 2
    corner = source.read(tv.Box(320, 320, 448, 448), 1 / 2, bands=[2, 0])
    assert np.abs(corner.astype(int) - LEVELS[1][160:224, 160:224, [2, 0]]).max() <= 2


def test_filled_tiles_are_another_image(tmp_path):
    """A file that was shown with holes has a new fingerprint; one without holes has its own."""
    whole = _pyramid(tmp_path / "whole.svs", LEVELS, {})
    holes = _pyramid(tmp_path / "holes.svs", LEVELS, {1: [5]})
    assert tv.open_source(whole).fingerprint == fingerprint_of_file(whole)
    assert tv.open_source(holes).fingerprint != fingerprint_of_file(holes)
    again = tv.sources.open_reference(tv.open_source(holes).reference)
    assert again.read(tv.Box(256, 256, 512, 512), 0.5).min() > 0


def test_what_no_level_has_stays_empty(tmp_path):
    """A sparse file, whose finer levels leave the same place out, is read as before."""
    everywhere = {0: [0, 1, 8, 9], 1: [0], 2: []}
    path = _pyramid(tmp_path / "sparse.svs", LEVELS, everywhere)
    source = tv.open_source(path)
    assert source.fingerprint == fingerprint_of_file(path)
    assert not source.read(tv.Box(0, 0, 256, 256), 0.5).any()
    partly = _pyramid(tmp_path / "partly.svs", LEVELS, {0: [0, 1, 8], 1: [0]})
    seen = tv.open_source(partly).read(tv.Box(0, 0, 256, 256), 0.5)
    assert not seen[:60, :60].any() and seen[68:, 68:].all(axis=2).all()
