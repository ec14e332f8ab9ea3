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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import cloudpickle

from tilevision.errors import ModelError
from tilevision.fingerprint import Walk, installed

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
            _Pickler(blob, walk.modules).dump(value)
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
    """Sends the user's modules as the names that are read from them, and caches empty."""

    def __init__(self, file: io.BytesIO, modules: dict[str, set[str]]) -> None:
        super().__init__(file)
        self._read = modules

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, types.ModuleType) and not installed(value.__name__):
            names = self._read.get(value.__name__, ())
            content = {n: getattr(value, n) for n in sorted(names) if hasattr(value, n)}
            return types.ModuleType, (value.__name__,), content, None, None, _fill
        if isinstance(value, _CACHED):
            return _cached, (value.__wrapped__, value.cache_parameters())
        return super().reducer_override(value)


def _fill(module: types.ModuleType, content: dict[str, Any]) -> None:
    vars(module).update(content)


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
