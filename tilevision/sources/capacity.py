"""Refusing, before memory or disk are gone, what would exhaust them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tilevision.errors import SourceError

__all__ = ["available_memory", "check_decodes", "check_plausible", "too_big"]

# Of the free memory, for one decoder: the notebook and the workers live from the rest.
_SHARE = 0.6
# What the flat formats can squeeze out of one colour: 8,000 pixels a byte in a bilevel PNG.
_PIXELS_PER_BYTE = 10_000
_HARMLESS_PIXELS = 10**8
_REMEDY = (
    "convert it to a tiled TIFF, which is read by the window "
    "(for example: vips tiffsave IN OUT.tif --tile --compression deflate --bigtiff)"
)


def available_memory() -> int:
    """Return the bytes this process may still take: of the machine, or of its container."""
    import psutil

    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    return max(0, free)


def check_decodes(
    name: str, width: int, height: int, bytes_per_pixel: float, remedy: str = ""
) -> None:
    """Check that an image which has to be decoded whole fits in memory.

    `remedy` ends in "or ": what else helps beside converting the file.

    Raises
    ------
    SourceError
        If it has no pixels, or needs more memory than there is.
    """
    if width < 1 or height < 1:
        raise SourceError(f"{name} says it is {width}×{height} px; get the file again.")
    needed = width * height * bytes_per_pixel
    free = available_memory()
    if needed > free * _SHARE:
        figures = f" ({needed / 1e9:,.1f} GB needed, {free / 1e9:,.1f} GB free)"
        raise too_big(name, width, height, figures, remedy)


def check_plausible(name: str, width: int, height: int, file_bytes: int) -> None:
    """Check that a flat picture's file is long enough for the pixels it claims to hold.

    Raises
    ------
    SourceError
        If a few bytes claim hundreds of megapixels: a damaged header, or a bomb.
    """
    pixels = width * height
    if pixels > _HARMLESS_PIXELS and pixels > file_bytes * _PIXELS_PER_BYTE:
        raise SourceError(
            f"{name} says it is {width}×{height} px, but has only {file_bytes:,} bytes: it is "
            f"damaged or made to exhaust memory; if it is really that empty, {_REMEDY}"
        )


def too_big(name: str, width: int, height: int, figures: str = "", remedy: str = "") -> SourceError:
    """Return the error for a picture that cannot be decoded in memory, with the remedy."""
    return SourceError(
        f"{name} is {width}×{height} px and has to be decoded whole, for which there is not "
        f"enough memory{figures}; {remedy}{_REMEDY}"
    )
