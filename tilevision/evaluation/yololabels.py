"""Truth in YOLO's labels: a class number and shares of the sides on each line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.errors import SourceError
from tilevision.evaluation.annotated import Pictured, Truth
from tilevision.evaluation.truthshapes import findings_of_shapes, valid

__all__ = ["yolo"]

Floats = NDArray[np.float64]

_SURE = 3  # key points; of fewer, an outline may look like them
_ROUNDED = 0.005  # shares by which a point may lie beside its box
_BEYOND = 1.5  # shares of the sides; labels reach beyond the picture, but not by so much


def yolo(path: Path, pictured: Pictured) -> Truth:
    """Read YOLO labels: boxes, with or without scores or key points, and outlines.

    Raises
    ------
    SourceError
        If the size of the image is not known, or a line is no label.
    """
    if pictured.size is None:
        raise SourceError(f"{path} is in shares of the sides; give the size of the image.")
    said = _description(path)
    names = _names(said, path) or pictured.names
    rows = [
        line.replace(",", " ").split()
        for line in path.read_text("utf-8-sig").splitlines()
        if line.strip()
    ]
    if any(_is_text(row[0]) or not all(map(_is_number, row)) for row in rows):
        raise SourceError(
            f"{path} has a line that is not a class number and shares of the sides; it is no file "
            "of YOLO labels."
        )
    known = Pictured(names=tuple(names))
    points = _key_points(said) or _shown_points(rows)
    shapes = [_yolo_shape(path, row, np.array(pictured.size), points) for row in rows]
    labels = [known.class_name(int(float(row[0]))) for row in rows]
    return Truth(findings_of_shapes(np.array(shapes, dtype=object), labels))


def _shown_points(rows: Sequence[Sequence[str]]) -> int:
    """Return how many numbers of key points a line has where some are visible (2); else 0."""
    for row in rows:
        values = np.array([float(one) for one in row[1:]])
        if len(values) > 5 and len(values) % 3 == 1 and (values[6::3] == 2).any():
            return len(values) - 4 if _is_pose(values) else 0
    return 0


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _is_text(text: str) -> bool:
    return not _is_number(text) or not float(text).is_integer() or float(text) < 0


def _yolo_shape(path: Path, row: Sequence[str], size: NDArray[Any], points: int) -> Any:
    """Return what a line says: a box, with a score or key points, or else corners of an outline.

    `points` is how many numbers of key points the data set states for each object.
    """
    values = np.array([float(one) for one in row[1:]])
    posed = points > 0 and len(values) - points in (4, 5)
    pose = posed or len(values) in (4, 5) or _is_pose(values)
    if pose is None:
        raise SourceError(
            f"{path} has a line that may be a box with two key points or an outline of five "
            "corners; put data.yaml with its kpt_shape beside the labels."
        )
    if pose:
        _check_shares(path, values[:4])
        centre, sides = values[:2] * size, values[2:4] * size / 2
        return shapely.box(*(centre - sides), *(centre + sides))
    if len(values) >= 6 and len(values) % 2 == 0:
        _check_shares(path, values)
        return valid(shapely.Polygon(np.reshape(values, (-1, 2)) * size))
    raise SourceError(
        f"{path} has a line of {len(row)} numbers; YOLO has class, x, y, width and height, or "
        "class and corners."
    )


def _is_pose(values: Floats) -> bool | None:
    """Return True for a box and triples whose last number is a visibility, with or without a score.

    Some are visible (2), or all that are labelled lie in the box: an outline that happens to have
    0 or 1 at these places does not. None: two hidden key points, or an outline of five corners.
    """
    rows = np.reshape(values[4 : 4 + (len(values) - 4) // 3 * 3], (-1, 3))
    scored = len(values) % 3 == 2 and len(rows) >= _SURE and 0 <= values[-1] <= 1
    if not len(rows) or not (len(values) % 3 == 1 or scored):
        return False
    if not np.isin(rows[:, 2], (0, 1, 2)).all():
        return False
    inside = np.abs(rows[:, :2] - values[:2]) <= values[2:4] / 2 + _ROUNDED
    labelled = rows[:, 2] > 0
    if (rows[:, 2] == 2).any() or not rows.any():  # visible; or none of them is labelled
        return True
    enough = len(values) % 2 == 1 or len(rows) >= _SURE
    posed = bool(labelled.any() and inside[labelled].all())
    return None if posed and not enough else posed


def _check_shares(path: Path, values: Floats) -> None:
    if values.max() > _BEYOND or values.min() < 1 - _BEYOND:
        raise SourceError(
            f"{path} holds {values.max():g}, and YOLO counts in shares of the sides, from 0 to 1; "
            "divide pixels by the width and height of the image."
        )


def _description(path: Path) -> Mapping[str, Any]:
    """Return what the ``data.yaml`` beside or above the labels says; nothing where there is none.

    Raises
    ------
    SourceError
        If it is no YAML.
    """
    import yaml

    found = next((file for file in _beside(path, "data.yaml")), None)
    if found is None:
        return {}
    try:
        said = yaml.safe_load(found.read_text("utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SourceError(f"{found} is no YAML ({reason}); correct it there.") from error
    return said if isinstance(said, Mapping) else {}


def _beside(path: Path, name: str) -> Iterator[Path]:
    return (above / name for above in path.parents[:3] if (above / name).is_file())


def _names(said: Mapping[str, Any], path: Path) -> tuple[str | None, ...]:
    """Return the class names that a ``data.yaml`` lists, else a file of one name a line.

    LabelImg writes ``classes.txt``, Darknet and CVAT ``obj.names``.
    """
    listed = said.get("names")
    if isinstance(listed, Mapping):
        numbered = {int(number): str(name) for number, name in listed.items()}
        return tuple(numbered.get(i) for i in range(max(numbered, default=-1) + 1))
    if isinstance(listed, list):
        return tuple(map(str, listed))
    for one in (*_beside(path, "classes.txt"), *_beside(path, "obj.names")):
        lines = one.read_text("utf-8-sig", errors="replace").splitlines()
        if named := [line.strip() for line in lines if line.strip()]:
            return tuple(named)
    return ()


def _key_points(said: Mapping[str, Any]) -> int:
    """Return how many numbers of key points a ``data.yaml`` states for each object, or 0."""
    shape = said.get("kpt_shape")
    if not (isinstance(shape, list) and [type(number) for number in shape] == [int, int]):
        return 0
    return int(shape[0] * shape[1])
