"""What a code object depends on: the names it reads and the constants it uses."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

__all__ = ["Names", "names", "used_constants"]

_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME")
_ATTRIBUTE = ("LOAD_ATTR", "LOAD_METHOD")


@dataclass(slots=True)
class Names:
    """What a function's code asks the world for.

    Parameters
    ----------
    chains : set of tuple of str
        Globals with the attributes read from them at once: ``("helpers", "threshold")``.
    imports : set of (str, int)
        Modules imported while it runs, and the level of a relative import.
    """

    chains: set[tuple[str, ...]] = field(default_factory=set)
    imports: set[tuple[str, int]] = field(default_factory=set)


def names(code: CodeType) -> Names:
    """Return the names that `code` and the code nested in it read."""
    found = Names()
    for nested in _all_code(code):
        _collect(nested, found)
    return found


def used_constants(code: CodeType) -> tuple[Any, ...]:
    """Return ``co_consts`` with None in place of those that no instruction loads.

    That leaves out the docstring, unless the function returns it.
    """
    loaded = {
        instruction.arg
        for instruction in dis.get_instructions(code)
        if instruction.opcode in dis.hasconst
    }
    return tuple(const if i in loaded else None for i, const in enumerate(code.co_consts))


def _all_code(code: CodeType) -> Iterator[CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _all_code(const)


def _collect(code: CodeType, found: Names) -> None:
    chain: list[str] = []
    constants: list[Any] = []
    for instruction in dis.get_instructions(code):
        operation = instruction.opname
        if operation == "EXTENDED_ARG":
            continue
        if chain and operation in _ATTRIBUTE:
            chain.append(instruction.argval)
            continue
        if chain:
            found.chains.add(tuple(chain))
            chain = []
        if operation in _GLOBAL:
            chain = [instruction.argval]
        elif operation == "IMPORT_NAME":
            level = constants[-2] if len(constants) > 1 else 0
            found.imports.add((instruction.argval, level if isinstance(level, int) else 0))
        constants = [*constants[-1:], instruction.argval]
    if chain:
        found.chains.add(tuple(chain))
