"""Colours of Aperio's two JPEG 2000 compressions, as OpenSlide has them.

The compression says what the samples are, YCbCr (33003) or RGB (33005); the photometric tag of
such files may say anything. What imagecodecs decodes is RGB already where the colour samples are
stored at a lower resolution, and as stored where they are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilevision.sources.formats.pictures import to_rgb
from tilevision.sources.source import Pixels
from tilevision.sources.staging.rows import OpenFile

if TYPE_CHECKING:
    from tifffile import TiffPage

__all__ = ["AperioColours"]

_YCBCR, _RGB = 33003, 33005
_PHOTOMETRIC_RGB, _PHOTOMETRIC_YCBCR = 2, 6
_START = b"\xff\x4f\xff\x51"  # of a codestream, with the sizes of its components
_COMPONENTS = 42  # where those are listed: three bytes each, the last two their subsampling


class AperioColours:
    """What one page's tiles, once decoded, have to go through.

    Parameters
    ----------
    file : OpenFile
    page : TiffPage
        The key frame; its photometric tag is put right.

    Attributes
    ----------
    revision : str
        Names what earlier releases read wrongly in this page; empty if nothing.
    """

    def __init__(self, file: OpenFile, page: TiffPage) -> None:
        self._ycbcr = int(page.compression) == _YCBCR
        tagged = int(page.photometric) == _PHOTOMETRIC_YCBCR
        # Then samples were converted if the tag said so, and by imagecodecs if subsampled.
        start = _first_bytes(file, page) if self._ycbcr else b""
        once = (_is_subsampled(start) != tagged) if self._ycbcr else not tagged
        self.revision = "" if once else "jpeg2000 colours"
        page.photometric = _PHOTOMETRIC_RGB
        page.subsampling = (1, 1)

    @classmethod
    def of(cls, file: OpenFile, page: TiffPage) -> AperioColours | None:
        """Return what a page needs; None if its compression says nothing of colours."""
        named = int(page.compression) in (_YCBCR, _RGB)
        return cls(file, page) if named and int(page.samplesperpixel) == 3 else None

    def rgb(self, segment: Pixels, data: bytes) -> Pixels:
        """Return a decoded tile in RGB.

        Parameters
        ----------
        segment : ndarray, ``(h, w, 3)`` uint8
        data : bytes
            It was decoded from.
        """
        stored = self._ycbcr and not _is_subsampled(data[: _COMPONENTS + 9])
        return to_rgb(segment, "YCbCr") if stored else segment


def _first_bytes(file: OpenFile, page: TiffPage) -> bytes:
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if count > _COMPONENTS + 9 and 0 < offset <= file.size - count:
            return bytes(file.read(int(offset), _COMPONENTS + 9))
    return b""


def _is_subsampled(data: bytes) -> bool:
    """Return True if the second component of a codestream is coarser than its first."""
    components = data[_COMPONENTS : _COMPONENTS + 6]
    return data.startswith(_START) and components[4:6] != components[1:3]
