"""From a model's map of its input to that of the tile."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.mapanswers import Declared, check_numbers, check_planes, check_stride
from tilevision.adapters.onnx.families.transformers import sigmoid, softmax
from tilevision.adapters.onnx.preparation import Placement
from tilevision.findings import Findings
from tilevision.modelspec import ModelSpec

__all__ = ["MapReader", "sampled"]


class MapReader:
    """Reads what a model says of the pixels of its input.

    Parameters
    ----------
    spec : ModelSpec
        With the parameters ``returns`` and, of classes, ``activation``.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._declared = Declared(spec)
        self._name = spec.name
        self._returns = spec.params["returns"]
        self._activation = spec.params.get("activation") or "none"

    def read(self, planes: NDArray[Any], place: Placement) -> Findings:
        """Return the map of a tile.

        Numbers that are to become probabilities are brought to the tile's size first, as the
        libraries do it, and class numbers are taken from the nearest pixel.

        Parameters
        ----------
        planes : array (k, h, w)
            Over the whole input, at its size or at a whole stride.
        place : Placement
            Where the tile lies in the input.

        Raises
        ------
        ModelError
            If it is no such map.
        """
        check_stride(self._name, (planes.shape[1], planes.shape[2]), place.input[::-1])
        values = sampled(planes, place)
        if values.dtype.kind == "f" and self._returns in ("probabilities", "classes"):
            values = self._decided(values)
        return self._declared.one(values)

    def _decided(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return shares of the classes, or the number of the best."""
        if self._returns == "classes" and len(values) > 1:
            check_numbers(self._name, float(values.max()))
            return np.asarray(values.argmax(axis=0))
        total = float(np.abs(values.sum(axis=0) - 1).max())
        low, high = float(values.min()), float(values.max())
        check_planes(self._name, self._activation, len(values), low, high, total)
        if self._activation == "softmax":
            values = softmax(values, axis=0)
        elif self._activation == "sigmoid":
            values = sigmoid(values)
        if self._returns == "classes":
            return np.asarray(values[0] > 0.5).astype(np.uint8)
        return values


def sampled(planes: NDArray[Any], place: Placement) -> NDArray[Any]:
    """Return a map of the input at the pixels of the tile: ``(k, height, width)`` of it.

    Floats lie between the four nearest pixels, by their middles, as torch's ``interpolate`` has
    it; whole numbers are those of the nearest.
    """
    (down, across), (high, wide) = planes.shape[1:], place.tile[::-1]
    rows = _places(high, place.scale[1], place.offset[1], down / place.input[1], down)
    columns = _places(wide, place.scale[0], place.offset[0], across / place.input[0], across)
    if planes.dtype.kind != "f":
        y, x = (np.floor(one + 0.5).astype(np.intp) for one in (rows, columns))
        return np.asarray(planes[:, np.minimum(y, down - 1)][:, :, np.minimum(x, across - 1)])
    values = planes if planes.dtype == np.float32 else planes.astype(np.float32)
    return _between(_between(values, rows, 1), columns, 2)


def _places(count: int, scale: float, offset: float, ratio: float, have: int) -> NDArray[Any]:
    """Return where the pixels of a tile lie among the `have` pixels of a map, along one axis."""
    at = ((np.arange(count) + 0.5) * scale + offset) * ratio - 0.5
    return np.asarray(np.clip(at, 0, have - 1))


def _between(values: NDArray[Any], at: NDArray[Any], axis: int) -> NDArray[Any]:
    """Interpolate linearly along one axis."""
    if len(at) == values.shape[axis] and np.array_equal(at, np.arange(len(at))):
        return values
    first = np.floor(at).astype(np.intp)
    second = np.minimum(first + 1, values.shape[axis] - 1)
    share = (at - first).astype(np.float32)
    share = share.reshape((-1, 1) if axis == 1 else (-1,))
    found = values.take(first, axis)
    found *= 1 - share
    beside = values.take(second, axis)
    beside *= share
    found += beside
    return np.asarray(found)
