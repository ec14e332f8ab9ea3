"""Slides: pixel for pixel what OpenSlide reads, where the scanner put them."""

from __future__ import annotations

import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from mirax import write_mirax
from PIL import Image

from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import open_reference, open_source
from tilevision.sources.formats import slides
from tilevision.sources.formats.slides import SlideLevel, is_slide, open_slide

openslide = pytest.importorskip("openslide", reason="OpenSlide (extra slides) is not installed")

NM = 250  # nanometres per pixel of the slide that is written here
CORNER = (400, 240)
SCN = """<?xml version="1.0"?>
<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">
 <collection name="c" uuid="u" sizeX="400000" sizeY="300000">
  <image name="macro" uuid="m">
   <pixels sizeX="100" sizeY="75"><dimension sizeX="100" sizeY="75" r="0" ifd="0"/></pixels>
   <view sizeX="400000" sizeY="300000" offsetX="0" offsetY="0"/>{settings}
  </image>
  <image name="scan" uuid="s">
   <pixels sizeX="600" sizeY="400">
    <dimension sizeX="600" sizeY="400" r="0" ifd="1"/>
    <dimension sizeX="300" sizeY="200" r="1" ifd="2"/>
   </pixels>
   <view sizeX="150000" sizeY="100000" offsetX="100000" offsetY="60000"/>{settings}
  </image>
 </collection>
</scn>"""
SETTINGS = (
    "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>"
    "<illuminationSettings><illuminationSource>brightfield</illuminationSource>"
    "</illuminationSettings></scanSettings>"
)


def _leica(path: Path) -> np.ndarray:
    """Write a Leica slide of 1600×1200 px, scanned in 600×400 of them, and return the scan."""
    rng = np.random.default_rng(0)
    scan = rng.integers(0, 200, (400, 600, 3), dtype=np.uint8)
    kind = {
        "tile": (64, 64),
        "photometric": "rgb",
        "metadata": None,
        "resolution": (1e7 / NM, 1e7 / NM),
        "resolutionunit": "CENTIMETER",
    }
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        macro = np.full((75, 100, 3), 77, np.uint8)
        tif.write(macro, description=SCN.format(settings=SETTINGS), **kind)
        tif.write(scan, **kind)
        tif.write(scan[::2, ::2].copy(), **kind)
    return scan


def _windows(size: tuple[int, int], count: int) -> list[tuple[int, int, int, int]]:
    width, height = size
    rng = np.random.default_rng(5)
    found = [
        (0, 0, width, height),
        (0, 0, 1, 1),
        (width - 1, height - 1, width, height),
        (width - 3, 0, width, height),
        (0, height - 3, width, height),
    ]
    for _ in range(count):
        x0, x1 = sorted(int(v) for v in rng.choice(width + 1, 2, replace=False))
        y0, y1 = sorted(int(v) for v in rng.choice(height + 1, 2, replace=False))
        found.append((x0, y0, x1, y1))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cmu-1-small-region.svs", "pyramid-boxes.tiff"])
def test_every_level_is_what_openslide_reads(shared_data: Path, name: str) -> None:
    """Windows of every level of real slides equal OpenSlide's regions, edges included."""
    slide = openslide.OpenSlide(shared_data / name)
    source = open_slide(str(shared_data / name))
    assert source.size == slide.dimensions
    assert source.metadata.levels == slide.level_dimensions
    for number, size in enumerate(slide.level_dimensions):
        level = SlideLevel(name, slide, number)
        downsample = slide.level_downsamples[number]
        for x0, y0, x1, y1 in _windows(size, 8):
            corner = round(x0 * downsample), round(y0 * downsample)
            region = slide.read_region(corner, number, (x1 - x0, y1 - y0))
            white = Image.new("RGBA", region.size, "white")
            expected = np.asarray(Image.alpha_composite(white, region).convert("RGB"))
            np.testing.assert_array_equal(level.window(x0, y0, x1, y1, None), expected)
    for x0, y0, x1, y1 in _windows(source.size, 8):
        region = slide.read_region((x0, y0), 0, (x1 - x0, y1 - y0)).convert("RGB")
        np.testing.assert_array_equal(source.read(Box(x0, y0, x1, y1)), np.asarray(region))
    source.close()


