"""Plain values as bytes, and what instances are made of, as far as Python can see it.

Equal values give equal bytes, in every process.

A global that a function assigns or fills (a model made at the first call, a cache, a counter) is no
part of the function's identity, nor does it travel with it: after one call in this process it holds
what the call left, and the function is still the same. What counts is what the function would find
in a fresh process: for a global that it assigns what the source says (``net = None``), for a
container that it fills an empty one. Only functions that the value itself leads to are looked at,
so a global that other code sets (a threshold set by a widget) counts with its value.
"""

from __future__ import annotations

import ast
import collections
import datetime
import decimal
import fractions
import functools
import linecache
import logging
import operator
import pathlib
import re
import sys
import types
import typing
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np

from tilevision.fingerprint.bytecode import names
from tilevision.fingerprint.provenance import installed, version

__all__ = [
    "CONTAINERS",
    "PLAIN",
    "Leftovers",
    "frame",
    "leaf",
    "leftovers",
    "readable",
    "state",
    "wrapped",
]

_BY_REPR = (
    datetime.date,
    datetime.datetime,
    datetime.time,
    datetime.timedelta,
    datetime.timezone,
    decimal.Decimal,
    fractions.Fraction,
    uuid.UUID,
    range,
    types.GenericAlias,
    types.UnionType,
    type(typing.Any),
    type(typing.List[int]),  # noqa: UP006  # the type of typing's own aliases is wanted
    type(typing.Optional[int]),  # noqa: UP045  # as above
    typing.TypeVar,
    typing.ForwardRef,
)


def frame(*parts: bytes | str | int) -> bytes:
    """Join `parts` so that no two different sequences give the same bytes."""
    out = []
    for part in parts:
        raw = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        out.append(b"%d:" % len(raw) + raw)
    return b"".join(out)


def leaf(value: Any) -> bytes | None:
    """Return the bytes of a plain value, or None where `value` is none.

    Types must match exactly: a subclass may behave differently.
    """
    return _number_or_text(value) or _other(value)


def _number_or_text(value: Any) -> bytes | None:
    kind = type(value)
    name = kind.__qualname__
    if value is None or value is Ellipsis or value is NotImplemented:
        return frame("constant", repr(value))
    if kind in (bool, int, str, bytes):
        return frame(name, value if kind is bytes else str(value))
    if kind is float:
        return frame(name, value.hex())
    if kind is complex:
        return frame(name, value.real.hex(), value.imag.hex())
    if kind is bytearray:
        return frame(name, bytes(value))
    return None


def _other(value: Any) -> bytes | None:
    kind = type(value)
    if isinstance(value, np.generic) and value.dtype.kind in "biufcSUmM":
        return frame("numpy scalar", value.dtype.str, value.tobytes())
    if isinstance(value, np.dtype):
        return frame("dtype", repr(value))
    if isinstance(value, pathlib.PurePath) and kind.__module__.startswith("pathlib"):
        return frame("path", str(value))
    if kind is re.Pattern:
        return frame("pattern", repr(value.pattern), value.flags)
    if kind in _BY_REPR:
        return frame(kind.__module__, kind.__qualname__, repr(value))
    return None


CONTAINERS: tuple[Any, ...] = (list, tuple, dict, set, frozenset, collections.deque)
PLAIN: tuple[Any, ...] = (str, bytes, int, float, complex)

_DESCRIPTORS = (
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
)
_FIELD = type(vars(collections.namedtuple("_Example", "x"))["x"])  # of a named tuple
_PARTS: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    types.MethodType: lambda value: (value.__func__, value.__self__),
    types.BuiltinFunctionType: lambda value: (value.__qualname__, value.__self__),
    functools.partial: lambda value: (value.func, value.args, value.keywords),
    functools.partialmethod: lambda value: (value.func, value.args, value.keywords),
    functools.cached_property: lambda value: (value.func,),
    type(functools.lru_cache(lambda: None)): lambda value: (value.__wrapped__,),
    property: lambda value: (value.fget, value.fset, value.fdel),
    staticmethod: lambda value: (value.__func__,),
    classmethod: lambda value: (value.__func__,),
    operator.itemgetter: lambda value: value.__reduce__()[1:],
    operator.attrgetter: lambda value: value.__reduce__()[1:],
    operator.methodcaller: lambda value: value.__reduce__()[1:],
    _FIELD: lambda value: value.__reduce__()[1:],
}

_BY_A_CLASS_STATEMENT = 1 << 9  # Py_TPFLAGS_HEAPTYPE


def wrapped(value: Any) -> tuple[Any, ...] | None:
    """Return what a method, partial, property, cache or the like stands for; None for others."""
    parts = _PARTS.get(type(value))
    if parts is not None:
        return parts(value)
    if isinstance(value, _DESCRIPTORS):
        return (value.__name__,)
    if isinstance(value, logging.Logger):
        return (value.name,)
    if type(value).__module__.startswith("numba.") and hasattr(value, "py_func"):
        return (version("numba"), value.py_func)
    return None


def readable(base: type) -> bool:
    """Return True if instances of `base` keep all their state where `state` finds it.

    A class made by a C library may keep some in memory of its own.
    """
    if base.__module__ == "builtins" or base in CONTAINERS or not installed(base.__module__):
        return True
    file = getattr(sys.modules.get(base.__module__), "__file__", None) or ""
    metaclass = type(base).__module__.partition(".")[0]
    return (
        bool(base.__flags__ & _BY_A_CLASS_STATEMENT)
        and (file.endswith(".py") or base.__module__ in sys.stdlib_module_names)
        and (metaclass in sys.stdlib_module_names or not installed(metaclass))
    )


