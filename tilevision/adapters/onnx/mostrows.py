"""How many objects a graph can give at most, by the constants that stand in it.

A graph that chooses for itself ends with the first rows of an order (torchvision), with the best
(``TopK``), or with what ``NonMaxSuppression`` leaves, which has a most of boxes for each class.
The numbers are initializers or constants, or are worked out from them (``Min`` of a constant and
what there is).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable
from functools import lru_cache
from math import prod
from pathlib import Path

from tilevision.adapters.onnx.graph import Node, fields_of, nodes_of, varint

__all__ = ["kept_of", "suppressed_to"]

_ENDLESS = 2**31 - 1  # as a slice without an end has it, and torchvision's suppression
_RAW = {1: "f", 6: "i", 7: "q"}  # TensorProto.DataType: float, int32, int64
_SEVERAL, _LONGEST = 4, 40  # numbers, and bytes of as many
# What hands values on, in their order and number.
_SAME = {"Identity", "Cast", "Unsqueeze", "Squeeze"}
_NUMBER = _SAME | {"Reshape", "Flatten", "Floor", "Ceil", "Round"}
_GATHERS = {"Gather", "GatherElements", "GatherND"}
Numbers = tuple[int, ...]
_DEEPEST = 20  # nodes between a constant and where it is used


def kept_of(path: Path, output: str) -> int | None:
    """Return how many rows of an output a graph keeps at most, as its last choice says.

    Where the values are those of the first rows of an order (``Gather`` by a ``Slice`` from 0 on,
    as torchvision's detectors end) or of the best (``TopK``). None where it ends otherwise.
    """
    graph = _Graph(path)
    last = graph.source(output)
    if last is not None and last.operator in _GATHERS and len(last.inputs) > 1:
        last = graph.source(last.inputs[1])
    return None if last is None else graph.chosen_by(last)


def suppressed_to(path: Path, outputs: Iterable[str]) -> tuple[int | None, int | None]:
    """Return how many boxes a graph's own suppression keeps at most: in all, and of each class.

    The first where all classes are suppressed together; None where there is no such limit.
    """
    graph = _Graph(path)
    together: list[int] = []
    each: list[int] = []
    for node, most in graph.suppressions(list(outputs)):
        (together if graph.of_one_class(node) else each).append(most)
    return min(together, default=None), min(each, default=None)


class _Graph:
    """The nodes of a file by what they make, and the numbers in it."""

    def __init__(self, path: Path) -> None:
        self.nodes = nodes_of(path)
        self._numbers = _constants(path, path.stat().st_mtime_ns)
        self._made = {name: node for node in self.nodes for name in node.outputs if name}

    def source(self, name: str) -> Node | None:
        """Return what makes the values of `name`, before they are merely handed on."""
        node = self._made.get(name)
        for _ in range(len(self.nodes)):
            if node is None or node.operator not in _SAME:
                break
            node = self._made.get(node.inputs[0])
        return node

    def chosen_by(self, node: Node) -> int | None:
        """Return how many a node chooses from the beginning, or of the best."""
        if node.operator == "TopK" and len(node.inputs) == 2:
            return _few(self.most(node.inputs[1]))
        if node.operator != "Slice" or len(node.inputs) < 3:
            return None
        start, end, axes, steps = ([self.most(n) for n in node.inputs[1:5]] + [None] * 4)[:4]
        first_axis = axes == 0 or len(node.inputs) < 4
        return _few(end) if start == 0 and first_axis and steps in (None, 1) else None

    def most(self, name: str, depth: int = 0) -> int | None:
        """Return the largest that a whole number of the graph can be; None where none is known."""
        known, node = self._numbers.get(name, ()), self._made.get(name)
        if known or node is None or depth > _DEEPEST:
            return known[0] if len(known) == 1 else None

        if node.operator in _NUMBER:
            return self.most(node.inputs[0], depth + 1)
        if node.operator == "ReduceMin":  # of several in one tensor
            node = self._made.get(node.inputs[0], node)
        parts = [self.most(one, depth + 1) for one in node.inputs]
        if node.operator == "Clip":
            parts = parts[:1] + parts[2:]
        if node.operator in ("Min", "Concat", "Clip"):
            return min((part for part in parts if part is not None), default=None)
        if node.operator == "Where":
            parts = parts[1:]
        return _worked_out(node.operator, parts)

    def suppressions(self, outputs: list[str]) -> list[tuple[Node, int]]:
        """Return the suppressions that decide what `outputs` hold, each with its most of boxes."""
        found = self._before(outputs, by_rows=True) or self._before(outputs, by_rows=False)[:1]
        if not found:  # inside of a loop or a branch
            found = [node for node in self.nodes if node.operator == "NonMaxSuppression"]
        most = [(node, self.most(node.inputs[2])) for node in found if len(node.inputs) > 2]
        return [(node, few) for node, number in most if (few := _few(number)) is not None]

    def _before(self, names: list[str], *, by_rows: bool) -> list[Node]:
        """Return the suppressions that lie nearest before `names`; of what is gathered, by rows.

        What is gathered may come from proposals, which have been suppressed themselves.
        """
        found, seen, waiting = [], set(names), list(names)
        for name in waiting:
            node = self._made.get(name)
            if node is None:
                continue
            if node.operator == "NonMaxSuppression":
                found.append(node)
                continue
            further = node.inputs[1:2] if by_rows and node.operator in _GATHERS else node.inputs
            fresh = [one for one in further if one not in seen]
            seen.update(fresh)
            waiting += fresh
        return list(dict.fromkeys(found))

    def of_one_class(self, node: Node) -> bool:
        """Return True if a suppression is given one score of each box: ``(n, 1, boxes)``."""
        added = 0
        before = self._made.get(node.inputs[1])
        for _ in range(_DEEPEST):
            if before is None or not before.inputs:
                return False
            if before.operator in ("ReduceMax", "TopK"):
                return True  # the best class of each box
            beside = self._numbers.get((*before.inputs, "")[1], ())
            if before.operator == "Unsqueeze":
                axes = beside or before.axes or (0,)
                added += len(axes)
                if added > 1 or axes[0] in (1, -2):
                    return True
            elif before.operator == "Reshape":
                return len(beside) == 3 and beside[1] == 1
            elif before.operator not in (*_SAME, "Transpose"):
                return False
            before = self._made.get(before.inputs[0])
        return False


def _worked_out(operator: str, parts: list[int | None]) -> int | None:
    """Return the most that comes of numbers whose most is known, all of them."""
    known = [part for part in parts if part is not None and part >= 0]
    if not known or len(known) < len(parts):
        return None
    if operator in ("Where", "Max"):
        return max(known)
    return sum(known) if operator == "Add" else prod(known) if operator == "Mul" else None


def _few(number: int | None) -> int | None:
    return number if number is not None and 0 < number < _ENDLESS else None


@lru_cache(maxsize=16)
def _constants(path: Path, changed: int) -> dict[str, Numbers]:  # noqa: ARG001 - part of the key
    """Return the whole numbers, up to four, of the initializers and constants of a graph by name.

    GraphProto: node is field 1, initializer 5.
    """
    found: dict[str, Numbers] = {}
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            for part, start, end in fields_of(text, 0, len(text)):
                if part != 7:
                    continue
                for number, low, high in fields_of(text, start, end):
                    if number == 5:
                        found.update([_tensor(text, low, high)])
                    elif number == 1:
                        found.update([_constant(text, low, high)])
    except (OSError, ValueError, IndexError, RecursionError, struct.error):
        return {}
    return {name: numbers for name, numbers in found.items() if numbers}


def _constant(text: mmap.mmap, start: int, end: int) -> tuple[str, Numbers]:
    """Return the name of what a node makes, and its whole numbers where it is a constant."""
    operator, name = b"", ""
    value: Numbers = ()
    for number, low, high in fields_of(text, start, end):
        if number == 4:
            operator = text[low:high]
        elif number == 2:
            name = text[low:high].decode("utf-8", "replace")
        elif number == 5:
            value = _attribute(text, low, high)
    return name, value if operator == b"Constant" else ()


def _attribute(text: mmap.mmap, start: int, end: int) -> Numbers:
    """Return what stands in a constant's attribute: a tensor (field 5), or the numbers."""
    found: list[float] = []
    for part, low, high in fields_of(text, start, end):
        if part == 5:
            return _tensor(text, low, high)[1]
        if part in (3, 8):
            found += _varints(text, low, high)
        elif part in (2, 7):
            found += _unpacked("f", text[low:high])
    return _whole(found)


def _tensor(text: mmap.mmap, start: int, end: int) -> tuple[str, Numbers]:
    """Return the name of a tensor and its whole numbers; none where it holds others, or many.

    TensorProto: data_type is field 2, float_data 4, int32_data 5, int64_data 7, name 8, raw_data 9.
    """
    name, kind, raw = "", 0, b""
    found: list[float] = []
    for number, low, high in fields_of(text, start, end):
        if number == 2:
            kind = varint(text, low)[0]
        elif number == 8:
            name = text[low:high].decode("utf-8", "replace")
        elif number in (5, 7) and high - low <= _LONGEST:
            found += _varints(text, low, high)
        elif number == 4 and high - low <= _LONGEST:
            found += _unpacked("f", text[low:high])
        elif number == 9 and high - low <= _LONGEST:
            raw = text[low:high]
    if kind not in _RAW:
        return name, ()
    return name, _whole(_unpacked(_RAW[kind], raw) if raw else found)


def _unpacked(kind: str, raw: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(raw) // struct.calcsize(kind)}{kind}", raw))


def _varints(text: mmap.mmap, at: int, end: int) -> list[int]:
    found = []
    while at < end:
        value, at = varint(text, at)
        found.append(value - 2**64 if value >= 2**63 else value)
    return found


def _whole(numbers: list[float]) -> Numbers:
    whole = len(numbers) <= _SEVERAL and all(float(number).is_integer() for number in numbers)
    return tuple(map(int, numbers)) if whole else ()
