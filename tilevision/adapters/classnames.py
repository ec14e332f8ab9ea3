"""Class names: from the file, from the user, or the user's in place of some of the file's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tilevision.errors import ModelError

__all__ = ["beyond_names", "class_name", "class_names", "count"]

_MOST = 100_000  # a table of names by number is no larger


def class_name(number: int, names: Any) -> str:
    """Return the name of a class number, from a list or a mapping; ``class_0`` without."""
    if isinstance(names, Mapping):
        found = names.get(str(number), names.get(number))
        return f"class_{number}" if found is None else str(found)
    if names is not None and 0 <= number < len(names):
        return str(names[number])
    return "object" if number < 0 else f"class_{number}"


def class_names(model: str, asked: Any, noted: Any) -> list[str] | dict[str, str] | None:
    """Return the names of a model's classes.

    Parameters
    ----------
    model : str
        For errors.
    asked : list or dict, optional
        The user's: one for each class, or some by class number.
    noted : list or dict, optional
        The file's, as its exporter wrote them.

    Returns
    -------
    list, dict or None
        One name for each class; some by class number as text; None where nobody names any.

    Raises
    ------
    ModelError
        If the user's names are none, or not as many as the file's.
    """
    known = _complete(noted)
    if asked is None:
        return known
    if isinstance(asked, list) and asked and all(isinstance(name, str) for name in asked):
        if isinstance(known, list) and len(asked) != len(known):
            raise ModelError(
                f"names of model {model} are {len(asked)}, and the file has {len(known)} classes; "
                "give one for each, or a dict of some by class number."
            )
        return asked
    if not _by_number(asked):
        raise ModelError(
            f"names of model {model} is {asked!r:.80}; give a list of class names, or a dict of "
            "names by class number."
        )
    given = {str(number): name for number, name in asked.items()}
    if not isinstance(known, list):
        return {**(known or {}), **given}
    return [given.get(str(number), name) for number, name in enumerate(known)]


def beyond_names(model: str, numbers: Iterable[int], names: Any) -> list[str]:
    """Return what to tell of class numbers that a list of names does not reach: then it may be off.

    Parameters
    ----------
    model : str
        Its name.
    numbers : iterable of int
        Class numbers that it gave.
    names : list or dict, optional
        As in `class_name`; a dict may name only some.
    """
    most = max(numbers, default=-1)
    if not isinstance(names, (list, tuple)) or most < len(names):
        return []
    return [
        f"Model {model} gave class number {most}, and names are {len(names)}, for 0 to "
        f"{len(names) - 1}; they may belong to other numbers. Give names for all, or a dict by "
        "number."
    ]


def count(names: list[str] | dict[str, str] | None) -> int | None:
    """Return how many classes there are, where the names tell: a dict may name only some."""
    return len(names) if isinstance(names, list) else None


def _complete(noted: Any) -> list[str] | dict[str, str] | None:
    """Return the file's names as a list, or by number where some have none.

    None where they are no names: other tools note other things.
    """
    if isinstance(noted, list) and noted:
        return [str(name) for name in noted]
    if not isinstance(noted, dict):
        return None
    texts = {key: str(name) if _is_number(name) else name for key, name in noted.items()}
    if not _by_number(texts):
        return None
    numbered = {int(number): name for number, name in texts.items()}
    if max(numbered) >= _MOST:
        return None
    if sorted(numbered) != list(range(len(numbered))):
        return {str(number): name for number, name in sorted(numbered.items())}
    return [numbered[number] for number in sorted(numbered)]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _by_number(names: Any) -> bool:
    return (
        isinstance(names, dict)
        and bool(names)
        and all(str(number).isdecimal() for number in names)
        and all(isinstance(name, str) for name in names.values())
    )
