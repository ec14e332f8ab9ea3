"""Regions of interest: the part of an image that is analysed, however it was given."""

from tilevision.regions.region import Region
from tilevision.regions.regionreader import read_region

__all__ = ["Region", "read_region"]
