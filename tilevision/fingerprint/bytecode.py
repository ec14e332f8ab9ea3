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
_FILLING = {"append", "add", "extend", "insert", "setdefault", "update", "appendleft"}


@dataclass(slots=True)
class Names:
    """What a function's code asks the world for.

    Parameters
    ----------
    chains : set of tuple of str
        Globals with the attributes read from them at once: ``("helpers", "threshold")``.
    imports : set of (str, int)
        Modules imported while it runs, and the level of a relative import.
    assigned : set of str
        Globals that it assigns itself (``global net; net = …``): what they hold is what it left.
    filled : mapping of str to set or None
        Globals that it puts entries into, with the keys: ``CACHE["net"] = …``. None where they
        are worked out as it runs: ``CACHE[path] = …``, ``SEEN.append(…)``.
    """

    chains: set[tuple[str, ...]] = field(default_factory=set)
    imports: set[tuple[str, int]] = field(default_factory=set)
    assigned: set[str] = field(default_factory=set)
    filled: dict[str, set[Any] | None] = field(default_factory=dict)

    def fill(self, name: str, key: set[Any] | None) -> None:
        """Note that an entry of a global is assigned; None: under any key."""
        known = self.filled.get(name, set())
        self.filled[name] = None if key is None or known is None else known | key


def names(code: CodeType) -> Names:
    """Return the names that `code` and the code nested in it read."""
    found = Names()
    for nested in _all_code(code):
        _collect(nested, found)
        _find_filled(nested, found)
    for chain in found.chains:
        if chain[1:] and chain[1] in _FILLING:
            found.fill(chain[0], None)
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


def _find_filled(code: CodeType, found: Names) -> None:
    """Note the globals that a subscript is stored into: ``CACHE["net"] = …``."""
    listed = [one for one in dis.get_instructions(code) if one.opname != "CACHE"]
    for position, instruction in enumerate(listed):
        if instruction.opname == "STORE_SUBSCR":
            _note_store(listed[:position], found)


def _note_store(before: list[dis.Instruction], found: Names) -> None:
    """Note the container of a subscript store, if it is a global, by what stands before it.

    That is the container, and then what makes the key, which leaves one value on the stack.
    """
    height = 0
    for steps, one in enumerate(reversed(before)):
        if height == 1:
            if one.opname in _GLOBAL:
                plain = steps == 1 and before[-1].opname == "LOAD_CONST"
                found.fill(one.argval, {before[-1].argval} if plain else None)
            return
        arg = one.arg if one.opcode >= dis.HAVE_ARGUMENT else None
        height += dis.stack_effect(one.opcode, arg, jump=False)


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
        elif operation in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            found.assigned.add(instruction.argval)
        elif operation == "IMPORT_NAME":
            level = constants[-2] if len(constants) > 1 else 0
            found.imports.add((instruction.argval, level if isinstance(level, int) else 0))
        constants = [*constants[-1:], instruction.argval]
    if chain:
        found.chains.add(tuple(chain))
