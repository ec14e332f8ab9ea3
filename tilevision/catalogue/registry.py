"""Models by name: built in, registered in this session, or brought by installed packages."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tilevision.adapters import ADAPTERS
from tilevision.errors import ModelError
from tilevision.fingerprint import fingerprint_function, fingerprint_value, version
from tilevision.modelspec import ModelSpec, Stage, build
from tilevision.modelspec.build import attribute
from tilevision.modelspec.declarations import split
from tilevision.modelspec.declarations import stages as check_stages

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
        Whether that is installed.
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
    recorded: str = ""  # what stands for the factory in its identity, if it has moved


# Those of the stages before and after the tiles are not adapters: they see no tile.
_STAGES = (
    _Entry(
        Registered("limits", ("moderation",), summary="format, size, damage"),
        "tilevision.moderation:limits",
    ),
    _Entry(
        Registered("summary", ("synthesis",), summary="the scene in words"),
        "tilevision.synthesis:summary",
    ),
)
_BUILTIN = {
    entry.shown.name: entry
    for entry in (
        *(
            _Entry(
                Registered(one.kind, one.stages, one.extra, summary=one.summary),
                one.loader,
                library=one.library,
                recorded=one.recorded,
            )
            for one in ADAPTERS
            if one.stages
        ),
        *_STAGES,
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
        Registering it again replaces it. The built-in names cannot be replaced.
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
        If the name or a declaration is not valid.
    """
    if not name or not isinstance(name, str) or "." in name or name.strip() != name:
        raise ModelError(f"Model name {name!r} is not usable; give a word without dots or spaces.")
    if name in _BUILTIN:
        raise ModelError(f"Model name {name!r} is built in; choose another.")
    if not callable(factory) and not (isinstance(factory, str) and ":" in factory):
        raise ModelError(
            f"Factory of model {name} is {factory!r:.80}; give a function, or "
            "'package.module:name'."
        )
    chosen = check_stages(f"Stages of model {name}", stages)
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
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ModelError(
            f"There is no model {name!r}.{hint} Known models: {', '.join(sorted(entries))}. You "
            "can also pass a function, a model object or the path of a model file."
        )
    entry = entries[name]
    declared, params = split(name, {**entry.declared, **given})
    declared = {"stages": entry.shown.stages, **declared}
    payload = b""
    if callable(entry.factory):
        from tilevision.adapters.packing import pack

        factory = "tilevision.adapters.function:from_factory"
        identity: Any = fingerprint_function(entry.factory)
        payload = pack(entry.factory, name)
    elif name in _BUILTIN:
        factory = entry.factory
        defaults, identity = _builtin_facts(entry)
        params = _complete(name, defaults, params)
    else:
        factory = entry.factory
        identity = fingerprint_function(attribute(factory))
    recorded = entry.recorded or factory
    identity = (name, recorded, identity, sorted(params.items()), declared.get("nms"))
    spec = ModelSpec(name, factory, fingerprint_value(identity), params, payload, **declared)
    if name in _BUILTIN:
        build(spec)  # cheap, and a wrong parameter raises here instead of on every tile
    return spec


def _self_declared(entry: _Entry, variant: str, given: Mapping[str, Any]) -> ModelSpec:
    """Build the spec of a model that says itself what its answers depend on.

    Its module's ``declare(variant, given)`` returns its name, declarations and parameters
    together, and its identity.
    """
    name, given, identity = _module(entry).declare(variant, given)
    declared, params = split(name, given)
    factory = str(entry.factory)
    identity = fingerprint_value((entry.recorded or factory, identity, declared.get("nms")))
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


def _builtin_facts(entry: _Entry) -> tuple[dict[str, Any], Any]:
    """Return the default parameters and the identity of what is built in."""
    module = _module(entry)
    identity = (getattr(module, "VERSION", 1), version("skimage"))
    return getattr(module, "PARAMS", {}), identity


def _complete(name: str, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    for key, value in given.items():
        if key not in defaults:
            raise ModelError(
                f"Model {name} has no parameter {key!r}; "
                f"it has {', '.join(sorted(defaults)) or 'none'}."
            )
        if isinstance(defaults[key], str) != isinstance(value, str):
            raise ModelError(
                f"{key} of model {name} is {value!r:.80}; its default is {defaults[key]!r}."
            )
    return {**defaults, **given}
