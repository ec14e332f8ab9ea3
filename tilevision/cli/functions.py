"""Models that lie in a Python file: ``FILE.py:NAME``."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from tilevision.errors import ModelError

__all__ = ["model_argument"]


def model_argument(text: str | None) -> Any:
    """Return the function, spec, route or cascade that ``FILE.py:NAME`` names; other text as it is.

    The file's folder joins ``sys.path``, as it does when a script is run, so that workers
    can import the file and what lies beside it.

    Raises
    ------
    ModelError
        If the file is missing, does not import, or has no such function.
    """
    match = re.fullmatch(r"(?P<file>.+\.py):(?P<name>\w+)", text or "")
    if match is None:
        return text
    path = Path(match["file"]).expanduser().resolve()
    if not path.is_file():
        raise ModelError(f"model {text}: there is no file {path}")
    if not path.stem.isidentifier():
        raise ModelError(
            f"model {text}: {path.name} is not a name Python can import; "
            "use letters, digits and underscores"
        )
    from tilevision.modelspec import ModelSpec
    from tilevision.routing import Cascade, Route

    function = getattr(_imported(path, str(text)), match["name"], None)
    if not callable(function) and not isinstance(function, (ModelSpec, Route, Cascade)):
        raise ModelError(f"model {text}: {path.name} has no function {match['name']}")
    return function


def _imported(path: Path, text: str) -> Any:
    sys.path.insert(0, str(path.parent))
    try:
        module = importlib.import_module(path.stem)
    except Exception as error:
        raise ModelError(
            f"model {text}: {path.name} does not import: {type(error).__name__}: {error}"
        ) from error
    found = Path(getattr(module, "__file__", None) or "")
    if found.resolve() != path:
        raise ModelError(
            f"model {text}: another module is named {path.stem} ({found}); rename the file"
        )
    return module