def test_the_scan_lies_where_the_scanner_put_it(tmp_path: Path) -> None:
    """Bounds and microns are told, nothing is shifted; what was not scanned is background."""
    path = tmp_path / "slide.scn"
    scan = _leica(path)
    source = open_source(path)
    x, y = CORNER
    assert (source.metadata.format, source.size) == ("leica", (1600, 1200))
    assert source.metadata.mpp == pytest.approx((0.25, 0.25))
    assert source.metadata.bounds == Box(x, y, x + 600, y + 400)
    assert source.metadata.levels == ((1600, 1200), (800, 600))
    expected = np.full((1200, 1600, 3), 255, np.uint8)
    expected[y : y + 400, x : x + 600] = scan
    for x0, y0, x1, y1 in _windows(source.size, 10):
        np.testing.assert_array_equal(source.read(Box(x0, y0, x1, y1)), expected[y0:y1, x0:x1])
    half = source.read(Box(380, 220, 1020, 660), 0.5)
    np.testing.assert_array_equal(half, expected[::2, ::2][110:330, 190:510])
    np.testing.assert_array_equal(
        source.read(Box(390, 230, 420, 260), 1.0, [2]), expected[230:260, 390:420, 2:]
    )


def test_a_slide_opens_again_on_a_worker(tmp_path: Path) -> None:
    """The reference opens the same pixels; a slide written anew is refused."""
    path = tmp_path / "a slide ö.scn"
    _leica(path)
    source = open_source(path, mpp=0.5)
    again = open_reference(source.reference)
    assert again.metadata == source.metadata
    assert again.metadata.mpp == (0.5, 0.5)
    box = Box(350, 200, 500, 300)
    np.testing.assert_array_equal(again.read(box), source.read(box))
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), tile=(64, 64), photometric="rgb")
    with pytest.raises(SourceError, match="has changed since it was opened"):
        open_reference(source.reference)


def test_a_renamed_scanner_file_goes_to_openslide(tmp_path: Path) -> None:
    """A Leica slide named .tif is known by its content; a plain TIFF stays with its reader."""
    _leica(tmp_path / "leica.tif")
    tifffile.imwrite(tmp_path / "plain.tif", np.zeros((64, 64), np.uint8), tile=(64, 64))
    assert is_slide(str(tmp_path / "leica.tif"), tiff=True)
    assert not is_slide(str(tmp_path / "plain.tif"), tiff=True)
    assert open_source(tmp_path / "leica.tif").metadata.format == "leica"
    assert open_source(tmp_path / "plain.tif").metadata.format == "TIFF"


class _MiraxStub:
    """Stands in for OpenSlide at a MIRAX slide, whose pixels nobody can write here."""

    dimensions = (40, 30)
    level_count = 1
    level_dimensions = ((40, 30),)
    level_downsamples = (1.0,)
    properties = {  # noqa: RUF012
        "openslide.vendor": "mirax",
        "openslide.background-color": "0A141E",
        "openslide.bounds-x": "-3",
        "openslide.bounds-y": "4",
        "openslide.bounds-width": "20",
        "openslide.bounds-height": "99",
        "openslide.mpp-x": "0.2",
        "openslide.mpp-y": "broken",
    }

    def read_region(self, _: object, __: int, size: tuple[int, int]) -> Image.Image:
        """Return what is scanned at half opacity."""
        return Image.new("RGBA", size, (110, 120, 130, 128))

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def mirax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A MIRAX slide's files, with a stub in OpenSlide's place."""
    monkeypatch.setattr(openslide, "OpenSlide", lambda _: _MiraxStub())
    path = tmp_path / "one.mrxs"
    path.write_bytes(b"\xff\xd8 a JPEG thumbnail")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "Slidedat.ini").write_text("[GENERAL]")
    (tmp_path / "one" / "Data0000.dat").write_bytes(b"pixels")
    return path


def test_a_mirax_slide_is_all_of_its_files(mirax: Path) -> None:
    """Its folder belongs to it: other data are another slide, another name is the same one."""
    source = open_source(mirax)
    assert open_source(mirax).fingerprint == source.fingerprint
    moved = mirax.with_name("two.mrxs")
    shutil.copy(mirax, moved)
    shutil.copytree(mirax.with_suffix(""), moved.with_suffix(""))
    assert open_source(moved).fingerprint == source.fingerprint
    (mirax.with_suffix("") / "Data0000.dat").write_bytes(b"others")
    assert open_source(mirax).fingerprint != source.fingerprint
    with pytest.raises(SourceError, match="has changed since it was opened"):
        open_reference(source.reference)


def test_odd_properties_of_a_slide(mirax: Path) -> None:
    """Bounds are cut to the slide, half a resolution is none, and the background shines through."""
    source = open_source(mirax)
    assert source.metadata.bounds == Box(0, 4, 17, 30)
    assert source.metadata.mpp is None
    shown = source.read(Box(0, 0, 2, 2))
    np.testing.assert_allclose(shown[0, 0], (60, 70, 80), atol=1)


def test_a_vms_is_the_files_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hamamatsu list stands for its images; its macro photo is none of them."""
    monkeypatch.setattr(openslide, "OpenSlide", lambda _: _MiraxStub())
    path = tmp_path / "slide.vms"
    path.write_text("[Virtual Microscope Specimen]\nImageFile=a.jpg\nMacroImage=m.jpg\n")
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "m.jpg").write_bytes(b"patient")
    before = open_source(path).fingerprint
    (tmp_path / "m.jpg").write_bytes(b"another")
    assert open_source(path).fingerprint == before
    (tmp_path / "a.jpg").write_bytes(b"b")
    assert open_source(path).fingerprint != before


