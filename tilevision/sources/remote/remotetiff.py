"""TIFF files elsewhere, of which a window fetches the header and its own tiles or strips."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

from tilevision.errors import TilevisionError
from tilevision.sources.addresses import Address
from tilevision.sources.formats.tiff import TiffSource, is_dear, lay_out
from tilevision.sources.formats.tiffframes import parsed
from tilevision.sources.remote.protocols import remote_file
from tilevision.sources.remote.rangedfile import Cursor, RangedFile
from tilevision.sources.remote.remotebeside import (
    FilesElsewhere,
    ask_beside,
    with_files_elsewhere,
)
from tilevision.sources.remote.remotefile import Look, Remote, changed, patiently
from tilevision.sources.source import Pixels, SourceRef

if TYPE_CHECKING:
    from tifffile import TiffFile

__all__ = ["TIFF", "RangedTiff", "open_ranged_tiff", "ranged_tiff"]

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Scanners' formats that OpenSlide reads as they are meant, from a file.
_SCANNERS = ("is_ndpi", "is_scn", "is_bif", "is_philips", "is_vsi", "is_qpi")


class RangedTiff(TiffSource):
    """A picture in a TIFF file elsewhere."""

    _file: RangedFile
    readable_pixels = 1 << 24
    beside = FilesElsewhere()

    @property
    def reference(self) -> SourceRef:
        """What a worker opens this picture again from."""
        look = self._file.look
        return SourceRef(
            opener="tilevision.sources.remote.remotetiff:open_ranged_tiff",
            path=self._file.path,
            options={
                **self._options,
                "address": self._file.remote.address,
                "content": (look.size, look.tag),
                **({"beside": self.beside} if self.beside else {}),
            },
            fingerprint=self.fingerprint,
        )

    def thumbnail(self, max_side: int) -> Pixels:
        """Return the whole image as ``(h, w, c)``, its longer side at most `max_side`.

        Patiently: unlike a tile's read, nobody tries it again.
        """
        return patiently(lambda: super(RangedTiff, self).thumbnail(max_side))


def open_ranged_tiff(
    path: str,  # noqa: ARG001 - for people; the address opens it
    *,
    address: Address,
    content: tuple[int, str],
    frame: int = 0,
    mpp: tuple[float, float] | None = None,
    beside: FilesElsewhere | None = None,
) -> RangedTiff:
    """Open on a worker what `ranged_tiff` opened.

    Parameters
    ----------
    path : str
        The address without its secrets.
    address : Address
    content : (int, str)
        Size and tag under which it was opened.
    frame : int
        From 0.
    mpp : tuple of float, optional
    beside : FilesElsewhere, optional
        The files beside it, where there are any.

    Raises
    ------
    SourceError
        If it is another file by now.
    """
    remote = remote_file(address)
    look = patiently(remote.look)
    if (look.size, look.tag) != tuple(content) or not look.ranges:
        raise changed(address)
    source = ranged_tiff(remote, look, frame, mpp, beside or FilesElsewhere())
    if source is None:  # cannot be: it was opened so by the client
        raise changed(address)
    return source


def ranged_tiff(
    remote: Remote,
    look: Look,
    frame: int,
    mpp: tuple[float, float] | None,
    beside: FilesElsewhere | None = None,
) -> RangedTiff | None:
    """Open a picture of a TIFF file by ranges; None where it has no cheap windows.

    Parameters
    ----------
    remote : Remote
    look : Look
        That `remote` had of it; it serves ranges.
    frame : int
        From 0.
    mpp : tuple of float, optional
        Microns per pixel in x and y; overrides what the file says.
    beside : FilesElsewhere, optional
        The files beside it; None where nobody has asked yet.

    Raises
    ------
    SourceError
        If the file is damaged, or of a kind that cannot be read.
    """
    file = RangedFile(remote, look)
    with _parsed(file) as tif:
        if any(getattr(tif, kind, False) for kind in _SCANNERS):
            return None
        picture, metadata = lay_out(tif, file, frame, mpp)
    page = picture.levels[0].pages[0]
    # Rows that lie one after the other are at hand on a disk; elsewhere each costs a request.
    if page.free_rows or is_dear(page):
        return None
    if beside is None:
        asked = not frame
        beside = ask_beside(remote.address, picture, metadata) if asked else FilesElsewhere()
    picture, metadata = with_files_elsewhere(remote.address, beside, picture, metadata, _parsed)
    options: dict[str, object] = {"frame": frame, "mpp": mpp}
    source = RangedTiff(file, picture, metadata, options, look.fingerprint(remote.address))
    source.beside = beside
    return source


@contextmanager
def _parsed(file: RangedFile) -> Iterator[TiffFile]:
    cursor = Cursor(file)
    try:
        with parsed(file.path, cast("BinaryIO", cursor)) as tif:
            yield tif
    except TilevisionError:
        if cursor.trouble is None:
            raise
    # tifffile goes on without a part that it could not read, or calls the file damaged.
    if cursor.trouble is not None:
        raise cursor.trouble
