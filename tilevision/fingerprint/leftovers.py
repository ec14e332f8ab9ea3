"""What functions leave behind in globals: a model made at the first call, a cache, a counter.

Such a global is no part of a function's identity, nor does it travel with it: after one call in
this process it holds what the call left, and the function is still the same. What counts is what
the function would find in a fresh process: for a global that it assigns what the source says
(``net = None``), for a container that it fills an empty one. Only functions that the value itself
leads to are looked at, so a global that other code sets (a threshold set by a widget) counts with
its value.
"""

from __future__ import annotations

import ast
import collections
import functools
import linecache
import types
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tilevision.fingerprint.bytecode import names
from tilevision.fingerprint.provenance import installed
from tilevision.fingerprint.values import state, wrapped

__all__ = ["Leftovers", "leftovers"]

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
