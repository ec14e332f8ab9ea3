"""From what a user calls a model to its spec: a name, a file, a function, an object."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any, get_args

from tilevision import checks
from tilevision.adapters import ADAPTERS
from tilevision.checks import flag
from tilevision.errors import ModelArgumentError, ModelError
from tilevision.fingerprint import fingerprint_function, fingerprint_value, version
from tilevision.modelspec import HostedModel, Model, ModelSpec, Stage, build, on_device
from tilevision.modelspec.build import attribute
from tilevision.modelspec.spec import DECLARABLE, split
from tilevision.modelspec.spec import stages as check_stages

__all__ = ["ENTRY_POINTS", "Registered", "model", "models", "named", "register_model", "resolve"]

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
    family, _, variant = name.partition(":")
    if family in _BUILTIN and hasattr(_module(_BUILTIN[family]), "declare"):
        return _self_declared(_BUILTIN[family], variant, given)
    # To ask what is installed takes a look at every package: only for what is not known here.
    entry = _BUILTIN.get(name) or _session.get(name) or _installed().get(name)
    if entry is None:
        entries = _entries()
        close = difflib.get_close_matches(name, entries, 1, 0.5)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ModelError(
            f"There is no model {name!r}.{hint} Known models: {', '.join(sorted(entries))}. You "
            "can also pass a function, a model object or the path of a model file."
        )
    # A factory may have a parameter of that name, from before it was declared of models.
    own = () if name in _BUILTIN else ("stride",)
    declared, params = split(name, {**entry.declared, **given}, own)
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


# Suffix of a file to how its adapters are reached: several share one, and look into the file.
_ONNX = {suffix for one in ADAPTERS if one.kind == "onnx" for suffix in one.suffixes}
_FRAMEWORKS = {suffix for one in ADAPTERS for suffix in one.suffixes} - _ONNX
_HUB = "hf:"  # how names of models on the Hugging Face Hub begin
_LIBRARIES = {one.base.partition(".")[0] for one in ADAPTERS if one.base}
_WEIGHTS = (
    ".engine",
    ".tflite",
    ".h5",
    ".keras",
    ".pb",
    ".safetensors",
)
# What says how a function or an object is called, beside the fields of a spec, and its default.
_CALLING = {
    "on_bad": "raise",
    "thread_safe": False,
    "returns": "",
    "precision": "float16",
    "classes": None,
    "unit": "",
    "keep": "",
}
_FUNCTION_PARAMS = ("batched", "names", *_CALLING)
_CONVERSION = 1  # how answers become findings; a change here changes what a function finds


def resolve(value: Any, stage: Stage = "tile") -> ModelSpec:
    """Return the spec of a model given as a name, a path, a function, an object or a spec.

    Parameters
    ----------
    value : str, path, callable, Model, HostedModel or ModelSpec
    stage : str
        What it must be able to serve.

    Raises
    ------
    ModelError
        If it is unknown, cannot serve `stage`, cannot travel, or has no known identity.
    """
    spec = model(value)
    if stage not in spec.stages:
        able = [known.name for known in models() if stage in known.stages]
        raise ModelError(
            f"Model {spec.name} serves {', '.join(spec.stages)}, not {stage}; "
            f"for {stage} there is {', '.join(able) or 'none by name'}, or pass a function."
        )
    return spec


def model(f: Any, fingerprint: str | None = None, **declarations: Any) -> ModelSpec:
    """Declare what a model is and needs.

    Parameters
    ----------
    f : callable, str, path, Model, HostedModel or ModelSpec
        A function of one tile, ``f(pixels) -> findings`` with pixels ``(h, w, 3)`` uint8 RGB
        unless declared otherwise; or anything that ``analyze(model=…)`` takes: also a detector
        of torchvision, a pipeline of transformers, a `YOLO`, a `DetectionModel` of SAHI.
        What a function may return: `tilevision.adapters.answers.findings_of`, or
        ``tv.Findings(tile_scores={"forest": 0.8})`` where it classifies the tile as a whole.
    fingerprint : str, optional
        Its identity in your words, for functions that tilevision cannot read: change it
        whenever the answers would change. None: worked out from the code.
    **declarations
        Fields of `ModelSpec`: ``batch_size`` (of tiles to a call; ``"auto"`` finds it out by time
        and free memory), ``input_size``, ``mpp``, ``bands``, ``dtype``,
        ``max_detections``, ``nms``, ``class_agnostic`` (of `nms`), ``min_score``, ``device``,
        ``price``, ``stages``, ``name``, ``stride`` (tiles begin at multiples of so many pixels, as
        networks that pool want it).
        ``bands=(3, 2), dtype="raw"`` gives ``(h, w, 2)`` of the fourth and the third band as
        stored, no-data included; with ``dtype="scaled"`` they are float32, by the scale and
        offset that the file declares, and no-data is NaN. For functions also ``batched=True``
        (it is called with a list of tiles and returns one answer for each) and ``names`` (class
        names, by class number); for functions and objects ``on_bad="drop"`` (a detection that
        makes no sense is left out, and the tile's note says so; by default the tile fails) and
        ``thread_safe=True`` (several threads of a worker may call it at once; by default they
        take turns), ``returns="embedding"`` (it returns a vector of 1 to 8,192 numbers, ``(d,)``;
        for a batch ``(n, d)``) and ``precision="float32"`` (of the vectors that are stored; by
        default float16). What gives a map of ``"probabilities"`` takes ``keep="classes"``: only the
        number of each pixel's class is stored. For functions ``setup=load`` calls ``load()``, or
        ``load(device)``, once in each process; what it returns is the function's last argument.
        ``device="cuda:0"`` runs a function or an object in one process, ``device="cuda"`` in one
        for each GPU; a device that is not there is an error before the first tile.
        For a name, all others are parameters of that model:
        ``tv.model("nuclei", min_area=30)``; for an ``.onnx`` (an encoder too, with
        ``returns="embedding"``) see
        `tilevision.adapters.onnx.declare`, for a ``.pt``, ``.pth``, ``.pt2`` or a folder
        `tilevision.adapters.frameworks.declare`, for a name on the Hugging Face Hub as
        ``"hf:owner/repository@revision"`` `tilevision.adapters.hub.declare`.

    Returns
    -------
    ModelSpec

    Raises
    ------
    ModelError
        If a declaration makes no sense, or `f` is no model.
    """
    if fingerprint is not None and (not isinstance(fingerprint, str) or not fingerprint):
        raise ModelError(f"fingerprint is {fingerprint!r:.80}; give a text such as 'v1'.")
    spec = _spec_of(f, fingerprint, declarations)
    # What was declared holds, or is refused, as where a run asks for a device.
    return on_device(spec, spec.device)


def _spec_of(f: Any, fingerprint: str | None, declarations: Mapping[str, Any]) -> ModelSpec:
    if isinstance(f, ModelSpec):
        return _redeclared(f, fingerprint, declarations)
    return _agnostic(_declared(f, fingerprint, declarations))


def _declared(f: Any, fingerprint: str | None, declarations: Mapping[str, Any]) -> ModelSpec:
    if isinstance(f, (str, PathLike)):
        return _by_text(fspath(f), fingerprint, declarations)
    if isinstance(f, type):
        raise ModelError(f"Model {f.__name__} is a class; pass an instance, as {f.__name__}().")
    if _of_a_library(f):
        from tilevision.adapters.frameworks import declare_object, kind_of

        kind = kind_of(f)
        if kind and not (kind == "torch" and isinstance(f, Model)):  # a network may be one of ours
            return declare_object(f, fingerprint, declarations)
    if isinstance(f, (Model, HostedModel)):
        return _of_object(f, fingerprint, declarations)
    if callable(f):
        return _of_function(f, fingerprint, declarations)
    raise ModelError(
        f"Model is {f!r:.40}; pass a name ({', '.join(m.name for m in models())}), "
        "a path to an .onnx or .pt file, hf:owner/repository, a function of one tile, or an object "
        "with predict."
    )


def _agnostic(spec: ModelSpec) -> ModelSpec:
    """Return the spec; what suppresses across classes answers otherwise, and is another model."""
    if not spec.class_agnostic:
        return spec
    if spec.nms is None:
        raise ModelError(f"Model {spec.name} is class_agnostic without nms; give nms=0.5 as well.")
    return replace(spec, fingerprint=fingerprint_value((spec.fingerprint, "class_agnostic")))


def _of_a_library(f: Any) -> bool:
    """Return True if the class of an object, or a class it builds on, is of a known library."""
    made = {base.__module__.partition(".")[0] for base in type(f).__mro__}
    return not made.isdisjoint(_LIBRARIES)


def _by_text(text: str, fingerprint: str | None, given: Mapping[str, Any]) -> ModelSpec:
    if text.startswith(_HUB):
        from tilevision.adapters import hub

        return hub.declare(text, fingerprint, given)
    if not text.strip():
        raise ModelError(f"Model is {text!r:.20}; give a name, or the path of a model.")
    checks.path("model", text, ModelError)
    suffix = Path(text).suffix.lower()
    if suffix in _ONNX:
        from tilevision.adapters import onnx

        return onnx.declare(text, fingerprint, given)
    if suffix in _FRAMEWORKS or _saved(text) or "framework" in given:
        from tilevision.adapters import frameworks

        return frameworks.declare(text, fingerprint, given)
    if suffix in _WEIGHTS:
        if _saved(beside := str(Path(text).parent)):
            raise ModelError(f"Weights {text!r} are part of what stands in {beside!r}; give that.")
        raise ModelError(
            f"Weights {text!r} cannot be loaded by path; pass a function that loads them once "
            "(with @functools.cache) and returns boxes."
        )
    if (folder := Path(text).expanduser()).is_dir():
        found = next(folder.glob("snapshots/*/config.json"), None)
        remedy = f"give {str(found.parent)!r}" if found else "give the folder or file of a model"
        raise ModelError(f"Folder {text!r} has no config.json, so it is no saved model; {remedy}.")
    return _redeclared(named(text, given), fingerprint, {})


def _saved(text: str) -> bool:
    """Return True if a text is a folder that a library saved a model in."""
    return (Path(text).expanduser() / "config.json").is_file() or text.endswith(("/", "\\"))


def _redeclared(
    spec: ModelSpec, fingerprint: str | None, declarations: Mapping[str, Any]
) -> ModelSpec:
    declared, params = split(spec.name, declarations)
    if params:
        raise ModelError(
            f"A ModelSpec takes no new parameters ({', '.join(params)}); pass them with the name."
        )
    identity = spec.fingerprint
    if fingerprint is not None:
        identity = fingerprint_value(("stated", spec.name, fingerprint))
    for key in ("nms", "max_detections"):
        if key in declared and declared[key] != getattr(spec, key):
            identity = fingerprint_value((identity, declared[key]))
    made = replace(spec, fingerprint=identity, **declared)
    return made if made.class_agnostic == spec.class_agnostic else _agnostic(made)


def _of_function(
    f: Callable[..., Any], fingerprint: str | None, declarations: Mapping[str, Any]
) -> ModelSpec:
    given = dict(declarations)
    name = str(given.pop("name", None) or _name(f))
    setup = given.pop("setup", None)
    if setup is not None and not callable(setup):
        raise ModelArgumentError(
            f"setup of model {name} is {setup!r:.80}; give a function that builds what is costly."
        )
    declared, params = split(name, given)
    unknown = [key for key in params if key not in _FUNCTION_PARAMS]
    if unknown:
        raise ModelError(
            f"A function has no declaration {unknown[0]!r}; it may have "
            f"{', '.join(('fingerprint', 'name', 'setup', *_FUNCTION_PARAMS, *DECLARABLE))}."
        )
    batched = params.setdefault("batched", False)
    if not isinstance(batched, bool) or not isinstance(params.get("names", []), (list, dict)):
        raise ModelError(
            f"Model {name}: give batched as True or False, names as a list or {{number: name}}."
        )
    _check_calling(name, params)
    declared = {"stages": get_args(Stage), "batch_size": 8 if batched else 1, **declared}
    identity: Any = ("stated", name, fingerprint) if fingerprint else fingerprint_function(f)
    if setup is None:
        return _packed(f, name, "from_function", identity, declared, params)
    if not fingerprint:
        identity = (identity, "setup", fingerprint_function(setup))
    params["setup"] = True
    return _packed((f, setup), name, "from_function", identity, declared, params)


def _of_object(value: Any, fingerprint: str | None, declarations: Mapping[str, Any]) -> ModelSpec:
    name = declarations.get("name") or getattr(value, "name", None)
    name = str(name or type(value).__name__)
    # A model's own `device` is one of its library's objects, and its `stride` may be anything.
    keys = [key for key in DECLARABLE if key not in ("device", "stride")]
    own = {key: getattr(value, key) for key in keys if hasattr(value, key)}
    given = {**own, "hosted": not isinstance(value, Model), **declarations}
    given.pop("name", None)
    declared, params = split(name, given)
    unknown = [key for key in params if key not in _CALLING]
    if unknown:
        raise ModelError(
            f"A model object has no declaration {unknown[0]!r}; it may have "
            f"{', '.join(('fingerprint', 'name', *_CALLING, *DECLARABLE))}."
        )
    _check_calling(name, params)
    stated = fingerprint or getattr(value, "fingerprint", None)
    identity = ("stated", name, str(stated)) if stated else fingerprint_value(value)
    return _packed(value, name, "from_object", identity, declared, params)


def _check_calling(name: str, params: dict[str, Any]) -> None:
    """Check how a model is to be called; defaults are left out, for they are no part of it."""
    from tilevision.adapters.mapanswers import check_returns

    on_bad = params.get("on_bad", "raise")
    if on_bad not in ("raise", "drop"):
        raise ModelArgumentError(
            f"on_bad of model {name} is {on_bad!r:.80}; give 'raise' or 'drop'."
        )
    check_returns(name, params)
    flag(f"thread_safe of model {name}", params.get("thread_safe", False), ModelArgumentError)
    for key, default in _CALLING.items():
        if params.get(key, default) == default:
            params.pop(key, None)


def _packed(
    value: Any, name: str, loader: str, identity: Any, declared: dict[str, Any], params: Any
) -> ModelSpec:
    from tilevision.adapters.packing import pack

    # Whether threads take turns changes no answer.
    counted = sorted((key, item) for key, item in params.items() if key != "thread_safe")
    identity = (loader, _CONVERSION, identity, counted, declared.get("nms"))
    return ModelSpec(
        name=name,
        factory=f"tilevision.adapters.function:{loader}",
        fingerprint=fingerprint_value(identity),
        params=params,
        payload=pack(value, name),
        **declared,
    )


def _name(f: Any) -> str:
    inner = getattr(f, "func", f)  # of a partial
    return getattr(inner, "__name__", None) or type(f).__name__
