"""Model files: whether they are there, what identifies their content, where objects are saved.

A path is used as it is given: in the caches of model hubs files are links to others with hashes
for names, and a model's name and the files beside it are those of the link.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from tilevision import checks
from tilevision.errors import ModelError
from tilevision.fingerprint import fingerprint_file
from tilevision.modelspec import ModelSpec

__all__ = [
    "checked",
    "content_of",
    "find",
    "keep",
    "located",
    "lost",
    "missing_parts",
    "place_of",
    "read_json",
    "unchanged",
]

_POINTER = 1024  # bytes; a pointer of Git LFS has some 130
_LONGEST = 255  # characters in the name of a file
# Large ONNX models keep tensors in files beside the model. Each names its file in an entry of two
# protobuf strings, the key "location" and then the name, which is found without a parser.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x00-\x7f]|[\x80-\xff][\x00-\x7f])")


def find(path: str, *, file: bool = False) -> Path:
    """Return the absolute path of a model's file or folder; links stay links.

    Parameters
    ----------
    path : str
    file : bool
        Whether a folder is refused.

    Raises
    ------
    ModelError
        If there is none, or it is empty.
    """
    found = checks.path("path", path, ModelError)
    if file and found.is_dir():
        raise ModelError(f"{path!r} is a folder; give the model file in it.")
    if not found.exists():
        raise ModelError(f"There is no file {path!r}; check the path of the weights.")
    if found.is_file() and not found.stat().st_size:
        raise ModelError(f"Weights {path!r} are empty (0 bytes); copy or export the file again.")
    if found.is_file() and found.stat().st_size < _POINTER and _is_pointer(found):
        raise ModelError(
            f"Weights {path!r} are only a pointer of Git LFS; run git lfs pull in that repository, "
            "or download the file itself."
        )
    return Path(os.path.abspath(found))  # noqa: PTH100 - Path.resolve() would follow links


def _is_pointer(path: Path) -> bool:
    """Return True if a file says where Git LFS keeps it, and is not the file itself."""
    return path.read_bytes().startswith(b"version https://git-lfs.github.com/spec/")


def missing_parts(path: Path) -> list[str]:
    """Return the names of files that an ONNX model keeps tensors in and that are not beside it."""
    try:
        names = _named(path)
    except (OSError, ValueError):
        return []
    likely = (name for name in names if name.isprintable() and not _is_file(path.parent, name))
    return sorted(name for name in likely if name.strip() and len(name) < _LONGEST)


def content_of(path: Path, files: Sequence[str] | None = None) -> str:
    """Return the identity of a model's content.

    Parameters
    ----------
    path : Path
    files : sequence of str, optional
        Of a folder: only these, as others may come to lie beside them.

    Returns
    -------
    str
        Hexadecimal, 64 digits. Of a file: with that of the files an ONNX model keeps tensors in;
        names and dates do not count. Of a folder: its files, with their names.

    Raises
    ------
    ModelError
        If a file cannot be read.
    """
    try:
        if path.is_dir():
            return _content_of_folder(path, files)
        changed = path.stat().st_mtime_ns
        names = _external(path, changed) if path.suffix.lower() == ".onnx" else ()
        stamps = tuple(_stamp(file) for file in (path, *(path.parent / name for name in names)))
    except OSError as error:
        missing = str(error.filename or path)
        part = f", part of {path}" if missing != str(path) else ""
        raise ModelError(f"Cannot read {missing}{part}: {error.strerror or error}.") from None
    return _content(stamps)


def _content_of_folder(path: Path, files: Sequence[str] | None) -> str:
    every = (
        (file for file in path.rglob("*") if file.is_file() and _counts(file, path))
        if files is None
        else (path / name for name in files)
    )
    whole = hashlib.sha256()
    for file in sorted(every):
        name = file.relative_to(path).as_posix()
        whole.update(f"{name}\0{_content((_stamp(file),))}\0".encode())
    return whole.hexdigest()


def located(spec: ModelSpec) -> ModelSpec:
    """Return a spec on a worker, with the path that its model has there and the same content.

    Raises
    ------
    ModelError
        If the model is not there, or is another.
    """
    path = checked(spec.params, spec.name)
    return replace(spec, params={**spec.params, "path": str(path)})


def checked(params: Mapping[str, Any], name: str) -> Path:
    """Return the path that a model has on this worker, whose content is compared.

    Raises
    ------
    ModelError
        If the model is not there, or is another.
    """
    path = place_of(params)
    missing = lost(params, path)
    if missing:
        raise ModelError(f"Model {name}: worker {platform.node()} {missing}.")
    if not unchanged(params, path):
        raise ModelError(
            f"Model {name}: {path} is not what this run was planned with: it has changed since, "
            f"or differs on worker {platform.node()}; start a new run."
        )
    return path


def place_of(params: Mapping[str, Any]) -> Path:
    """Return where this machine has a model: a file or a folder, which may not be there.

    One of a model hub may lie in another cache than the client's, whose layout is the same.
    """
    path = Path(str(params["path"]))
    if path.exists() or "repository" not in params:
        return path
    repository = params["repository"]
    folder = f"models--{repository['id'].replace('/', '--')}/snapshots/{repository['commit']}"
    return _hub_cache() / folder / str(repository["file"])


def lost(params: Mapping[str, Any], path: Path) -> str:
    """Return what is missing of a model at `path`, and the remedy; nothing if it is whole.

    Worded to follow the name of a machine.
    """
    names = params.get("files") or ()
    missing = path if not path.exists() else None
    if missing is None:
        missing = next((path / name for name in names if not (path / name).is_file()), None)
    if missing is None:
        return ""
    if "repository" in params:
        known = params["repository"]
        return (
            f"has no {missing.name} of {known['id']} ({missing}); run there: hf download "
            f"{known['id']} {known['file']} --revision {known['commit']}".replace("  ", " ")
            + ", or set HF_HOME to a folder that all workers share"
        )
    return (
        f"cannot see {path}; put the model on a folder that all workers share, or copy it to the "
        "same path on each"
    )


def unchanged(params: Mapping[str, Any], path: Path) -> bool:
    """Return True if a model at `path` is what its spec was made of."""
    return content_of(path, params.get("files")) == str(params["content"])


def _hub_cache() -> Path:
    """Return where Hugging Face's libraries keep models, which need not be installed here."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return Path(os.environ[name]).expanduser()
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HOME") or usual).expanduser() / "hub"


