"""The identity of functions, values and files: the same in every process and kernel.

A function is what its answers depend on: its code as compiled, its defaults, what it
encloses, and the globals it names, followed into the user's own functions, classes and
modules. Libraries count by name and version. File names, line numbers, the function's
name, comments, docstrings and annotations do not count.

- A lambda and a decorated function are what they are: code, and what they enclose.
- A name that is neither a global nor built in counts by its name only, as does a global
  that tells where a module lies (``__file__``).
- A global that the function itself assigns or fills (a model made at the first call, a cache, a
  counter) counts as it was before the first call: see `tilevision.fingerprint.leftovers`.
- A function imported while another one runs is not seen, so importing the user's own
  modules there is refused.
- What a function reads from disk or network is not seen. Whoever does so passes
  ``tv.model(f, fingerprint=…)``.
- Anything whose state cannot be read (sessions, locks, open files) is a `ModelError`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from tilevision.errors import ModelError
from tilevision.fingerprint.leftovers import Leftovers
from tilevision.fingerprint.provenance import installed, version
from tilevision.fingerprint.walk import Walk

__all__ = [
    "Leftovers",
    "Walk",
    "fingerprint_file",
    "fingerprint_function",
    "fingerprint_value",
    "installed",
    "version",
]


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
