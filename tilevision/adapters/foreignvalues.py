"""Answers in other libraries' containers, as plain arrays, lists, dicts and numbers.

Tables of polars and pyarrow, tensors, masked arrays, iterators and Roboflow's response objects
become what `answers` reads; nothing is read here of what they mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tilevision.errors import ModelError
from tilevision.findings import plain

__all__ = ["as_attributes", "as_plain_array", "as_plain_value", "is_missing", "unwrapped"]


def unwrapped(answer: Any) -> Any:
    """Return an answer without its container: rows, columns or an array.

    Parameters
    ----------
    answer : object
        Whatever a function returned.
    """
    if hasattr(answer, "model_dump") and hasattr(answer, "predictions"):
        answer = answer.model_dump(by_alias=True)  # Roboflow's inference
    if isinstance(answer, Iterator):
        answer = list(answer)
    answer = _rows_of_table(answer)
    if isinstance(answer, (list, tuple)) and len(answer) == 1:
        only = answer[0]
        if hasattr(only, "predictions") or (isinstance(only, Mapping) and "predictions" in only):
            return unwrapped(only)
    if isinstance(answer, Mapping) and isinstance(answer.get("predictions"), (list, tuple)):
        return answer["predictions"]
    return answer


def _rows_of_table(answer: Any) -> Any:
    """Return the rows of a table of polars, pyarrow or pandas; anything else as it is."""
    if hasattr(answer, "collect") and hasattr(answer, "collect_schema"):
        answer = answer.collect()  # a LazyFrame
    if hasattr(answer, "to_dicts"):
        return answer.to_dicts()  # polars
    if hasattr(answer, "to_pylist") and hasattr(answer, "schema"):
        return answer.to_pylist()  # pyarrow
    if hasattr(answer, "columns") and hasattr(answer, "to_dict"):
        return answer.to_dict("records")  # pandas
    if isinstance(answer, (list, tuple)) and answer:
        series = all(hasattr(row, "to_dict") and hasattr(row, "index") for row in answer)
        return [row.to_dict() for row in answer] if series else _named(answer)
    if isinstance(answer, np.ndarray) and answer.ndim == 2 and answer.dtype.kind in "OU":
        return _named(answer.tolist())
    return answer


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
