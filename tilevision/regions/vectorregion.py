"""Regions in files of geographic programs: GeoPackage, FlatGeobuf and Shapefile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import shapely

from tilevision.errors import GridError, SourceError
from tilevision.regions.geojsonregion import polygons_in_pixels
from tilevision.sources import ImageMetadata

__all__ = ["VECTOR_FILES", "vector_polygons"]

VECTOR_FILES = (".gpkg", ".fgb", ".shp")
_AREAS = ("Polygon", "MultiPolygon")


def vector_polygons(path: Path, metadata: ImageMetadata) -> tuple[list[Any], tuple[str, ...]]:
    """Return the polygons of a file in pixels of the image, and notes for the user.

    They lie in the file's own reference system. Where neither file nor image has one, they are
    pixels.

    Parameters
    ----------
    path : Path
    metadata : ImageMetadata
        Of the image.

    Raises
    ------
    GridError
        If the file holds no polygon, or lies outside the image's system.
    SourceError
        If pyogrio is not installed, the file cannot be read, or only one of file and image has a
        reference system.
    """
    try:
        import pyogrio
        from pyogrio.errors import DataLayerError, DataSourceError
        from pyogrio.raw import read
    except ImportError:
        raise SourceError(
            f"Region {path} needs pyogrio, which is not installed: pip install 'tilevision[geo]'."
        ) from None
    try:
        layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
        if len(layers) > 1:
            raise SourceError(
                f"Region {path} has the layers {', '.join(layers[:5])}; save the region as a file "
                "of one layer."
            )
        meta, _, wkb, _ = read(path, layer=layers[0] if layers else 0, columns=[])
        shapes = shapely.force_2d(shapely.from_wkb(wkb))
    except (DataSourceError, DataLayerError, ValueError, shapely.GEOSException) as error:
        raise SourceError(
            f"Region {path} cannot be read: {' '.join(str(error).split())[:200]}; export it again."
        ) from None
    found = [one for one in shapes if one is not None and one.geom_type in _AREAS]
    if not found:
        raise GridError(f"Region {path} holds no polygon; draw one around what to analyse.")
    dropped = len(shapes) - len(found)
    note = (f"region: {dropped:,} shapes that are no polygons were left out",)
    placed = metadata.crs is not None and metadata.transform is not None
    if placed != (meta["crs"] is not None):
        which = "the file has none" if placed else "the image has none"
        raise SourceError(
            f"Region {path} and the image both need a reference system, and {which}; give the "
            "region in pixels, as GeoJSON or a mask."
        )
    return (
        polygons_in_pixels(found, meta["crs"], metadata) if placed else found,
        note if dropped else (),
    )
