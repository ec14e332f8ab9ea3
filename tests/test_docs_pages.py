"""Pages of the documentation and docstrings: what they show runs, and prints what they say."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import docinputs
import pytest
from docpages import PAGES, ROOT, Kernel, blocks, blocks_in, docstring_blocks, kernel, matches
from house import FILES, PACKAGE, nodes
from openai_server import OpenAIServer, Reply

import tilevision as tv
from tilevision import events
from tilevision.cli import main
from tilevision.exporting import FORMATS, save

LINK = re.compile(r"\]\((?!https?://)([^)\s]+)\)")
PICTURE = re.compile(r"(\.\./)*_pictures/")
NOTEBOOK = re.compile(r"(?:\.\./)*notebooks/(.*)")
LINKING = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "docs" / "llms.txt"]
KINDS = {"python", "text", "sh", "toml", "mermaid", "{eval-rst}", "{toctree}", "{raw} html"}
# How many blocks need something that is not here, a cluster of a cloud for example.
NOT_RUN = 10
# One cluster for all pages, that runs find as the current one; it outlives the pages' names.
PRELUDE = """
import sys
from distributed import Client
from tilevision.cluster import local_cluster
import tilevision
handle = local_cluster(workers=2)
sys.docs_cluster = handle.__enter__()
sys.docs_client = Client(sys.docs_cluster.client.cluster)
"""

# A run whose tiles fail warns, and goes on.
COMPLETE = "import warnings; warnings.filterwarnings('error', message='INCOMPLETE')"

WITH_PYTHON = [page for page in PAGES if blocks(page)]


DOCSTRINGS = {
    shown[0].place: shown
    for path in FILES
    for shown in docstring_blocks(
        path.read_text(encoding="utf-8"), path.relative_to(PACKAGE.parent).as_posix()
    )
}


class AnyName(OpenAIServer):
    """Knows every model by its real name, as one that finds what it is asked for or writes."""

    def _answer(
        self, path: str, headers: dict[str, str], body: dict[str, Any], reply: Reply | None
    ) -> tuple[int, dict[str, str], Any]:
        if "moderation" in body["model"]:
            return super()._answer(path, headers, body, reply)
        form = body.get("response_format")
        pixels = ":pixels xyxy" if "qwen2.5" in body["model"].lower() else ""
        body = {**body, "model": f"spots{pixels}" if form else "scene"}
        status, extra, answer = super()._answer(path, headers, body, reply)
        if form:
            (label,) = re.findall(r'"enum": (\["[^]]+\])', json.dumps(form))
            message = answer["choices"][0]["message"]
            message["content"] = message["content"].replace("spot", json.loads(label)[0])
        return status, extra, answer


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages read."""
    return docinputs.lay_out(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def reader() -> Iterator[Kernel]:
    """A kernel with a cluster, and a hosted model where pages expect OpenAI's."""
    with AnyName() as server:
        environment = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "no-secret"}
        with kernel(environment, PRELUDE) as ours:
            ours.replaced = (r'base_url="[^"]+"', f'base_url="{server.url}"')
            yield ours


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=_name)
def test_pages_run(page: Path, inputs: Path, reader: Kernel, tmp_path: Path) -> None:
    """Every block runs after those above it, and prints what the page shows below it."""
    folder = shutil.copytree(inputs, tmp_path / "here")
    reader.begin(folder)
    for block in blocks(page):
        if block.reason:
            continue
        try:
            printed = reader.run(block.code)
        except AssertionError as error:
            pytest.fail(f"{block.place}: {error}", pytrace=False)
        if block.printed is not None:
            assert matches(printed, block.printed), f"{block.place} prints:\n{printed}"


@pytest.mark.slow
@pytest.mark.parametrize("place", DOCSTRINGS)
def test_docstrings_run(place: str, inputs: Path, reader: Kernel, tmp_path: Path) -> None:
    """What a docstring shows runs, with `tv` for the package as everywhere."""
    reader.begin(shutil.copytree(inputs, tmp_path / "here"))
    reader.run("import tilevision as tv")
    for block in DOCSTRINGS[place]:
        try:
            printed = reader.run(f"{COMPLETE}\n{block.code}")
        except AssertionError as error:
            pytest.fail(f"{block.place}: {error}", pytrace=False)
        if block.printed is not None:
            assert matches(printed, block.printed), f"{block.place} prints:\n{printed}"
    reader.run("warnings.resetwarnings()")


