"""What a user's model may return, and how it becomes findings.

Every answer is first read as columns of equal length, whatever its form, and those become findings
in one way: what is missing (None, NaN, pandas' NA) is missing in every column, scores a hair
outside 0 to 1 are clipped, class names and class numbers may come together, and a row that makes
no sense is named by its number.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.answercolumns import (
    are_poses,
    left_out,
    of_poses,
    of_supervision,
    outlines_of,
    pose_of,
    poses_of,
)
from tilevision.adapters.classnames import class_name
from tilevision.adapters.foreignvalues import (
    as_attributes,
    as_plain_array,
    as_plain_value,
    is_missing,
    unwrapped,
)
from tilevision.adapters.pixels import are_shares
from tilevision.checks import is_number
from tilevision.errors import ModelError
from tilevision.findings import SCORE_SLACK, Findings

__all__ = ["KEYS", "findings_of"]

# Key of a detection given as a dict or a column of a table, to what it means; several spellings
# are in use. "class" may be a name or a number.
KEYS = {
    "box": "box",
    "bbox": "box",
    "xmin": "xmin",
    "ymin": "ymin",
    "xmax": "xmax",
    "ymax": "ymax",
    "x1": "xmin",
    "y1": "ymin",
    "x2": "xmax",
    "y2": "ymax",
    "score": "score",
    "confidence": "score",
    "conf": "score",
    "label": "class",
    "class": "class",
    "cls": "class",
    "class_name": "class",
    "name": "class",
    "class_id": "class_id",
    "polygon": "polygon",
    "geometry": "geometry",
    "oriented": "oriented",
    "point": "point",
    "points": "point",
    "keypoints": "keypoints",
    "text": "text",
    "attributes": "attributes",
    "embedding": "embedding",
}
# Keys that libraries' own rows have beside them: what they say is known otherwise, or is of no use
# in a tile. DeepForest names the picture; Roboflow numbers its rows and says what they are.
_IGNORED = {"image_path", "image", "detection_id", "prediction_type", "parent_id"}
_FIELDS = KEYS.keys() | _IGNORED
_CENTRED = ("x", "y", "width", "height")  # Roboflow's boxes: a centre and a size
_ACCEPTED = (
    "Return Findings, None, an (n, 4) to (n, 6) array of xmin, ymin, xmax, ymax, score, class, a "
    "list of dicts with box, score, label, polygon, …, a DataFrame of such columns, or "
    "supervision.Detections."
)
_MASKS = (
    "Declare what the array is, as tv.model(f, returns='probabilities', classes=('water', …)): "
    "probabilities (k, h, w), classes (h, w), values (h, w), instances (a mask of numbered "
    "objects) or embedding"
)
_IN_SHARES = (
    "All boxes lie between 0 and 1, as shares of the tile's sides do; give pixels: multiply x by "
    "pixels.shape[1] and y by pixels.shape[0]"
)
# Columns of a mapping of columns, as torchvision's detectors return them.
_COLUMNS = {
    *("boxes", "scores", "labels", "class_ids", "masks", "keypoints", "keypoints_scores"),
    "text_labels",  # of Grounding DINO
    "embeddings",
}
_EDGES = ("xmin", "ymin", "xmax", "ymax")
_OPTIONAL = (
    *("score", "label", "class_id", "polygon", "oriented", "point", "text"),
    *("keypoints", "embedding"),
)

# Columns by name: boxes, scores, labels, class_ids, oriented, points, polygons, texts, attributes.
Columns = dict[str, Any]
_NOTHING = Findings()  # findings never change: one for all


class _UnknownKey(ModelError):
    """A key that nobody knows: a mistake in the function, whatever the row."""


def findings_of(answer: Any, name: str, names: Any = None, on_bad: str = "raise") -> Findings:
    """Read what a model returned for one tile.

    Parameters
    ----------
    answer : Findings, None, array (n, 4..6), list of dict, DataFrame or supervision.Detections
        Boxes in pixels of the tile, half-open: xmin, ymin, xmax, ymax. A dict has ``box`` (or
        ``bbox``, or ``xmin`` … ``ymax``), and may have ``score``, ``label``, ``class_id``,
        ``polygon``, ``oriented``, ``point``, ``keypoints`` (k rows of x, y, and a confidence
        if there is one), ``text``, ``attributes`` and, all or none of them, ``embedding`` (d
        numbers); a polygon or point may stand without a box.
        ``class`` and ``label`` may be the name or the number of a class,
        and may come together with ``name``, ``class_name`` or ``class_id``. Tables of DeepForest
        and predictions of Roboflow are read as they are. None, NaN and NA mean "missing".
    name : str
        The model, for errors.
    names : sequence or mapping, optional
        Class names by class number; without, ``class_0``.
    on_bad : str
        What happens to the tile if a detection makes no sense (an inverted box, a score of 7):
        ``"raise"``, or ``"drop"``: the detection is left out, and the tile's note says so.

    Raises
    ------
    ModelError
        If it is anything else, or makes no sense: says what came and what is accepted.
    """
    if type(answer) is list and not answer:  # as of most tiles: read between a device's calls
        return _NOTHING
    if isinstance(answer, Findings):
        _check_tile_scores(answer, name)
    try:
        found = answer if isinstance(answer, Findings) else _read(answer, names, on_bad)
        _check_pixels(found)
    except (ModelError, TypeError, ValueError) as error:
        raise ModelError(f"Model {name} returned {_shown(answer)}: {_line(error)}.") from None
    return found


def _check_tile_scores(found: Findings, name: str) -> None:
    for label, score in found.tile_scores.items():
        if not (is_number(score) and -SCORE_SLACK <= score <= 1 + SCORE_SLACK):
            raise ModelError(
                f"Model {name} returned tile score {score!r:.40} for {label!r:.40}, which is no "
                "probability from 0 to 1; scale it, or put the number into a detection's "
                "attributes."
            )


def _check_pixels(found: Findings) -> None:
    if are_shares(found.boxes):
        raise ModelError(_IN_SHARES)


def _read(answer: Any, names: Any, on_bad: str) -> Findings:
    answer = unwrapped(answer, _FIELDS)
    rows = _rows_of(answer)
    bad: dict[int, str] = {}
    if rows is None:
        columns = _columns_of(answer)
        numbers = list(range(1, 1 + _length(columns)))
    else:
        read = _read_rows(rows, names, bad)
        columns, numbers = _joined(list(read.values())), list(read)
    if on_bad == "drop":
        found = _good(columns, numbers, names, bad)
    elif bad:
        number = min(bad)
        raise ModelError(f"Detection {number} of {len(numbers) + len(bad)}: {bad[number]}.")
    else:
        found = _whole(columns, names)
    if lost := left_out(answer):
        return Findings(**found.columns, note=f"{found.note} {lost}".strip())
    return found


def _line(error: Exception) -> str:
    return str(error).rstrip(".")


# Forms of answers -------------------------------------------------------------------------


def _rows_of(answer: Any) -> Sequence[Mapping[str, Any]] | None:
    """Return the detections of an answer that lists them one by one; None where it does not."""
    if isinstance(answer, Mapping):
        return None if "boxes" in answer else [answer]
    dicts = isinstance(answer, (list, tuple)) and all(isinstance(row, Mapping) for row in answer)
    return answer if dicts and answer else None


def _columns_of(answer: Any) -> Columns:
    if answer is None:
        return {}
    if are_poses(answer):
        return of_poses(answer)
    first = answer[0] if isinstance(answer, (list, tuple)) and answer else answer
    if type(first).__module__.startswith("ultralytics"):
        raise ModelError(
            "Return result.boxes.data.cpu().numpy(), and hand the model pixels[..., ::-1], since "
            "it expects BGR and tiles are RGB."
        )
    if hasattr(answer, "xyxy") and hasattr(answer, "confidence"):
        return of_supervision(answer)
    answer = as_plain_array(answer)
    if isinstance(answer, Mapping):
        return _of_mapping(answer)
    if isinstance(answer, np.ndarray):
        return _of_array(answer)
    if isinstance(answer, (list, tuple)):
        return _of_list(answer)
    raise ModelError(_ACCEPTED)


def _of_list(answer: Sequence[Any]) -> Columns:
    if not answer:
        return {}
    if _are_columns(parts := [as_plain_array(part) for part in answer]):
        return _of_mapping(dict(zip(("boxes", "scores", "labels"), parts, strict=False)))
    try:
        array = np.array([np.asarray(item, dtype=np.float64) for item in answer])
    except (TypeError, ValueError):
        raise ModelError(_ACCEPTED) from None
    return _of_array(array)


def _are_columns(parts: Sequence[Any]) -> bool:
    """Return True for boxes ``(n, 4)`` with scores ``(n,)``, and maybe classes ``(n,)``."""
    shapes = [np.shape(part) for part in parts if isinstance(part, np.ndarray)]
    if len(shapes) < len(parts) or len(parts) not in (2, 3):
        return False
    first, *others = shapes
    return len(first) == 2 and first[1] == 4 and all(shape == first[:1] for shape in others)


def _of_array(array: NDArray[Any]) -> Columns:
    if array.size == 0:
        return {}
    if array.ndim != 2 or array.shape[1] not in (4, 5, 6) or array.dtype.kind not in "iufb":
        picture = array.ndim in (2, 3) and array.dtype.kind in "iufb" and min(array.shape[-2:]) > 6
        raise ModelError(_MASKS if picture else _ACCEPTED)
    array = array.astype(np.float64)
    columns: Columns = {"boxes": array[:, :4]}
    if array.shape[1] > 4:
        columns["scores"] = array[:, 4]
    if array.shape[1] > 5:
        columns["class_ids"] = array[:, 5]
    return columns


def _of_mapping(answer: Mapping[str, Any]) -> Columns:
    """Read columns as torchvision gives them."""
    extra = set(answer) - _COLUMNS
    if extra:
        raise ModelError(f"Key {sorted(map(str, extra))[0]!r} is not known. {_ACCEPTED}")
    given = {key: as_plain_array(value) for key, value in answer.items()}
    columns: Columns = {"boxes": given["boxes"]}
    if given.get("scores") is not None:
        columns["scores"] = given["scores"]
    labels = answer.get("text_labels", given.get("labels"))
    if labels is not None:
        known = [label for label in labels if not is_missing(label)]
        for label in known:
            _check_class(label)
        numbers = bool(known) and all(map(_is_class_number, known))
        columns["class_ids" if numbers else "labels"] = labels
    if given.get("class_ids") is not None:
        columns["class_ids"] = given["class_ids"]
    if given.get("masks") is not None:
        columns["polygons"] = outlines_of(given["masks"])
    if given.get("keypoints") is not None:
        columns["keypoints"] = given["keypoints"]
    if given.get("embeddings") is not None:
        columns["embeddings"] = given["embeddings"]
    if given.get("keypoints_scores") is not None:  # of Keypoint R-CNN: no probabilities
        sure = np.asarray(given["keypoints_scores"], float).tolist()
        columns["attributes"] = [{"keypoints_scores": one} for one in sure]
    return columns


# Rows -------------------------------------------------------------------------------------


def _read_rows(
    rows: Sequence[Mapping[str, Any]], names: Any, bad: dict[int, str]
) -> dict[int, dict[str, Any]]:
    """Return rows by number, from 1; what is wrong with the others goes into `bad`."""
    read = {}
    for number, row in enumerate(rows, 1):
        try:
            read[number] = _row({str(k): as_plain_value(v) for k, v in row.items()}, names)
        except _UnknownKey:
            raise
        except (ModelError, TypeError, ValueError) as error:
            bad[number] = _line(error)
    return read


def _joined(read: Sequence[Mapping[str, Any]]) -> Columns:
    """Return rows as columns; a column that no row has is none."""
    found = {
        name: [row.get(name) for row in read]
        for name in _OPTIONAL
        if any(name in row for row in read)
    }
    if not read:
        return {}
    columns: Columns = {"boxes": [row["box"] for row in read]}
    if "score" in found:
        columns["scores"] = [math.nan if value is None else value for value in found["score"]]
    if "class_id" in found:
        columns["class_ids"] = [-1 if value is None else value for value in found["class_id"]]
    for name, column, shape in (("oriented", "oriented", (4, 2)), ("point", "points", (2,))):
        if name in found:
            column_of = [np.full(shape, np.nan) if v is None else v for v in found[name]]
            columns[column] = column_of
    if "keypoints" in found:
        columns["keypoints"] = poses_of(found["keypoints"])
    if "embedding" in found:
        columns["embeddings"] = found["embedding"]
    plural = {"label": "labels", "polygon": "polygons", "text": "texts"}
    columns |= {plural[name]: found[name] for name in plural if name in found}
    if any("attributes" in row for row in read):
        columns["attributes"] = [row.get("attributes") for row in read]
    return columns


def _row(given: Mapping[str, Any], names: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    classes: list[Any] = []
    centred = all(edge in given for edge in _CENTRED)
    for key, value in given.items():
        if key in _IGNORED or (centred and key in _CENTRED) or is_missing(value):
            continue
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, 1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Known are {', '.join(KEYS)}."
            raise _UnknownKey(
                f"Key {key!r} is not known. {hint} Further values go into 'attributes'."
            )
        if KEYS[key] == "class":
            classes.append(value)
        else:
            row[_meaning(key, value)] = value
    row |= _class_of(classes, row.get("class_id"), names)
    if "keypoints" in row:
        row["keypoints"] = pose_of(row["keypoints"])
    if "text" in row:
        row["text"] = str(row["text"])
    if "attributes" in row:
        row["attributes"] = as_attributes(row["attributes"])
    return _shaped(row, [given[edge] for edge in _CENTRED] if centred else None)


def _meaning(key: str, value: Any) -> str:
    """Return what a key means: Roboflow's ``points`` are those of an outline."""
    if key == "points" and isinstance(value, (list, tuple)) and isinstance(value[0], Mapping):
        return "outline"
    return KEYS[key]