def keep(name: str, save: Callable[[Path], Path]) -> Path:
    """Save a model under the temp folder of this machine, once for each content.

    Parameters
    ----------
    name : str
        For errors.
    save : callable
        Writes the model into an empty folder, and returns its file or that folder.

    Raises
    ------
    ModelError
        If it cannot be written.
    """
    try:
        home = _home()
        fresh = Path(tempfile.mkdtemp(dir=home))
        try:
            written = save(fresh)
            place = home / content_of(written)[:32]
            if not place.is_dir():
                fresh.replace(place)
            return place / written.relative_to(fresh)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except (OSError, RuntimeError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"Model {name} cannot be saved for the workers ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason given'}); save it "
            "yourself and pass the path."
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Return what stands in a JSON file of a saved model; nothing if there is none.

    Raises
    ------
    ModelError
        If it is not JSON.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"Cannot read {path} ({error}); save the model again.") from None
    return found if isinstance(found, dict) else {}


def _home() -> Path:
    """Return this user's folder of saved models; nobody else may write what workers load."""
    folder = Path(tempfile.gettempdir()) / f"tilevision-models-{_user()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
        raise ModelError(f"{folder} belongs to somebody else; set TMPDIR to a folder of your own.")
    return folder


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "me"


def _counts(file: Path, folder: Path) -> bool:
    """Return True if a file is part of a model: not what version control or an editor keeps."""
    return not any(part.startswith(".") for part in file.relative_to(folder).parts)


@lru_cache(maxsize=32)
def _external(path: Path, changed: int) -> tuple[str, ...]:  # noqa: ARG001 - part of the key
    """Return the names of the files, beside `path`, that hold tensors of it."""
    return tuple(sorted(name for name in _named(path) if _is_file(path.parent, name)))


def _named(path: Path) -> set[str]:
    """Return what may be the name of a file with tensors, as bytes of the weights may look so."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        names = set()
        for match in _LOCATION.finditer(text):
            size = match[1][0] if len(match[1]) == 1 else match[1][0] % 128 + 128 * match[1][1]
            names.add(bytes(text[match.end() : match.end() + size]).decode("utf-8", "replace"))
    return names


def _is_file(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file()
    except (OSError, ValueError):  # bytes of the weights that only look like a name
        return False


def _stamp(file: Path) -> tuple[str, int, int]:
    """Return what changes with a file, by which its content need not be read again."""
    status = file.stat()
    return str(file), status.st_mtime_ns, status.st_size


@lru_cache(maxsize=256)
def _content(stamps: tuple[tuple[str, int, int], ...]) -> str:
    prints = [fingerprint_file(path) for path, _, _ in stamps]
    return prints[0] if len(prints) == 1 else hashlib.sha256("".join(prints).encode()).hexdigest()
