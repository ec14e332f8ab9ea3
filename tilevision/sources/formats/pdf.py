"""A page of a PDF document, drawn once at a resolution, a band of rows at a time.

The resolution is that of the paper. It says nothing about what a picture on the paper shows, so
microns per pixel are only what the caller gives.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from tilevision.errors import SourceError
from tilevision.sources.formats.imageformat import ImageFormat
from tilevision.sources.formats.pdfunits import user_unit
from tilevision.sources.identity import file_options, known_fingerprint, row_blocks
from tilevision.sources.source import ImageMetadata, Pixels, SourceRef
from tilevision.sources.staging.staged import StagedSource, staged_note
from tilevision.sources.staging.stagingfile import stage

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument, PdfPage

__all__ = ["DPI", "FORMAT", "PDF", "open_pdf"]

PDF = b"%PDF"
DPI = 200.0
_POINTS_PER_INCH = 72.0
_DECODER = "pdf1"
_MOST_PIXELS = 1 << 34  # of a page: more is a mistake in dpi, or made to fill the disk
_drawing = threading.RLock()  # PDFium works for one thread at a time


def open_pdf(
    path: str,
    *,
    frame: int = 0,
    dpi: float = DPI,
    mpp: tuple[float, float] | None = None,
    stamp: tuple[int, int] | None = None,
    fingerprint: str = "",
) -> StagedSource:
    """Open a page of a PDF; it is drawn once for all processes of this machine.

    Parameters
    ----------
    path : str
    frame : int
        Which page, from 0.
    dpi : float
        Pixels per inch of paper; a page may say that its unit is not 1/72 inch (UserUnit).
    mpp : tuple of float, optional
        Microns per pixel in x and y, where the caller knows them.
    stamp : tuple of int, optional
        Size and modification time under which the file had `fingerprint`.
    fingerprint : str
        Of the file.

    Raises
    ------
    SourceError
        If pypdfium2 is not installed, the document is damaged or encrypted, or has no such page.
    """
    content = known_fingerprint(path, stamp, fingerprint)
    with _page(path, frame) as (document, page):
        count = len(document)
        unit = user_unit(path, document, frame)
        scale = dpi / _POINTS_PER_INCH * unit
        width, height = (round(side * scale) for side in page.get_size())
        if min(width, height) < 1 or width * height > _MOST_PIXELS:
            raise SourceError(
                f"{path}: page {frame + 1} at {dpi:g} dpi is {width:,}×{height:,} px; "
                f"give another dpi=."
            )

        def write(out: Pixels) -> Iterator[int]:
            for start, stop in row_blocks(height, width * height * 4):
                out[start:stop] = _rows(path, page, (width, height), start, stop)
                yield stop

        told = f" unit {unit:g}" if unit != 1 else ""
        own = sha256(f"{content} page {frame} {dpi:g} dpi{told}".encode()).hexdigest()
        staged = stage(f"{own}-{_DECODER}", (height, width, 3), np.dtype(np.uint8), write)
    metadata = ImageMetadata(format="PDF", mpp=mpp, frames=count, notes=(staged_note(staged),))
    options: dict[str, Any] = {"frame": frame, "dpi": dpi, "mpp": mpp}
    reference = SourceRef(
        opener="tilevision.sources.formats.pdf:open_pdf",
        path=path,
        options={**options, **file_options(path, content)},
        fingerprint=own,
    )
    return StagedSource(path, staged, metadata, reference)


@contextmanager
def _page(path: str, frame: int) -> Iterator[tuple[PdfDocument, PdfPage]]:
    try:
        import pypdfium2
    except ImportError:
        raise FORMAT.missing(path) from None
    with _drawing:
        try:
            document = pypdfium2.PdfDocument(path)
        except Exception as error:
            raise _unreadable(path, error) from error
        try:
            if not 0 <= frame < len(document):
                raise SourceError(
                    f"{path} has {len(document)} pages, counted from 1; there is no {frame + 1}."
                )
            try:
                page = document[frame]
            except Exception as error:
                raise _unreadable(path, error) from error
            document.init_forms()  # filled-in fields are drawn, too
            yield document, page
        finally:
            document.close()


def _rows(path: str, page: PdfPage, size: tuple[int, int], start: int, stop: int) -> Pixels:
    """Draw the rows from `start` to `stop` of a page that is `size` pixels as a whole."""
    import pypdfium2.raw as pdfium

    width = size[0]
    rows = np.full((stop - start, width, 4), 255, np.uint8)
    bitmap = pdfium.FPDFBitmap_CreateEx(
        width, stop - start, pdfium.FPDFBitmap_BGRx, rows.ctypes.data, width * 4
    )
    if not bitmap:
        raise SourceError(
            f"{path} cannot be drawn: there is no memory for {width}×{stop - start} px."
        )
    try:
        flags = pdfium.FPDF_ANNOT | pdfium.FPDF_REVERSE_BYTE_ORDER
        pdfium.FPDF_RenderPageBitmap(bitmap, page, 0, -start, *size, 0, flags)
        if page.formenv:
            pdfium.FPDF_FFLDraw(page.formenv, bitmap, page, 0, -start, *size, 0, flags)
    finally:
        pdfium.FPDFBitmap_Destroy(bitmap)
    return rows[..., :3]


def _unreadable(path: str, error: Exception) -> SourceError:
    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    if "password" in reason.lower():
        return SourceError(f"{path} is encrypted; save it without a password first.")
    return SourceError(f"PDFium cannot read {path} ({reason}); get the document again.")


FORMAT = ImageFormat(
    "a PDF document",
    begins=(PDF,),
    opener=open_pdf,
    suffixes=frozenset({".pdf"}),
    pages=True,
    dpi=True,
    library="pypdfium2",
    extra="pdf",
)