def _class_of(stated: Sequence[Any], number: Any, names: Any) -> dict[str, Any]:
    """Return label and class number, from what stands under any of their keys, in any order."""
    for value in stated:
        _check_class(value)
    texts = [str(value) for value in stated if not _is_class_number(value)]
    numbers = [value for value in stated if _is_class_number(value)]
    found: dict[str, Any] = {}
    if number is None and numbers:
        found["class_id"] = number = numbers[0]
    if texts:
        found["label"] = texts[0]
    elif numbers and names is None:
        found["label"] = f"{numbers[0]:g}"  # as it was written
    return found


def _is_class_number(value: Any) -> bool:
    return is_number(value) and float(value).is_integer()


def _check_class(value: Any) -> None:
    """Refuse a number that is none of a class, as a score that stands in its place."""
    if is_number(value) and not _is_class_number(value):
        raise ModelError(
            f"Class {float(value):g} is no whole number; boxes come first, then scores, and then "
            "classes."
        )


def _shaped(row: dict[str, Any], centred: Sequence[Any] | None) -> dict[str, Any]:
    """Give a row its box, from whatever says where it lies."""
    if "outline" in row:
        row["polygon"] = [[corner["x"], corner["y"]] for corner in row.pop("outline")]
    if centred is not None and not any(map(is_missing, centred)):
        x, y, width, height = map(float, centred)
        row["box"] = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    if all(edge in row for edge in _EDGES):
        row["box"] = [row.pop(edge) for edge in _EDGES]
    if isinstance(row.get("box"), Mapping):  # as pipelines of transformers give it
        row["box"] = [{KEYS.get(key): at for key, at in row["box"].items()}[e] for e in _EDGES]
    elif "box" in row:
        row["box"] = np.ravel(row["box"])
    if hasattr(row.get("polygon"), "geom_type"):  # one of shapely's, under the other name
        row["geometry"] = row.pop("polygon")
    if "geometry" in row:
        _take_geometry(row)
    if "box" not in row:
        row["box"] = _around(row)
    return row


