"""The shapes of detections: as GeoJSON, and as shapely geometries by the chunk.

The outline where there is one, else the rotated box, else the point of an empty box,
else the box.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.exporting.detectionrows import CHUNK, Detection, Ring, detections

if TYPE_CHECKING:
    from tilevision.result import Result

__all__ = ["geometry", "shaped"]


def geometry(detection: Detection) -> dict[str, Any]:
    """Return the shape of `detection` as a GeoJSON geometry, rings closed."""
    if detection.outline:
        parts = [[_closed(ring) for ring in part] for part in detection.outline]
        if len(parts) == 1:
            return {"type": "Polygon", "coordinates": parts[0]}
        return {"type": "MultiPolygon", "coordinates": parts}
    if detection.only_point:
        return {"type": "Point", "coordinates": detection.point}
    x0, y0, x1, y1 = detection.box
    corners = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
    return {"type": "Polygon", "coordinates": [_closed(corners)]}


def shaped(result: Result) -> Iterator[tuple[list[Detection], NDArray[np.object_]]]:
    """Yield some thousand detections at a time, with their shapely geometries ``(n,)``."""
    rows = detections(result)
    while chunk := list(islice(rows, CHUNK)):
        shapes = np.empty(len(chunk), dtype=object)
        shapes[:] = [_shape(detection) for detection in chunk]
        yield chunk, shapes


def _shape(detection: Detection) -> Any:
    import shapely

    if detection.outline:
        parts = [shapely.Polygon(exterior, holes) for exterior, *holes in detection.outline]
        return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    if detection.only_point:
        assert detection.point is not None
        return shapely.Point(detection.point)
    x0, y0, x1, y1 = detection.box
    return shapely.box(x0, y0, x1, y1)


def _closed(ring: Ring) -> Ring:
    return ring if ring[0] == ring[-1] else [*ring, ring[0]]
