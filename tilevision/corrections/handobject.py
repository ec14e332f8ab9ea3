"""One object as a person saw it: geometry in pixels of the full-resolution image, and class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilevision.checks import is_number
from tilevision.display import readable
from tilevision.errors import ModelError, RunArgumentError
from tilevision.findings import Findings
from tilevision.geometry import Box, MultiPolygon, polygon
from tilevision.overlaps import geometries

__all__ = ["HandObject", "drawn_box", "drawn_outline", "geometry_columns", "named", "objects_of"]

DIGITS = 2  # as in the records of tiles
MOST_LABEL = 200  # characters
MOST_POINTS = 100_000  # of an outline
LEAST_SHARE = 0.1  # of an object's area: what reaches less into a tile is no object of the tile's

Boxed = tuple[float, float, float, float]
Key = tuple[Boxed, str]


@dataclass(frozen=True, slots=True, eq=False)
class HandObject:
    """One object. Coordinates are pixels of the full-resolution image, to 0.01 px.

    Parameters
    ----------
    box : tuple of float
        xmin, ymin, xmax, ymax, half-open.
    label : str
    score : float, optional
        The model's; None where it gave none, and for what a person added.
    polygon : parts of rings, optional
    oriented : array (4, 2), optional
        Corners of a rotated box.
    point : tuple of float, optional
    """

    box: Boxed
    label: str
    score: float | None = None
    polygon: MultiPolygon | None = None
    oriented: NDArray[np.float64] | None = None
    point: tuple[float, float] | None = None

    @property
    def key(self) -> Key:
        """What the object is found by in the result that it was taken from."""
        return self.box, self.label

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of its box."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    def within(self, box: Box) -> HandObject | None:
        """Return what of the object lies in `box`; None if less than a tenth of it does.

        Rotated boxes keep their corners.
        """
        import shapely

        (x0, y0, x1, y1), (left, top, right, bottom) = self.box, box.as_tuple()
        if x0 == x1 or y0 == y1:  # a point, or a line
            return self if left <= x0 <= right and top <= y0 <= bottom else None
        if left <= x0 and top <= y0 and x1 <= right and y1 <= bottom:
            return self
        whole = shapely.box(*self.box)
        if self.polygon is not None:
            whole = geometries(1, None, [self.polygon])[0]
        cut, share = _cut(whole, (left, top, right, bottom))
        if share < LEAST_SHARE:
            return None
        return replace(self, box=cut.box, polygon=self.polygon and cut.polygon)

    def named(self, label: str) -> Self:
        """Return the object under another class."""
        return replace(self, label=label)

    def shaped(self, other: HandObject) -> Self:
        """Return the object with the geometry of another."""
        return replace(
            self, box=other.box, polygon=other.polygon, oriented=other.oriented, point=other.point
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; what it lacks is left out."""
        said: dict[str, Any] = {"box": list(self.box), "label": self.label}
        if self.score is not None:
            said["score"] = self.score
        if self.polygon is not None:
            said["polygon"] = [[ring.tolist() for ring in part] for part in self.polygon]
        if self.oriented is not None:
            said["oriented"] = self.oriented.tolist()
        if self.point is not None:
            said["point"] = list(self.point)
        return said

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> HandObject:
        """Read what `to_dict` returned.

        Raises
        ------
        KeyError, TypeError, ValueError, ModelError
            If it is none.
        """
        x0, y0, x1, y1 = (float(value) for value in said["box"])
        oriented, point, score = said.get("oriented"), said.get("point"), said.get("score")
        if not (math.isfinite(x0 + y0 + x1 + y1) and x0 <= x1 and y0 <= y1):
            raise ValueError("no box")
        corners = None if oriented is None else np.array(oriented, np.float64).reshape(4, 2)
        return cls(
            (x0, y0, x1, y1),
            str(said["label"]),
            None if score is None else min(max(float(score), 0.0), 1.0),
            polygon(said.get("polygon")),
            corners,
            None if point is None else (float(point[0]), float(point[1])),
        )


def objects_of(findings: Findings, rows: Sequence[int]) -> list[HandObject]:
    """Return rows of findings, which are in pixels of the image, as objects."""
    boxes = np.round(findings.boxes, DIGITS) + 0.0  # no -0.0
    return [_object(findings, boxes, row) for row in rows]


def _object(found: Findings, boxes: NDArray[np.float64], row: int) -> HandObject:
    score = float(found.scores[row])
    shape = None if found.polygons is None else found.polygons[row]
    corners = None if found.oriented is None else found.oriented[row]
    point = None if found.points is None else found.points[row]
    x0, y0, x1, y1 = boxes[row].tolist()
    return HandObject(
        (x0, y0, x1, y1),
        str(found.labels[row]),
        None if math.isnan(score) else round(score, 5),
        shape and tuple(tuple(np.round(ring, DIGITS) + 0.0 for ring in part) for part in shape),
        None if corners is None or np.isnan(corners).any() else np.round(corners, DIGITS) + 0.0,
        None if point is None or np.isnan(point).any() else _pair(np.round(point, DIGITS)),
    )


