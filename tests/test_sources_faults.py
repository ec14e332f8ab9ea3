"""Whose fault it is: a file is called damaged only where a library says so of its bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

import tilevision as tv
from tilevision.geometry import Box
from tilevision.sources import open_source
from tilevision.sources.readerfaults import unreadable

PIXELS = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, tile=(32, 32), compression="zlib", metadata=None)
    return tmp_path / "a.tif"


def test_bytes_that_a_codec_refuses_are_damage(path: Path) -> None:
    """Zlib says of the third tile's bytes that they are none of its own."""
    source = open_source(path)
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages.first.dataoffsets[2], file.pages.first.databytecounts[2]
    raw = bytearray(path.read_bytes())
    raw[offset : offset + count] = bytes(count)
    path.write_bytes(raw)
    with pytest.raises(tv.SourceError, match=r"tile 2 is damaged or incomplete .* again\.$"):
        source.read(Box(0, 0, 64, 64))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TypeError("unhashable type: 'list'"), r"cannot be read by imagecodecs 20\d\d.*TypeError"),
        (AttributeError("no attribute 'x'"), r"cannot be read by imagecodecs .*another version"),
        (ImportError("No module named '_jpeg2k'"), r"needs something .* newer version"),
        (NotImplementedError("mode 7"), r"needs something .* convert the file"),
        (ValueError("<COMPRESSION.JETRAW: 48124> not supported"), r"needs something .*JETRAW"),
    ],
)
def test_what_is_no_damage_is_not_called_so(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    """A mistake in a program, a missing codec and a library of another age say what they are."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    source = open_source(path)
    monkeypatch.setattr("tilevision.sources.formats.segments.SegmentedPage._decoded", fail)
    with pytest.raises(tv.SourceError, match=words) as found:
        source.read(Box(32, 32, 64, 64))
    assert "damaged" not in str(found.value)


def test_every_refusal_names_what_was_tried() -> None:
    """Also where the library at work is not installed."""
    said = str(unreadable("a.xyz", KeyError("x"), "no-such-library"))
    assert said.startswith("a.xyz cannot be read by no-such-library (not installed) (KeyError")


@pytest.mark.parametrize("kind", ["JPEG of 12 bits", "JPEG-LS"])
def test_kinds_that_pillow_does_not_read_are_not_damaged(tmp_path: Path, kind: str) -> None:
    """Whole files, as imagecodecs writes them, are called what they are."""
    values = (np.arange(64 * 96).reshape(64, 96) % 4096).astype(np.uint16)
    if kind == "JPEG-LS":
        data, says = imagecodecs.jpegls_encode(values.astype(np.uint8)), "JPEG-LS"
    else:
        data, says = imagecodecs.jpeg_encode(values, bitspersample=12), "12-bit"
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(tv.SourceError, match=f"{says}.* convert it to PNG or TIFF") as error:
        tv.open_source(tmp_path / "a.jpg")
    assert "damaged" not in str(error.value)
