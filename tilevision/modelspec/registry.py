"""Models by name: built in, registered in this session, or brought by installed packages."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tilevision.errors import ModelError
from tilevision.fingerprint import fingerprint_function, fingerprint_value, version
from tilevision.modelspec.build import attribute, build
from tilevision.modelspec.declarations import split
from tilevision.modelspec.declarations import stages as check_stages
from tilevision.modelspec.spec import ModelSpec, Stage

__all__ = ["ENTRY_POINTS", "Registered", "models", "named", "register_model"]

ENTRY_POINTS = "tilevision.models"

Factory = str | Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Registered:
    """A model that can be asked for by name.

    Parameters
    ----------
    name : str
    stages : tuple of str
        What it can serve.
    extra : str
        The optional dependency it needs, as in ``pip install tilevision[extra]``, or ``""``.
    installed : bool
        Whether that is there.
    summary : str
        One line.
    """

    name: str
    stages: tuple[Stage, ...]
    extra: str = ""
    installed: bool = True
    summary: str = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    shown: Registered
    factory: Factory
    declared: Mapping[str, Any] = field(default_factory=dict)
    library: str = ""  # what its extra brings, as it is imported


def _builtin(name: str, stage: Stage, factory: str, summary: str) -> _Entry:
    return _Entry(Registered(name, (stage,), summary=summary), factory)


_OPENAI = Registered(
    "openai",
    ("moderation", "tile", "synthesis"),
    extra="vlm",
    summary="any OpenAI-compatible endpoint: 'openai:MODEL'",
)


_BUILTIN = {
    entry.shown.name: entry
    for entry in (
        _builtin("blobs", "tile", "tilevision.adapters.blobs:load", "stars, particles, cells"),
        _builtin("nuclei", "tile", "tilevision.adapters.nuclei:load", "nuclei in stained tissue"),
        _builtin("textlines", "tile", "tilevision.adapters.textlines:load", "lines and words"),
        _builtin("limits", "moderation", "tilevision.moderation:limits", "format, size, damage"),
        _builtin("summary", "synthesis", "tilevision.synthesis:summary", "the scene in words"),
        _Entry(_OPENAI, "tilevision.adapters.hosted:load", library="openai"),
    )
}
_session: dict[str, _Entry] = {}


def register_model(
    name: str, factory: Factory, stages: tuple[Stage, ...] = ("tile",), **declarations: Any
) -> None:
    """Make a model known by `name` in this session.

    Parameters
    ----------
    name : str
        Registering it again replaces it; the built-in names stay.
    factory : callable or str
        Called on each worker once as ``factory(**parameters)``; returns the model: an object
        with ``predict`` (or ``encode`` and ``request``), or a function of one tile. As
        ``"package.module:attribute"`` it is called with the `ModelSpec`.
    stages : tuple of str
        What it can serve: ``"moderation"``, ``"tile"``, ``"synthesis"``.
    **declarations
        Fields of `ModelSpec` (``batch_size=8``, ``input_size=(640, 640)``, …); all others are
        parameters of the factory, plain JSON values.

    Raises
    ------
    ModelError
        If the name or a declaration makes no sense.
    """
    if not name or not isinstance(name, str) or "." in name or name.strip() != name:
        raise ModelError(f"model name {name!r} is not usable; give a word without dots or spaces")
    if name in _BUILTIN:
        raise ModelError(f"model name {name!r} is built in; choose another")
    if not callable(factory) and not (isinstance(factory, str) and ":" in factory):
        raise ModelError(
            f"factory of model {name} is {factory!r:.80}; give a function, or 'package.module:name'"
        )
    chosen = check_stages(f"stages of model {name}", stages)
    split(name, declarations)
    shown = Registered(name, chosen, summary="registered in this session")
    _session[name] = _Entry(shown, factory, declarations)


def models() -> tuple[Registered, ...]:
    """Return the models that can be asked for by name, in alphabetical order."""
    return tuple(
        replace(entry.shown, installed=importlib.util.find_spec(entry.library) is not None)
        if entry.library
        else entry.shown
        for _, entry in sorted(_entries().items())
    )


def named(name: str, given: Mapping[str, Any]) -> ModelSpec:
    """Return the spec of the model called `name`, with `given` declarations and parameters.

    Raises
    ------
    ModelError
        If there is none, its extra is missing, or a parameter is unknown.
    """
    entries = _entries()
    family, _, variant = name.partition(":")
    if family in _BUILTIN and hasattr(_module(_BUILTIN[family]), "declare"):
        return _self_declared(_BUILTIN[family], variant, given)
    if name not in entries:
        close = difflib.get_close_matches(name, entries, 1, 0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ModelError(
            f"there is no model {name!r}{hint} Known: {', '.join(sorted(entries))}; or pass a "
            "function, a model object or a path to an .onnx file"
        )
    entry = entries[name]
    declared, params = split(name, {**entry.declared, **given})
    declared = {"stages": entry.shown.stages, **declared}
    payload = b""
    if callable(entry.factory):
        factory = "tilevision.adapters.function:from_factory"
        identity: Any = fingerprint_function(entry.factory)
        payload = attribute("tilevision.adapters.packing:pack")(entry.factory, name)
    elif name in _BUILTIN:
        factory = entry.factory
        defaults, identity = _builtin_facts(factory)
        params = _complete(name, defaults, params)
    else:
        factory = entry.factory
        identity = fingerprint_function(attribute(factory))
    identity = (name, factory, identity, sorted(params.items()), declared.get("nms"))
    spec = ModelSpec(name, factory, fingerprint_value(identity), params, payload, **declared)
    if name in _BUILTIN:
        build(spec)  # cheap, and a parameter that makes no sense is told here, not by each tile
    return spec


def _self_declared(entry: _Entry, variant: str, given: Mapping[str, Any]) -> ModelSpec:
    """Build the spec of a model that says itself what its answers depend on.

    Its module's ``declare(variant, given)`` returns its name, declarations and parameters
    together, and its identity.
    """
    name, given, identity = _module(entry).declare(variant, given)
    declared, params = split(name, given)
    factory = str(entry.factory)
    identity = fingerprint_value((factory, identity, declared.get("nms")))
    spec = ModelSpec(name, factory, identity, params, **declared)
    build(spec)
    return spec


def _module(entry: _Entry) -> Any:
    return importlib.import_module(str(entry.factory).partition(":")[0])


def _entries() -> dict[str, _Entry]:
    return {**_installed(), **_session, **_BUILTIN}


def _installed() -> dict[str, _Entry]:
    found = {}
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        package = point.dist.name if point.dist else ""
        shown = Registered(point.name, ("tile",), summary=f"from {package}" if package else "")
        found[point.name] = _Entry(shown, point.value)
    return found


def _builtin_facts(factory: str) -> tuple[dict[str, Any], Any]:
    """Return the default parameters and the identity of what is built in."""
    module = importlib.import_module(factory.partition(":")[0])
    identity = (getattr(module, "VERSION", 1), version("skimage"))
    return getattr(module, "PARAMS", {}), identity


def _complete(name: str, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    for key, value in given.items():
        if key not in defaults:
            raise ModelError(
                f"model {name} has no parameter {key!r}; "
                f"it has {', '.join(sorted(defaults)) or 'none'}"
            )
        if isinstance(defaults[key], str) != isinstance(value, str):
            raise ModelError(
                f"{key} of model {name} is {value!r:.80}; its default is {defaults[key]!r}"
            )
    return {**defaults, **given}
