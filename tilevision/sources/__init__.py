"""Images of any size, read by the window."""

from tilevision.sources.depth import display_options, read_options, read_pixels, to_uint8
from tilevision.sources.identity import remembering
from tilevision.sources.opening import open_reference, open_source
from tilevision.sources.source import ImageMetadata, ImageSource, Pixels, ReadOptions, SourceRef

__all__ = [
    "ImageMetadata",
    "ImageSource",
    "Pixels",
    "ReadOptions",
    "SourceRef",
    "display_options",
    "open_reference",
    "open_source",
    "read_options",
    "read_pixels",
    "remembering",
    "to_uint8",
]