def test_docstrings_show_code_in_two_ways_only() -> None:
    """Code in any other form would not be found, and so not run."""
    assert len(DOCSTRINGS) > 2
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^ *(```|\.\. code)", text, re.MULTILINE), path


def test_code_in_docstrings_is_found() -> None:
    """Each docstring's examples and indented blocks, and nothing else."""
    text = "Do it::\n\n    a = 1\n\n    b\n\nWords.\n\n>>> b\n2"
    source = f"def f():\n    {text!r}\n"
    ((example, literal),) = docstring_blocks(source, "m.py")
    assert (example.code, example.printed, literal.code) == ("b\n", "2\n", "a = 1\n\nb\n")
    assert docstring_blocks('"""No code: words."""', "m.py") == []


def test_blocks_that_do_not_run_say_why_and_compile() -> None:
    """What cannot run here is Python all the same, gives its reason to readers, and is counted."""
    excused = [block for page in PAGES for block in blocks(page) if block.reason]
    assert len(excused) == NOT_RUN, [block.place for block in excused]
    for block in excused:
        assert len(block.reason.split()) > 2, block.place
        compile(block.code, block.place, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_pages_are_read_as_they_are_written() -> None:
    """A block belongs to its page, and only a text right below it is what it prints."""
    shown = "a\n\n```python\n1\n```\n\n```text\none …\n```\n\n"
    silent = "```python\n2\n```\nwords\n```text\nb\n```\n```{raw} html\n```\n```python\n3\n```\n"
    first, second, third = blocks_in(shown + silent, "page.md")
    assert (first.place, first.code, first.printed) == ("page.md:3", "1\n", "one …\n")
    assert (second.code, second.printed) == ("2\n", None)
    assert (third.code, third.printed) == ("3\n", None)


def test_what_is_printed_is_compared() -> None:
    """Spaces apart, all of it counts; an ellipsis stands for anything."""
    assert matches("one  two\n", "one …")
    assert not matches("two one", "one …")
    assert not matches("one", "on")


@pytest.mark.parametrize("page", LINKING, ids=_name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """Each relative link is to a file, and heading, of the repository or that the build makes."""
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        name, _, heading = target.partition("#")
        if PICTURE.match(name) and page.parent != ROOT:
            continue
        made = NOTEBOOK.fullmatch(name) if page.parent != ROOT else None
        place = ROOT / "notebooks" / made[1] if made else page.parent / name if name else page
        assert place.exists(), f"{page.name}: {target}"
        assert not heading or heading in _headings(place), f"{page.name}: {target}"


def _headings(page: Path) -> set[str]:
    """Return what the headings of a page are linked by."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_no_code_escapes_the_rule(page: Path) -> None:
    """Every block is of a kind that is run, printed, or no Python; none hides in a list."""
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"^[ \t]+(```|~~~)", text, re.MULTILINE)
    opened = re.findall(r"^(?:```|~~~)(.*)$", text, re.MULTILINE)[::2]
    assert set(opened) <= KINDS, page.name


@pytest.mark.parametrize("page", LINKING, ids=_name)
def test_commands_that_are_named_exist(page: Path) -> None:
    """What a page calls `tilevision WORD` is a command, and has each option it is given there."""
    text = page.read_text(encoding="utf-8")
    for word, rest in re.findall(r"(?:`|^|&& |\(|\n)tilevision ([a-z]+)\b([^`\n#]*)", text):
        assert word in main.commands, f"{page.name}: tilevision {word}"
        known = {name for option in main.commands[word].params for name in option.opts}
        for option in re.findall(r"(?<![\w-])--[a-z-]+", rest):
            assert option in known, f"{page.name}: tilevision {word} {option}"


def test_the_reference_has_every_command_format_and_event() -> None:
    """Each command and kind of event is named there, and `save` describes every format."""
    pages = ROOT / "docs" / "reference"
    shell, told = ((pages / name).read_text() for name in ("shell.md", "events.md"))
    for name, command in main.commands.items():
        assert command.hidden or f"tilevision {name}" in shell, name
    for kind in (*get_args(events.Event), events.ImageChanged):
        assert f"autoclass:: {kind.__name__}\n" in told, kind
    for name, form in FORMATS.items():
        assert re.search(rf"^ *.*\b{name}\b.*\{form.suffix}", save.__doc__, re.MULTILINE), name


def test_a_machine_is_told_of_every_page() -> None:
    """llms.txt links each page, but those that only list others."""
    linked = set(LINK.findall((ROOT / "docs" / "llms.txt").read_text(encoding="utf-8")))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.parent != ROOT}
    assert linked == pages - {"index.md", "more.md", "examples.md"} - {
        f"{folder}/index.md" for folder in ("howto", "reference")
    }


def test_the_reference_lists_every_public_name() -> None:
    """Each name of the package has its place in the reference."""
    text = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    listed = set(re.findall(r"auto(?:function|class|exception):: (\w+)$", text, re.MULTILINE))
    public = {name for name in tv.__all__ if not inspect.ismodule(getattr(tv, name))}
    missing = public - listed - {"__version__"}
    assert not missing, f"docs/reference/api.md or results.md lacks {sorted(missing)}"


def test_troubleshooting_quotes_what_is_printed() -> None:
    """Every message on the page stands in the code, between what is filled in."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = re.findall(r"^> `(.*)`$", page, re.MULTILINE)
    said = [words for path in FILES for words in _constants(path)]
    assert len(quoted) > 20
    for message in quoted:
        parts = [part for part in message.split("…") if len(part.strip()) > 3]
        missing = [part for part in parts if not any(part in words for words in said)]
        assert not missing, f"{message}: {missing}"


def _constants(path: Path) -> list[str]:
    """Return the strings of a file, with those that are written side by side as one."""
    tree = nodes(path)
    return [n.value for n in tree if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def test_each_finding_has_its_section() -> None:
    """The page of surprises names every script, and no script that is gone."""
    named = set(
        re.findall(
            r"\]\(\.\./findings/([\w-]+\.sh)\)", (ROOT / "docs" / "libraries.md").read_text()
        )
    )
    assert named == {path.name for path in (ROOT / "findings").glob("*.sh")}
