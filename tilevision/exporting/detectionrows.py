"""The detections of a result one by one, rounded for files, and their shapes.

A shape is the outline where there is one, else the rotated box, else the point of an empty box,
else the box.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.analysis.units import AREA_COLUMNS, areas
from tilevision.findings import Findings, plain
from tilevision.geometry import MultiPolygon, flattened

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData
    from tilevision.analysis.units import Units

__all__ = [
    "CHUNK",
    "Detection",
    "Ring",
    "detections",
    "geometry",
    "shaped",
    "turned_box",
    "unpacked",
]

CHUNK = 1024
HERE = (0.0, 0.0)

Ring = list[list[float]]


@dataclass(frozen=True, slots=True)
class Detection:
    """One detection in pixels of the full-resolution image, to 0.01 px.

    Parameters
    ----------
    box : list of float
        xmin, ymin, xmax, ymax, half-open.
    label : str
    class_id : int
    score : float, optional
    area : float
        Square pixels, of the outline where there is one.
    ground : float, optional
        The same in the image's units: µm² or m², where they are known.
    polygon : list of parts, optional
        Parts of rings (exterior, then holes) of x, y; not closed.
    oriented : list, optional
        Four corners x, y.
    point : list of float, optional
        x, y.
    text : str, optional
    attributes : mapping, optional
        Plain JSON values.
    keypoints : list of (x, y, score), optional
        Zeros for key points that it lacks.
    """

    box: list[float]
    label: str
    class_id: int
    score: float | None
    area: float
    ground: float | None
    polygon: list[list[Ring]] | None
    oriented: Ring | None
    point: list[float] | None
    text: str | None
    attributes: Mapping[str, Any] | None
    keypoints: list[list[float]] | None = None

    @property
    def only_point(self) -> bool:
        """True if it is a point and nothing else: its box is empty."""
        x0, y0, x1, y1 = self.box
        return self.point is not None and self.outline is None and (x0 == x1 or y0 == y1)

    @property
    def outline(self) -> list[list[Ring]] | None:
        """Parts of the polygon, else the rotated box as one part, else None."""
        return self.polygon or ([[self.oriented]] if self.oriented is not None else None)


def detections(result: ResultData, origin: tuple[float, float] = HERE) -> Iterator[Detection]:
    """Yield the merged detections in their canonical order, a few thousand unpacked at a time.

    Parameters
    ----------
    result : Result
    origin : tuple of float
        x, y of the pixel corner that coordinates are counted from.
    """
    found = result.findings
    units = result.units if result.units.area in AREA_COLUMNS else None
    yield from unpacked(found, result.class_numbers, origin, units)


def unpacked(
    found: Findings,
    numbers: NDArray[np.int64],
    origin: tuple[float, float] = HERE,
    units: Units | None = None,
) -> Iterator[Detection]:
    """Yield the rows of `found`, numbered by class as `numbers` ``(n,)`` says."""
    sizes = areas(found)
    for start in range(0, len(found), CHUNK):
        rows = slice(start, start + CHUNK)
        ground = _ground(found.boxes[rows], sizes[rows], units)
        shapes = _rounded_polygons(found.polygons[rows] if found.polygons else (), origin)
        yield from _chunk(found, numbers, sizes, ground, rows, np.array(origin), shapes)


def _ground(
    boxes: NDArray[np.float64], sizes: NDArray[np.float64], units: Units | None
) -> list[float | None]:
    if units is None:
        return [None] * len(boxes)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return list(np.round(units.of(centres, sizes), 4).tolist())


def _chunk(
    found: Findings,
    numbers: NDArray[np.int64],
    sizes: NDArray[np.float64],
    ground: list[float | None],
    rows: slice,
    origin: NDArray[np.float64],
    polygons: Sequence[list[list[Ring]] | None] = (),
) -> Iterator[Detection]:
    """Yield the detections of `rows`, with `polygons` where these are given."""
    boxes = _rounded(found.boxes[rows] - np.tile(origin, 2))
    columns = zip(
        boxes,
        found.labels[rows].tolist(),
        numbers[rows].tolist(),
        _optional(np.round(found.scores[rows], 5)),
        _rounded(sizes[rows]),
        ground,
        polygons or (None,) * len(boxes),
        _present(found.oriented, rows, len(boxes), origin),
        _present(found.points, rows, len(boxes), origin),
        _optional_column(found.texts, rows, len(boxes)),
        _optional_column(found.attributes, rows, len(boxes)),
        _poses(found.keypoints, rows, len(boxes), origin),
        strict=True,
    )
    for (
        *(box, label, number, score, size, real, shape, oriented, point, text, attributes),
        keypoints,
    ) in columns:
        yield Detection(
            box=box,
            label=str(label),
            class_id=number,
            score=score,
            area=size,
            ground=real,
            polygon=shape,
            oriented=oriented,
            point=point,
            text=text,
            attributes=attributes and plain(attributes),
            keypoints=keypoints,
        )


def _rounded(values: NDArray[np.float64]) -> list[Any]:
    out: list[Any] = (np.round(values, 2) + 0.0).tolist()  # no -0.0
    return out


def _optional(values: NDArray[np.float64]) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


def _optional_column(column: tuple[Any, ...] | None, rows: slice, n: int) -> tuple[Any, ...]:
    return (None,) * n if column is None else column[rows]


def _present(
    column: NDArray[np.float64] | None, rows: slice, n: int, origin: NDArray[np.float64]
) -> list[Any]:
    """Return the rows of an optional column of coordinates, None where they are NaN."""
    if column is None:
        return [None] * n
    values = column[rows] - origin
    empty: NDArray[np.bool_] = np.logical_or.reduce(np.isnan(values).reshape(n, -1), axis=1)
    return [None if e else v for v, e in zip(_rounded(values), empty, strict=True)]


def _poses(
    column: NDArray[np.float64] | None, rows: slice, n: int, origin: NDArray[np.float64]
) -> list[Any]:
    """Return the key points of rows, None where a row has none."""
    if column is None:
        return [None] * n
    values = column[rows].copy()
    values[..., :2] = np.round(values[..., :2] - origin, 2)
    values[..., 2] = np.round(values[..., 2], 5)
    lacking: NDArray[np.bool_] = np.asarray(np.isnan(values).any(axis=2))
    empty: NDArray[np.bool_] = np.logical_and.reduce(lacking, axis=1)
    values[lacking] = 0.0
    return [
        None if none else pose for none, pose in zip(empty, (values + 0.0).tolist(), strict=True)
    ]


def _rounded_polygons(
    shapes: Sequence[MultiPolygon | None], origin: tuple[float, float]
) -> list[list[list[Ring]] | None]:
    points, sizes, _ = flattened(shapes)
    rounded, ends = _rounded(points - np.array(origin)), np.cumsum(sizes).tolist()
    rings = map(rounded.__getitem__, map(slice, [0, *ends], ends))
    return [[[next(rings) for _ in part] for part in shape] if shape else None for shape in shapes]


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


def shaped(result: ResultData) -> Iterator[tuple[list[Detection], NDArray[np.object_]]]:
    """Yield some thousand detections at a time, with their shapely geometries ``(n,)``."""
    found, numbers = result.findings, result.class_numbers
    units = result.units if result.units.area in AREA_COLUMNS else None
    sizes = areas(found)
    for start in range(0, len(found), CHUNK):
        rows = slice(start, start + CHUNK)
        ground = _ground(found.boxes[rows], sizes[rows], units)
        chunk = list(_chunk(found, numbers, sizes, ground, rows, np.array(HERE)))
        outlines = found.polygons[rows] if found.polygons else (None,) * len(chunk)
        yield chunk, _shapes(chunk, outlines)


def _shapes(
    chunk: Sequence[Detection], outlines: Sequence[MultiPolygon | None]
) -> NDArray[np.object_]:
    """Return the geometry of each detection; the simple outlines, which are most, all at once."""
    import shapely

    shapes = np.empty(len(chunk), dtype=object)
    simple = [i for i, shape in enumerate(outlines) if shape and len(shape) == 1 == len(shape[0])]
    points, sizes, _ = flattened([outlines[i] for i in simple])
    index = np.repeat(np.arange(len(simple)), sizes)
    if simple:
        rings = shapely.linearrings(np.round(points, 2) + 0.0, indices=index)
        shapes[simple] = shapely.polygons(rings)
    for i, (detection, outline) in enumerate(zip(chunk, outlines, strict=True)):
        if shapes[i] is None:
            shapes[i] = _shape(detection, outline)
    return shapes


def _shape(detection: Detection, outline: MultiPolygon | None) -> Any:
    import shapely

    given = _rounded_polygons([outline], HERE)[0] or detection.outline
    if given:
        parts = [shapely.Polygon(exterior, holes) for exterior, *holes in given]
        return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    if detection.only_point:
        assert detection.point is not None
        return shapely.Point(detection.point)
    x0, y0, x1, y1 = detection.box
    return shapely.box(x0, y0, x1, y1)


def _closed(ring: Ring) -> Ring:
    return ring if ring[0] == ring[-1] else [*ring, ring[0]]


def turned_box(corners: Ring) -> tuple[float, float, float, float, float]:
    """Return centre x, y, width, height and the clockwise angle in degrees, 0 to 360.

    Parameters
    ----------
    corners : list of four x, y
        In order around the box, either way; the angle is that of the first edge, taken
        clockwise.
    """
    a, b, c, d = corners
    if (b[0] - a[0]) * (d[1] - a[1]) < (b[1] - a[1]) * (d[0] - a[0]):  # counterclockwise, y down
        b, d = d, b
    x, y = (sum(corner[axis] for corner in corners) / 4 for axis in (0, 1))
    width = (math.dist(a, b) + math.dist(d, c)) / 2
    height = (math.dist(b, c) + math.dist(a, d)) / 2
    along = (b[0] - a[0] + c[0] - d[0], b[1] - a[1] + c[1] - d[1])
    return x, y, width, height, math.degrees(math.atan2(along[1], along[0])) % 360
