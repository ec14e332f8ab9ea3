"""Pages of a PDF: drawn at a resolution, in bands, each an image of its own."""

from __future__ import annotations

import hashlib
import struct
import sys
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import tilevision as tv
from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import identity, open_reference, open_source

pdfium = pytest.importorskip("pypdfium2", reason="pypdfium2 (extra pdf) is not installed")


def _document(path: Path, pages: list[str], size: tuple[int, int] = (144, 72)) -> Path:
    """Write a PDF whose pages, of `size` points, are drawn by these commands."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    bodies = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for n, commands in enumerate(pages):
        bodies += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {size[0]} {size[1]}] "
            f"/Resources << /Font << /F 3 0 R >> >> /Contents {5 + 2 * n} 0 R >>",
            f"<< /Length {len(commands)} >>\nstream\n{commands}\nendstream",
        ]
    text, places = "%PDF-1.4\n", []
    for number, body in enumerate(bodies, 1):
        places.append(len(text))
        text += f"{number} 0 obj\n{body}\nendobj\n"
    start = len(text)
    text += f"xref\n0 {len(bodies) + 1}\n0000000000 65535 f \n"
    text += "".join(f"{place:010d} 00000 n \n" for place in places)
    text += f"trailer << /Size {len(bodies) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n"
    path.write_bytes(text.encode("latin-1"))
    return path


RED = "1 0 0 rg 0 36 72 36 re f"  # the upper left quarter
WORDS = "BT /F 11.3 Tf 3 40 Td (Tiles, by the window) Tj ET 0 0 1 RG 0 3 m 140 70.5 l S"


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """Two pages, of 2×1 inches."""
    return _document(tmp_path / "a document.pdf", [RED, WORDS])


def _packed(path: Path, unit: str) -> Path:
    """Write a PDF of one page whose dictionary lies in a compressed object stream (PDF 1.5)."""
    inside = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 144 72] /UserUnit {unit} /Resources << >> >>",
        "3",
    ]
    places = np.cumsum([0, *(len(one) + 1 for one in inside)])
    index = " ".join(f"{number} {places[number - 1]}" for number in range(1, 5)) + " "
    packed = zlib.compress((index + " ".join(inside)).encode())
    data = b"%PDF-1.5\n"
    where = [len(data)]
    data += b"5 0 obj\n<< /Type /ObjStm /N 4 /First %d /Filter /FlateDecode /Length %d >>\n" % (
        len(index),
        len(packed),
    )
    data += b"stream\n" + packed + b"\nendstream\nendobj\n"
    where.append(len(data))
    rows = [(0, 0, 65535), *((2, 5, n) for n in range(4)), (1, where[0], 0), (1, where[1], 0)]
    table = b"".join(struct.pack(">BIH", *row) for row in rows)
    data += b"6 0 obj\n<< /Type /XRef /Size 7 /W [1 4 2] /Root 1 0 R /Length %d >>\n" % len(table)
    data += b"stream\n" + table + b"\nendstream\nendobj\nstartxref\n%d\n%%%%EOF" % where[1]
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("unit", "times"), [("1", 1), ("2.5", 2.5), ("4 0 R", 3)])
def test_a_page_has_its_own_unit(tmp_path: Path, unit: str, times: float) -> None:
    """UserUnit multiplies the size of the paper, in the open, packed or referred to (PDF 1.6).

    Oracle: the specification, ISO 32000-1, 14.11.2: user space is UserUnit / 72 inch.
    """
    source = open_source(_packed(tmp_path / "packed.pdf", unit), dpi=72)
    assert source.size == (round(144 * times), round(72 * times))


def test_each_page_has_its_own_unit(tmp_path: Path) -> None:
    """A unit counts for its page alone; one that was drawn too coarsely is another image now."""
    plain = _document(tmp_path / "plain.pdf", [RED, RED])
    text = plain.read_bytes()
    at = text.rindex(b"/MediaBox [0 0 144 72]")
    units = tmp_path / "units.pdf"
    units.write_bytes(text[:at] + b"/UserUnit 4 " + text[at:])  # PDFium mends the table of places
    first, second = (open_source(units, page=page, dpi=72) for page in (1, 2))
    assert (first.size, second.size) == ((144, 72), (576, 288))
    np.testing.assert_array_equal(second.read(Box(8, 8, 9, 9))[0, 0], (255, 0, 0))
    content = identity.fingerprint_of_file(units)
    as_ever, before = (
        hashlib.sha256(f"{content} page {n} 72 dpi".encode()).hexdigest() for n in (0, 1)
    )
    assert first.fingerprint == as_ever
    assert second.fingerprint != before


def _whole(source: tv.ImageSource) -> np.ndarray:
    return source.read(Box(0, 0, *source.size))


def test_a_page_is_drawn_at_its_resolution(document: Path) -> None:
    """Size is paper times dpi, 200 where none is asked for; places and colours are the page's."""
    source = open_source(document, dpi=100)
    expected = np.full((100, 200, 3), 255, np.uint8)
    expected[:50, :100] = (255, 0, 0)
    np.testing.assert_array_equal(_whole(source), expected)
    assert (source.metadata.format, source.metadata.frames, source.metadata.mpp) == ("PDF", 2, None)
    assert open_source(document).size == (400, 200)
    assert open_source(document, dpi=100, mpp=2).metadata.mpp == (2.0, 2.0)


