"""What a result is written to: one file a format, and `save`, which finds the format."""

from tilevision.exporting.saving import FORMATS, SUFFIXES, destination, save

__all__ = ["FORMATS", "SUFFIXES", "destination", "save"]
