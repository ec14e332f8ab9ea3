"""Which files of a folder are images, and what odd names and kinds of files are told as."""

from __future__ import annotations

import os
import socket
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tifffile
from mirax import write_mirax
from PIL import Image

import tilevision as tv
from tilevision.errors import SourceError
from tilevision.sources import images_in, open_source, pages
from tilevision.sources.localfiles import SUFFIXES

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)


def refusal(image: object) -> str:
    with pytest.raises(SourceError) as caught:
        open_source(image)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_whatever_opens_is_listed(tmp_path: Path) -> None:
    """Documents, films, scenes and arrays are images of a folder as pictures are."""
    names = ["a.pdf", "b.mp4", "c.img", "d.vrt", "e.jp2", "f.npy", "g.JPE", "h.asc", "i.mkv"]
    for name in [*names, "c.hdr", "c.img.aux.xml", "c.rrd", "d.txt", "x.dcm", "y.csv", ".z.png"]:
        (tmp_path / name).touch()
    assert [path.name for path in images_in(tmp_path)] == names
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in SUFFIXES)


def test_what_belongs_to_a_slide_is_no_image(tmp_path: Path) -> None:
    """Of a MIRAX slide only the .mrxs, of a Hamamatsu one the list: its macro shows a name."""
    write_mirax(tmp_path / "one.mrxs", PIXELS)
    (tmp_path / "two.vms").write_text("[x]\nImageFile=part.jpg\nMacroImage=macro.jpg\n")
    for name in ("part.jpg", "macro.jpg", "own.jpg"):
        (tmp_path / name).touch()
    assert [path.name for path in images_in(tmp_path)] == ["one.mrxs", "own.jpg", "two.vms"]


def test_a_file_of_pages_is_its_first_and_says_so(tmp_path: Path) -> None:
    """Whoever names no page is told that there are others, and how they are named."""
    first, *later = (Image.fromarray(PIXELS // n) for n in (1, 2, 3))
    tifffile.imwrite(tmp_path / "a.tif", [PIXELS] * 3, photometric="rgb", metadata=None)
    first.save(tmp_path / "a.gif", save_all=True, append_images=later)
    first.save(tmp_path / "a.pdf", save_all=True, append_images=later)
    for name in ("a.gif", "a.pdf", "a.tif"):
        (note,) = [line for line in open_source(tmp_path / name).metadata.notes if "pages" in line]
        assert note.startswith(f"{name} holds 3 pages or frames")
        if name != "a.gif":
            assert f"{name}#page=2" in note
            assert not any(
                "first" in line for line in open_source(tmp_path / f"{name}#page=1").metadata.notes
            )
    assert [len(pages(tmp_path / name)) for name in ("a.pdf", "a.tif")] == [3, 3]


def test_many_images_of_a_folder_take_odd_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spaces, number signs, tildes, both spellings of an umlaut, and links are names of images."""
    monkeypatch.chdir(tmp_path)
    umlauts = [unicodedata.normalize(form, "bildü.png") for form in ("NFC", "NFD")]
    for name in ("a b.png", "c#1.png", "~d.png", "図.png", "e#page=2.png", *umlauts):
        Image.fromarray(PIXELS).save(tmp_path / name, "PNG")
    (tmp_path / "link.png").symlink_to("a b.png")
    found = images_in(tmp_path)
    assert len(found) == 8
    assert {open_source(path).size for path in found} == {(128, 64)}
    assert open_source("~d.png").size == open_source(Path("e#page=2.png")).size == (128, 64)


def test_special_files_are_one_line_and_never_waited_for(tmp_path: Path) -> None:
    """A pipe, a socket, a device and a folder of an image's name are told, not read."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.png"))
        for name in ("pipe.png", "folder.png", "s.png"):
            assert "is a folder or a device" in refusal(tmp_path / name)
    assert "is a folder or a device" in refusal("/dev/zero")
    assert "is a folder or a device" in refusal("/dev/null")


def test_links_to_nowhere_and_in_circles_are_one_line(tmp_path: Path) -> None:
    """A link is told with what it points to, where that is missing."""
    (tmp_path / "a.png").symlink_to("gone.png")
    (tmp_path / "b.png").symlink_to("b.png")
    assert "is a link to gone.png, which does not exist" in refusal(tmp_path / "a.png")
    assert "symbolic links" in refusal(tmp_path / "b.png")
    assert [path.name for path in images_in(tmp_path)] == ["a.png", "b.png"]


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``~/scan.tif`` is what the shell would make of it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    tifffile.imwrite(tmp_path / "scan.tif", PIXELS, photometric="rgb", metadata=None)
    assert open_source("~/scan.tif").size == (128, 64)
    assert open_source("~/scan.tif#page=1").size == (128, 64)
    assert str(tmp_path) in open_source("~/scan.tif").reference.path


def test_long_and_empty_names_are_one_line(tmp_path: Path) -> None:
    """Names that no disk takes, and files without a byte."""
    refusal(tmp_path / ("x" * 300 + ".png"))
    refusal(tmp_path / "/".join(["x" * 100] * 50))
    (tmp_path / "empty.mrxs").touch()
    assert "0 bytes" in refusal(tmp_path / "empty.mrxs")


def test_a_file_that_is_still_written_is_told(tmp_path: Path) -> None:
    """Half a file is an error; once its writer is done it opens, in the same process."""
    whole = tmp_path / "whole.tif"
    tifffile.imwrite(whole, PIXELS, photometric="rgb", compression="zlib", metadata=None)
    content = whole.read_bytes()
    with (tmp_path / "a.tif").open("wb", buffering=0) as file:
        file.write(content[: len(content) // 2])
        assert "incomplete" in refusal(tmp_path / "a.tif")
        file.write(content[len(content) // 2 :])
        assert open_source(tmp_path / "a.tif").size == (128, 64)


@pytest.mark.slow
def test_one_bad_image_of_a_folder_stops_nothing(
    elsewhere: Path, cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken link, an empty file and a pipe among good ones: three errors, two results."""
    folder = elsewhere / "in"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(PIXELS).save(folder / name)
    (folder / "c.png").symlink_to("gone")
    (folder / "d.png").touch()
    os.mkfifo(folder / "e.png")
    batch = tv.analyze_many(folder, model="blobs", grid="1x1", progress=False)
    assert len(batch.errors) == 3
    assert all("\n" not in str(error) for error in batch.errors.values())
