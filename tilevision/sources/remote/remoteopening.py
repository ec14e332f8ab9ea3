"""From an address to a source: by ranges where that pays, else downloaded."""

from __future__ import annotations

from dataclasses import replace

from tilevision.errors import SourceError, Throttled, TilevisionError, TransientError
from tilevision.sources.addresses import Address, address_of
from tilevision.sources.formats.slides import is_slide
from tilevision.sources.levels import LevelReader
from tilevision.sources.remote.downloads import download
from tilevision.sources.remote.protocols import remote_file
from tilevision.sources.remote.remotefile import patiently
from tilevision.sources.remote.remotetiff import TIFF, ranged_tiff
from tilevision.sources.remote.remotezarr import is_remote_zarr, open_remote_zarr

__all__ = ["open_remote"]


def open_remote(
    name: str,
    *,
    page: int | None = None,
    mpp: tuple[float, float] | None = None,
    dpi: float | None = None,
) -> LevelReader:
    """Open an image at an address.

    Tiled TIFF is read by ranges of bytes, where the server has them and says by a tag when the
    content changes. All else is downloaded once.

    Parameters
    ----------
    name : str
        The address.
    page, mpp, dpi
        As `open_source` takes them.

    Raises
    ------
    SourceError
        If it cannot be reached or read, or is not an image.
    """
    address = address_of(name)
    page = address.page if page is None else page
    address = replace(address, page=None)
    try:
        if ".zarr" in address.name and patiently(lambda: is_remote_zarr(address)):
            return open_remote_zarr(address.shown, address=address, frame=(page or 1) - 1, mpp=mpp)
        remote = remote_file(address)
        try:
            look = patiently(remote.look)
        except SourceError:
            if _is_folder_of_zarr(address):
                return open_remote_zarr(
                    address.shown, address=address, frame=(page or 1) - 1, mpp=mpp
                )
            raise
        if look.size == 0 or not look.start:
            raise SourceError(f"{address} is empty (0 bytes): the upload did not finish.")
        tiff = look.ranges and look.start.startswith(TIFF) and dpi is None
        if tiff and not is_slide(address.name, tiff=False):
            source = ranged_tiff(remote, look, (page or 1) - 1, mpp)
            if source is not None:
                return source
        return download(remote, look, page, mpp, dpi)
    except (TransientError, Throttled) as error:  # here nobody tries again
        raise SourceError(str(error)) from None


def _is_folder_of_zarr(address: Address) -> bool:
    """Return True if what cannot be read itself, as folders cannot, is a store.

    Where that is refused as well, people shall read what was said of their own address.
    """
    try:
        return is_remote_zarr(address)
    except TilevisionError:
        return False
