"""The package as its own tests read it: modules, what they import, and what they say."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import tilevision
from tilevision import errors

PACKAGE = Path(tilevision.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
ERRORS = {name for name in errors.__all__ if name != "Failure"}
SHELL_ERRORS = {"ClickException", "UsageError", "BadParameter", "BadOptionUsage"}
# The text that stands for what a message fills in.
FILLED = "{}"
_DOTTED = re.compile(r"tilevision(\.\w+)+(:\w+)?")


@dataclass(frozen=True)
class Text:
    """A string that a user may read, and where it stands."""

    place: str
    words: str

    def __str__(self) -> str:
        return f"{self.place}: {self.words!r}"


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """Return the nodes of a file's syntax tree; it is read once."""
    return list(ast.walk(ast.parse(path.read_text())))


def bound(path: Path) -> Iterator[str]:
    """Yield each name that a file's own statements define or assign."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        names = (name for target in targets for name in ast.walk(target))
        yield from (name.id for name in names if isinstance(name, ast.Name))


def lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function has, its docstring aside."""
    words = ast.get_docstring(function, clean=False) or ""
    return (function.end_lineno or 0) - function.lineno + 1 - len(words.splitlines())


def part(path: Path) -> str:
    """Return the part of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module(path: Path) -> str:
    """Return the dotted name that a file is imported by."""
    names = ["tilevision", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


MODULES = {module(path): path for path in FILES}
PARTS = {part(path) for path in FILES}


@functools.cache
def arguments() -> set[str]:
    """Return what users give by name, and what a message about it may begin with.

    Names of parameters, and of the fields of dataclasses. Only who asks waits for it: every
    process of the suite imports this file.
    """
    found = set()
    for path in FILES:
        for node in nodes(path):
            if isinstance(node, ast.arguments):
                found |= {argument.arg for argument in (*node.args, *node.kwonlyargs)}
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
    return found


# What is imported ---------------------------------------------------------------------------


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names a file imports, anywhere in it, TYPE_CHECKING included."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module(path).split(".")
                cut = node.level - (path.name == "__init__.py")
                base = ".".join([*package[: len(package) - cut], *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def named(path: Path) -> Iterator[str]:
    """Yield the dotted names in strings of a file: of modules that it has imported by name."""
    loggers = {
        id(node.args[0])
        for node in nodes(path)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "logging.getLogger"
    }
    for node in nodes(path):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and _DOTTED.fullmatch(node.value)
            and id(node) not in loggers
        ):
            yield node.value.partition(":")[0]


def parts_of(names: Iterable[str]) -> set[str]:
    """Return the parts of the package among dotted names."""
    split = [name.split(".") for name in names]
    return {one[1] for one in split if one[0] == "tilevision" and len(one) > 1} & PARTS


def dependencies(path: Path) -> set[str]:
    """Return the modules of the package that a file imports."""
    found = set()
    for name in imports(path):
        names = name.split(".")
        prefixes = (".".join(names[:end]) for end in range(len(names), 1, -1))
        found.add(next((prefix for prefix in prefixes if prefix in MODULES), ""))
    return found - {"", module(path)}


def cycles() -> list[set[str]]:
    """Return the groups of modules that import one another, round in a circle."""
    graph = {name: dependencies(path) for name, path in MODULES.items()}
    while True:  # take away what imports nothing that is left, until only circles are left
        free = {name for name, needed in graph.items() if not needed & graph.keys()}
        if not free:
            break
        graph = {name: needed - free for name, needed in graph.items() if name not in free}
    reach = {name: _reached(name, graph) for name in graph}
    groups = {frozenset(o for o in reach[n] if n in reach[o]) for n in graph if n in reach[n]}
    return sorted(map(set, groups), key=sorted)


def _reached(name: str, graph: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    rest = [name]
    while rest:
        new = graph.get(rest.pop(), set()) - seen
        seen |= new
        rest += new
    return seen


# What is said -------------------------------------------------------------------------------


def messages(path: Path) -> Iterator[Text]:
    """Yield the messages of errors, warnings and notes that a file makes."""
    for node in nodes(path):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        said = name in ERRORS | SHELL_ERRORS or ast.unparse(node.func) in (
            "warnings.warn",
            "notes.append",
        )
        given = node.args[:1] if said else []
        for keyword in node.keywords:
            if keyword.arg == "notes" and isinstance(keyword.value, ast.Tuple):
                given += keyword.value.elts
        for one in given:
            yield from (Text(_place(path, node), words) for words in _spelled(one))


def _spelled(node: ast.expr) -> list[str]:
    """Return what an expression spells, each of its alternatives; empty if nothing is written."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return [
            "".join(str(p.value) if isinstance(p, ast.Constant) else FILLED for p in node.values)
        ]
    if isinstance(node, ast.IfExp):
        return _spelled(node.body) + _spelled(node.orelse)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = _spelled(node.left) or [FILLED], _spelled(node.right) or [FILLED]
        return [left + right for left in sides[0] for right in sides[1]]
    return []


def strings(path: Path) -> Iterator[Text]:
    """Yield the strings of more than one word in a file, those of docstrings left out."""
    documented = {
        id(node.body[0].value)
        for node in nodes(path)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = " ".join(node.value.split())
            if id(node) not in documented and " " in words:
                yield Text(_place(path, node), words)


def docstrings() -> Iterator[tuple[str, Text]]:
    """Yield part and docstring of each public name, and of its public members."""
    for name in tilevision.__all__:
        thing = getattr(tilevision, name)
        if not callable(thing):
            continue
        yield _documented(thing, thing.__module__, name)
        for key, member in vars(thing).items() if inspect.isclass(thing) else ():
            if not key.startswith("_") and (inspect.isroutine(member) or _described(member)):
                yield _documented(member, thing.__module__, f"{name}.{key}")


def _described(member: object) -> bool:
    return isinstance(member, (property, classmethod, functools.cached_property))


def _documented(thing: object, home: str, name: str) -> tuple[str, Text]:
    words = " ".join((inspect.getdoc(thing) or "").split())
    return home.split(".")[1], Text(name, words)


def _place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