def state(value: Any) -> dict[str, Any]:
    """Return the attributes kept in an instance itself: ``__dict__`` and slots, by name.

    A dataclass's field with ``later`` in its metadata is left out where it holds its default: it
    came after identities of others had been stored.
    """
    found = dict(getattr(value, "__dict__", {}))
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            private = slot.startswith("__") and not slot.endswith("__")
            name = f"_{base.__name__.lstrip('_')}{slot}" if private else slot
            if hasattr(value, name) and slot not in ("__dict__", "__weakref__"):
                found[name] = getattr(value, name)
    for one in fields(value) if is_dataclass(value) else ():
        if "later" in one.metadata and found.get(one.name) == one.default:
            del found[one.name]
    return dict(sorted(found.items()))


_MAPPINGS = (dict, collections.OrderedDict, collections.Counter, collections.defaultdict)
_SEQUENCES = (list, set, collections.deque)


@dataclass(slots=True)
class Leftovers:
    """Of the functions of one module: the globals they assign, and those they fill.

    Parameters
    ----------
    assigned : set of str
    filled : mapping of str to set or None
        As in `bytecode.Names`.
    files : set of str
        Where these functions are written.
    """

    assigned: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    _made: dict[str, Any] = field(default_factory=dict)  # one global is one object
    filled: dict[str, set[Any] | None] = field(default_factory=dict)

    def before(self, name: str, value: Any) -> Any:
        """Return what a global called `name`, which holds `value`, was before any call."""
        if name in self.assigned:
            return self._stated(name, value)
        if name not in self.filled:
            return value
        if name not in self._made:
            self._made[name] = _emptied(value, self.filled[name])
        return self._made[name]

    def _stated(self, name: str, value: Any) -> Any:
        """Return the plain value that the source gives a global; else nothing of its kind."""
        stated = [found[name] for found in map(_literals, sorted(self.files)) if name in found]
        if len(stated) == 1:
            return stated[0]
        plain = type(value) in (bool, int, float, str)
        return type(value)() if plain else None

    @property
    def names(self) -> set[str]:
        """All of them."""
        return self.assigned | self.filled.keys()


def leftovers(value: Any) -> dict[int, Leftovers]:
    """Return what the functions that `value` leads to leave behind, by the id of their globals."""
    found: dict[int, Leftovers] = {}
    seen: set[int] = set()
    held: list[Any] = []  # an id is given again once its object is gone
    queue = collections.deque([value])
    while queue:
        one = queue.popleft()
        if id(one) in seen:
            continue
        seen.add(id(one))
        held.append(one)
        if isinstance(one, types.FunctionType):
            queue.extend(_of_function(one, found))
        else:
            queue.extend(_parts(one))
    return found


def _emptied(value: Any, keys: set[Any] | None) -> Any:
    """Return a container without the entries under `keys`, or without any where they are None."""
    kind = type(value)
    if kind in _MAPPINGS:
        kept = {k: v for k, v in value.items() if keys is not None and k not in keys}
        if len(kept) == len(value):
            return value
        fresh = value.copy()
        fresh.clear()
        fresh.update(kept)
        return fresh
    if kind in _SEQUENCES:
        return value if keys is not None or not value else kind()
    return np.zeros_like(value) if kind is np.ndarray else value


def _literals(file: str) -> dict[str, Any]:
    """Return the globals that a script, module or cell gives one plain value, once."""
    try:
        body = ast.parse("".join(linecache.getlines(file))).body
    except (SyntaxError, ValueError, RecursionError):
        return {}
    given: dict[str, list[ast.expr | None]] = {}
    for statement in body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    given.setdefault(target.id, []).append(statement.value)
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            given.setdefault(statement.target.id, []).append(statement.value)
    return {
        name: values[0].value
        for name, values in given.items()
        if len(values) == 1 and isinstance(values[0], ast.Constant)
    }


def _of_function(f: types.FunctionType, found: dict[int, Leftovers]) -> list[Any]:
    """Note what a function leaves behind; return what it leads to."""
    further: list[Any] = [f.__defaults__, f.__kwdefaults__, vars(f).get("__wrapped__")]
    for cell in f.__closure__ or ():
        try:
            further.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            continue
    if installed(str(f.__globals__.get("__name__"))):
        return further
    asked = names(f.__code__)
    if asked.assigned or asked.filled:
        mine = found.setdefault(id(f.__globals__), Leftovers())
        mine.assigned |= asked.assigned
        mine.files.add(f.__code__.co_filename)
        for name, keys in asked.filled.items():
            known = mine.filled.get(name, set())
            mine.filled[name] = None if keys is None or known is None else known | keys
    for root, *attributes in asked.chains:
        target = f.__globals__.get(root)
        while attributes and isinstance(target, types.ModuleType):
            target = getattr(target, attributes.pop(0), None)
        further.append(target)
    return further


def _parts(value: Any) -> list[Any]:
    """Return what may hold functions of the user's in a value that is none."""
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        return list(value) if len(value) < 1000 else []
    if kind is dict:
        return list(value.values()) if len(value) < 1000 else []
    if isinstance(value, type):
        return [] if installed(value.__module__) else list(vars(value).values())
    parts = wrapped(value)
    if parts is not None:
        return list(parts)
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.ModuleType) or installed(kind.__module__):
        return []
    return [*kind.__mro__, *state(value).values()]