def _take_geometry(row: dict[str, Any]) -> None:
    """Read a shape of shapely's, as tables of geopandas and DeepForest hold them."""
    shape = row.pop("geometry")
    if shape.geom_type == "Point":
        row.setdefault("point", [shape.x, shape.y])
    elif shape.geom_type in ("Polygon", "MultiPolygon") and not shape.is_empty:
        if "box" not in row:
            row["box"] = list(shape.bounds)
        if not shape.equals(shape.envelope):  # a box says no more than the box
            parts = getattr(shape, "geoms", [shape])
            row["polygon"] = [
                [np.asarray(ring.coords)[:-1, :2] for ring in (part.exterior, *part.interiors)]
                for part in parts
            ]


def _around(row: Mapping[str, Any]) -> list[float]:
    """Return the box around a detection given by its shape or point alone."""
    from tilevision.geometry import polygon

    if "polygon" in row:
        parts = polygon(row["polygon"]) or ()
        corners = np.concatenate([part[0] for part in parts]) if parts else np.empty((0, 2))
    else:
        value = row.get("oriented", row.get("point"))
        corners = (
            np.empty((0, 2)) if value is None else np.reshape(np.asarray(value, float), (-1, 2))
        )
    if not len(corners):
        raise ModelError("A detection has no box; give box: (xmin, ymin, xmax, ymax).")
    return [*corners.min(axis=0), *corners.max(axis=0)]


