"""Damaged files are an error or a picture: never a crash, a hang or a foreign exception."""

from __future__ import annotations

import random
import re
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import tifffile
import zarr
from mirax import write_mirax
from PIL import Image

from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import open_source

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)


def flat(kind: str) -> bytes:
    out = BytesIO()
    Image.fromarray(PIXELS).save(out, kind)
    return out.getvalue()


def tiff(**options: Any) -> bytes:
    out = BytesIO()
    tifffile.imwrite(out, PIXELS, photometric="rgb", metadata=None, **options)
    return out.getvalue()


SEEDS = {
    "png": flat("PNG"),
    "jpeg": flat("JPEG"),
    "webp": flat("WEBP"),
    "bmp": flat("BMP"),
    "gif": flat("GIF"),
    "ppm": flat("PPM"),
    "jp2": flat("JPEG2000"),
    "deflate": tiff(compression="zlib", predictor=True, tile=(32, 32)),
    "tiled-jpeg": tiff(compression="jpeg", tile=(32, 32)),
    "lzw-strips": tiff(compression="lzw", rowsperstrip=8),
    "tiled-webp": tiff(compression="webp", tile=(32, 32)),
    "tiled-jp2": tiff(compression="jpeg2000", tile=(32, 32)),
    "zstd": tiff(compression="zstd", tile=(32, 32)),
    "raw": tiff(),
    "bigtiff": tiff(bigtiff=True, compression="packbits", tile=(32, 32)),
}


def npy() -> bytes:
    out = BytesIO()
    np.save(out, PIXELS)
    return out.getvalue()


def film(container: str, codec: str) -> bytes:
    out = BytesIO()
    with av.open(out, "w", format=container) as film:
        stream = film.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 80, 64, "yuv420p"
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(np.roll(PIXELS, number, 1), format="rgb24")
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    return out.getvalue()


NAMED = {
    "a.npy": npy(),
    "a.pdf": flat("PDF"),
    "a.avi": film("avi", "mpeg4"),
    "a.mkv": film("matroska", "libx264"),
}


def write_zarr(folder: Path, version: Any) -> Path:
    group = zarr.open_group(folder / "a", mode="w", zarr_format=version)
    axes = [{"name": name, "type": "space"} for name in "yx"] + [{"name": "c", "type": "channel"}]
    datasets = []
    for level in (0, 1):
        pixels = PIXELS[:: 2**level, :: 2**level]
        options: dict[str, Any] = {"chunks": (32, 32, 3), "dtype": "uint8"}
        if version == 2:
            from numcodecs import Blosc

            options["compressors"] = Blosc()
        group.create_array(str(level), shape=pixels.shape, **options)[:] = pixels
        scale = {"type": "scale", "scale": [0.5 * 2**level, 0.5 * 2**level, 1]}
        datasets.append({"path": str(level), "coordinateTransformations": [scale]})
    image = {"multiscales": [{"axes": axes, "datasets": datasets}]}
    group.attrs.update(image if version == 2 else {"ome": {"version": "0.5", **image}})
    return folder / "a"


def write_slide(folder: Path) -> Path:
    pytest.importorskip("openslide", reason="OpenSlide (extra slides) is not installed")
    write_mirax(folder / "a.mrxs", np.resize(PIXELS, (64, 128, 3)))
    return folder / "a.mrxs"


def write_raster(folder: Path, driver: str, name: str) -> Path:
    rasterio = pytest.importorskip("rasterio", reason="rasterio (extra geo) is not installed")
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 4e6)}
    profile = {"width": 80, "height": 64, "count": 3, "dtype": "uint8", "driver": driver}
    with rasterio.open(folder / name, "w", **profile, **place) as dataset:
        dataset.write(np.moveaxis(PIXELS, -1, 0))
    return folder / name


SEVERAL: dict[str, Callable[[Path], Path]] = {
    "zarr2": lambda folder: write_zarr(folder, 2),
    "zarr3": lambda folder: write_zarr(folder, 3),
    "mirax": write_slide,
    "erdas": lambda folder: write_raster(folder, "HFA", "a.img"),
    "envi": lambda folder: write_raster(folder, "ENVI", "a.img"),
    "jp2": lambda folder: write_raster(folder, "JP2OpenJPEG", "a.jp2"),
}


