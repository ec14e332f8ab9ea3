"""Areas of one class as polygons along the edges of pixels: holes kept, joined across blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import RunError
from tilevision.findings import Findings
from tilevision.rasters.blending import NONE
from tilevision.rasters.rastermap import RasterMap

__all__ = ["polygons_of"]

_BLOCK = 2048  # pixels of the map: the larger, the less is to be joined


def polygons_of(raster: RasterMap, min_area: float = 0.0, simplify: float = 0.0) -> Findings:
    """Return a polygon for each area of one class, in pixels of the image.

    Pixels belong together that share an edge; what goes over blocks is one polygon.

    Parameters
    ----------
    raster : RasterMap
        Of classes.
    min_area : float
        Smaller ones are left out; in the unit of areas of the image.
    simplify : float
        By how many pixels of the image a simplified outline may be off, each by itself; 0: none.

    Raises
    ------
    RunError
        If the map has values, or rasterio is not installed.
    """
    import shapely

    if raster.spec.kind == "values":
        raise RunError("A map of values has no areas of one class; give it classes to outline.")
    found = _joined(raster, _pieces(raster))
    shapes: list[Any] = []
    numbers: list[int] = []
    for number in sorted(found):
        for shape in found[number]:
            placed = shapely.transform(shape, lambda points: points / raster.scale)
            kept = shapely.simplify(placed, simplify) if simplify else placed
            if not kept.is_empty and (not min_area or raster.ground(placed) >= min_area):
                shapes.append(kept)
                numbers.append(number)
    names = [str(raster.spec.classes[number]) for number in numbers]
    rings = [[np.asarray(ring.coords)[:-1] for ring in _rings(one)] for one in shapes]
    boxes = shapely.bounds(shapes) if shapes else ()
    return Findings(boxes, labels=names, class_ids=numbers, polygons=[[part] for part in rings])


def _pieces(raster: RasterMap) -> Any:
    """Yield class number, polygon in pixels of the map, and whether it reaches another block."""
    try:
        from rasterio.features import shapes
    except ImportError:
        raise RunError(
            "Polygons of a map need rasterio, which is not installed: "
            "pip install 'tilevision[geo]'."
        ) from None
    from shapely.geometry import shape

    width, height = raster.size
    for (x0, y0, x1, y1), planes in raster.blocks(_BLOCK):
        block: NDArray[np.uint8] = planes[0]
        for geometry, value in shapes(block, mask=block < NONE, connectivity=4):
            piece = shape(geometry)
            low_x, low_y, high_x, high_y = piece.bounds
            inner = (
                (low_x > 0 or x0 == 0)
                and (low_y > 0 or y0 == 0)
                and (high_x < x1 - x0 or x1 == width)
                and (high_y < y1 - y0 or y1 == height)
            )
            yield int(value), _moved(piece, x0, y0), not inner


def _moved(piece: Any, x: int, y: int) -> Any:
    import shapely

    return shapely.transform(piece, lambda points: points + np.array([x, y]))


def _joined(raster: RasterMap, pieces: Any) -> dict[int, list[Any]]:
    """Return polygons by class; those that reach into another block are joined with its own."""
    import shapely

    whole: dict[int, list[Any]] = {number: [] for number in raster.classes.values()}
    cut: dict[int, list[Any]] = {number: [] for number in whole}
    for number, piece, open_ in pieces:
        (cut if open_ else whole)[number].append(piece)
    for number, parts in cut.items():
        if parts:
            whole[number] += list(shapely.get_parts(shapely.union_all(parts)))
    # In the order of the image, whatever the blocks.
    return {
        number: sorted(shapes, key=lambda one: (one.bounds[1], one.bounds[0], one.wkb))
        for number, shapes in whole.items()
    }


def _rings(polygon: Any) -> list[Any]:
    return [polygon.exterior, *polygon.interiors]
