"""Whose code it is: the user's, which is read, or a library's, which has a version.

tilevision's own classes and functions have identities of their own, wherever their files lie.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import site
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["IDENTITY_VERSION", "by_name", "importable", "installed", "own_identity", "version"]

# Stands for the release number in every identity. Changing it re-runs all tiles of all functions
# that name something of tilevision: change it only where their answers change.
IDENTITY_VERSION = "0.1.0"

# Where public names stood when they were first recorded, if they stand elsewhere today: today's
# module, the names, the module that identities hold.
_MOVED = (
    ("analysis.account", "RunFacts TileRow tiles_by_model", "account"),
    ("analysis.account", "categories class_numbers class_table positions", "analysis.categories"),
    ("analysis.account", "*", "digest"),
    ("analysis.heatmap", "*", "heatmap"),
    ("analysis.units", "Georeference", "analysis.georeference"),
    ("analysis.units", "areas", "analysis.tables"),
    ("analysis.units", "*", "units"),
    ("catalogue", "Registered models register_model", "modelspec.registry"),
    ("catalogue", "model resolve", "modelspec.resolve"),
    ("events.bus", "RunChanged StageDone TileChanged", "events.facts"),
    ("events.journal", "from_line to_line", "events.lines"),
    ("exporting.saving", "destination save", "exporting"),
    ("exporting.statement", "methods", "exporting.methods"),
    ("modelspec.spec", "Answers Price Usage", "modelspec.price"),
    ("seams.merging", "MergeSettings", "account"),
    ("seams.merging", "merge", "seams"),
    ("sources.addresses", "page_name split_page", "sources.pagenames"),
)


def own_identity(module: str, name: str) -> tuple[str, str]:
    """Return the module and name that stand for something of tilevision in identities."""
    public = name.partition(".")[0]
    for now, names, recorded in _MOVED:
        if module == f"tilevision.{now}" and (names == "*" or public in names.split()):
            return f"tilevision.{recorded}", name
    return module, name


_MAIN = ("__main__", "__mp_main__")
_LENT = ("site-packages", "dist-packages")
# Modules that models often use: looking through all that is installed takes half a second.
_DISTRIBUTIONS = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn"}


@functools.lru_cache(maxsize=4096)
def installed(module: str | None) -> bool:
    """Return True if `module` belongs to Python, to an installed library or to tilevision itself.

    Everything else is the user's: scripts, notebook cells, files beside them, and
    libraries installed in place for editing.
    """
    if not module or module in _MAIN:
        return False
    root = module.partition(".")[0]
    if root == "tilevision":
        return True
    file = _file(sys.modules.get(module)) or _origin(root)
    if file is None:
        return root in sys.stdlib_module_names
    if any(file.is_relative_to(folder) for folder in _library_folders()):
        return True
    borrowed = any(file.is_relative_to(folder) for folder in _borrowed_folders())
    return borrowed and root in _distributions()


@functools.lru_cache(maxsize=1024)
def version(module: str) -> str:
    """Return the version of the distribution that `module` comes from, or ``""``.

    The same whether the module has been imported or not: an identity must not hang on that.
    For tilevision itself it is a constant, see `tilevision.fingerprint.provenance`.
    """
    root = module.partition(".")[0]
    if root == "tilevision":
        return IDENTITY_VERSION
    if root in sys.stdlib_module_names:
        return ""
    try:
        return importlib.metadata.version(_DISTRIBUTIONS.get(root, root))
    except importlib.metadata.PackageNotFoundError:
        pass
    names = sorted(set(_distributions().get(root, [])))
    if names:
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    stated = getattr(sys.modules.get(root), "__version__", None)
    return stated if isinstance(stated, str) else ""


def by_name(value: Any) -> tuple[str, str] | None:
    """Return module and qualified name where `value` is found again under them in a library."""
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if isinstance(module, str) and isinstance(name, str):
        if installed(module) and _found(module, name) is value:
            own = module.partition(".")[0] == "tilevision"
            return own_identity(module, name) if own else (module, name)
    elif isinstance(name, str) and _found("numpy", name) is value:
        return "numpy", name  # universal functions of older numpy carry no module
    return None


def importable(module: str) -> bool:
    """Return True if `module` could be imported, without doing so."""
    root = module.partition(".")[0]
    return root in sys.modules or _origin(root) is not None


def _found(module: str, name: str) -> Any:
    value: Any = sys.modules.get(module)
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def _file(module: ModuleType | None) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) else None


def _origin(root: str) -> Path | None:
    """Find the file of a top-level module that may not be imported; importing runs code."""
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or spec.origin in (None, "built-in", "frozen"):
        folders = list(spec.submodule_search_locations or ()) if spec else []
        return Path(folders[0]).resolve() if folders else None
    return Path(str(spec.origin)).resolve()


@functools.cache
def _library_folders() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = [sysconfig.get_path(name) for name in names]
    folders += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple({Path(folder).resolve() for folder in folders if folder})


@functools.cache
def _borrowed_folders() -> tuple[Path, ...]:
    """Return where libraries are that this Python does not own, if NumPy is one of them.

    A ``.pth`` file, an overlay of uv or PYTHONPATH lends the packages of another place. If NumPy is
    this Python's own, there are none: what is lent beside it has always been read as the user's,
    and its tiles are stored so. A user's module may lie in such a folder too; no distribution has
    it.
    """
    home = _file(sys.modules.get("numpy"))
    if home is None or any(home.is_relative_to(folder) for folder in _library_folders()):
        return ()
    lent = {Path(entry).resolve() for entry in sys.path if Path(entry).name in _LENT}
    return (home.parents[1], *sorted(lent))


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return {k: list(v) for k, v in importlib.metadata.packages_distributions().items()}
