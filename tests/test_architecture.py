"""The shape of the code: who may import whom, how large things are, what users read."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import house
import pytest

ANY = {"*"}

# Part of the package to the parts it may import; `errors` and `checks` are open to all.
TABLE = {
    "errors": set(),
    "checks": set(),
    "display": set(),
    "status": set(),
    "files": set(),
    "colouring": {"files"},
    "geometry": set(),
    "grid": {"geometry"},
    "rasterspec": set(),
    "payloads": {"rasterspec"},
    "findings": {"geometry", "grid", "payloads", "rasterspec"},
    "overlaps": {"findings", "geometry"},
    "codec": {"findings", "payloads"},
    "sources": {"files", "geometry"},
    "regions": {"files", "geometry", "grid", "sources"},
    "fingerprint": set(),
    "modelspec": {"findings", "geometry", "fingerprint", "rasterspec"},
    "adapters": {
        *("files", "findings", "geometry", "overlaps", "fingerprint", "modelspec", "rasterspec"),
    },
    "printed": set(),
    "infer": {
        *("sources", "modelspec", "adapters", "findings", "codec", "geometry", "grid"),
        *("printed", "payloads", "rasterspec"),
    },
    "schedule": {"status", "grid", "findings"},
    "cluster": set(),
    # From a name, a file or an object to a spec; it names the adapters, nobody below names them.
    "catalogue": {"modelspec", "adapters", "fingerprint", "moderation", "synthesis"},
    "readiness": {"modelspec", "sources", "adapters"},
    "fanout": {"schedule", "infer", "cluster", "grid", "modelspec", "readiness"},
    "corrections": {"checkpoint", "files", "findings", "geometry", "overlaps"},
    "checkpoint": {"codec", "files", "findings", "grid", "payloads"},
    "events": {"status", "grid"},
    "seams": {"findings", "geometry", "grid", "overlaps"},
    "rasters": {
        *("findings", "geometry", "grid", "payloads", "rasterspec", "regions", "sources"),
        "colouring",
    },
    "analysis": {
        *("status", "events", "findings", "grid", "geometry", "sources", "regions", "seams"),
        *("overlaps", "payloads", "rasters", "corrections"),
    },
    "moderation": {"modelspec", "findings", "codec", "sources", "analysis", "geometry"},
    "synthesis": {"modelspec", "findings", "codec", "sources", "analysis"},
    "routing": {"findings", "geometry", "grid", "sources", "modelspec", "fingerprint", "regions"},
    "plot": {"status", "analysis", "colouring", "findings", "grid", "sources", "geometry"},
    "exporting": {
        *("status", "files", "geometry", "findings", "grid", "sources", "analysis"),
        *("rasters", "rasterspec", "colouring"),
    },
    "result": {"seams", "analysis", "colouring", "exporting", "plot", "corrections"},
    "evaluation": {
        *("findings", "grid", "geometry", "overlaps", "analysis", "seams", "plot", "sources"),
        *("result", "exporting", "files", "batch", "regions", "rasters", "rasterspec"),
    },
    "pipeline": {
        *(
            "display",
            "status",
            "files",
            "geometry",
            "grid",
            "findings",
            "codec",
            "sources",
            "fingerprint",
        ),
        *(
            "modelspec",
            "catalogue",
            "adapters",
            "infer",
            "schedule",
            "cluster",
            "fanout",
            "checkpoint",
            "events",
        ),
        *("seams", "moderation", "synthesis", "plot", "analysis", "result", "exporting"),
        *("regions", "routing", "payloads", "rasters"),
    },
    "history": {
        *("status", "geometry", "grid", "findings", "sources", "regions", "checkpoint", "events"),
        *("result", "pipeline"),
    },
    "batch": {
        *("status", "files", "grid", "sources", "checkpoint", "events", "exporting", "result"),
        *("pipeline", "history", "analysis"),
    },
    "samples": {"sources"},
    "view": {
        *("seams", "files", "schedule", "colouring"),
        *("status", "pipeline", "history", "batch", "result", "analysis", "events", "plot"),
        *("grid", "findings", "geometry", "sources", "modelspec", "catalogue", "exporting"),
        *("routing", "regions", "rasters", "payloads", "corrections", "evaluation"),
    },
    "cli": ANY,
    "__init__": ANY,
    "__main__": ANY,
}
OPEN = {"errors", "checks", "display"}
DISTRIBUTED = {"cluster", "fanout"}
PUBLIC_FUNCTIONS = {
    *("analyze", "analyze_many", "plan", "start", "explore", "watch", "runs", "replay", "resume"),
    *("models", "register_model", "model", "merge", "evaluate", "compare"),
}
HEAVY = {
    *("matplotlib", "ipywidgets", "distributed", "dask", "skimage", "scipy", "pandas", "shapely"),
    *("tifffile", "PIL", "anywidget", "diskcache", "tqdm", "click", "requests", "fsspec", "zarr"),
}
FILE_LINES = 600
FUNCTION_LINES = 60
SIBLINGS = 20

CROWDED: set[str] = set()

# A message begins like a sentence, or with what it is about: a value, a path, an option, an
# argument, a model.
BEGINNING = re.compile(
    r"""[A-Z0-9'"“`{\[(<*./-]|[\w.]+(=|\(|\[|\.[a-z_]| of model|://)|\w*_\w*"""
    r"""|(openai|blobs|nuclei|textlines)\b"""
)
ARGUMENT = re.compile(r"(\w+) (is|are|has|must|\{\}) ?")
ENDING = re.compile(r"""([.?…]|\{\})[\])'"”]*$|pip install \S+$""")
# Turns of phrase that stood in messages once and made readers stumble.
DIALECT = re.compile(
    r"\b(told|tells? of|is of (a|many|files)|are of files|lea(ve|ves|ving) it be|see to it"
    r"|(hear|hears|heard) of|whatever lies|(go|goes|gone|going|went) on|let go of"
    r"|has been begun)\b",
    re.IGNORECASE,
)


