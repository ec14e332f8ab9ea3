"""Pages: names for the pictures of one file, good wherever an image is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

import tilevision as tv
from tilevision.sources import file_of, images_in, open_reference
from tilevision.sources.localfiles import SUFFIXES


@pytest.fixture
def scan(elsewhere: Path) -> str:
    """A TIFF of three pages, each of its own grey, one of another size."""
    with tifffile.TiffWriter("scan.tif") as file:
        for page, side in enumerate((32, 32, 48), 1):
            file.write(np.full((side, side, 3), 50 * page, np.uint8), photometric="rgb")
    return "scan.tif"


def test_each_page_has_a_name_that_opens_it(scan: str) -> None:
    """Pages are counted from 1, here and again on a worker; the plain name is the first."""
    names = tv.pages(scan)
    assert names == [f"scan.tif#page={page}" for page in (1, 2, 3)]
    sources = [tv.open_source(name) for name in names]
    again = [open_reference(source.reference) for source in sources]
    for page, (source, other) in enumerate(zip(sources, again, strict=True), 1):
        assert source.thumbnail(8)[0, 0, 0] == other.thumbnail(8)[0, 0, 0] == 50 * page
    assert sources[2].size == (48, 48)
    assert tv.open_source(scan).fingerprint == sources[0].fingerprint


def test_equal_pages_of_a_file_are_not_one_image(scan: str) -> None:
    """What is stored of a page is never taken for another's of the same size."""
    assert len({tv.open_source(name).fingerprint for name in tv.pages(scan)}) == 3


def test_a_page_of_a_changed_file_is_refused(scan: str) -> None:
    """A worker does not read the page of a file that is another by now."""
    reference = tv.open_source("scan.tif#page=2").reference
    tifffile.imwrite(scan, np.zeros((2, 40, 40, 3), np.uint8), photometric="rgb")
    with pytest.raises(tv.SourceError, match="changed"):
        open_reference(reference)


def test_a_copied_file_has_the_same_pages(scan: str) -> None:
    """A page is known by content: another time of change costs a look, and no error."""
    import os

    reference = tv.open_source("scan.tif#page=2").reference
    os.utime(scan, ns=(0, 0))
    assert open_reference(reference).thumbnail(8)[0, 0, 0] == 100


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("scan.tif#page=4", "3 pages, counted from 1; there is no page 4"),
        ("scan.tif#page=0", "counted from 1"),
        ("scan.tif#pages", "scan.tif#page=1"),
        ("scan.tif#page=x", "does not exist"),
        ("gone.tif#page=1", "gone.tif does not exist"),
        ("flat.png#page=1", "only TIFF, PDF, video and Zarr"),
    ],
)
def test_a_page_that_is_not_there_is_one_line(scan: str, name: str, told: str) -> None:
    """What is wrong and where; never another page in its place."""
    from PIL import Image

    Image.new("L", (8, 8)).save("flat.png")
    with pytest.raises(tv.SourceError, match=told) as error:
        tv.open_source(name)
    assert "\n" not in str(error.value)


def test_a_file_called_like_a_page_is_that_file(scan: str) -> None:
    """Names with a number sign are names first."""
    tifffile.imwrite("scan.tif#page=2", np.full((8, 8), 7, np.uint8))
    assert tv.open_source("scan.tif#page=2").size == (8, 8)
    assert file_of("scan.tif#page=2") == Path("scan.tif#page=2")
    assert file_of("scan.tif#page=3") == Path("scan.tif")


def test_a_folder_is_its_images(scan: str) -> None:
    """By suffix in any case, Zarr stores too, sorted; hidden files and folders are left out."""
    for name in ("b.PNG", "a.jpg", ".hidden.png", "notes.txt", "._a.jpg", "B.tif"):
        Path(name).touch()
    for name in ("sub.tif", "store.zarr"):
        Path(name).mkdir()
    Path("store.zarr/.zarray").touch()
    found = [path.name for path in images_in(".")]
    assert found == ["B.tif", "a.jpg", "b.PNG", "scan.tif", "store.zarr"]
    assert all(suffix == suffix.lower() for suffix in SUFFIXES)
    with pytest.raises(tv.SourceError, match="The folder gone cannot be read"):
        images_in("gone")
