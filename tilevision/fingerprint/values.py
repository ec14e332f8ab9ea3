"""Plain values as bytes, and what instances are made of, as far as Python can see it.

Equal values give equal bytes, in every process.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import functools
import logging
import operator
import pathlib
import re
import sys
import types
import typing
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np

from tilevision.fingerprint.provenance import installed, version

__all__ = ["CONTAINERS", "PLAIN", "frame", "leaf", "readable", "state", "wrapped"]

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
    """Return the attributes kept in an instance itself: ``__dict__`` and slots, by name."""
    found = dict(getattr(value, "__dict__", {}))
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            private = slot.startswith("__") and not slot.endswith("__")
            name = f"_{base.__name__.lstrip('_')}{slot}" if private else slot
            if hasattr(value, name) and slot not in ("__dict__", "__weakref__"):
                found[name] = getattr(value, name)
    return dict(sorted(found.items()))
