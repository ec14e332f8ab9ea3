"""The shape of the code: who may import whom, what is public, what importing costs."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tilevision

PACKAGE = Path(tilevision.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
ANY = {"*"}

# Part of the package to the parts it may import; `errors` and `checks` are open to all.
TABLE = {
    "errors": set(),
    "checks": set(),
    "status": set(),
    "files": set(),
    "geometry": set(),
    "grid": {"geometry"},
    "findings": {"geometry", "grid"},
    "codec": {"findings"},
    "sources": {"geometry"},
    "regions": {"geometry", "grid", "sources"},
    "fingerprint": set(),
    "modelspec": {"findings", "geometry", "fingerprint"},
    "adapters": {"findings", "geometry", "fingerprint", "modelspec"},
    "infer": {"sources", "modelspec", "adapters", "findings", "codec", "geometry", "grid"},
    "schedule": {"status", "grid", "findings"},
    "cluster": set(),
    # From a name, a file or an object to a spec; it names the adapters, nobody below names them.
    "catalogue": {"modelspec", "adapters", "fingerprint", "moderation", "synthesis"},
    "readiness": {"modelspec", "sources", "adapters"},
    "fanout": {"schedule", "infer", "cluster", "grid", "modelspec", "readiness"},
    "checkpoint": {"codec", "findings", "grid"},
    "events": {"status", "grid"},
    "seams": {"findings", "geometry", "grid"},
    "analysis": {"status", "findings", "grid", "geometry", "sources", "regions", "seams"},
    "moderation": {"modelspec", "findings", "codec", "sources", "analysis", "geometry"},
    "synthesis": {"modelspec", "findings", "codec", "sources", "analysis"},
    "routing": {"findings", "geometry", "grid", "sources", "modelspec", "fingerprint", "regions"},
    "plot": {"status", "analysis", "findings", "grid", "sources", "geometry"},
    "exporting": {"status", "files", "geometry", "findings", "grid", "sources", "analysis"},
    "result": {"analysis", "exporting", "plot"},
    "evaluation": {
        *("findings", "grid", "geometry", "analysis", "seams", "plot", "sources"),
        *("result", "exporting", "files"),
    },
    "pipeline": {
        *("status", "files", "geometry", "grid", "findings", "codec", "sources", "fingerprint"),
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
        *("regions", "routing"),
    },
    "history": {
        *("status", "geometry", "grid", "findings", "sources", "regions", "checkpoint", "events"),
        *("result", "pipeline"),
    },
    "batch": {
        *("status", "files", "grid", "sources", "checkpoint", "events", "exporting", "result"),
        *("pipeline", "history"),
    },
    "samples": {"sources"},
    "view": {
        *("status", "pipeline", "history", "batch", "result", "analysis", "events", "plot"),
        *("grid", "findings", "geometry", "sources", "modelspec", "catalogue", "exporting"),
        "routing",
    },
    "cli": ANY,
    "__init__": ANY,
    "__main__": ANY,
}
DISTRIBUTED = {"cluster", "fanout"}
PUBLIC_FUNCTIONS = {
    *("analyze", "analyze_many", "plan", "start", "explore", "watch", "runs", "replay", "resume"),
    *("models", "register_model", "model", "merge", "evaluate", "compare"),
}
HEAVY = {
    *("matplotlib", "ipywidgets", "distributed", "dask", "skimage", "scipy", "pandas", "shapely"),
    *("tifffile", "PIL", "anywidget", "diskcache", "tqdm", "click", "requests", "fsspec", "zarr"),
}
FILE_LINES = 350


def _part(path):
    """Return the part of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path):
    """Yield the dotted names a file imports, anywhere in it, TYPE_CHECKING included."""
    module = ".".join(["tilevision", *path.relative_to(PACKAGE).with_suffix("").parts])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")
                package = package if path.name == "__init__.py" else package[:-1]
                above = package[: len(package) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named = re.fullmatch(r"(tilevision(?:\.\w+)+)(?::\w+)?", node.value)
            if named and _is_module(named[1]):
                yield named[1]


def _is_module(name):
    """Return True if a dotted name is a file or folder of the package."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def _parts_imported(path):
    names = [name.split(".") for name in _imports(path)]
    return {name[1] for name in names if name[0] == "tilevision" and len(name) > 1}


def _ask(code):
    """Run `code` in a fresh interpreter; it prints JSON."""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_table(path):
    """A file imports only parts that the table allows its part."""
    part = _part(path)
    assert part in TABLE, f"{part} is new: enter it in the table"
    allowed = TABLE[part]
    assert allowed is ANY or _parts_imported(path) <= allowed | {part, "errors", "checks"}


def test_every_import_is_seen():
    """The reading of imports understands each form, or the table would hold nothing."""
    seen = set(_imports(PACKAGE / "analysis" / "resultdata.py"))
    assert "tilevision.sources.ImageSource" in seen  # under TYPE_CHECKING
    assert "tilevision.seams.merge" in seen  # within a function
    assert "tilevision.analysis.digest.digest" in seen
    named = set(_imports(PACKAGE / "adapters" / "table.py"))
    assert "tilevision.adapters.hosted" in named  # by a string, as what is imported when wanted


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_cluster_knows_distributed(path):
    """Dask's cluster side is imported by `cluster` and `fanout` alone."""
    roots = {name.split(".")[0] for name in _imports(path)}
    assert "distributed" not in roots or _part(path) in DISTRIBUTED


def test_no_module_is_named_like_a_public_function():
    """`tv.merge` is the function for ever: no submodule can take its place."""
    assert not {_part(path) for path in MODULES} & PUBLIC_FUNCTIONS


def test_public_names_stay_the_same_object():
    """Resolving a public name twice, all others in between, gives the same object."""
    changed = _ask(
        "import json, tilevision as tv\n"
        "first = {name: getattr(tv, name) for name in tv.__all__}\n"
        "print(json.dumps([n for n in first if getattr(tv, n) is not first[n]]))"
    )
    assert changed == []


def test_public_names_survive_the_import_of_every_module():
    """Importing submodules afterwards replaces no public name."""
    names = [
        ".".join(["tilevision", *path.relative_to(PACKAGE).with_suffix("").parts])
        for path in MODULES
        if path.name not in ("__init__.py", "__main__.py")
    ]
    changed = _ask(
        "import importlib, json, tilevision as tv\n"
        "first = {name: getattr(tv, name) for name in tv.__all__}\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(json.dumps([n for n in first if getattr(tv, n) is not first[n]]))"
    )
    assert changed == []


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


def test_the_shell_command_starts_cheap():
    """`tilevision --help` needs click, and no library that draws, reads or computes."""
    loaded = _ask("import json, sys, tilevision.cli; print(json.dumps(list(sys.modules)))")
    assert not {name.split(".")[0] for name in loaded} & (HEAVY - {"click"})


def test_every_public_name_has_a_docstring():
    """What is public says what it is, and so do its public methods and properties."""
    bare = []
    for name in tilevision.__all__:
        thing = getattr(tilevision, name)
        if not callable(thing):
            continue
        if not (thing.__doc__ or "").strip():
            bare.append(name)
        if inspect.isclass(thing):
            bare += [
                f"{name}.{key}"
                for key, member in vars(thing).items()
                if not key.startswith("_")
                and (inspect.isfunction(member) or isinstance(member, (property, classmethod)))
                and not inspect.getdoc(
                    getattr(thing, key) if not isinstance(member, property) else member
                )
            ]
    assert bare == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_small(path):
    """A file past 350 lines is asking to be two."""
    assert len(path.read_text().splitlines()) < FILE_LINES
