"""A map in a sentence, for summaries."""

from __future__ import annotations

from tilevision.errors import CheckpointError
from tilevision.rasters.mapfacts import COUNTED
from tilevision.rasters.rastermap import RasterMap

__all__ = ["map_told"]

_LISTED = 5


def map_told(raster: RasterMap) -> tuple[str, str]:
    """Return what a map has, and how far its tiles agree: each in words, or empty.

    Where its arrays cannot be read, the first says so.
    """
    spec = raster.spec
    what = f"a map of {spec.kind}"
    try:
        counted = _counted(raster) if raster.size[0] * raster.size[1] <= COUNTED else ""
        agreement = raster.agreement
    except CheckpointError as error:
        return f"{what}, which cannot be read ({str(error).rstrip('.')})", ""
    return f"{what}{counted}", "" if agreement is None else str(agreement)


def _counted(raster: RasterMap) -> str:
    if raster.spec.kind == "values":
        rows = raster.stats()
        unit = f" {raster.unit}" if raster.unit else ""
        first = rows.iloc[0]
        return (
            f" (mean {first['mean']:.4g}{unit}, from {first['min']:.4g} to {first['max']:.4g}"
            f"{unit})"
            if first["pixels"]
            else " (no data)"
        )
    pixels = raster.class_pixels()
    whole = max(sum(pixels.values()), 1)
    largest = sorted(pixels.items(), key=lambda one: -one[1])
    told = [f"{name[:40]} {n / whole:.1%}" for name, n in largest[:_LISTED]]
    if len(largest) > _LISTED:
        told.append(f"{len(largest) - _LISTED} more")
    return f" ({', '.join(told)})"