def _ask(code):
    """Run `code` in a fresh interpreter; it prints JSON."""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def _is_sentence(words):
    """Return True if a message begins and ends as one should."""
    about = ARGUMENT.match(words)
    begins = BEGINNING.match(words) or (about and about[1] in house.arguments())
    return bool(begins and ENDING.search(words))


# Who knows whom -----------------------------------------------------------------------------


def test_imports_follow_the_table():
    """A file imports only parts that the table allows its part; so do strings that name modules."""
    unknown = house.PARTS - TABLE.keys()
    assert not unknown, "new parts: enter them in the table"
    wrong = {}
    for path in house.FILES:
        part = house.part(path)
        found = house.parts_of([*house.imports(path), *house.named(path)])
        if TABLE[part] is not ANY and not found <= TABLE[part] | {part} | OPEN:
            wrong[house.module(path)] = found - TABLE[part] - {part} - OPEN
    assert wrong == {}


def test_a_module_binds_each_name_once():
    """No constant, function or class silently takes the place of another of its name."""
    twice = {}
    for path in house.FILES:
        bound = Counter(house.bound(path))
        if again := [name for name, times in bound.items() if times > 1]:
            twice[house.module(path)] = again
    assert twice == {}


def test_the_table_allows_nothing_that_is_not_there():
    """Its parts exist; a part that is gone, or was renamed, is no excuse for an import."""
    allowed = set().union(*(allowed for allowed in TABLE.values() if allowed is not ANY))
    assert set(TABLE) == house.PARTS
    assert allowed <= house.PARTS


def test_every_import_is_seen(tmp_path, monkeypatch):
    """The reading of imports understands each form, or the table would hold nothing."""
    file = tmp_path / "seen" / "file.py"
    file.parent.mkdir()
    file.write_text(
        "import tilevision.a\n"
        "from tilevision.b import c\n"
        "from . import d\n"
        "from ..e import f\n"
        "if TYPE_CHECKING:\n    from tilevision import g\n"
        "def h():\n    from tilevision.i import j\n    return 'tilevision.k:load'\n"
        "log = logging.getLogger('tilevision.l')\n"
    )
    monkeypatch.setattr(house, "PACKAGE", tmp_path)
    seen = {name.removeprefix("tilevision.") for name in house.imports(file)}
    assert seen == {"a", "b.c", "seen.d", "e.f", "g", "i.j"}
    assert list(house.named(file)) == ["tilevision.k"]


