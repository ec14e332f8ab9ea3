"""Answers in other libraries' containers, as plain arrays, lists, dicts and numbers.

Tables of polars and pyarrow, structured arrays, named tuples, data classes, shapes, tensors, masked
arrays, iterators and the response objects of Roboflow and transformers become what `answers` reads.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Set, ValuesView
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from tilevision.errors import ModelError
from tilevision.findings import plain

__all__ = ["as_attributes", "as_plain_array", "as_plain_value", "is_missing", "unwrapped"]


# Fields that a data class of one detection has, and that none of many detections has.
_PLACES = {
    *("box", "bbox", "xmin", "x1", "x", "polygon", "geometry", "oriented", "point", "points"),
}


def unwrapped(answer: Any, known: Set[str]) -> Any:
    """Return an answer without its container: rows, columns or an array.

    Parameters
    ----------
    answer : object
        Whatever a function returned.
    known : set of str
        The keys that a row may have.
    """
    if hasattr(answer, "model_dump") and hasattr(answer, "predictions"):
        answer = answer.model_dump(by_alias=True)  # Roboflow's inference
    if isinstance(answer, (Iterator, ValuesView, Set, deque)):
        answer = list(answer)
    answer = _rows_of_table(answer, known)
    if isinstance(answer, (list, tuple)) and len(answer) == 1:
        only = answer[0]
        keys = only if isinstance(only, Mapping) else ()
        if hasattr(only, "predictions") or "predictions" in keys or "boxes" in keys:
            return unwrapped(only, known)  # of the one picture that was asked for
    if isinstance(answer, Mapping) and isinstance(answer.get("predictions"), (list, tuple)):
        return answer["predictions"]
    if isinstance(answer, Mapping) and {"segmentation", "segments_info"} <= answer.keys():
        return _rows_of_segments(answer)
    return answer


def _rows_of_segments(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the objects of a map of segments, as image processors of transformers make it."""
    from tilevision.adapters.outlines import outline

    numbered = np.asarray(as_plain_array(answer["segmentation"]))
    rows = []
    for one in answer["segments_info"]:
        shape = outline(numbered == one["id"])
        if shape is not None:
            row = {"polygon": shape, "class_id": one.get("label_id"), "score": one.get("score")}
            rows.append(row)
    return rows


def _rows_of_table(answer: Any, known: Set[str]) -> Any:
    """Return the rows of a table of polars, pyarrow or pandas; anything else as it is."""
    if hasattr(answer, "collect") and hasattr(answer, "collect_schema"):
        answer = answer.collect()  # a LazyFrame
    for way in ("to_dicts", "to_pylist"):  # polars, pyarrow
        if hasattr(answer, way):
            return getattr(answer, way)()
    if hasattr(answer, "columns") and hasattr(answer, "to_dict"):
        return answer.to_dict("records")  # pandas
    if hasattr(answer, "geom_type") and not isinstance(answer, (list, tuple)):
        answer = list(answer) if hasattr(answer, "index") else [answer]  # of geopandas, of shapely
    if isinstance(answer, np.ndarray) and answer.dtype.names:
        return [dict(zip(answer.dtype.names, row, strict=True)) for row in answer.ravel().tolist()]
    answer = getattr(answer, "object_prediction_list", answer)  # of SAHI
    if (alone := _record(answer, known)) is not None:
        return [alone]
    if isinstance(answer, (list, tuple)) and answer:
        return _rows_of_list(answer, known)
    if isinstance(answer, np.ndarray) and answer.ndim == 2 and answer.dtype.kind in "OU":
        return _named(answer.tolist())
    return answer


def _rows_of_list(answer: Sequence[Any], known: Set[str]) -> Any:
    """Return rows of pandas, shapes and records as dicts; other rows as they are."""
    if all(hasattr(row, "to_dict") and hasattr(row, "index") for row in answer):
        return [row.to_dict() for row in answer]
    if all(hasattr(row, "geom_type") for row in answer):
        return [{"geometry": shape} for shape in answer]
    if all(hasattr(row, "to_coco_annotation") for row in answer):
        return [_of_sahi(row) for row in answer]
    records = [_record(row, known) for row in answer]
    return records if None not in records else _named(answer)


def _of_sahi(row: Any) -> dict[str, Any]:
    """Return an `ObjectPrediction` of SAHI as a dict; its masks lie over the whole picture."""
    from tilevision.adapters.outlines import outline

    found = {"box": row.bbox.to_xyxy(), "score": row.score.value, "class": row.category.name}
    mask = None if row.mask is None else np.asarray(row.mask.bool_mask, dtype=bool)
    shape = None if mask is None else outline(mask)
    return found | {"class_id": row.category.id, "polygon": shape}


def _record(row: Any, known: Set[str]) -> dict[str, Any] | None:
    """Return a data class or a named tuple as a dict; None for what has no names that are known.

    A tuple whose names nobody knows goes by its order, as one without names.
    """
    if hasattr(row, "_asdict"):
        named = {name: value for name, value in row._asdict().items() if name != "Index"}
        return named if named.keys() <= known else None
    if not is_dataclass(row) or isinstance(row, type):
        return None
    found = {one.name: getattr(row, one.name) for one in fields(row)}
    return found if found.keys() & _PLACES else None


def _named(rows: Sequence[Any]) -> Any:
    """Return rows of a box, a score and the name of a class as dicts; other rows as they are."""
    plain = [row.tolist() if isinstance(row, np.ndarray) else row for row in rows]
    named = all(isinstance(row, (list, tuple)) and len(row) == 6 for row in plain)
    if not named or not any(isinstance(row[5], str) for row in plain):
        return rows
    return [{"box": list(row[:4]), "score": row[4], "class": row[5]} for row in plain]


def as_plain_array(value: Any) -> Any:
    """Return a tensor or a masked array as an array, with NaN for what is masked."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        try:
            return value.numpy()
        except TypeError:  # a type that NumPy lacks, as bfloat16
            return value.float().numpy()
    if isinstance(value, np.ma.MaskedArray):
        if not np.ma.is_masked(value):
            return np.asarray(value)
        kind = object if value.dtype.kind not in "biuf" else float
        masked: Any = value.astype(kind)  # NumPy's annotations lose the mask here
        return masked.filled(None if kind is object else math.nan)
    return value


def as_plain_value(value: Any) -> Any:
    """Return the value of a cell: a tensor or array of one number as the number."""
    if value is np.ma.masked:
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    value = as_plain_array(value)
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "biufUO":
        return value.item()
    return value


def as_attributes(given: Any) -> dict[str, Any]:
    """Return further values of a detection as JSON has them.

    Raises
    ------
    ModelError
        If they are no mapping, or one of them is nothing that JSON has: says which.
    """
    if not isinstance(given, Mapping):
        raise ModelError(f"attributes is a {type(given).__name__}; give a dict.")
    found = {str(name): plain(as_plain_value(value)) for name, value in given.items()}
    for name, value in found.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise ModelError(
                f"Attribute {name!r:.40} is {value!r:.40}, which a record cannot hold; give text, "
                "a finite number, True, False, a list or a dict."
            ) from None
    return found


def is_missing(value: Any) -> bool:
    """Return True for None, NaN, and pandas' NA and NaT."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and math.isnan(value)
