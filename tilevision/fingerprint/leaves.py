"""Plain values as bytes: equal values give equal bytes, in every process."""

from __future__ import annotations

import datetime
import decimal
import fractions
import pathlib
import re
import types
import typing
import uuid
from typing import Any

import numpy as np

__all__ = ["frame", "leaf"]

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