def test_no_module_imports_itself_by_way_of_others():
    """No circle of imports, those within functions and under TYPE_CHECKING counted."""
    assert house.cycles() == []


def test_a_circle_is_noticed(monkeypatch):
    """Of modules that import one another through a third, each circle is named, and no more."""
    graph = {
        "a": {"b"},
        "b": {"c"},
        "c": {"a", "d"},
        "d": set(),
        "e": {"a"},
        "f": {"g"},
        "g": {"f"},
    }
    monkeypatch.setattr(house, "MODULES", {name: name for name in graph})
    monkeypatch.setattr(house, "dependencies", graph.__getitem__)
    assert house.cycles() == [{"a", "b", "c"}, {"f", "g"}]


def test_only_the_cluster_knows_distributed():
    """Dask's cluster side is imported by `cluster` and `fanout` alone."""
    users = {
        house.part(path)
        for path in house.FILES
        if "distributed" in {name.split(".")[0] for name in house.imports(path)}
    }
    assert users <= DISTRIBUTED


# How large things are -----------------------------------------------------------------------


def test_files_stay_small():
    """A file past 600 lines is two things."""
    long = {house.module(p): len(p.read_text().splitlines()) for p in house.FILES}
    assert {name: lines for name, lines in long.items() if lines > FILE_LINES} == {}


def test_functions_stay_short():
    """A function past 60 lines, its docstring aside, is several."""
    long = [
        f"{house.module(path)}.{node.name}"
        for path in house.FILES
        for node in house.nodes(path)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and house.lines(node) > FUNCTION_LINES
    ]
    assert long == []


def test_folders_stay_small():
    """At most 20 modules lie side by side; past that they are grouped."""
    beside = Counter(path.parent for path in house.FILES if path.name != "__init__.py")
    crowded = {folder.name for folder, count in beside.items() if count > SIBLINGS}
    assert crowded == set()


def test_a_name_is_given_once():
    """No two modules share a file name and no two classes a name: either can be searched for."""
    stems = Counter(path.stem for path in house.FILES if not path.stem.startswith("__"))
    classes = Counter(
        node.name
        for path in house.FILES
        for node in house.nodes(path)
        if isinstance(node, ast.ClassDef)
    )
    assert {stem for stem, count in stems.items() if count > 1} == set()
    assert {name for name, count in classes.items() if count > 1} == set()


# What users read ----------------------------------------------------------------------------


def test_messages_are_sentences():
    """Errors, warnings and notes begin with a capital letter, or a value, and end as sentences."""
    odd = [
        str(text)
        for path in house.FILES
        for text in house.messages(path)
        if not _is_sentence(text.words)
    ]
    assert odd == []


def test_users_read_plain_words():
    """No string of the package, and no public docstring, has a turn that readers stumble over."""
    texts = [(house.part(p), text) for p in house.FILES for text in house.strings(p)]
    odd = [
        f"{text}: {found[0]!r}"
        for part, text in (*texts, *house.docstrings())
        if (found := DIALECT.search(text.words))
    ]
    assert odd == []


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        ("There is no model 'x'. Known models: {}", True),
        ("{} is damaged. Download it again.", True),
        ("page= and dpi= only apply to files; this image is a numpy array.", True),
        ("tv.resume() needs the image. Give image=.", True),
        ("max_failures is {}. Give a count.", True),
        ("the image is damaged.", False),
        ("they are missing.", False),
        ("The image is damaged", False),
        ("The image is damaged; see below:", False),
    ],
)
def test_sentences_are_known(words, plain):
    """The patterns pass what is meant and stop what is not, or they would hold nothing."""
    assert _is_sentence(words) is plain


