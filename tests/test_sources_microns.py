"""Microns per pixel, read from a file by the rules of its format, however they are spelled."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import tilevision as tv
from tilevision.sources.formats.spatial import microns_per_unit, number

PIXELS = np.full((256, 320, 3), 200, np.uint8)
HEADER = "Aperio Image Library v12.0.15 \r\n320x256 [0,0 320x256] (256x256) JPEG/RGB Q=70"


def _svs(path: Path, entries: str) -> Path:
    how: dict[str, Any] = {"photometric": "rgb", "compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(path) as file:
        file.write(PIXELS, tile=(256, 256), description=HEADER + entries, **how)
        small = np.ascontiguousarray(PIXELS[::4, ::4])
        file.write(small, description="Aperio thumb", rowsperstrip=16, **how)
    return path


@pytest.mark.parametrize(
    "entries",
    [
        "|AppMag = 20|MPP = 0.4990|Left = 1.0",
        "|MPP=0.4990",
        "|AppMag = 20|MPP = 0,4990|Left = 1,0",
        "|MPP = 4.990E-1|Left = 1.0",
        "|MPP = +.499",
        "|Original MPP = 0.25|MPP = 0.4990",
        "|MPP = 0.4990|Original MPP = 0.25",
        "|MPP = 0.25|MPP = 0.4990",
        "|Title = MPP = 0.3|MPP = 0.4990",
        "|mpp = 0.25|AppMag = 20",
        "|MPP = 1,234.5",
        "|MPP = unknown",
        "|MPP = ",
        "|XMPP = 3",
        "|AppMag = 20",
    ],
)
def test_aperio_as_openslide_reads_it(tmp_path, entries):
    """The entry called exactly MPP, the last of several, with a point or a comma, or none.

    Oracle: OpenSlide 4.0 on the same file.
    """
    openslide = pytest.importorskip("openslide")
    path = _svs(tmp_path / "slide.svs", entries)
    with openslide.OpenSlide(path) as slide:
        said = slide.properties.get("openslide.mpp-x")
    found = tv.open_source(path).metadata.mpp
    right = None if said is None else pytest.approx((float(said), float(said)))
    assert found == right


@pytest.mark.parametrize("entries", ["|MPP = 0", "|MPP = -1", "|MPP = inf", "|MPP = 1e999"])
def test_aperio_without_a_sensible_size(tmp_path, entries):
    """A size that is no positive number is no size, whatever the entry holds."""
    assert tv.open_source(_svs(tmp_path / "slide.svs", entries)).metadata.mpp is None


def _ome(path: Path, text: str) -> Path:
    tifffile.imwrite(path, PIXELS, photometric="rgb", tile=(256, 256), metadata={"axes": "YXS"})
    document = tifffile.TiffFile(path).ome_metadata
    tifffile.tiffcomment(path, document.replace("<Pixels ", f"<Pixels {text} ").encode())
    return path


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("PhysicalSizeX='0.5' PhysicalSizeY='0.25'", (0.5, 0.25)),
        ('PhysicalSizeX="0.5" PhysicalSizeXUnit="&#181;m" PhysicalSizeY="0.25"', (0.5, 0.25)),
        (
            'PhysicalSizeX = "500" PhysicalSizeXUnit="nm" PhysicalSizeY = "2.5E-4" '
            'PhysicalSizeYUnit="mm"',
            (0.5, 0.25),
        ),
        (
            'PhysicalSizeX="5e-5" PhysicalSizeXUnit="cm" PhysicalSizeY="0.00001" '
            'PhysicalSizeYUnit="in"',
            (0.5, 0.254),
        ),
        ('PhysicalSizeX="0.5" PhysicalSizeXUnit="pixel" PhysicalSizeY="0.5"', None),
        ('PhysicalSizeX="0.5"', None),
        ('PhysicalSizeX="0" PhysicalSizeY="0"', None),
    ],
)
def test_ome_is_read_as_xml(tmp_path, said, right):
    """Quotes, references and spaces mean what they mean in XML (OME-XML 2016-06)."""
    path = _ome(tmp_path / "cells.ome.tif", said)
    found = tv.open_source(path).metadata.mpp
    assert found == (None if right is None else pytest.approx(right))


def test_ome_rewritten_by_an_xml_library(tmp_path):
    """A document that another XML writer rewrote, with namespace prefixes, says the same."""
    size = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}
    size |= {"PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
    path = tmp_path / "cells.ome.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", metadata={"axes": "YXS", **size})
    document = ET.tostring(ET.fromstring(tifffile.TiffFile(path).ome_metadata))
    assert b"ns0:Pixels" in document and b"&#181;" in document
    tifffile.tiffcomment(path, document)
    assert tv.open_source(path).metadata.mpp == (0.5, 0.5)


@pytest.mark.parametrize(
    ("unit", "right"),
    [("CENTIMETER", (0.5, 1.0)), ("INCH", (1.27, 2.54)), ("NONE", None)],
)
def test_resolution_tags_of_a_microscope(tmp_path, unit, right):
    """Resolution tags fine enough for a microscope are the size of a pixel, and a note says so.

    Oracle: OpenSlide 4.0's "generic-tiff".
    """
    openslide = pytest.importorskip("openslide")
    path = tmp_path / "slide.tif"
    how: dict[str, Any] = {"photometric": "rgb", "compression": "jpeg", "metadata": None}
    how |= {"resolution": (20000, 10000), "resolutionunit": unit}
    tifffile.imwrite(path, PIXELS, tile=(256, 256), **how)
    with openslide.OpenSlide(path) as slide:
        both = [slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
    told = None if None in both else tuple(map(float, both))
    metadata = tv.open_source(path).metadata
    assert told == metadata.mpp == (None if right is None else pytest.approx(right))
    assert any("resolution tags" in note for note in metadata.notes) == (right is not None)


@pytest.mark.parametrize("dpi", [72, 96, 300, 600, 1200, 2400])
def test_resolution_of_a_printer_is_no_size(tmp_path, dpi):
    """What cameras, printers and paper scanners write there is not the size of what is shown."""
    path = tmp_path / "photo.tif"
    tifffile.imwrite(path, PIXELS, resolution=(dpi, dpi), resolutionunit="INCH", metadata=None)
    assert tv.open_source(path).metadata.mpp is None


@pytest.mark.parametrize(
    ("unit", "per_unit", "right"),
    [
        ("um", 2.0, 0.5),
        ("micron", 2.0, 0.5),
        ("\\u00B5m", 2.0, 0.5),
        ("nm", 0.002, 0.5),
        ("mm", 2000.0, 0.5),
        ("cm", 20000.0, 0.5),
        ("inch", 72.0, None),
        ("pixel", 2.0, None),
    ],
)
def test_imagej_unit(tmp_path, unit, per_unit, right):
    """ImageJ's own unit, beside resolution tags without one, is the size of a pixel."""
    path = tmp_path / "cells.tif"
    grey = np.zeros((64, 64), np.uint8)
    how = {"imagej": True, "resolution": (per_unit, per_unit)}
    tifffile.imwrite(path, grey, metadata={"unit": unit}, **how)
    found = tv.open_source(path).metadata.mpp
    assert found == (None if right is None else pytest.approx((right, right), rel=1e-4))


