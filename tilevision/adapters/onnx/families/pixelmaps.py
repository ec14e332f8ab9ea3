"""Maps: numbers for the pixels of the input, planes of classes or measures, or class numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tilevision.adapters.onnx.families.layout import (
    Candidates,
    DecodeInfo,
    Family,
    Layout,
    Outputs,
)
from tilevision.adapters.onnx.graph import maker_of
from tilevision.adapters.onnx.ports import Port

__all__ = ["FAMILIES", "MAP", "activation_of", "decoder", "map_port", "plane_count", "shows_map"]

MAP = "map"
# The output with the map where there are others beside, as libraries name it.
_NAMES = ("out", "logits", "semantic_logits", "probabilities")
_FINEST = 8  # an output finer than the input by no more than this is a map, not a grid
_RESIZES = {"Resize", "Upsample", "Clip"}  # they keep shares shares
_SHARES = {"Softmax", "Sigmoid", "HardSigmoid"}


def shows_map(layout: Layout) -> bool:
    """Return True if a model has one output, with classes, that is nearly as fine as its input.

    Or if the file says so.
    """
    if layout.task == "semantic":
        return True
    ports = layout.outputs
    if {port.name for port in ports} == {"out", "aux"}:  # of torchvision, which trains with both
        ports = tuple(port for port in ports if port.name == "out")
    if len(ports) != 1:
        return False
    sides = _sides(ports[0], layout)
    if sides is None:
        return False
    axes, made = len(ports[0].shape), maker_of(layout.nodes, ports[0].name, _RESIZES)
    if axes != 4 and made != "ArgMax":
        return False
    return sides[0] * _FINEST > layout.size[1] and sides[1] * _FINEST > layout.size[0]


def map_port(layout: Layout) -> Port | None:
    """Return the output that has a map; None where none has, or several may have it."""
    found = {port.name: port for port in layout.outputs if _sides(port, layout) is not None}
    if len(found) == 1:
        return next(iter(found.values()))
    return next((found[name] for name in _NAMES if name in found), None)


def plane_count(port: Port, layout: Layout) -> int | None:
    """Return how many planes a map has; None of class numbers."""
    if not _floats(port):
        return None
    if len(port.shape) == 3:
        return 1
    return port.shape[1 if layout.facts.channels_first else 3]


def activation_of(port: Port, layout: Layout) -> str:
    """Return what the end of a graph says its numbers need to be shares: ``"none"`` if they are.

    Empty where it does not tell.
    """
    made = maker_of(layout.nodes, port.name, _RESIZES)
    if made == "LogSoftmax":
        return "softmax"  # of the logarithms of shares it makes the shares
    return "none" if made in _SHARES else ""


def _floats(port: Port) -> bool:
    return port.dtype in ("tensor(float)", "tensor(float16)", "tensor(double)")


def _sides(port: Port, layout: Layout) -> tuple[int, int] | None:
    """Return height and width of an output that can be a map."""
    shape = port.shape
    if len(shape) == 3:
        sides = shape[1:]
    elif len(shape) == 4:
        sides = shape[2:] if layout.facts.channels_first else shape[1:3]
    else:
        return None
    rows, columns = sides
    return None if rows is None or columns is None else (rows, columns)


def decoder(output: str, channels_first: bool) -> Callable[[Outputs, DecodeInfo], Candidates]:
    """Return what takes a map out of the outputs, its planes first."""

    def decode(outputs: Outputs, info: DecodeInfo) -> Candidates:  # noqa: ARG001
        planes = outputs[output] if output else next(iter(outputs.values()))
        if planes.ndim not in (3, 4) or len(planes) != 1:
            raise ValueError("a map is (n, k, h, w) or (n, h, w)")
        if planes.ndim == 4:
            planes = planes[0] if channels_first else planes[0].transpose(2, 0, 1)
        none = np.empty(0)
        return Candidates(np.empty((0, 4)), none, none.astype(np.int64), planes=planes)

    return decode


FAMILIES = (
    Family(
        MAP,
        "(n, k, h, w) or (n, h, w), of the input's size or a stride of it",
        lambda layout: False,  # noqa: ARG005  # asked first: see `recognise`
        decoder("", channels_first=True),
        *("rgb", "imagenet", False),
        multiple=1,
    ),
)