@cache
def written(kind: str) -> tuple[str, dict[str, bytes]]:
    """Return the name of an image of several files, and their contents by name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        main = SEVERAL[kind](folder).relative_to(folder).as_posix()
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return main, {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def damage(content: bytes, rng: random.Random) -> bytes:
    """Return `content` with bits flipped, numbers made extreme, or its end cut off."""
    out = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        place = rng.randrange(min(len(out), 400) if rng.random() < 0.6 else len(out))
        kind = rng.randrange(4)
        if kind == 0:
            out[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[place] = rng.choice([0, 127, 128, 255])
        elif kind == 2:
            extreme = [b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f", b"\0\0\0\x80"]
            out[place : place + 4] = rng.choice(extreme)
        else:
            del out[max(1, rng.randrange(len(out))) :]
    return bytes(out)


def reworded(content: bytes, rng: random.Random) -> bytes:
    """Return a text with numbers and words made others, or a line lost."""
    text = content.decode("latin-1")
    found = list(re.finditer(r"-?\d+|\w+", text))
    if not found or rng.random() < 0.2:
        return damage(content, rng)
    place = rng.choice(found)
    other = rng.choice(["0", "-1", "3", "65536", "4294967296", "1e308", "null", "[]", '"x"', ""])
    return (text[: place.start()] + other + text[place.end() :]).encode("latin-1")


def retagged(content: bytes, rng: random.Random) -> bytes:
    """Return a TIFF file with fields of its first page, or the way to the next, made others."""
    out = bytearray(content)
    big = out[2] == 43
    word, size = ("<Q", 20) if big else ("<I", 12)
    (start,) = struct.unpack_from(word, out, 8 if big else 4)
    (count,) = struct.unpack_from("<Q" if big else "<H", out, start)
    first = start + (8 if big else 2)
    numbers = [0, 1, 2, 7, 8, 255, 32768, 65535, 65536, 2**31 - 1, 2**31, start, len(out)]
    for _ in range(rng.choice([1, 1, 2])):
        entry = first + size * rng.randrange(count + 1)
        if entry == first + size * count:
            struct.pack_into(word, out, entry, rng.choice(numbers))
            continue
        part = rng.choice(["tag", "type", "count", "value", "value"])
        if part in ("tag", "type"):
            struct.pack_into("<H", out, entry + 2 * (part == "type"), rng.randrange(2, 400))
        else:
            place = entry + (4 if part == "count" else 12 if big else 8)
            struct.pack_into(word, out, place, rng.choice(numbers))
    return bytes(out)


def survives(path: Path) -> bool:
    """Open and read; return whether it was a picture. Anything but SourceError comes through."""
    try:
        source = open_source(path)
        width, height = source.size
        pixels = source.read(Box(0, 0, min(width, 90), min(height, 90)))
        assert (pixels.shape[2], pixels.dtype) == (source.bands, source.dtype)
        assert max(source.thumbnail(32).shape[:2]) <= 32
        source.close()
    except SourceError as error:
        message = str(error)
    else:
        return True
    assert "\n" not in message
    return False


def survives_as(content: bytes, path: Path) -> bool:
    path.write_bytes(content)
    return survives(path)


COUNTS = [10, pytest.param(100, marks=pytest.mark.slow, id="thousands")]


@pytest.mark.parametrize("kind", sorted(SEEDS))
@pytest.mark.parametrize("mutations", COUNTS)
def test_mutated_files_never_crash(tmp_path: Path, kind: str, mutations: int) -> None:
    """Thousands of mutations over all formats: each is an error of ours, or a picture."""
    rng = random.Random(f"{kind}{mutations}")
    assert survives_as(SEEDS[kind], tmp_path / "whole")
    pictures = [
        survives_as(damage(SEEDS[kind], rng), tmp_path / "mutated") for _ in range(mutations)
    ]
    assert not all(pictures)


@pytest.mark.parametrize("kind", [kind for kind, seed in SEEDS.items() if seed[:2] == b"II"])
@pytest.mark.parametrize("mutations", COUNTS)
def test_tiff_fields_may_say_anything(tmp_path: Path, kind: str, mutations: int) -> None:
    """Absurd sizes, offsets, counts and types, and pages in a circle, are errors of ours."""
    rng = random.Random(f"{kind}{mutations}")
    pictures = [
        survives_as(retagged(SEEDS[kind], rng), tmp_path / "a.tif") for _ in range(mutations)
    ]
    assert not all(pictures)


@pytest.mark.parametrize("name", sorted(NAMED))
@pytest.mark.parametrize("mutations", COUNTS)
def test_mutated_documents_films_and_arrays_never_crash(
    tmp_path: Path, name: str, mutations: int
) -> None:
    """Neither do those that their names tell."""
    rng = random.Random(f"{name}{mutations}")
    assert survives_as(NAMED[name], tmp_path / name)
    pictures = [survives_as(damage(NAMED[name], rng), tmp_path / name) for _ in range(mutations)]
    assert not all(pictures)


@pytest.mark.parametrize("kind", sorted(SEVERAL))
@pytest.mark.parametrize("mutations", [5, pytest.param(20, marks=pytest.mark.slow, id="hundreds")])
def test_mutated_folders_never_crash(tmp_path: Path, kind: str, mutations: int) -> None:
    """One file of several damaged, reworded or lost: an error of ours, or a picture."""
    rng = random.Random(f"{kind}{mutations}")
    main, files = written(kind)
    for number in range(mutations):
        folder = tmp_path / str(number)
        changed = dict(files)
        name = rng.choice(sorted(files))
        is_text = all(byte < 128 for byte in files[name][:2000])
        changed[name] = (reworded if is_text else damage)(files[name], rng)
        if number == 0:
            changed = files
        elif rng.random() < 0.1:
            del changed[name]
        for part, content in changed.items():
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            (folder / part).write_bytes(content)
        assert survives(folder / main) or number


def test_a_chunk_cut_short_costs_its_window(tmp_path: Path) -> None:
    """Blosc would read on past its end and end the process; here the window is an error."""
    path = write_zarr(tmp_path, 2)
    chunk = path / "0" / "1.1.0"
    if not chunk.exists():
        chunk = path / "0" / "1" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])
    source = open_source(path)
    np.testing.assert_array_equal(source.read(Box(0, 0, 32, 32)), PIXELS[:32, :32])
    with pytest.raises(SourceError, match="a chunk cannot be read"):
        source.read(Box(30, 30, 60, 60))


def test_pages_in_a_circle_are_refused(tmp_path: Path) -> None:
    """A page that is followed by itself is told at once."""
    content = bytearray(SEEDS["deflate"])
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    struct.pack_into("<I", content, start + 2 + 12 * count, start)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(SourceError, match="page 2 of its list is one that came before"):
        open_source(tmp_path / "a.tif")
