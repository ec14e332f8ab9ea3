"""The walk over everything that a value depends on, in an order that never varies.

Objects with an identity (functions, classes, lists, instances) get a number when they
are first mentioned, and their content is written when their turn comes. So cycles end,
and deep graphs need no recursion.
"""

from __future__ import annotations

import builtins
import collections
import dataclasses
import enum
import hashlib
import logging
import operator
import sys
import types
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from tilevision.errors import ModelError
from tilevision.fingerprint.bytecode import Names, names, used_constants
from tilevision.fingerprint.provenance import by_name, importable, installed, version
from tilevision.fingerprint.values import (
    CONTAINERS,
    PLAIN,
    Leftovers,
    frame,
    leaf,
    leftovers,
    readable,
    state,
    wrapped,
)

__all__ = ["Walk", "fingerprint_file", "fingerprint_function", "fingerprint_value"]

# Names of a module that tell where it lies, not what it does.
_PLACE = {"__file__", "__name__", "__doc__", "__spec__", "__loader__", "__package__", "__path__"}
_PLACE |= {"__cached__", "__builtins__", "__annotations__"}

# Entries of a class that are made by Python, or say where it was written.
_CLASS_NOISE = {"__module__", "__doc__", "__dict__", "__weakref__", "__annotations__"}
_CLASS_NOISE |= {"__annotate__", "__annotate_func__", "__annotations_cache__", "__slotnames__"}
_CLASS_NOISE |= {"__firstlineno__", "__static_attributes__", "__orig_bases__", "__parameters__"}
_CLASS_NOISE |= {"_abc_impl", "__abstractmethods__", "__classdictcell__"}

_REMEDY = "pass tv.model(f, fingerprint='v1') and change 'v1' whenever its answers would change"


def _first(where: str) -> str:
    """Return a place as the beginning of a sentence."""
    return where[:1].upper() + where[1:]


