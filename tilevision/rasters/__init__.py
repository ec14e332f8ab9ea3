"""Maps of a whole image, blended from those of its tiles when they are read.

Each pixel is computed from all tiles that cover it, in the order of the grid and with whole
numbers as weights: it depends on the tiles, and on nothing else.
"""

from tilevision.rasters.colours import hexadecimal
from tilevision.rasters.mapfacts import MapFacts
from tilevision.rasters.mappolygons import polygons_of
from tilevision.rasters.mapsettings import BLENDS, MapSettings
from tilevision.rasters.mapwords import map_told
from tilevision.rasters.rastermap import RasterMap, map_of
from tilevision.rasters.sampling import Cells, SampledBlender, Samples

__all__ = [
    "BLENDS",
    "Cells",
    "MapFacts",
    "MapSettings",
    "RasterMap",
    "SampledBlender",
    "Samples",
    "hexadecimal",
    "map_of",
    "map_told",
    "polygons_of",
]