def _pair(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def geometry_columns(objects: Sequence[HandObject]) -> dict[str, Any]:
    """Return boxes and, where any has one, polygons, rotated boxes and points, as columns."""
    n = len(objects)
    columns: dict[str, Any] = {"boxes": np.array([o.box for o in objects]).reshape(n, 4)}
    if any(o.polygon is not None for o in objects):
        columns["polygons"] = tuple(o.polygon for o in objects)
    if any(o.oriented is not None for o in objects):
        none = np.full((4, 2), np.nan)
        columns["oriented"] = np.array(
            [none if o.oriented is None else o.oriented for o in objects]
        )
    if any(o.point is not None for o in objects):
        columns["points"] = np.array([o.point or (np.nan, np.nan) for o in objects])
    return columns


def named(label: Any) -> str:
    """Return a class name as given.

    Raises
    ------
    RunError
        If it is none.
    """
    if not isinstance(label, str) or not label.strip():
        raise RunArgumentError(f"label is {label!r:.40}; give the name of a class.")
    if len(label) > MOST_LABEL:
        raise RunArgumentError(f"label has {len(label):,} characters; give {MOST_LABEL} at most.")
    if readable(label) != label:
        raise RunArgumentError(f"label is {label!r:.40}, which no file can hold; give whole text.")
    return label.strip()


def drawn_box(box: Any, size: tuple[int, int]) -> HandObject:
    """Return a box as an object without a class, cut to the image.

    Parameters
    ----------
    box : sequence of four numbers
        Two opposite corners, in any order.
    size : tuple of int
        Width and height of the image.

    Raises
    ------
    RunError
        If it is no box, or has no area within the image.
    """
    try:
        given = [value for value in box if is_number(value) and math.isfinite(value)]
    except TypeError:
        given = []
    if len(given) != 4:
        raise RunArgumentError(f"box is {box!r:.60}; give xmin, ymin, xmax, ymax in pixels.")
    xs = sorted(min(max(float(x), 0.0), float(size[0])) for x in given[::2])
    ys = sorted(min(max(float(y), 0.0), float(size[1])) for y in given[1::2])
    x0, x1, y0, y1 = (round(value, DIGITS) for value in (*xs, *ys))
    if x0 >= x1 or y0 >= y1:
        raise RunArgumentError(
            f"box {tuple(given)} has no area within the image of {size[0]:,} × {size[1]:,} px."
        )
    return HandObject((x0, y0, x1, y1), "")


def drawn_outline(outline: ArrayLike | Any, size: tuple[int, int]) -> HandObject:
    """Return an outline as an object without a class, cut to the image.

    One that crosses itself becomes the parts that it encloses.

    Parameters
    ----------
    outline : array (k, 2), or parts of rings
        As `Findings` takes polygons; closed or not.
    size : tuple of int
        Width and height of the image.

    Raises
    ------
    RunError
        If it is no outline, or has no area within the image.
    """
    try:
        shape = polygon(outline)
    except ModelError as error:
        raise RunArgumentError(f"outline is not understood: {error}") from None
    if shape is None:
        raise RunArgumentError("outline is None; give a ring (k, 2) of x, y in pixels.")
    if sum(len(ring) for part in shape for ring in part) > MOST_POINTS:
        raise RunArgumentError(f"outline has more than {MOST_POINTS:,} points; simplify it.")
    whole = geometries(1, None, [shape])[0]
    made, _ = _cut(whole, (0, 0, *size))
    if not made.polygon:
        raise RunArgumentError(
            f"outline has no area within the image of {size[0]:,} × {size[1]:,} px."
        )
    return made


def _cut(shape: Any, bounds: Boxed) -> tuple[HandObject, float]:
    """Return what of a shape lies within bounds, and which share; no part where nothing does."""
    import shapely

    rounded = shapely.set_precision(shape.intersection(shapely.box(*bounds)), 10**-DIGITS)
    parts = tuple(
        tuple(
            np.round(np.asarray(ring.coords)[:-1], DIGITS) + 0.0
            for ring in (part.exterior, *part.interiors)
        )
        for part in shapely.get_parts(shapely.get_parts([rounded]))
        if part.geom_type == "Polygon" and not part.is_empty
    )
    x0, y0, x1, y1 = (float(value) for value in np.round(shapely.bounds(rounded), DIGITS))
    share = float(rounded.area / shape.area) if shape.area else 0.0
    return HandObject((x0, y0, x1, y1), "", polygon=parts), share
