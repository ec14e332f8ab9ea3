"""Writes small MIRAX slides that OpenSlide reads: tiles in three files beside the .mrxs."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32
_SLIDE = "0" * 32
_GENERAL = """[GENERAL]
SLIDE_VERSION=01.02
SLIDE_ID={slide}
IMAGENUMBER_X={across}
IMAGENUMBER_Y={down}
OBJECTIVE_MAGNIFICATION=20
CameraImageDivisionsPerSide=1
[HIERARCHICAL]
HIER_COUNT=1
NONHIER_COUNT=0
INDEXFILE=Index.dat
HIER_0_NAME=Slide zoom level
HIER_0_COUNT={levels}
{names}[DATAFILE]
FILE_COUNT=1
FILE_0=Data0000.dat
"""
_LEVEL = """[LEVEL_{level}]
OVERLAP_X=0
OVERLAP_Y=0
MICROMETER_PER_PIXEL_X={mpp}
MICROMETER_PER_PIXEL_Y={mpp}
IMAGE_FORMAT=PNG
IMAGE_FILL_COLOR_BGR=16777215
IMAGE_CONCAT_FACTOR={concat}
DIGITIZER_WIDTH={side}
DIGITIZER_HEIGHT={side}
"""


def write_mirax(path: Path, scan: np.ndarray, *, missing: set[int] = frozenset()) -> None:
    """Write `scan`, ``(h, w, 3)`` of a multiple of 64 px each way, in two levels, without loss.

    `missing` are the numbers (row after row) of tiles that were not scanned.
    """
    down, across = (side // SIDE for side in scan.shape[:2])
    data, pages = bytearray(b"data"), []
    for level in (0, 1):
        step, entries = 2**level, []
        shrunk = scan[::step, ::step]
        for y in range(0, down, step):
            for x in range(0, across, step):
                number = y * across + x
                if number in missing:
                    continue
                top, left = y * SIDE // step, x * SIDE // step
                tile = BytesIO()
                Image.fromarray(shrunk[top : top + SIDE, left : left + SIDE]).save(tile, "PNG")
                entries.append((number, len(data), tile.tell(), 0))
                data += tile.getvalue()
        pages.append(entries)
    names = "".join(
        f"HIER_0_VAL_{level}=ZoomLevel_{level}\nHIER_0_VAL_{level}_SECTION=LEVEL_{level}\n"
        for level in (0, 1)
    )
    general = {"slide": _SLIDE, "across": across, "down": down, "levels": 2, "names": names}
    levels = (
        _LEVEL.format(level=level, mpp=0.25 * 2**level, concat=level, side=SIDE) for level in (0, 1)
    )
    folder = path.with_suffix("")
    folder.mkdir()
    path.write_bytes(b"\xff\xd8\xff\xe0 a thumbnail")
    (folder / "Slidedat.ini").write_text(_GENERAL.format(**general) + "".join(levels))
    (folder / "Data0000.dat").write_bytes(data)
    (folder / "Index.dat").write_bytes(_index(pages))


def _index(pages: list[list[tuple[int, int, int, int]]]) -> bytes:
    """Return the index: a pointer a level, to a pointer to a page of tiles."""
    head = b"01.02" + _SLIDE.encode()
    roots = len(head) + 8
    place, pointers, body = roots + 4 * len(pages), b"", b""
    for entries in pages:
        pointers += struct.pack("<i", place + len(body))
        body += struct.pack("<ii", 0, place + len(body) + 8) + struct.pack("<ii", len(entries), 0)
        body += b"".join(struct.pack("<4i", *entry) for entry in entries)
    return head + struct.pack("<ii", roots, place + len(body)) + pointers + body + bytes(16)