def test_what_is_no_slide_says_so_in_a_line(tmp_path: Path) -> None:
    """A damaged slide, and one of a format OpenSlide does not find in it, are one line each."""
    path = tmp_path / "broken.mrxs"
    path.write_bytes(b"\xff\xd8 nothing")
    with pytest.raises(SourceError, match=r"OpenSlide cannot read .*broken\.mrxs") as said:
        open_source(path)
    assert "\n" not in str(said.value)


def test_a_closed_slide_says_so(tmp_path: Path) -> None:
    """Reading after close is an error in one line."""
    _leica(tmp_path / "slide.scn")
    source = open_source(tmp_path / "slide.scn")
    source.close()
    with pytest.raises(SourceError, match="if the slide was not closed before"):
        source.read(Box(0, 0, 5, 5))


def test_without_openslide_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slide names the extra that reads it; a plain TIFF does without."""
    _leica(tmp_path / "slide.scn")
    tifffile.imwrite(tmp_path / "plain.tif", np.zeros((64, 64), np.uint8), tile=(64, 64))
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(SourceError, match=r"pip install 'tilevision\[slides\]'"):
        open_source(tmp_path / "slide.scn")
    assert open_source(tmp_path / "plain.tif").size == (64, 64)


def test_a_mirax_slide_is_what_openslide_reads(tmp_path: Path) -> None:
    """Its files, written here, read as they were scanned: size, levels, bounds, microns, holes."""
    scan = np.random.default_rng(0).integers(0, 256, (192, 256, 3), dtype=np.uint8)
    path = tmp_path / "a slide.mrxs"
    top_row = set(range(8))
    write_mirax(path, scan, missing=top_row | {8, 16})
    source = open_source(path)
    slide = openslide.OpenSlide(path)
    assert source.metadata.format == "mirax"
    assert source.size == slide.dimensions
    assert source.metadata.levels == slide.level_dimensions
    assert source.metadata.mpp == pytest.approx((0.25, 0.25))
    for x0, y0, x1, y1 in _windows(source.size, 12):
        region = slide.read_region((x0, y0), 0, (x1 - x0, y1 - y0))
        white = Image.new("RGBA", region.size, "white")
        expected = np.asarray(Image.alpha_composite(white, region).convert("RGB"))
        np.testing.assert_array_equal(source.read(Box(x0, y0, x1, y1)), expected)
    again = open_reference(source.reference)
    np.testing.assert_array_equal(again.thumbnail(64), source.thumbnail(64))
    whole = np.full_like(scan, 255)
    whole[32:] = scan[32:]
    whole[32:96, :32] = 255
    found = source.read(Box(0, 0, *source.size))
    bounds = source.metadata.bounds or Box(0, 0, *source.size)
    assert bounds == Box(0, 32, 256, 192)
    np.testing.assert_array_equal(found, whole[-source.size[1] :])


def test_a_slide_that_ends_its_process_ends_only_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slide over which OpenSlide crashes or never returns costs a process of its own."""
    path = tmp_path / "slide.scn"
    _leica(path)
    trial = "import os, sys, time; os.kill(os.getpid(), 8)"
    monkeypatch.setattr(slides, "_TRIAL", trial)
    with pytest.raises(SourceError, match=r"crashes when it reads the slide .signal 8"):
        open_source(path)
    monkeypatch.setattr(slides, "_TRIAL", "import time; time.sleep(60)")
    monkeypatch.setattr(slides, "_TRIAL_SECONDS", 0.2)
    with pytest.raises(SourceError, match=r"did not finish reading it within 0\.2 s"):
        open_source(path)
    monkeypatch.undo()
    assert open_source(path).size == (1600, 1200)
    monkeypatch.setattr(slides, "_TRIAL", trial)
    assert open_source(path).size == (1600, 1200)


