"""Handles: a worker keeps a few images open, and no staging file for longer than it is used."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tifffile import imwrite

from tilevision.sources import ImageSource, open_reference, open_source, opening
from tilevision.sources.opening import Handles
from tilevision.sources.staging.stagingfile import staging_folder


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temp folder and handles of this test's own."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(opening, "_handles", Handles(most=8, most_staged=2, patience=60.0))
    return folder


def staged_files() -> int:
    return len(list(staging_folder().glob("*.npy")))


def pictures(folder: Path, count: int) -> list[Path]:
    for number in range(count):
        Image.new("L", (20, 10), number).save(folder / f"{number}.png")
    return [folder / f"{number}.png" for number in range(count)]


def test_staged_images_do_not_pile_up_on_a_worker(tmp_path: Path) -> None:
    """A worker that goes from picture to picture holds two staging files, never eight."""
    held = []
    for path in pictures(tmp_path, 20):
        client = open_source(path)
        open_reference(client.reference)
        client.close()
        held.append(staged_files())
    assert held == [1] + [2] * 19


def test_images_without_staging_file_stay_open(tmp_path: Path) -> None:
    """Eight tiled files are kept, whatever staged ones come and go."""
    references = []
    for number in range(6):
        pixels = np.full((64, 64), number, np.uint8)
        imwrite(tmp_path / f"{number}.tif", pixels, tile=(16, 16))
        references.append(open_source(tmp_path / f"{number}.tif").reference)
    kept = [open_reference(reference) for reference in references]
    for path in pictures(tmp_path, 5):
        open_reference(open_source(path).reference)
    assert [open_reference(reference) for reference in references] == kept
    assert not kept[0].is_staged


def test_a_staged_image_that_nobody_asks_for_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last of many images no task may come; its file goes all the same."""
    may_look, look = threading.Event(), Handles._look

    def looks(handles: Handles) -> None:
        assert may_look.wait(200)
        look(handles)

    monkeypatch.setattr(Handles, "_look", looks)
    monkeypatch.setattr(opening, "_handles", Handles(most=8, most_staged=2, patience=0.2))
    for path in pictures(tmp_path, 2):
        open_reference(open_source(path).reference)
    assert staged_files() == 2
    may_look.set()
    until = time.monotonic() + 200
    while staged_files() and time.monotonic() < until:
        time.sleep(0.01)
    assert staged_files() == 0


def test_an_image_in_use_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads an image that the worker has let go of reads on."""
    monkeypatch.setattr(opening, "_handles", Handles(most=8, most_staged=1, patience=60.0))
    first, second = pictures(tmp_path, 2)
    reading = open_reference(open_source(first).reference)
    open_reference(open_source(second).reference)
    assert staged_files() == 2
    assert (reading.thumbnail(20) == 0).all()
    del reading
    assert staged_files() == 1


def test_threads_that_open_at_once_share_one(tmp_path: Path) -> None:
    """The first to have it open gives it to the others."""
    handles, barrier = Handles(8, 2, 60.0), threading.Barrier(4)
    (path,) = pictures(tmp_path, 1)
    found: list[ImageSource] = []

    def ask() -> None:
        source = open_source(path)
        barrier.wait()
        found.append(handles.keep("key", source, instead=None))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(source) for source in found}) == 1
    assert handles.get("key") is found[0] and handles.get("other") is None
