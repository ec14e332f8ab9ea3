"""Checks of arguments: whole numbers, positive numbers, shares, names, paths.

Each check returns the value as a plain Python number or text, or raises an error of the kind that
the caller names, which is a `ValueError` as well: one line with the argument, its value, and what
it takes. NumPy's numbers are numbers; True, False, NaN and infinity are not.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeGuard

from tilevision.errors import RunArgumentError, TilevisionError

__all__ = [
    "flag",
    "is_number",
    "is_whole",
    "names",
    "one_of",
    "path",
    "positive",
    "share",
    "whole",
    "worker_count",
]

Kind = type[TilevisionError]
LONGEST = 80  # letters of a value in a message
WORKERS_A_PROCESSOR = 32  # more than waiting models can use; thousands bring a machine down


def is_number(value: Any) -> TypeGuard[float]:
    """Return True if `value` is a finite number."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> TypeGuard[int]:
    """Return True if `value` is a whole number of a whole number's type: 3, and not 3.0."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole(name: str, value: Any, error: Kind = RunArgumentError, *, least: int = 1) -> int:
    """Return a whole number of `least` or more.

    Raises
    ------
    error
        If `value` is anything else.
    """
    if not is_whole(value) or value < least:
        raise error(f"{name} is {value!r:.80}; give a whole number of {least} or more.")
    return int(value)


def worker_count(value: Any) -> int:
    """Return how many workers to start on this machine.

    Raises
    ------
    RunArgumentError
        If it is no whole number of 1 or more, or so many that they would bring the machine down.
    """
    count, processors = whole("workers", value), os.cpu_count() or 1
    if count > (most := WORKERS_A_PROCESSOR * processors):
        raise RunArgumentError(
            f"workers is {count:,}, each a process, and this machine has {processors} processors; "
            f"give at most {most:,}, or client= for a cluster of several machines."
        )
    return count


def positive(name: str, value: Any, error: Kind = RunArgumentError, *, what: str = "") -> float:
    """Return a finite number above 0; `what` it stands for is named in the message.

    Raises
    ------
    error
        If `value` is anything else.
    """
    if not is_number(value) or not value > 0:
        raise error(f"{name} is {value!r:.80}; give {what or 'a number'} above 0.")
    return _plain(value)


def share(
    name: str, value: Any, error: Kind = RunArgumentError, *, zero: bool = True, advice: str = ""
) -> float:
    """Return a number from 0 to 1; without `zero`, one above 0.

    Parameters
    ----------
    name : str
        Of the argument.
    value
    error : type
        What is raised.
    zero : bool
        Whether 0 itself is allowed.
    advice : str
        In place of what the message would say that the argument takes: ``"give 0.5"``.

    Raises
    ------
    error
        If `value` is anything else.
    """
    if not is_number(value) or not (0 <= value <= 1) or (value == 0 and not zero):
        takes = "give a number from 0 to 1" if zero else "give a number above 0, up to 1"
        raise error(f"{name} is {value!r:.80}; {advice or takes}.")
    return _plain(value)


def flag(name: str, value: Any, error: Kind = RunArgumentError) -> bool:
    """Return True or False, which NumPy's may stand for.

    Raises
    ------
    error
        If `value` is anything else: a text such as "no" would count as true.
    """
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise error(f"{name} is {value!r:.80}; give True or False.")
    return bool(value)


def one_of(name: str, value: Any, choices: Iterable[str], error: Kind = RunArgumentError) -> str:
    """Return one of several words.

    Raises
    ------
    error
        If `value` is another, or no text.
    """
    known = tuple(choices)
    if not isinstance(value, str) or value not in known:
        raise error(f"{name} is {value!r:.80}; give one of {', '.join(known)}.")
    return value


def names(name: str, value: Any, error: Kind = RunArgumentError) -> tuple[str, ...]:
    """Return several names, each once and in order; one name may be given as text.

    Raises
    ------
    error
        If `value` is no text and no collection of texts.
    """
    found = (value,) if isinstance(value, str) else value
    if not isinstance(found, Iterable) or isinstance(found, (bytes, bytearray)):
        raise error(f"{name} is {value!r:.80}; give names as text, such as ['nucleus'].")
    found = tuple(found)
    for one in found:
        if not isinstance(one, str):
            raise error(f"{name} holds {one!r:.80}; give names as text, such as ['nucleus'].")
    return tuple(sorted({str(one) for one in found}))


def path(name: str, value: Any, error: Kind = RunArgumentError) -> Path:
    """Return the path that was given, ``~`` expanded, whether anything is there or not.

    Raises
    ------
    error
        If nothing can ever be there: it is no text, or one that the system takes for no path.
    """
    try:
        found = Path(value).expanduser()
        found.lstat()
    except (TypeError, ValueError, RuntimeError) as refused:  # RuntimeError: no such user
        raise error(_no_path(name, value, refused)) from refused
    except OSError as refused:  # mostly because nothing is there
        if refused.errno == errno.ENAMETOOLONG:
            raise error(_no_path(name, value, refused)) from refused
    return found


def _no_path(name: str, value: Any, refused: Exception) -> str:
    why = getattr(refused, "strerror", None) or str(refused)
    if isinstance(refused, TypeError):
        why = f"it is of type {type(value).__name__}"
    shown = repr(os.fspath(value) if isinstance(value, os.PathLike) else value)
    if len(shown) > LONGEST:  # a path differs from others at its end
        shown = f"{shown[:20]}…{shown[21 - LONGEST :]}"
    return f"{name} is {shown}, which is no path ({' '.join(why.split())[:200]}); check it."


def _plain(value: Any) -> float:
    """Return Python's own number: an int stays one, so that it is stored as it was given."""
    return int(value) if isinstance(value, Integral) else float(value)
