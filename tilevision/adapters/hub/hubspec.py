"""From the name of a model on the hub to a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from tilevision.adapters.frameworks.frameworkkind import FEATURES
from tilevision.adapters.hub.contents import CONFIG, PICKLED, Contents, contents_of
from tilevision.adapters.hub.hubname import HubName
from tilevision.adapters.hub.repository import Listing, download, found, remember
from tilevision.adapters.modelfiles import missing_parts
from tilevision.checks import flag
from tilevision.errors import ModelArgumentError, ModelError
from tilevision.fingerprint import fingerprint_value
from tilevision.modelspec import ModelSpec

__all__ = ["declare"]

# What the spec of a run that is resumed says of files; it is found anew, and then compared.
_FOUND = ("path", "content", "framework", "files", "repository")


def declare(text: str, fingerprint: str | None, given: Mapping[str, Any]) -> ModelSpec:
    """Return the spec of a model on the hub, whose files are on this machine afterwards.

    Parameters
    ----------
    text : str
        ``"hf:owner/repository"``, ``"hf:owner/repository/file.onnx"``, each with ``"@revision"``
        where it is not ``main``: a branch, a tag or a commit.
    fingerprint : str, optional
        A further part of its identity; the commit and the content of the files count in any case.
    given : mapping
        Fields of `ModelSpec`, what `tilevision.adapters.frameworks.declare` and, for an
        ``.onnx``, `tilevision.adapters.onnx.declare` take, and:

        trust : bool
            Whether files are opened that can run code: weights in a pickle (``.bin``, ``.pt``)
            where there are no safetensors. Default False. Code of the repository itself is never
            run.

    Raises
    ------
    ModelError
        If the hub's library is missing, there is no such repository, revision or file, it may not
        be read, it is out of reach and not in the cache, or it is no model that is understood.
    """
    name, wanted = HubName.parse(text), dict(given)
    known = wanted.get("repository") or {}
    files = wanted.get("files") or ([name.file] if name.file else [])
    wanted = {key: value for key, value in wanted.items() if key not in _FOUND}
    trust = bool(flag(f"trust of model {text}", wanted.pop("trust", False), ModelArgumentError))
    listing = found(name, str(known.get("commit") or ""), files)
    if name.file:
        spec = _of_file(listing, trust, fingerprint, wanted)
    else:
        spec = _of_repository(listing, contents_of(listing, trust), fingerprint, wanted)
    remember(listing)
    repository = {"id": name.repository, "commit": listing.commit, "file": name.file}
    params = {**spec.params, "repository": repository, **({"trust": True} if trust else {})}
    return replace(
        spec,
        name=text,
        params=params,
        notes=(_note(listing), *spec.notes),
        fingerprint=fingerprint_value((spec.fingerprint, listing.commit)),
    )


def _of_repository(
    listing: Listing, contents: Contents, fingerprint: str | None, wanted: dict[str, Any]
) -> ModelSpec:
    from tilevision.adapters.frameworks import declare_saved
    from tilevision.adapters.prompted import takes_words_alone

    architecture = str((contents.config.get("architectures") or [""])[0])
    if contents.kind == "transformers":
        _check_code(listing, contents.config, architecture)
        # The class of a network without a head gives features, so it is an encoder.
        words = "prompts" in wanted or takes_words_alone(architecture)
        if architecture.endswith("Model") and not words and "task" not in wanted:
            wanted = {"task": FEATURES, **wanted}
    return declare_saved(
        contents.kind, listing.name.text, listing.folder, fingerprint, wanted, contents.files
    )


def _of_file(
    listing: Listing, trust: bool, fingerprint: str | None, wanted: dict[str, Any]
) -> ModelSpec:
    name = listing.name
    path, suffix = listing.folder / name.file, PurePosixPath(name.file).suffix.lower()
    if suffix != ".onnx" and suffix not in PICKLED:
        raise ModelError(
            f"{name.text} is no file of a model that is read; name an .onnx, or the repository "
            "alone."
        )
    if listing.asked and name.file not in listing.files:
        has = [file for file in listing.files if file.endswith(suffix)]
        raise ModelError(
            f"{name.repository} has no file {name.file!r} at revision {listing.commit[:12]}; it "
            f"has {', '.join(has[:5]) or f'no {suffix} file'}."
        )
    if suffix != ".onnx" and not trust:
        raise ModelError(
            f"{name.text} is a pickle or may hold code, and opening it can run what is in it. Give "
            "trust=True if you trust its owner, or name an .onnx or a repository with safetensors."
        )
    download(listing, [name.file])
    if suffix == ".onnx":
        from tilevision.adapters import onnx

        beside = PurePosixPath(name.file).parent
        parts = [str(beside / part) for part in missing_parts(path)]
        download(listing, [part for part in parts if part in listing.files])
        return onnx.declare(str(path), fingerprint, wanted)
    from tilevision.adapters import frameworks

    return frameworks.declare(str(path), fingerprint, wanted)


def _check_code(listing: Listing, config: Mapping[str, Any], architecture: str) -> None:
    """Refuse a repository whose network is code of its own.

    Raises
    ------
    ModelError
        If the library does not have the network itself.
    """
    if not config.get("auto_map"):
        return
    from tilevision.adapters.frameworks.devices import library

    transformers = library("transformers")
    if not hasattr(transformers, architecture):
        raise ModelError(
            f"{listing.name.text} needs code that is in its repository ({CONFIG} names "
            f"{architecture or 'no class'} of its own), and such code is never run; load the "
            "network yourself and pass a function that calls it."
        )


def _note(listing: Listing) -> str:
    name = listing.name
    text = f"Model {name.text}: revision {listing.commit[:12]} of {name.repository}"
    if name.commit:
        return f"{text}."
    branch = name.revision or "main"
    if not listing.excuse:
        return f"{text}, which is {branch}."
    return f"{text}, which was {branch} when it was downloaded. {listing.excuse}."