def test_bands_of_rows_make_the_page_pdfium_draws(
    document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn 7 rows at a time, text and slanted lines are as PDFium draws the whole page.

    It rounds the edge of a line that is cut off one way or the other: by 1 of 255, no more.
    """
    monkeypatch.setattr(identity, "_BLOCK_BYTES", 7 * 300 * 4)
    drawn = _whole(open_source(document, page=2, dpi=150))
    with closing(pdfium.PdfDocument(document)) as opened:
        page = opened[1].render(scale=150 / 72, rev_byteorder=True, prefer_bgrx=True)
        expected = page.to_numpy()[..., :3].copy()
    assert drawn.std() > 10
    assert np.abs(drawn.astype(int) - expected).max() <= 1


def test_pages_have_names_and_keys_of_their_own(document: Path) -> None:
    """Each page opens by its name, here and on a worker; another dpi is another image."""
    names = tv.pages(document)
    assert names == [f"{document}#page={n}" for n in (1, 2)]
    sources = [open_source(name) for name in names]
    assert len({s.fingerprint for s in sources} | {open_source(names[0], dpi=90).fingerprint}) == 3
    for source in sources:
        again = open_reference(source.reference)
        np.testing.assert_array_equal(_whole(again), _whole(source))
    reference = sources[1].reference
    _document(document, [RED, RED])
    with pytest.raises(SourceError, match="has changed since it was opened"):
        open_reference(reference)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"page": 3}, "has 2 pages, counted from 1; there is no 3"),
        ({"page": 0}, "pages are counted from 1"),
        ({"dpi": 0}, "dpi=0 is not valid"),
        ({"dpi": 1e7}, "give another dpi"),
    ],
)
def test_what_cannot_be_drawn_says_so(document: Path, options: dict[str, int], said: str) -> None:
    """No such page, and a resolution that makes no sense, are one line."""
    with pytest.raises(SourceError, match=said) as error:
        open_source(document, **options)
    assert "\n" not in str(error.value)


def test_damaged_and_empty_documents_are_one_line(tmp_path: Path) -> None:
    """A document that was cut short, and one without pages, say so."""
    cut = tmp_path / "cut.pdf"
    cut.write_bytes(b"%PDF-1.4\n1 0 obj\n<< /Type")
    with pytest.raises(
        SourceError, match=r"PDFium cannot read .*cut\.pdf .*get the document again"
    ):
        open_source(cut)
    with pytest.raises(SourceError, match=r"has 0 pages|PDFium cannot read"):
        open_source(_document(tmp_path / "none.pdf", []))


def test_an_encrypted_document_names_the_remedy(tmp_path: Path) -> None:
    """A document behind a password is not drawn, and says why."""
    path = _document(tmp_path / "secret.pdf", [RED])
    key = "<" + "41" * 32 + ">"
    locked = f"trailer << /Encrypt << /Filter /Standard /V 1 /R 2 /O {key} /U {key} /P -4 >> "
    locked += f"/ID [{key} {key}]"
    path.write_text(path.read_text().replace("trailer <<", locked))
    with pytest.raises(SourceError, match="is encrypted; save it without a password"):
        open_source(path)


def test_without_pypdfium2_the_extra_is_named(
    document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PDF names the extra that reads it."""
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(SourceError, match=r"pip install 'tilevision\[pdf\]'"):
        open_source(document)