@pytest.mark.parametrize(
    "unit",
    ["um", "UM", "µm", "\u03bcm", "Âµm", " µm ", "micron", "Microns", "micrometer", "micrometre"],
)
def test_a_micron_by_any_name(unit):
    """Both of Unicode's signs, both spellings, singular and plural are a micron."""
    assert microns_per_unit(unit) == 1.0


@pytest.mark.parametrize(
    ("unit", "right"),
    [
        ("nm", 1e-3),
        ("Å", 1e-4),
        ("angstrom", 1e-4),
        ("mm", 1e3),
        ("Mm", 1e12),
        ("cm", 1e4),
        ("centimetres", 1e4),
        ("m", 1e6),
        ("inch", 25400),
        ("inches", 25400),
        ("in", 25400),
        ("foot", 304800),
    ],
)
def test_other_units(unit, right):
    """Lengths of other units are theirs in microns; megametres are not millimetres."""
    assert microns_per_unit(unit) == pytest.approx(right)


@pytest.mark.parametrize("unit", ["pixel", "s", "", "reference frame", "M", "degree", None, 3])
def test_no_length(unit):
    """What is no length has no size in microns."""
    assert math.isnan(microns_per_unit(unit))


@pytest.mark.parametrize(
    ("text", "right"),
    [("0.5", 0.5), ("0,5", 0.5), ("5E-1", 0.5), (" .5 ", 0.5), ("5.", 5.0), ("-1", -1.0)],
)
def test_numbers(text, right):
    """A number has a point or a comma, and may have an exponent."""
    assert number(text) == right


@pytest.mark.parametrize("text", ["", "1,234.5", "0.5um", "nan", "inf", "1_0", "0x1", None])
def test_no_numbers(text):
    """Anything else is none, rather than a part of it."""
    assert math.isnan(number(text))


def test_metadata_in_a_companion_file_are_named(tmp_path: Path) -> None:
    """An OME-TIFF may hold its pixels alone (BinaryOnly, OME 2016-06): a note says what is not."""
    text = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<BinaryOnly MetadataFile="all.companion.ome" UUID="urn:uuid:0"/></OME>'
    )
    tifffile.imwrite(tmp_path / "c0.tif", PIXELS[..., 0], description=text, metadata=None)
    source = tv.open_source(tmp_path / "c0.tif")
    assert source.size == (320, 256) and source.metadata.mpp is None
    assert (
        sum("all.companion.ome, which is not read" in note for note in source.metadata.notes) == 1
    )
    assert tv.open_source(tmp_path / "c0.tif", mpp=0.5).metadata.notes == ()
