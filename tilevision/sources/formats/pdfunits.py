"""The unit of a PDF page, which PDFium leaves out of a page's size.

A page may say that its unit is a multiple of 1/72 inch (UserUnit, PDF 1.6), as large drawings do.
PDFium has no question for that, but writes a page's dictionary as plain text when it copies the
page into a document of its own.
"""

from __future__ import annotations

import re
import tempfile
import zlib
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

__all__ = ["user_unit"]

_NAME = b"UserUnit"
_OBJECT_STREAM = re.compile(rb"/ObjStm\b.{0,400}?stream\r?\n", re.DOTALL)
_PAGE = re.compile(
    rb"\d+ 0 obj\s*<<((?:(?!endobj).)*/Type\s*/Page\b(?:(?!endobj).)*)endobj", re.DOTALL
)
_VALUE = re.compile(rb"/UserUnit\s*([\d.]+)(?:\s+\d+\s+(R))?")
_MOST = 1 << 26  # bytes of one object stream: far above what any writer puts into one


def user_unit(path: str, document: PdfDocument, frame: int) -> float:
    """Return the unit of a page in 1/72 inch; 1 where the document says nothing.

    Parameters
    ----------
    path : str
        Of the document.
    document : PdfDocument
    frame : int
        Which page, from 0.
    """
    return _of_page(document, frame) if _may_say(path) else 1.0


def _may_say(path: str) -> bool:
    """Return True if a page of the document may have a unit."""
    with Path(path).open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        if data.find(_NAME) >= 0 or data.find(b"/Encrypt") >= 0:
            return True
        for found in _OBJECT_STREAM.finditer(data):
            try:
                inside = zlib.decompressobj().decompress(
                    data[found.end() : found.end() + _MOST], _MOST
                )
            except zlib.error:
                return True
            if _NAME in inside:
                return True
    return False


def _of_page(document: PdfDocument, frame: int) -> float:
    import pypdfium2

    single = pypdfium2.PdfDocument.new()
    try:
        single.import_pages(document, [frame])
        with tempfile.TemporaryFile() as file:
            single.save(file)
            file.flush()
            with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                return _stated(data)
    finally:
        single.close()


def _stated(data: mmap) -> float:
    page = _PAGE.search(data)
    value = _VALUE.search(page[1]) if page else None
    number = value[1] if value else b"1"
    if value and value[2]:  # the number is an object of its own
        elsewhere = re.search(rb"\b%s 0 obj\s*([\d.]+)\s*endobj" % number, data)
        number = elsewhere[1] if elsewhere else b"1"
    try:
        unit = float(number)
    except ValueError:
        return 1.0
    return unit if unit > 0 else 1.0
