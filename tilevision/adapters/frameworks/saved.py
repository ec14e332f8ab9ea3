"""Models on disk: what identifies their content, and where objects are saved to travel."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tilevision.errors import ModelError
from tilevision.fingerprint import fingerprint_file

__all__ = ["check_unchanged", "content_of", "find", "keep"]


def find(path: str) -> Path:
    """Return the absolute path of a model's file or folder.

    Raises
    ------
    ModelError
        If there is none, or it is empty.
    """
    found = Path(path).expanduser()
    if not found.exists():
        raise ModelError(f"there is no file {path!r}; check the path of the weights")
    if found.is_file() and not found.stat().st_size:
        raise ModelError(f"weights {path!r} are empty (0 bytes); copy or export the file again")
    return found.resolve()


def content_of(path: Path) -> str:
    """Return the identity of a file's content, or of all files in a folder with their names.

    Raises
    ------
    ModelError
        If one cannot be read.
    """
    if path.is_file():
        return fingerprint_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and _counts(file, path))
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.relative_to(path).as_posix()}\0{fingerprint_file(file)}\0".encode())
    return whole.hexdigest()


def check_unchanged(path: Path, content: str, name: str) -> None:
    """Make sure, on a worker, that a run's model is here and still the same.

    Raises
    ------
    ModelError
        If it is not.
    """
    if not path.exists():
        raise ModelError(
            f"model {name}: worker {platform.node()} cannot see {path}; save the model on a "
            "folder that all workers share, and pass its path"
        )
    if content_of(path) != content:
        raise ModelError(
            f"model {name}: {path} is not what this run was planned with: it has changed since, "
            f"or differs on worker {platform.node()}; start a new run"
        )


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
            f"model {name} cannot be saved for the workers ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason given'}); save it "
            "yourself and pass the path"
        ) from error


def _home() -> Path:
    """Return this user's folder of saved models; nobody else may write what workers load."""
    folder = Path(tempfile.gettempdir()) / f"tilevision-models-{_user()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
        raise ModelError(f"{folder} belongs to somebody else; set TMPDIR to a folder of your own")
    return folder


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "me"


def _counts(file: Path, folder: Path) -> bool:
    """Say whether a file is part of a model: not what version control or an editor keeps."""
    return not any(part.startswith(".") for part in file.relative_to(folder).parts)
