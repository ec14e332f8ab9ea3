"""Functions and objects as one blob that any worker can open.

Code of the user's own modules travels by value, so workers need not have the files, and
an old copy that a worker has imported cannot answer for an edited one. A module that is
used as a module travels as what is read from it.
"""

from __future__ import annotations

import functools
import io
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import cloudpickle

from tilevision.errors import ModelError
from tilevision.fingerprint import Leftovers, Walk, installed

__all__ = ["LIMIT", "pack", "unpack"]

LIMIT = 1_000_000

_CACHED = type(functools.lru_cache(lambda: None))
_lock = threading.RLock()


def pack(value: Any, name: str) -> bytes:
    """Return `value` as bytes, 1 MB at most; errors call it model `name`.

    Raises
    ------
    ModelError
        If something in it cannot travel, or it is too big.
    """
    walk = Walk(strict=False)
    walk.run(value, name)
    blob = io.BytesIO()
    try:
        with _lock, _by_value(walk.owners | walk.modules.keys()):
            _Pickler(blob, walk.modules, walk.leftovers).dump(value)
    except Exception as error:
        raise ModelError(
            f"Model {name} cannot be sent to workers ({error}); make sessions, open files and "
            "locks inside the function: once, in a function of their own with @functools.cache."
        ) from error
    if blob.tell() > LIMIT:
        raise ModelError(
            f"Model {name} takes {blob.tell() / 1e6:.1f} MB to send, and 1 MB is the limit; load "
            "weights and tables from a path inside the function, once (with @functools.cache)."
        )
    return blob.getvalue()


def unpack(blob: bytes) -> Any:
    """Return what `pack` was given; only for bytes of one's own session, since this runs code."""
    return cloudpickle.loads(blob)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Sends the user's modules as the names that are read from them, and caches empty.

    Globals that functions assign or fill themselves travel as they were before any call.
    """

    def __init__(
        self, file: io.BytesIO, modules: dict[str, set[str]], left: dict[int, Leftovers]
    ) -> None:
        super().__init__(file)
        self._read = modules
        self._left = left
        self._fresh: dict[int, dict[str, Any]] = {}  # globals by the id of those they stand for

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, types.ModuleType) and not installed(value.__name__):
            names = self._read.get(value.__name__, ())
            left = self._left.get(id(vars(value)), Leftovers())
            content = {
                n: left.before(n, getattr(value, n)) for n in sorted(names) if hasattr(value, n)
            }
            return types.ModuleType, (value.__name__,), content, None, None, _fill
        if isinstance(value, types.FunctionType) and id(value.__globals__) in self._left:
            return super().reducer_override(self._before(value))
        if isinstance(value, types.CodeType):  # cloudpickle drops the file, which errors name
            rebuild, arguments = self.dispatch_table[types.CodeType](value)
            return _in_file, (rebuild, arguments, value.co_filename)
        if isinstance(value, _CACHED):
            return _cached, (value.__wrapped__, value.cache_parameters())
        return super().reducer_override(value)

    def _before(self, f: types.FunctionType) -> types.FunctionType:
        """Return a function that reads its globals as they were before any call."""
        known = f.__globals__
        if id(known) not in self._fresh:
            left = self._left[id(known)]
            fresh = {name: left.before(name, known[name]) for name in left.names if name in known}
            self._fresh[id(known)] = {**known, **fresh}
        copy = types.FunctionType(
            f.__code__, self._fresh[id(known)], f.__name__, f.__defaults__, f.__closure__
        )
        copy.__kwdefaults__ = f.__kwdefaults__
        copy.__dict__.update(f.__dict__)
        for name in ("__qualname__", "__module__", "__doc__", "__annotations__"):
            setattr(copy, name, getattr(f, name))
        return copy


def _fill(module: types.ModuleType, content: dict[str, Any]) -> None:
    vars(module).update(content)


def _in_file(
    rebuild: Callable[..., types.CodeType], arguments: tuple[Any, ...], file: str
) -> types.CodeType:
    return rebuild(*arguments).replace(co_filename=file)


def _cached(f: Any, parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(f)


@contextmanager
def _by_value(names: Iterable[str]) -> Iterator[None]:
    """Have cloudpickle send the code of these modules instead of their names."""
    already = cloudpickle.list_registry_pickle_by_value()
    modules = [sys.modules[n] for n in names if n in sys.modules and n not in already]
    registered = [m for m in modules if m.__name__ not in ("__main__", "__mp_main__")]
    for module in registered:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)
