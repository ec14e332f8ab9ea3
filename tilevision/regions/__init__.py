"""Regions of interest: the part of an image that is analysed, however it was given."""

from tilevision.regions.reading import read_region
from tilevision.regions.region import Region

__all__ = ["Region", "read_region"]
