"""Damaged files are an error or a picture: never a crash, a hang or a foreign exception."""

from __future__ import annotations

import random
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
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


def survives(content: bytes, path: Path) -> bool:
    """Open and read; return whether it was a picture. Anything but SourceError comes through."""
    path.write_bytes(content)
    try:
        source = open_source(path)
        width, height = source.size
        assert source.read(Box(0, 0, min(width, 90), min(height, 90))).size
        source.close()
    except SourceError:
        return False
    return True


@pytest.mark.parametrize("kind", sorted(SEEDS))
@pytest.mark.parametrize(
    "mutations", [15, pytest.param(400, marks=pytest.mark.slow, id="thousands")]
)
def test_mutated_files_never_crash(tmp_path: Path, kind: str, mutations: int) -> None:
    """Thousands of mutations over all formats: each is an error of ours, or a picture."""
    rng = random.Random(f"{kind}{mutations}")
    assert survives(SEEDS[kind], tmp_path / "whole")
    pictures = [survives(damage(SEEDS[kind], rng), tmp_path / "mutated") for _ in range(mutations)]
    assert not all(pictures)
