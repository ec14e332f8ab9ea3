"""Pages and docstrings with Python, and a kernel that runs it as a reader would."""

from __future__ import annotations

import ast
import doctest
import os
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

__all__ = [
    "NOT_RUN",
    "PAGES",
    "ROOT",
    "Block",
    "Kernel",
    "blocks",
    "blocks_in",
    "docstring_blocks",
    "kernel",
    "matches",
]

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [
        *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs").glob("[hr]*/*.md"),
    ]
)
NOT_RUN = "# Not run by the tests: "  # a block's first line, for readers to see; then the reason
_FENCE = re.compile(r"^```(?P<kind>[\w{}-]*)[^\n`]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One block of Python in a page.

    Parameters
    ----------
    place : str
        Page and line, for people.
    code : str
    printed : str or None
        The ``text`` block right after it: what it prints, with ``…`` for what differs.
    """

    place: str
    code: str
    printed: str | None = None

    @property
    def reason(self) -> str:
        """Why it cannot run here; empty if it can."""
        first = self.code.partition("\n")[0]
        return first.removeprefix(NOT_RUN).strip() if first.startswith(NOT_RUN) else ""


def blocks(page: Path) -> list[Block]:
    """Return the blocks of Python in a page of Markdown, in order."""
    return blocks_in(page.read_text(encoding="utf-8"), str(page.relative_to(ROOT)))


def blocks_in(text: str, name: str) -> list[Block]:
    """Return the blocks of Python in a text of Markdown, in order."""
    fences = list(_FENCE.finditer(text))
    found = []
    for fence, after in zip_longest(fences, fences[1:]):
        if fence["kind"] != "python":
            continue
        follows = after is not None and not text[fence.end() : after.start()].strip()
        printed = after["text"] if after and follows and after["kind"] == "text" else None
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(f"{name}:{line}", fence["text"], printed))
    return found


def docstring_blocks(source: str, name: str) -> list[list[Block]]:
    """Return the code in the docstrings of a module, block by block: a list for each docstring.

    That is what follows ``>>>``, and each block that is indented below a line ending in ``::``.
    """
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = []
    for node in ast.walk(ast.parse(source)):
        text = ast.get_docstring(node) if isinstance(node, kinds) else None
        if text is None:
            continue
        place = f"{name}:{getattr(node, 'lineno', 1)}"
        examples = doctest.DocTestParser().get_examples(text)
        shown = [Block(place, one.source, one.want or None) for one in examples]
        literal = re.findall(r"::\n\n((?:(?: {4}.*)?\n)+)", text + "\n")
        shown += [Block(place, textwrap.dedent(one).strip() + "\n") for one in literal]
        found.append(shown)
    return [shown for shown in found if shown]


def matches(printed: str, expected: str) -> bool:
    """Return True if a block printed what its page shows, spaces apart; ``…`` is anything."""
    parts = [re.escape(part) for part in " ".join(expected.split()).split("…")]
    return re.fullmatch(".*?".join(parts), " ".join(printed.split()), re.DOTALL) is not None


class Kernel:
    """A Python kernel in which pages are run, one after the other.

    Parameters
    ----------
    client : jupyter_client.BlockingKernelClient

    Attributes
    ----------
    replaced : (str, str)
        A pattern, and what stands in its place when a cell is run: addresses that are elsewhere.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.replaced = ("(?!)", "")

    def begin(self, folder: Path) -> None:
        """Forget the names of the page before, and go into an empty folder."""
        self.run("%reset -f")
        self.run(f"import os; os.chdir({str(folder)!r})")

    def run(self, code: str) -> str:
        """Run a cell and return what it printed, or else the value of its last line.

        Raises
        ------
        AssertionError
            If it raises; with its traceback.
        """
        printed: list[str] = []
        value: list[str] = []

        def listen(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream" and content["name"] == "stdout":
                printed.append(content["text"])
            if message["msg_type"] == "execute_result":
                value.append(content["data"].get("text/plain", ""))

        cell = re.sub(*self.replaced, code)
        reply = self._client.execute_interactive(cell, timeout=500, output_hook=listen)["content"]
        if reply["status"] != "ok":
            trace = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(reply.get("traceback", [])))
            raise AssertionError(f"{trace[-3000:]}\n{''.join(printed)[-1000:]}")
        return "".join(printed or value)


@contextmanager
def kernel(environment: dict[str, str], prelude: str) -> Iterator[Kernel]:
    """Start a kernel that has run `prelude`, whose names outlive the pages' own."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", env={**os.environ, **environment})
    try:
        ours = Kernel(client)
        ours.run(prelude)
        yield ours
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=False)
