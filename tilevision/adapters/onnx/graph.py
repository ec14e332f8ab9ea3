"""What stands in a model's graph: its nodes, read from the file without a parser of ONNX.

An ONNX file is one protobuf message (onnx.proto3): ModelProto.graph is field 7, GraphProto.node
field 1; of a node the inputs are field 1, the outputs 2, the operator 4 and the attributes 5.
Messages are skipped by their length, so weights of gigabytes cost nothing.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

__all__ = ["Node", "kept_of", "maker_of", "mixes_pictures", "nodes_of"]

_INT64 = 7  # TensorProto.DataType
_ENDLESS = 2**31 - 1  # as a slice without an end has it
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Nodes that hand their input on: what made it is looked for before them.
_SHAPING = {
    *("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast", "Dropout"),
    *("Slice", "Gather", "Concat"),
}


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
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    training: bool = False


def nodes_of(path: Path) -> tuple[Node, ...]:
    """Return the nodes of a model's graph, those of inner graphs after their own.

    Empty where the file is not understood: then nothing is known of them.
    """
    return _nodes(path, path.stat().st_mtime_ns)


def maker_of(nodes: tuple[Node, ...], output: str) -> str:
    """Return the operator that makes the values of an output, before it is merely shaped."""
    made = {name: node for node in nodes for name in node.outputs}
    for _ in range(len(nodes)):
        node = made.get(output)
        if node is None:
            return ""
        if node.operator not in _SHAPING or not node.inputs:
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


def kept_of(path: Path, output: str) -> int | None:
    """Return how many rows of an output a graph keeps at most, as its last choice says.

    Where the values are those of the first rows of an order (``Gather`` by a ``Slice`` from 0 on,
    as torchvision's detectors end) or of the best (``TopK``), and their number is a constant. None
    where it ends otherwise.
    """
    nodes = nodes_of(path)
    numbers = _constants(path, path.stat().st_mtime_ns)
    made = {name: node for node in nodes for name in node.outputs}

    def source(name: str) -> Node | None:
        node = made.get(name)
        for _ in range(len(nodes)):
            if node is None or node.operator not in ("Identity", "Cast", "Unsqueeze", "Squeeze"):
                break
            node = made.get(node.inputs[0])
        return node

    last = source(output)
    if last is not None and last.operator in ("Gather", "GatherElements") and len(last.inputs) > 1:
        last = source(last.inputs[1])
    if last is None:
        return None
    given = [numbers.get(name) for name in last.inputs[1:]]
    if last.operator == "TopK" and len(given) == 1:
        return given[0] if given[0] and given[0] > 0 else None
    if last.operator != "Slice" or len(given) < 2 or given[0] != 0:
        return None
    axes, steps = (given[2:3] or [0])[0], (given[3:4] or [1])[0]
    most = given[1]
    return most if axes == 0 and steps == 1 and most is not None and 0 < most < _ENDLESS else None


@lru_cache(maxsize=16)
def _constants(path: Path, changed: int) -> dict[str, int]:  # noqa: ARG001 - part of the key
    """Return the whole numbers that stand in a graph, by name: initializers and constants."""
    found: dict[str, int] = {}
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            for part, start, end in _fields(text, 0, len(text)):
                if part != 7:
                    continue
                for number, low, high in _fields(text, start, end):
                    if number == 5:
                        name, value = _whole_number(text, low, high)
                    elif number == 1:
                        name, value = _constant(text, low, high)
                    else:
                        continue
                    if value is not None:
                        found[name] = value
    except (OSError, ValueError, IndexError, RecursionError):
        return {}
    return found


def _constant(text: mmap.mmap, start: int, end: int) -> tuple[str, int | None]:
    """Return the name and the whole number of a node that is a constant."""
    operator, name, value = b"", "", None
    for number, low, high in _fields(text, start, end):
        if number == 4:
            operator = text[low:high]
        elif number == 2:
            name = text[low:high].decode("utf-8", "replace")
        elif number == 5:
            for part, first, last in _fields(text, low, high):
                if part == 5:
                    value = _whole_number(text, first, last)[1]
    return name, value if operator == b"Constant" else None


def _whole_number(text: mmap.mmap, start: int, end: int) -> tuple[str, int | None]:
    """Return the name of a tensor and its one int64; None where it has others, or several."""
    name, kind, raw = "", 0, b""
    numbers: list[int | None] = []
    for number, low, high in _fields(text, start, end):
        if number == 2:
            kind = _varint(text, low)[0]
        elif number == 8:
            name = text[low:high].decode("utf-8", "replace")
        elif number == 7:
            value, stop = _varint(text, low)
            numbers.append(value if stop == high else None)  # several are packed behind each other
        elif number == 9 and high - low <= 8:
            raw = text[low:high]
    if kind != _INT64:
        return name, None
    if len(raw) == 8:
        return name, int.from_bytes(raw, "little", signed=True)
    return name, numbers[0] if len(numbers) == 1 else None


@lru_cache(maxsize=16)
def _nodes(path: Path, changed: int) -> tuple[Node, ...]:  # noqa: ARG001 - part of the key
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return tuple(
                node
                for number, start, end in _fields(text, 0, len(text))
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
    for number, low, high in _fields(text, start, end):
        if number == field:
            yield from _of_node(text, low, high)


def _of_node(text: mmap.mmap, start: int, end: int) -> Iterator[Node]:
    operator, training = "", False
    inputs: list[str] = []
    outputs: list[str] = []
    inner: list[Node] = []
    for number, low, high in _fields(text, start, end):
        if number in (1, 2, 4):
            said = text[low:high].decode("utf-8", "replace")
            if number == 4:
                operator = said
            else:
                (inputs if number == 1 else outputs).append(said)
        elif number == 5:
            name, value = b"", 0
            for part, first, last in _fields(text, low, high):
                if part == 1:
                    name = text[first:last]
                elif part == 3:
                    value = _varint(text, first)[0]
                elif part in (6, 11):
                    inner += _of_graph(text, first, last, field=1)
            training = training or (name == b"training_mode" and value == 1)
    yield Node(operator, tuple(inputs), tuple(outputs), training)
    yield from inner


def _fields(text: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each field of a message; a varint's start is its own."""
    while start < end:
        key, start = _varint(text, start)
        number, kind = key >> 3, key & 7
        if kind == _BYTES:
            length, start = _varint(text, start)
            stop = start + length
        elif kind == _VARINT:
            stop = _varint(text, start)[1]
        elif kind in (_FIXED32, _FIXED64):
            stop = start + (4 if kind == _FIXED32 else 8)
        else:
            raise ValueError("no protobuf")
        if stop > end:
            raise ValueError("cut short")
        yield number, start, stop
        start = stop


def _varint(text: mmap.mmap, at: int) -> tuple[int, int]:
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