# Columns to findings ----------------------------------------------------------------------


def _assembled(columns: Columns, names: Any) -> Findings:
    """Build findings of columns; class numbers give labels where there are none."""
    if not columns:
        return Findings()
    columns = dict(columns)
    n = len(columns["boxes"])
    labels = columns.get("labels")
    if labels is not None:
        if len(labels) != n:
            raise ModelError(
                f"labels has {len(labels)} rows, boxes has {n}; give one for each box."
            )
        labels = [None if is_missing(label) else str(label) for label in labels]
    ids = columns.get("class_ids")
    if ids is not None:
        ids = _numbers(ids)
    if labels is not None or ids is not None:
        known = [-1] * n if ids is None else ids.tolist()
        named = labels if labels is not None else [None] * n
        columns["labels"] = [
            class_name(number, names) if label is None else label
            for label, number in zip(named, known, strict=True)
        ]
    columns["class_ids"] = ids
    texts = columns.get("texts")
    if texts is not None and all(map(is_missing, texts)):
        columns["texts"] = None
    return Findings(**columns)


def _numbers(ids: Any) -> NDArray[np.int64]:
    numbers = np.array([-1.0 if is_missing(one) else one for one in ids], dtype=np.float64)
    wrong = numbers[(numbers != np.floor(numbers)) | ~np.isfinite(numbers)]
    if len(wrong):
        raise ModelError(f"Class {wrong[0]:g} is no whole number; the last column is the class.")
    return numbers.astype(np.int64)


