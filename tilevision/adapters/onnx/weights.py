"""The file of weights: whether it is there, and what identifies its content."""

from __future__ import annotations

import hashlib
import mmap
import platform
import re
from functools import lru_cache
from pathlib import Path

from tilevision.errors import ModelError
from tilevision.fingerprint import fingerprint_file

__all__ = ["check_unchanged", "content_of", "find_weights"]

# Large models keep tensors in files beside the model. Each names its file in an entry of two
# protobuf strings, the key "location" and then the name, which is found without a parser.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x00-\x7f]|[\x80-\xff][\x00-\x7f])")


def find_weights(path: str) -> Path:
    """Return the absolute path of a file of weights.

    Raises
    ------
    ModelError
        If there is no such file, or it is empty.
    """
    found = Path(path).expanduser()
    if not found.is_file():
        if found.is_dir():
            raise ModelError(f"{path!r} is a folder; give the .onnx file in it")
        raise ModelError(f"there is no file {path!r}; check the path of the weights")
    if not found.stat().st_size:
        raise ModelError(f"weights {path!r} are empty (0 bytes); copy or export the file again")
    return found.resolve()


def content_of(path: Path) -> str:
    """Return the identity of a model's content, with that of the files it keeps tensors in.

    Returns
    -------
    str
        Hexadecimal, 64 digits; the file's name and dates do not count.

    Raises
    ------
    ModelError
        If the file cannot be read.
    """
    try:
        status = path.stat()
        beside = [path.parent / name for name in _external(path, status.st_mtime_ns)]
        stamps = tuple((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in (path, *beside))
    except OSError as error:
        missing = str(error.filename or path)
        part = f", part of {path}" if missing != str(path) else ""
        raise ModelError(f"cannot read {missing}{part}: {error.strerror or error}") from None
    return _content(stamps)


def check_unchanged(path: Path, content: str, name: str) -> None:
    """Make sure, on a worker, that a run's weights are here and still the same.

    Raises
    ------
    ModelError
        If they are not.
    """
    if not path.is_file():
        raise ModelError(
            f"model {name}: worker {platform.node()} cannot see {path}; put the weights on a "
            "folder that all workers share, or copy them to the same path on each"
        )
    if content_of(path) != content:
        raise ModelError(
            f"model {name}: {path} is not the file this run was planned with: it has changed "
            f"since, or differs on worker {platform.node()}; start a new run"
        )


@lru_cache(maxsize=32)
def _external(path: Path, changed: int) -> tuple[str, ...]:  # noqa: ARG001 - part of the key
    """Return the names of the files, beside `path`, that hold tensors of it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        names = set()
        for match in _LOCATION.finditer(text):
            size = match[1][0] if len(match[1]) == 1 else match[1][0] % 128 + 128 * match[1][1]
            names.add(bytes(text[match.end() : match.end() + size]).decode("utf-8", "replace"))
    return tuple(sorted(name for name in names if _is_file(path.parent, name)))


def _is_file(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file()
    except (OSError, ValueError):  # bytes of the weights that only look like a name
        return False


@lru_cache(maxsize=32)
def _content(stamps: tuple[tuple[str, int, int], ...]) -> str:
    prints = [fingerprint_file(path) for path, _, _ in stamps]
    return prints[0] if len(prints) == 1 else hashlib.sha256("".join(prints).encode()).hexdigest()
