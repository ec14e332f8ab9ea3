"""What stands in a model's graph: its nodes, read from the file without a parser of ONNX.

An ONNX file is one protobuf message (onnx.proto3): ModelProto.graph is field 7, GraphProto.node
field 1; of a node the inputs are field 1, the outputs 2, the operator 4 and the attributes 5.
Messages are skipped by their length, so weights of gigabytes cost nothing.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

__all__ = ["Node", "fields_of", "maker_of", "mixes_pictures", "nodes_of", "pooled_by", "varint"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Nodes that hand their input on: what made it is looked for before them.
_SHAPING = {
    *("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast", "Dropout"),
    *("Slice", "Gather", "Concat"),
}
_POOLING = {"Conv", "QLinearConv", "ConvInteger", "MaxPool", "AveragePool", "LpPool"}
_ENLARGING = {"Resize", "Upsample", "DepthToSpace"}  # by how much, nodes alone do not tell


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of a graph.

    Parameters
    ----------
    operator : str
        As ``"Softmax"``.
    inputs, outputs : tuple of str
    training : bool
        Whether it says that it runs as in training.
    axes : tuple of int
        As its attribute ``axes`` says; later versions of ONNX have an input instead.
    strides : tuple of int
        As its attribute ``strides`` says.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    training: bool = False
    axes: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()


def nodes_of(path: Path) -> tuple[Node, ...]:
    """Return the nodes of a model's graph, those of inner graphs after their own.

    Empty where the file is not understood: then nothing is known of them.
    """
    return _nodes(path, path.stat().st_mtime_ns)


def maker_of(nodes: tuple[Node, ...], output: str, further: Set[str] = frozenset()) -> str:
    """Return the operator that makes the values of an output, before it is merely shaped.

    `further` names operators that are looked through as well.
    """
    made = {name: node for node in nodes for name in node.outputs}
    for _ in range(len(nodes)):
        node = made.get(output)
        if node is None:
            return ""
        if node.operator not in _SHAPING | further or not node.inputs:
            return node.operator
        output = node.inputs[0]
    return ""


def mixes_pictures(nodes: tuple[Node, ...]) -> bool:
    """Return True if what is found in a picture depends on the others that it is run with.

    Dynamic quantisation takes its scale from the whole batch, and a normalisation that runs as in
    training its statistics.
    """
    return any(
        "DynamicQuantize" in node.operator
        or (node.operator == "BatchNormalization" and node.training)
        for node in nodes
    )


def pooled_by(nodes: tuple[Node, ...]) -> int:
    """Return how many pixels of the input become one where a graph has pooled most, at least.

    By the strides of convolutions and poolings, one after the other. Slices, reshapes and blocks
    that pool in other ways are not seen; 1 where nothing is.
    """
    reached: dict[str, int] = {}
    most = 1
    for node in nodes:  # each after those that it takes from, as ONNX wants it
        here = max((reached.get(name, 1) for name in node.inputs), default=1)
        step = max(node.strides, default=1)
        if node.operator in _POOLING:
            here *= step
        elif node.operator == "ConvTranspose":
            here = max(1, here // max(step, 1))
        elif node.operator in _ENLARGING:
            here = 1
        most = max(most, here)
        reached |= dict.fromkeys(node.outputs, here)
    return most


@lru_cache(maxsize=16)
def _nodes(path: Path, changed: int) -> tuple[Node, ...]:  # noqa: ARG001 - part of the key
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return tuple(
                node
                for number, start, end in fields_of(text, 0, len(text))
                for node in _of_model(text, number, start, end)
            )
    except (OSError, ValueError, IndexError, RecursionError):
        return ()


def _of_model(text: mmap.mmap, number: int, start: int, end: int) -> Iterator[Node]:
    if number == 7:
        yield from _of_graph(text, start, end, field=1)
    elif number == 25:  # functions of the model's own; their nodes are field 7
        yield from _of_graph(text, start, end, field=7)


def _of_graph(text: mmap.mmap, start: int, end: int, field: int) -> Iterator[Node]:
    for number, low, high in fields_of(text, start, end):
        if number == field:
            yield from _of_node(text, low, high)


def _of_node(text: mmap.mmap, start: int, end: int) -> Iterator[Node]:
    operator, training = "", False
    axes: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    inputs: list[str] = []
    outputs: list[str] = []
    inner: list[Node] = []
    for number, low, high in fields_of(text, start, end):
        if number in (1, 2, 4):
            said = text[low:high].decode("utf-8", "replace")
            if number == 4:
                operator = said
            else:
                (inputs if number == 1 else outputs).append(said)
        elif number == 5:
            name, value = b"", 0
            several: list[int] = []
            for part, first, last in fields_of(text, low, high):
                if part == 1:
                    name = text[first:last]
                elif part == 3:
                    value = varint(text, first)[0]
                elif part == 8:
                    several += _numbers(text, first, last)
                elif part in (6, 11):
                    inner += _of_graph(text, first, last, field=1)
            training = training or (name == b"training_mode" and value == 1)
            axes = tuple(several) if name == b"axes" else axes
            strides = tuple(several) if name == b"strides" else strides
    yield Node(operator, tuple(inputs), tuple(outputs), training, axes, strides)
    yield from inner


def _numbers(text: mmap.mmap, start: int, end: int) -> Iterator[int]:
    """Yield the numbers of a field: one, or where they are packed several."""
    while start < end:
        number, start = varint(text, start)
        yield number


def fields_of(text: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each field of a message; a varint's start is its own."""
    while start < end:
        key, start = varint(text, start)
        number, kind = key >> 3, key & 7
        if kind == _BYTES:
            length, start = varint(text, start)
            stop = start + length
        elif kind == _VARINT:
            stop = varint(text, start)[1]
        elif kind in (_FIXED32, _FIXED64):
            stop = start + (4 if kind == _FIXED32 else 8)
        else:
            raise ValueError("no protobuf")
        if stop > end:
            raise ValueError("cut short")
        yield number, start, stop
        start = stop


def varint(text: mmap.mmap, at: int) -> tuple[int, int]:
    """Return the number that begins at a byte of a message, and where the next byte stands.

    Raises
    ------
    ValueError
        If no number of up to 64 bits begins there.
    """
    value = shift = 0
    while True:
        byte = text[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("no protobuf")
