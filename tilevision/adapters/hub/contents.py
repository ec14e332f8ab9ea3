"""Which files of a repository are its model, and of which library."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tilevision.adapters.hub.repository import Listing, download
from tilevision.errors import ModelError

__all__ = ["CONFIG", "PICKLED", "Contents", "contents_of"]

CONFIG = "config.json"
# Files whose opening can run code that is in them.
PICKLED = (".pt", ".pth", ".pt2", ".torchscript", ".bin", ".pkl", ".ckpt")
_SAFE, _SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLE, _PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
# What says how a network is built, how pictures are prepared and how words are split.
_SETTINGS = (".json", ".txt", ".model")
_INDEX = re.compile(r"\.(bin|h5|msgpack|safetensors)\.index(\.[\w-]+)?\.json$")
_NAMED = 5  # files that a message lists


@dataclass(frozen=True, slots=True)
class Contents:
    """The model that a repository is.

    Parameters
    ----------
    kind : str
        ``"transformers"`` or ``"timm-repository"``.
    config : mapping
        What its ``config.json`` says.
    files : tuple of str
        What it consists of, sorted.
    """

    kind: str
    config: Mapping[str, Any]
    files: tuple[str, ...]


def contents_of(listing: Listing, trust: bool) -> Contents:
    """Return the model of a repository, downloaded: settings first, so that none lacks later.

    What weights come with is decided by the list of files alone, so that it is the same where
    the list is the cache's and further files, of other tools, lie there.

    Parameters
    ----------
    listing : Listing
    trust : bool
        Whether weights in a pickle are taken, where there are no others.

    Raises
    ------
    ModelError
        If the repository holds no model that is understood, or weights in a pickle alone.
    """
    if CONFIG not in listing.files:
        raise ModelError(_no_config(listing))
    settings = [file for file in listing.files if _is_setting(file)]
    index = _index(listing, trust)
    download(listing, [*settings, *([index] if index in listing.files else [])])
    config = _read(listing.folder / CONFIG, listing)
    weights = sorted({_PICKLE if index == _PICKLE_INDEX else _SAFE} & {*listing.files})
    if index in listing.files:
        told = _read(listing.folder / index, listing).get("weight_map")
        shards = {str(file) for file in told.values()} if isinstance(told, dict) else set()
        if not shards or any("/" in file or "\\" in file for file in shards):
            raise ModelError(f"{index} of {listing.name.text} names no files; ask its owner.")
        weights = [index, *sorted(shards)]
    download(listing, weights)
    timm = "architecture" in config and "architectures" not in config
    files = tuple(sorted({*settings, *weights}))
    return Contents("timm-repository" if timm else "transformers", config, files)


def _is_setting(file: str) -> bool:
    at_top = "/" not in file and not file.startswith(".")
    return at_top and file.endswith(_SETTINGS) and not _INDEX.search(file)


def _index(listing: Listing, trust: bool) -> str:
    """Return the name that the index of the weights has, if they are in parts.

    Raises
    ------
    ModelError
        If there are no weights, or only such as may not be opened.
    """
    has = set(listing.files)
    if has & {_SAFE, _SAFE_INDEX}:
        return _SAFE_INDEX
    text = listing.name.text
    if not has & {_PICKLE, _PICKLE_INDEX}:
        if not listing.asked:
            download(listing, [_SAFE])  # says what is missing, and why
        raise ModelError(f"{text} has no {_SAFE}; {_others(listing) or 'choose another model'}.")
    if not trust:
        raise ModelError(
            f"{text} has its weights as a pickle alone ({_PICKLE}), and opening one can run code "
            "that is in it. Choose a repository or revision with model.safetensors, or give "
            "trust=True if you trust its owner."
        )
    return _PICKLE_INDEX


def _no_config(listing: Listing) -> str:
    text = listing.name.text
    if not listing.files:
        return f"{text} is empty at revision {listing.commit[:12]}; choose another model."
    others = _others(listing)
    return f"{text} has no {CONFIG}, so it is no model that transformers or timm saved" + (
        f"; {others}." if others else "; choose another, or a file in it."
    )


def _others(listing: Listing) -> str:
    """Return which files of a repository could be named instead."""
    taken = (".onnx", *PICKLED)
    able = [file for file in listing.files if PurePosixPath(file).suffix.lower() in taken]
    if not able:
        return ""
    able.sort(key=lambda file: (not file.endswith(".onnx"), file))
    shown = ", ".join(able[:_NAMED]) + (", …" if len(able) > _NAMED else "")
    name = listing.name
    at = f"@{name.revision}" if name.revision else ""
    return f"name a file of it, as hf:{name.repository}/{able[0]}{at} (it has {shown})"


def _read(path: Path, listing: Listing) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"Cannot read {path.name} of {listing.name.text} ({words}); choose another revision."
        ) from None
    return told if isinstance(told, dict) else {}
