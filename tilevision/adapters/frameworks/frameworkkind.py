"""Which library a model belongs to, found without importing it or running its code."""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tilevision.adapters import ADAPTERS
from tilevision.errors import ModelError

__all__ = [
    "FEATURES",
    "classes_of",
    "kind_of",
    "kind_of_path",
    "names_of",
    "strings_of",
]

FEATURES = "image-feature-extraction"  # the task of transformers' pipelines that are encoders

# What a pickle of nothing but weights imports.
_OF_WEIGHTS = {"torch", "collections", "numpy", "builtins", "_codecs"}


def kind_of(value: Any) -> str:
    """Return the kind of model that an object is, or ``""``.

    Raises
    ------
    ModelError
        If it is part of a model, or of a kind that is not supported.
    """
    bases = {f"{base.__module__}:{base.__name__}" for base in type(value).__mro__}
    kind = next((one.kind for one in ADAPTERS if one.base in bases), "")
    home = type(value).__module__
    if kind != "torch":
        return kind
    if home.startswith("timm."):
        return "timm"
    remedy = {
        "transformers": "transformers.pipeline(task, model=…, image_processor=…)",
        "ultralytics": "the ultralytics.YOLO object, or the path of its .pt file",
    }.get(home.partition(".")[0])
    if remedy:
        raise ModelError(
            f"Model {type(value).__name__} lacks what prepares its pictures; pass {remedy}."
        )
    return kind


def kind_of_path(path: Path) -> str:
    """Return the kind of model that stands in a file or folder.

    Raises
    ------
    ModelError
        If it is none that is known, or holds weights without a network.
    """
    if path.is_dir():
        return "transformers"
    try:
        with zipfile.ZipFile(path) as archive:
            names = ["/".join(name.split("/")[1:]) for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        raise ModelError(
            f"{str(path)!r} is no file that PyTorch writes since version 1.6, or is cut short; "
            "export or copy it again."
        ) from None
    if "archive_format" in names or "serialized_exported_program.json" in names:
        return "export"
    if any(name.startswith("extra/config.txt") for name in names):
        return "ultralytics"
    if "constants.pkl" in names:
        return "torchscript"
    return _kind_of_checkpoint(path)


def _kind_of_checkpoint(path: Path) -> str:
    classes = classes_of(path)
    owners = {text.partition(" ")[0].partition(".")[0] for text in classes}
    if "ultralytics" in owners:
        return "ultralytics"
    if not owners <= _OF_WEIGHTS or any("torch.nn.modules" in text for text in classes):
        return "torch"
    raise ModelError(
        f"{str(path)!r} holds weights without the network they belong to; build it, load them "
        "(load_state_dict), and pass the network: model=network."
    )


def classes_of(path: Path) -> list[str]:
    """Return what the pickle in a file imports, as "module name"."""
    found, last = [], ["", ""]
    for name, value in _opcodes(path):
        if name == "GLOBAL":
            found.append(str(value))
        elif name == "STACK_GLOBAL":
            found.append(" ".join(last))
        elif isinstance(value, str):
            last = [last[1], value]
    return found


def strings_of(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each text in a checkpoint's pickle with the plain value that follows it."""
    text = None
    for name, value in _opcodes(path):
        if name in ("BINPUT", "LONG_BINPUT", "MEMOIZE", "MARK", "EMPTY_LIST"):
            continue
        if text is not None:
            yield text, value
        text = value if isinstance(value, str) and "UNICODE" in name else None


def names_of(path: Path) -> dict[int, str]:
    """Return the class names by number that a checkpoint's pickle holds; nothing without any."""
    texts: dict[int, str] = {}  # by their number in the pickle's memo
    last, key, number = "", "", None
    found: dict[int, str] = {}
    reading = False
    for name, value in _opcodes(path):
        if name in ("BINPUT", "LONG_BINPUT"):
            texts.setdefault(value, last)
            continue
        if name in ("BINGET", "LONG_BINGET") and texts.get(value):
            text: str | None = texts[value]
        else:
            text = value if "UNICODE" in name else None
        last = text or ""
        if reading and number is not None and text is not None:
            found[number], number = text, None
        elif reading and isinstance(value, int) and name.startswith(("BININT", "LONG1", "INT")):
            number = value
        elif reading and name in ("SETITEMS", "SETITEM", "MARK"):
            reading = name == "MARK" or not found
        elif key == "names" and name == "EMPTY_DICT" and not found:
            reading = True
        else:
            reading = False
        key = last if text is not None else ""
    return found


def _opcodes(path: Path) -> list[tuple[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            inner = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            return [(op.name, value) for op, value, _ in pickletools.genops(archive.read(inner))]
    except (OSError, StopIteration, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{str(path)!r} is no model that PyTorch has written ({error or 'no data.pkl'}); "
            "export or copy it again."
        ) from None
