"""Vectors as answers: what a function declared with ``returns="embedding"`` may return."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.foreignvalues import as_plain_array
from tilevision.errors import ModelArgumentError, ModelError
from tilevision.findings import Findings

__all__ = ["at_precision", "check_vectors", "vector_of", "vectors_of"]


def check_vectors(name: str, params: dict[str, Any]) -> None:
    """Check ``returns`` and ``precision`` of model `name`; defaults are taken out of `params`.

    Raises
    ------
    ModelArgumentError
        If one is none of those known.
    """
    if params.get("returns", "") not in ("", "embedding"):
        raise ModelArgumentError(
            f"returns of model {name} is {params['returns']!r:.80}; give 'embedding' where it "
            "returns vectors, or leave it out."
        )
    if params.get("precision", "float16") not in ("float16", "float32"):
        raise ModelArgumentError(
            f"precision of model {name} is {params['precision']!r:.80}; give 'float16' or "
            "'float32', of the vectors that are stored."
        )
    if params.get("precision") == "float16":
        del params["precision"]


def vector_of(answer: Any, name: str) -> Findings:
    """Read what a model returned for one tile: ``(d,)``, or ``(1, d)``.

    Parameters
    ----------
    answer : array, tensor, sequence of numbers, or Findings with an embedding
    name : str
        The model, for errors.

    Raises
    ------
    ModelError
        If it is no vector of 1 to 8,192 finite numbers.
    """
    if isinstance(answer, Findings):
        if answer.embedding is None:
            raise ModelError(
                f"Model {name} is declared with returns='embedding', and returned findings "
                "without one; return a vector, or tv.Findings(embedding=vector)."
            )
        return answer
    value = as_plain_array([] if answer is None else answer)
    if isinstance(value, (list, tuple)):
        value = [as_plain_array(item) for item in value]
    if hasattr(value, "__len__") and len(value) == 1 and np.ndim(value[0]) == 1:
        value = value[0]
    try:
        return Findings(embedding=value)
    except ModelError as error:
        raise ModelError(
            f"Model {name} returned a {type(answer).__name__}: {str(error).rstrip('.')}."
        ) from None


def vectors_of(answer: Any, wanted: int | None, name: str) -> list[Any]:
    """Return one answer for each of the tiles of a batch: the rows of ``(n, d)``, or of a list.

    Parameters
    ----------
    answer : array or tensor (n, d), or sequence of answers
    wanted : int or None
        How many tiles there are; None where the caller does not know.
    name : str
        The model, for errors.

    Raises
    ------
    ModelError
        If it has another number of rows.
    """
    value = as_plain_array(answer)
    if isinstance(value, np.ndarray) and value.ndim == 2:
        value = list(value)
    rows = isinstance(value, (list, tuple))
    if not rows or wanted not in (None, len(value)):
        got = f"shape {value.shape}" if isinstance(value, np.ndarray) else type(answer).__name__
        got = f"{len(value)} vectors" if rows else got
        tiles = "a batch" if wanted is None else f"{wanted} tiles"
        raise ModelError(
            f"Model {name} was called with {tiles} and returned {got}; return an array (tiles, d), "
            "or a list with one vector for each tile."
        )
    return list(value)


def at_precision(vector: NDArray[Any], precision: str, name: str) -> NDArray[Any]:
    """Return a vector, or the vectors of a tile's detections, as they are stored.

    Parameters
    ----------
    vector : array (d,) or (n, d) of float16 or float32
    precision : str
        ``"float16"`` or ``"float32"``.
    name : str
        The model, for errors.

    Raises
    ------
    ModelError
        If a number is too large for float16.
    """
    with np.errstate(over="ignore"):
        stored = vector.astype(precision)
    if not np.isfinite(stored).all():
        most = float(np.abs(vector).max())
        raise ModelError(
            f"Model {name} returned an embedding with {most:.4g}, which float16 cannot hold (at "
            "most 65504); declare tv.model(f, precision='float32')."
        )
    return stored