class Walk:
    """One walk, from one value.

    Parameters
    ----------
    strict : bool
        Whether a value without a known identity is an error; otherwise it is passed over.

    Attributes
    ----------
    owners : set of str
        The user's modules that functions and classes were found in.
    modules : mapping of str to set of str
        The user's modules that were read as modules, and the names read from them.
    leftovers : mapping of int to Leftovers
        What its functions leave behind in globals, by the id of these; no part of its identity.
    """

    def __init__(self, strict: bool = True) -> None:
        self.owners: set[str] = set()
        self.modules: dict[str, set[str]] = {}
        self.leftovers: dict[int, Leftovers] = {}
        self._strict = strict
        self._hash = hashlib.sha256()
        self._numbers: dict[int, int] = {}
        self._held: list[Any] = []  # an id is given again once its object is gone
        self._queue: collections.deque[tuple[Any, str]] = collections.deque()

    def run(self, value: Any, where: str) -> str:
        """Return the fingerprint of `value`, called `where` in errors: hexadecimal.

        Raises
        ------
        ModelError
            If something it depends on has no known identity.
        """
        self._emit("python", *sys.version_info[:2])
        self.leftovers = leftovers(value)
        try:
            self._value(value, where)
            while self._queue:
                self._body(*self._queue.popleft())
        except RecursionError:
            raise ModelError(f"{_first(where)} holds tuples nested too deep; {_REMEDY}.") from None
        return self._hash.hexdigest()

    def _emit(self, *parts: bytes | str | int) -> None:
        self._hash.update(frame(len(parts), *parts))

    def _unknown(self, value: Any, where: str) -> None:
        if self._strict:
            kind = type(value)
            raise ModelError(
                f"{_first(where)} is a {kind.__module__}.{kind.__qualname__}, and tilevision "
                f"cannot tell when such an object changes; {_REMEDY}."
            )

    def _value(self, value: Any, where: str) -> None:
        """Write a plain value as it is, anything else as the number of its turn."""
        plain = leaf(value)
        if plain is not None:
            self._emit("leaf", plain)
        elif type(value) is tuple:
            self._emit("tuple", len(value))
            for item in value:
                self._value(item, where)
        elif type(value) is frozenset:
            self._set(value, where)
        elif isinstance(value, types.CodeType):
            self._code(value, where)
        else:
            number = self._numbers.setdefault(id(value), len(self._numbers))
            if number == len(self._held):
                self._held.append(value)
                self._queue.append((value, where))
            self._emit("object", number)

    def _body(self, value: Any, where: str) -> None:
        """Write the content of an object with an identity."""
        name = by_name(value)
        if isinstance(value, types.ModuleType):
            self._module(value, where)
        elif name is not None:
            self._emit("library", *name, version(name[0]))
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, type):
            self._class(value)
        elif not (self._wrapper(value, where) or self._container(value, where)):
            self._instance(value, where)

    # Code ----------------------------------------------------------------------------

    def _function(self, f: types.FunctionType) -> None:
        where = f"function {f.__qualname__!r}"
        home = str(f.__globals__.get("__name__"))  # a decorator may have changed __module__
        library = installed(home)
        if library:  # made by a library's decorator or factory: what it wraps is in its closure
            self._emit("library function", home, version(home))
        self.owners |= {name for name in (home, f.__module__) if name and not installed(name)}
        self._emit("function")
        self._code(f.__code__, where)
        self._value(f.__defaults__, f"a default of {where}")
        self._mapping(f.__kwdefaults__ or {}, f"a default of {where}")
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
            try:
                self._value(cell.cell_contents, f"'{name}', which {where} encloses,")
            except ValueError:  # not assigned yet
                self._emit("empty")
        self._mapping(dict(sorted(vars(f).items())), where)
        if not library:
            self._globals(names(f.__code__), f.__globals__, where)

    def _code(self, code: types.CodeType, where: str) -> None:
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
        # co_code is the code as compiled: Python's own specialised copy is kept apart from it.
        self._emit("code", code.co_code, code.co_exceptiontable, code.co_flags, *counts)
        for column in (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars):
            self._emit("names", *column)
        self._value(used_constants(code), where)

    def _globals(self, found: Names, namespace: dict[str, Any], where: str) -> None:
        for chain in sorted(found.chains):
            self._emit("global", *chain)
            self._global(chain, namespace, where)
        for module, level in sorted(found.imports):
            self._emit("import", level, module)
            if not level and installed(module):
                self._emit("library", module, version(module))
            elif self._strict and (level or importable(module)):
                raise ModelError(
                    f"{_first(where)} imports {module!r} while it runs; import it at the top of "
                    f"the file or cell, so that it travels with the function, or {_REMEDY}."
                )

    def _global(self, chain: tuple[str, ...], namespace: dict[str, Any], where: str) -> None:
        root, *attributes = chain
        if root in _PLACE:
            return
        if root not in namespace:  # its name says it all
            self._emit("builtin" if hasattr(builtins, root) else "undefined")
            return
        value = self._before(namespace, root)
        path = root
        while attributes and isinstance(value, types.ModuleType) and not installed(value.__name__):
            name = attributes.pop(0)
            path = f"{path}.{name}"
            if not hasattr(value, name):
                self._emit("undefined")
                return
            self.modules.setdefault(value.__name__, set()).add(name)
            value = self._before(vars(value), name)
        self._value(value, f"global '{path}', which {where} reads,")

    def _before(self, namespace: dict[str, Any], name: str) -> Any:
        """Return a global as the functions of this walk find it in a fresh process."""
        value = namespace.get(name)
        left = self.leftovers.get(id(namespace))
        return value if left is None else left.before(name, value)

    def _module(self, module: types.ModuleType, where: str) -> None:
        name = module.__name__
        if installed(name):
            self._emit("library", name, version(name))
            return
        # Handed on as a value, so anything in it may be read.
        content = {k: v for k, v in sorted(vars(module).items()) if k not in _PLACE}
        self.modules.setdefault(name, set()).update(content)
        self._emit("module", name)
        self._mapping(content, f"module {name!r} ({where})")

    # Classes and instances ------------------------------------------------------------

    def _class(self, cls: type) -> None:
        where = f"class {cls.__qualname__!r}"
        self.owners.add(cls.__module__)
        self._emit("class", cls.__qualname__)
        self._value(type(cls), where)
        self._value(cls.__bases__, where)
        members = {k: v for k, v in sorted(vars(cls).items()) if k not in _CLASS_NOISE}
        if issubclass(cls, enum.Enum):
            values = {name: member.value for name, member in cls.__members__.items()}
            self._mapping(values, where)
            functions = (types.FunctionType, property, classmethod, staticmethod)
            members = {k: v for k, v in members.items() if isinstance(v, functions)}
        for name, member in members.items():
            self._emit("member", name)
            self._value(member, f"{where}.{name}")

    def _wrapper(self, value: Any, where: str) -> bool:
        """Write what wraps a function; return whether `value` does."""
        parts = wrapped(value)
        if parts is None:
            return False
        # A library may have made its own class the one that every logger is of.
        kind = logging.Logger if isinstance(value, logging.Logger) else type(value)
        self._emit("wrapper", kind.__qualname__)
        self._value(parts, where)
        return True

    def _container(self, value: Any, where: str) -> bool:
        """Write what Python, numpy and Pillow hold values in; return whether `value` is such."""
        kind = type(value)
        if kind in (list, collections.deque):
            self._emit(kind.__name__, len(value))
            self._each(value, where)
        elif kind in (dict, collections.OrderedDict, collections.Counter, types.MappingProxyType):
            self._mapping(value, where)
        elif kind is collections.defaultdict:
            self._value(value.default_factory, where)
            self._mapping(value, where)
        elif kind is set:
            self._set(value, where)
        elif kind in (np.ndarray, np.memmap):
            self._array(value, where)
        elif kind is slice:
            self._emit("slice")
            self._value((value.start, value.stop, value.step), where)
        elif kind is types.SimpleNamespace:
            self._mapping(dict(sorted(vars(value).items())), where)
        elif isinstance(value, enum.Enum):
            self._emit("enum", str(value.name))
            self._value(value.value, where)
            self._value(kind, where)
        elif kind.__module__.startswith("PIL.") and hasattr(value, "tobytes"):
            self._emit("picture", value.mode, *value.size, value.tobytes())
        else:
            return False
        return True

    def _instance(self, value: Any, where: str) -> None:
        kind = type(value)
        library = installed(kind.__module__)
        known = dataclasses.is_dataclass(value) or kind.__module__ == "dataclasses"
        if (library and not known) or not all(map(readable, kind.__mro__)):
            self._unknown(value, where)
            return
        self._emit("instance")
        self._value(kind, where)
        for base in (*CONTAINERS, *PLAIN):
            if isinstance(value, base):
                self._value(base(value), where)
        self._mapping(state(value), where, "attribute")

    def _mapping(self, items: Any, where: str, what: str = "item") -> None:
        self._emit("mapping", len(items))
        for key, value in items.items():
            self._value(key, where)
            self._value(value, f"{what} {str(key)[:60]!r} of {where}")

    def _each(self, items: Iterable[Any], where: str) -> None:
        for item in items:
            self._value(item, f"an item of {where}")

    def _set(self, items: Any, where: str) -> None:
        ranked = [(self._rank(item, where), item) for item in items]
        if len({rank for rank, _ in ranked}) < len(ranked):
            self._unknown(items, f"{where} holds things that look alike: it")
        self._emit("set", len(ranked))
        self._each((item for _, item in sorted(ranked, key=operator.itemgetter(0))), where)

    def _rank(self, item: Any, where: str) -> bytes:
        """Return what an item of a set is sorted by; the set's own order varies by process."""
        plain = leaf(item)
        if plain is not None:
            return plain
        if type(item) is tuple:
            return frame("tuple", *(self._rank(part, where) for part in item))
        if type(item) is frozenset:
            return frame("set", *sorted(self._rank(part, where) for part in item))
        if isinstance(item, enum.Enum):
            return frame("enum", type(item).__qualname__, item.name)
        if isinstance(item, (type, types.FunctionType)):
            return frame("named", str(item.__module__), item.__qualname__)
        self._unknown(item, f"an item of a set ({where})")
        return b""

    def _array(self, array: Any, where: str) -> None:
        self._emit("array", repr(array.dtype), *array.shape)
        if array.dtype.hasobject:
            self._each(array.ravel().tolist(), where)
        else:
            self._hash.update(np.ascontiguousarray(array).tobytes())


def fingerprint_function(f: Callable[..., Any]) -> str:
    """Return the identity of a function, method, partial, class or callable instance.

    Returns
    -------
    str
        Hexadecimal, 64 digits. Holds for one minor version of Python, since bytecode does.

    Raises
    ------
    ModelError
        If `f` is not callable, or depends on something without a known identity.
    """
    if not callable(f):
        raise ModelError(f"A model function is wanted, but {f!r:.80} cannot be called.")
    return Walk().run(f, f"function {getattr(f, '__qualname__', type(f).__qualname__)!r}")


def fingerprint_value(value: Any) -> str:
    """Return the identity of plain values, containers, arrays, pictures, classes and functions.

    Raises
    ------
    ModelError
        If `value` holds something without a known identity.
    """
    return Walk().run(value, "the value")


def fingerprint_file(path: str | PathLike[str]) -> str:
    """Return the SHA-256 of a file's content: hexadecimal; its name and dates do not count.

    Raises
    ------
    ModelError
        If the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(
            f"Cannot read {path}: {error.strerror or error}; check the path."
        ) from None
