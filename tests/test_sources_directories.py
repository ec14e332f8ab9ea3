"""What the directories of a TIFF file are: pictures, thumbnails, masks, stacks under one of them.

By NewSubfileType (TIFF 6.0, section 8; DNG 1.4), GDAL's masks, and ImageJ's stacks as tifffile
2026.3 reads them.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import tilevision as tv
from tilevision.geometry import Box
from tilevision.sources import open_reference, open_source

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 255, (120, 160, 3), np.uint8)
OTHER = RNG.integers(0, 255, (120, 160, 3), np.uint8)
SMALL = np.ascontiguousarray(PICTURE[::4, ::4])
MASK = np.ones((120, 160), np.bool_)


def written(
    path: Path, *pages: tuple[np.ndarray, int, dict[str, Any]], shaped: bool = False
) -> Path:
    """Write pages, each with its NewSubfileType; `shaped` with tifffile's own description."""
    with tifffile.TiffWriter(path) as file:
        for pixels, kind, options in pages:
            how = {"photometric": "rgb" if pixels.ndim == 3 else "minisblack", **options}
            file.write(pixels, subfiletype=kind, metadata={} if shaped else None, **how)
    return path


def page(path: Path, number: int) -> np.ndarray:
    source = open_source(path, page=number)
    width, height = source.size
    return open_reference(source.reference).read(Box(0, 0, width, height))


@pytest.mark.parametrize(
    "pages",
    [
        [(PICTURE, 0, {}), (SMALL[:20, :33], 1, {})],
        [(SMALL[:20, :33], 1, {}), (PICTURE, 0, {})],
        [(SMALL[:20, :33], 1, {"subifds": 1}), (PICTURE, 0, {})],
        [(PICTURE, 0, {}), (MASK, 4, {"photometric": "mask"})],
        [(PICTURE, 0, {}), (MASK, 4, {"photometric": "mask"}), (SMALL[:20, :33], 1, {})],
    ],
    ids=["thumbnail last", "thumbnail first", "picture below a preview", "mask", "both"],
)
@pytest.mark.parametrize("shaped", [False, True])
def test_masks_and_thumbnails_are_no_pages(tmp_path: Path, pages: list[Any], shaped: bool) -> None:
    """One picture is one page, wherever its thumbnail and its mask are."""
    path = written(tmp_path / "a.tif", *pages, shaped=shaped)
    assert tv.pages(path) == [f"{path}#page=1"]
    source = open_source(path)
    assert not [note for note in source.metadata.notes if "page" in note]
    np.testing.assert_array_equal(source.read(Box(0, 0, 160, 120)), PICTURE)
    with pytest.raises(tv.SourceError, match="no page 2"):
        open_source(path, page=2)


def test_each_picture_has_its_own_mask(tmp_path: Path) -> None:
    """The mask after a picture is of that picture; pages are numbered without masks."""
    holes = MASK.copy()
    holes[:50] = False
    mask = {"photometric": "mask"}
    path = written(
        tmp_path / "a.tif", (PICTURE, 0, {}), (MASK, 4, mask), (OTHER, 0, {}), (holes, 4, mask)
    )
    assert len(tv.pages(path)) == 2
    np.testing.assert_array_equal(page(path, 2), OTHER)
    for number, expected in ((1, MASK), (2, holes)):
        there = open_source(path, page=number).read_masked(Box(0, 0, 160, 120))[1]
        assert there is not None
        np.testing.assert_array_equal(there[..., 0], expected)


def test_only_thumbnails_are_pictures_all_the_same(tmp_path: Path) -> None:
    """A file of nothing else is read as it was."""
    path = written(tmp_path / "a.tif", (PICTURE, 1, {}), (OTHER, 1, {}))
    assert len(tv.pages(path)) == 2


def test_a_number_for_another_page_has_another_identity(tmp_path: Path) -> None:
    """What was stored for a thumbnail is not taken for the picture that has its number now."""
    first = written(tmp_path / "a.tif", (PICTURE, 0, {}), (SMALL, 0, {}))
    assert open_source(first).fingerprint == _content(first)
    preview = written(tmp_path / "b.tif", (SMALL[:20, :33], 1, {}), (PICTURE, 0, {}))
    assert open_source(preview).fingerprint != _content(preview)


def _content(path: Path) -> str:
    from hashlib import sha256

    return sha256(path.read_bytes()).hexdigest()


STACK = np.arange(5 * 90 * 70).reshape(5, 90, 70).astype(np.uint16)


def _imagej(path: Path) -> None:
    """Write a stack as ImageJ does beyond 4 GB: pixels after pixels, and one directory."""
    tifffile.imwrite(path, STACK, imagej=True)
    with tifffile.TiffFile(path) as file:
        order, first = file.byteorder, file.pages.first.offset
    raw = bytearray(path.read_bytes())
    entries = struct.unpack_from(f"{order}H", raw, first)[0]
    struct.pack_into(f"{order}I", raw, first + 2 + 12 * entries, 0)
    path.write_bytes(raw)


def _truncated(path: Path) -> None:
    tifffile.imwrite(path, STACK, truncate=True)


def _truncated_colours(path: Path) -> None:
    colours = np.stack([STACK, STACK + 1, STACK + 2], axis=-1)
    tifffile.imwrite(path, colours, truncate=True, photometric="rgb")


@pytest.mark.parametrize("write", [_imagej, _truncated, _truncated_colours])
def test_planes_under_one_directory_are_pages(tmp_path: Path, write: Any) -> None:
    """Each plane is counted, named and read, the first as ever."""
    path = tmp_path / "a.tif"
    write(path)
    assert len(tv.pages(path)) == 5
    for number in range(1, 6):
        np.testing.assert_array_equal(page(path, number)[..., 0], STACK[number - 1])
    assert open_source(path).fingerprint == _content(path)
    with pytest.raises(tv.SourceError, match="no page 6"):
        open_source(path, page=6)