def _length(columns: Columns) -> int:
    return len(columns["boxes"]) if columns else 0


def _each(columns: Columns) -> Iterator[Columns]:
    for i in range(_length(columns)):
        yield {name: column[i : i + 1] for name, column in columns.items() if column is not None}


def _whole(columns: Columns, names: Any) -> Findings:
    """Return all rows; where one makes no sense, the error has its number."""
    try:
        return _assembled(columns, names)
    except (ModelError, TypeError, ValueError) as error:
        first = next(iter(_wrong(columns, names).items()), None)
        if first is None:  # no single row is to blame
            raise
        index, said = first
        raise ModelError(f"Detection {index + 1} of {_length(columns)}: {said}") from error


def _wrong(columns: Columns, names: Any) -> dict[int, str]:
    """Return what is wrong with each row that makes no sense by itself, by its index."""
    found = {}
    for index, row in enumerate(_each(columns)):
        try:
            _assembled(row, names)
        except (ModelError, TypeError, ValueError) as error:
            found[index] = _line(error)
    return found


def _good(columns: Columns, numbers: Sequence[int], names: Any, bad: Mapping[int, str]) -> Findings:
    """Return the rows that make sense, and say in the note how many do not, and why."""
    try:
        found, wrong = _assembled(columns, names), {}
    except (ModelError, TypeError, ValueError):
        wrong = _wrong(columns, names)
        keep = [index for index in range(_length(columns)) if index not in wrong]
        left = {k: [v[i] for i in keep] for k, v in columns.items() if v is not None}
        found = _assembled(left if keep else {}, names)
    dropped = dict(bad) | {numbers[index]: said for index, said in wrong.items()}
    if not dropped:
        return found
    first = min(dropped)
    note = (
        f"{len(dropped)} of {len(numbers) + len(bad)} detections dropped; detection {first}: "
        f"{dropped[first]}."
    )
    return Findings(**found.columns, note=note)


def _shown(answer: Any) -> str:
    kind = type(answer).__name__
    if isinstance(answer, np.ndarray):
        return f"an array of shape {answer.shape}, {answer.dtype}"
    if isinstance(answer, (list, tuple)):
        inner = f" of {type(answer[0]).__name__}" if len(answer) else ""
        return f"a {kind}{inner}, length {len(answer)}"
    return f"a value of type {kind}"
