"""Sample pictures need no network, and big generated ones need no memory."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tilevision import samples
from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import open_source


@pytest.mark.parametrize(
    ("name", "shape"), [("sky", (872, 1000, 3)), ("tissue", (512, 512, 3)), ("page", (191, 384))]
)
def test_sample_pictures_need_no_network(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in the installed wheel: no socket is opened."""

    def refuse(*arguments: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    picture = getattr(samples, name)()
    assert picture.shape == shape and picture.dtype == np.uint8
    assert picture.std() > 10


def test_the_same_arguments_write_the_same_file(tmp_path: Path) -> None:
    """Side, kind and seed decide every byte."""
    first = samples.write_big(tmp_path / "a.tif", 700)
    second = samples.write_big(str(tmp_path / "b.tif"), 700)
    other = samples.write_big(tmp_path / "c.tif", 700, seed=1)
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()


def test_objects_cross_tiles_without_a_seam(tmp_path: Path) -> None:
    """Each object is round wherever the tiles of the file are cut."""
    from scipy import ndimage

    path = samples.write_big(tmp_path / "a.tif", 1024)
    pixels = tifffile.imread(path)
    dark = pixels[..., 1] < 170
    labels, count = ndimage.label(dark)
    assert 300 < count < 600
    crossing = [
        place
        for place in ndimage.find_objects(labels)
        if place[1].start < 256 < place[1].stop and place[0].start > 0 and place[0].stop < 1024
    ]
    assert crossing
    for rows, columns in crossing:
        part = dark[rows, columns]
        assert part.mean() > 0.3  # a disc fills pi/4 of its box, two that touch less


@pytest.mark.parametrize("kind", ["cells", "stars"])
def test_kinds_look_as_they_say(tmp_path: Path, kind: Any) -> None:
    """Cells are dark on light, stars light on dark."""
    source = open_source(samples.write_big(tmp_path / "a.tif", 300, kind))
    assert source.size == (300, 300)
    pixels = source.read(Box(0, 0, 300, 300)).astype(float).mean(axis=2)
    middle, mean = np.median(pixels), pixels.mean()
    assert (mean < middle and middle > 180) if kind == "cells" else (mean > middle and middle < 60)


@pytest.mark.parametrize(("side", "kind"), [(0, "cells"), (-5, "cells"), (100, "dogs")])
def test_senseless_arguments_are_refused(tmp_path: Path, side: int, kind: Any) -> None:
    """One line says what can be given."""
    with pytest.raises(SourceError):
        samples.write_big(tmp_path / "a.tif", side, kind)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A path that cannot be written is an error that names it."""
    with pytest.raises(SourceError, match="cannot be written"):
        samples.write_big(tmp_path / "no" / "a.tif", 100)


@pytest.mark.slow
def test_a_big_picture_is_written_and_read_in_little_memory(tmp_path: Path) -> None:
    """An 8192×8192 image (200 MB of pixels) is written, tiled and shown in far less."""
    code = """
import resource, sys
from pathlib import Path
from tilevision.geometry import Box
from tilevision.samples import write_big
from tilevision.sources import open_source, open_reference
source = open_source(write_big(sys.argv[1], 8192))
again = open_reference(source.reference)
for place in range(0, 7168, 512):
    assert again.read(Box(place, place, place + 1024, place + 1024)).shape == (1024, 1024, 3)
assert source.thumbnail(1024).shape == (1024, 1024, 3)
assert source.read(Box(0, 0, 8192, 8192), 0.05).shape == (410, 410, 3)
peak = Path("/proc/self/status")
if peak.exists():  # ru_maxrss would count the parent's memory before the exec
    print(next(int(line.split()[1]) for line in peak.open() if line.startswith("VmHWM")))
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "big.tif")],
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
    )
    kibibytes = int(done.stdout)
    assert kibibytes < 200 * 1024
