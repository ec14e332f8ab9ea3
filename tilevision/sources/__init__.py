"""Images of any size, read by the window."""

from tilevision.sources.addresses import ALL_PAGES, file_of
from tilevision.sources.depth import (
    display_options,
    read_options,
    read_pixels,
    read_shown,
    to_uint8,
)
from tilevision.sources.formats.video import frames
from tilevision.sources.identity import remembering
from tilevision.sources.imagelists import images_in, pages
from tilevision.sources.opening import check_unchanged, open_reference, open_source
from tilevision.sources.source import (
    ImageMetadata,
    ImageSource,
    Pixels,
    ReadOptions,
    SourceRef,
    check_readable,
)
from tilevision.sources.staging.stagingfile import StagingProgress, following, is_followed, sweep

__all__ = [
    "ALL_PAGES",
    "ImageMetadata",
    "ImageSource",
    "Pixels",
    "ReadOptions",
    "SourceRef",
    "StagingProgress",
    "check_readable",
    "check_unchanged",
    "display_options",
    "file_of",
    "following",
    "frames",
    "images_in",
    "is_followed",
    "open_reference",
    "open_source",
    "pages",
    "read_options",
    "read_pixels",
    "read_shown",
    "remembering",
    "sweep",
    "to_uint8",
]
