"""From what an encoder says of the patches of a picture to one vector of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import ModelArgumentError, ModelError

__all__ = ["POOLINGS", "check_pooling", "pooled"]

# The class token; the mean of all patches; both, one after the other; what the library itself
# gives as the vector of a picture.
POOLINGS = ("cls", "mean", "cls+mean", "model")


def check_pooling(name: str, pooling: Any, has_token: bool) -> None:
    """Check what was declared for model `name`.

    Parameters
    ----------
    name : str
    pooling : str
    has_token : bool
        Whether the network has a class token.

    Raises
    ------
    ModelArgumentError
        If it is none of `POOLINGS`, or needs a class token that is not there.
    """
    if pooling not in POOLINGS:
        raise ModelArgumentError(
            f"pooling of model {name} is {pooling!r:.80}; give one of {', '.join(POOLINGS)}."
        )
    if "cls" in pooling and not has_token:
        raise ModelArgumentError(
            f"Model {name} has no class token, so pooling={pooling!r} makes no sense; give 'mean' "
            "or 'model'."
        )


def pooled(
    values: NDArray[Any], pooling: str, prefix: int, name: str, *, channels_last: bool = False
) -> NDArray[np.float32]:
    """Return the vector of one picture.

    Parameters
    ----------
    values : array (tokens, d), or (d, h, w) or (h, w, d) of networks that keep a map
    pooling : str
        ``"cls"``, ``"mean"`` or ``"cls+mean"``.
    prefix : int
        How many tokens stand before those of the patches; the first is the class token.
    name : str
        The model, for errors.
    channels_last : bool
        Whether a map is (h, w, d).

    Returns
    -------
    array (d,) or, of ``"cls+mean"``, (2 d,)

    Raises
    ------
    ModelError
        If they have another shape.
    """
    values = np.asarray(values, dtype=np.float32)
    if values.ndim == 3:
        axes = (0, 1) if channels_last else (1, 2)
        return np.asarray(values.mean(axis=axes, dtype=np.float32))
    if values.ndim != 2 or len(values) <= prefix:
        raise ModelError(
            f"Model {name} gives features of shape {values.shape}, which hold no patches to take "
            "the mean of; give pooling='model', or pass a function that returns the vector."
        )
    mean = values[prefix:].mean(axis=0, dtype=np.float32)
    if pooling == "mean":
        return np.asarray(mean)
    return values[0] if pooling == "cls" else np.concatenate([values[0], mean])