def _dicom(path: Path, pixels: np.ndarray, *, paths: int = 1, planes: int = 1) -> None:
    """Write a tiled DICOM slide (PS3.3 A.32.8, explicit little endian) of tiles of 256 px."""
    side = 256

    def item(tag: int, kind: str, value: bytes | str | int) -> bytes:
        if isinstance(value, int):
            value = value.to_bytes({"US": 2, "UL": 4}[kind], "little")
        elif isinstance(value, str):
            value = value.encode()
        value += (b"\0" if kind in ("UI", "OB") else b" ") * (len(value) % 2)
        head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind.encode()
        if kind in ("OB", "SQ"):
            return head + struct.pack("<HI", 0, len(value)) + value
        return head + struct.pack("<H", len(value)) + value

    def sequence(tag: int, content: bytes) -> bytes:
        return item(tag, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content)

    kind, uid = "1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.826.0.1.3680043.8.498"
    high, wide = pixels.shape[:2]
    corners = [(y, x) for y in range(0, high, side) for x in range(0, wide, side)]
    tiles = b"".join(pixels[y : y + side, x : x + side].tobytes() for y, x in corners)
    meta = item(0x00020001, "OB", b"\0\1") + item(0x00020002, "UI", kind)
    meta += item(0x00020003, "UI", uid + ".1") + item(0x00020010, "UI", "1.2.840.10008.1.2.1")
    meta += item(0x00020012, "UI", uid + ".2")
    body = [
        item(0x00080008, "CS", "ORIGINAL\\PRIMARY\\VOLUME\\NONE"),
        item(0x00080016, "UI", kind),
        item(0x00080018, "UI", uid + ".1"),
        item(0x00080060, "CS", "SM"),
        item(0x0020000D, "UI", uid + ".3"),
        item(0x0020000E, "UI", uid + ".4"),
        item(0x00200013, "IS", "1"),
        item(0x00200052, "UI", uid + ".5"),
        item(0x00209311, "CS", "TILED_FULL"),
        item(0x00280002, "US", 3),
        item(0x00280004, "CS", "RGB"),
        item(0x00280006, "US", 0),
        item(0x00280008, "IS", str(len(corners))),
        *(item(tag, "US", side) for tag in (0x00280010, 0x00280011)),
        *(
            item(tag, "US", n)
            for tag, n in zip(range(0x00280100, 0x00280104), (8, 8, 7, 0), strict=True)
        ),
        item(0x00480006, "UL", wide),
        item(0x00480007, "UL", high),
        item(0x00480302, "UL", paths),
        item(0x00480303, "UL", planes),
        sequence(0x52009229, sequence(0x00289110, item(0x00280030, "DS", "0.0005\\0.00025"))),
        item(0x7FE00010, "OB", tiles),
    ]
    size = item(0x00020000, "UL", len(meta))
    path.write_bytes(bytes(128) + b"DICM" + size + meta + b"".join(body))


@pytest.mark.parametrize("name", ["DCM00001", "slide.dcm", "slide.DICOM"])
def test_dicom_is_known_by_its_mark(tmp_path: Path, name: str) -> None:
    """A DICOM slide opens under any name: media give theirs no suffix (DICOM PS3.10).

    Oracle: OpenSlide 4.0. Its microns per pixel are the spacing of columns and rows.
    """
    yy, xx = np.mgrid[:512, :768]
    pixels = np.stack([xx // 4, yy // 2, np.full_like(xx, 90)], axis=2).astype(np.uint8)
    path = tmp_path / name
    _dicom(path, pixels)
    (tmp_path / "README").write_text("no slide")
    source = open_source(path)
    with openslide.OpenSlide(path) as slide:
        assert source.metadata.mpp == tuple(
            float(slide.properties[f"openslide.mpp-{axis}"]) for axis in "xy"
        )
    np.testing.assert_array_equal(source.read(Box(0, 0, 768, 512)), pixels)
    assert open_reference(source.reference).fingerprint == source.fingerprint
    (tmp_path / "README").write_text("not part of it")
    assert open_reference(source.reference) is not None


def test_a_file_beside_a_dicom_slide_is_part_of_it(tmp_path: Path) -> None:
    """The other DICOM files of the folder, which hold its other levels, are in its fingerprint."""
    pixels = np.zeros((256, 256, 3), np.uint8)
    _dicom(tmp_path / "DCM00001", pixels)
    alone = open_source(tmp_path / "DCM00001").fingerprint
    _dicom(tmp_path / "DCM00002", pixels + 1)
    assert open_source(tmp_path / "DCM00001").fingerprint != alone


def test_dicom_with_more_than_one_picture_says_so(tmp_path: Path) -> None:
    """Optical paths are a note; focal planes, which OpenSlide 4.0 refuses, no damage."""
    pixels = np.zeros((256, 256, 3), np.uint8)
    _dicom(tmp_path / "stains.dcm", pixels, paths=2)
    (tmp_path / "deep").mkdir()
    _dicom(tmp_path / "deep" / "planes.dcm", pixels, planes=3)
    with pytest.raises(SourceError, match=r"TotalPixelMatrixFocalPlanes value 3.*one focal plane"):
        open_source(tmp_path / "deep" / "planes.dcm")
    (note,) = open_source(tmp_path / "stains.dcm").metadata.notes
    assert "2 optical paths" in note