def test_messages_are_found(tmp_path, monkeypatch):
    """Messages are read where errors are made, whichever way they are written."""
    file = tmp_path / "said.py"
    file.write_text(
        "raise SourceError('a' 'b')\n"
        "def f(x): return errors.RunError(f'{x} c' if x else 'd ' + x)\n"
        "click.UsageError('e')\n"
        "Metadata(notes=('f', g))\n"
        "print('h')\n"
    )
    monkeypatch.setattr(house, "PACKAGE", tmp_path)
    assert {text.words for text in house.messages(file)} == {"ab", "{} c", "d {}", "e", "f"}


def test_every_public_name_has_a_docstring():
    """What is public says what it is, and so do its public methods and properties."""
    assert [text.place for _, text in house.docstrings() if not text.words] == []


# What is public -----------------------------------------------------------------------------


def test_no_module_is_named_like_a_public_function():
    """`tv.merge` is the function for ever: no submodule can take its place."""
    assert not house.PARTS & PUBLIC_FUNCTIONS


def test_public_names_stay_the_same_object():
    """Neither resolving the others nor importing every submodule replaces a public name."""
    names = [name for name in house.MODULES if not name.endswith("__main__")]
    changed = _ask(
        "import importlib, json, tilevision as tv\n"
        "first = {name: getattr(tv, name) for name in tv.__all__}\n"
        "def changed(): return [n for n in first if getattr(tv, n) is not first[n]]\n"
        "one = changed()\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(json.dumps([one, changed()]))"
    )
    assert changed == [[], []]


def test_a_model_imports_its_own_adapter_alone():
    """`tv.model("nuclei")` imports the detector of nuclei, and no other model's code."""
    loaded = _ask(
        "import json, sys, tilevision as tv; tv.model('nuclei')\n"
        "print(json.dumps(list(sys.modules)))"
    )
    adapters = {name for name in loaded if name.startswith("tilevision.adapters.")}
    assert adapters == {
        f"tilevision.adapters.{name}" for name in ("table", "nuclei", "outlines", "pixels")
    }


def test_importing_tilevision_is_cheap():
    """`import tilevision` loads no heavy library, numpy included where it can wait."""
    loaded = _ask("import json, sys, tilevision; print(json.dumps(list(sys.modules)))")
    assert not {name.split(".")[0] for name in loaded} & HEAVY


def test_dask_and_formats_are_imported_when_they_are_used():
    """`tv.analyze`, `tv.plan`, `tv.runs`: that they are there costs neither Dask nor any format.

    Measured: Dask takes a fifth of a second, the formats of images a twentieth.
    """
    loaded = _ask(
        "import json, sys, tilevision as tv; tv.analyze, tv.plan, tv.runs, tv.model\n"
        "print(json.dumps(list(sys.modules)))"
    )
    assert not {name.split(".")[0] for name in loaded} & {"dask", "distributed", "tornado"}
    formats = {name for name in loaded if name.startswith("tilevision.sources.formats.")}
    assert not formats & {f"tilevision.sources.formats.{name}" for name in ("tiff", "georasters")}


def test_the_shell_command_starts_cheap():
    """`tilevision --help` needs click, and no library that draws, reads or computes."""
    loaded = _ask("import json, sys, tilevision.cli; print(json.dumps(list(sys.modules)))")
    assert not {name.split(".")[0] for name in loaded} & (HEAVY - {"click"})


def test_what_contributing_names_is_there():
    """Each file and folder that CONTRIBUTING sends a newcomer to exists, and what it holds."""
    checkout = Path(__file__).parents[1]  # also where another copy of the package is installed
    text = (checkout / "CONTRIBUTING.md").read_text()
    roots = (house.PACKAGE, checkout)
    places = set(re.findall(r"[\w./]+/(?:\w+\.py)?(?=[`\s·→<\"])", text))
    places = {place for place in places if "://" not in place and not place.startswith((".", "/"))}
    gone = [place for place in places if not any((root / place).exists() for root in roots)]
    assert len(places) > 20 and gone == []
    held = re.findall(r"`(\w+)` in `([\w/]+\.py)`", text)
    wrong = [pair for pair in held if pair[0] not in house.bound(house.PACKAGE / pair[1])]
    assert len(held) >= 3 and wrong == []
