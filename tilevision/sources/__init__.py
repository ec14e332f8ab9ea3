"""Images of any size, read by the window."""

from tilevision.sources.source import ImageMetadata, ImageSource, Pixels, ReadOptions, SourceRef

__all__ = ["ImageMetadata", "ImageSource", "Pixels", "ReadOptions", "SourceRef"]
