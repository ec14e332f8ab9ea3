"""A run's manifest: what it holds, and how it leads to the same work again.

The manifest is the first line of the journal. A recipe is the part of it that decides the result,
without a path, a time or a machine; the facts of a result name both.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from typing import Any

from tilevision import checks
from tilevision.catalogue import model
from tilevision.checkpoint import run_owner
from tilevision.errors import (
    GridError,
    ModelError,
    RunBusy,
    RunError,
    SourceError,
    TilevisionError,
)
from tilevision.events import is_listed, journal_path, list_runs, read_manifest, together
from tilevision.modelspec import ModelSpec, Price
from tilevision.modelspec.spec import DECLARABLE
from tilevision.pipeline.planning import Plan, Stages, labels
from tilevision.pipeline.settings import Settings, Subject
from tilevision.pipeline.tiling import Tiling
from tilevision.regions import Region
from tilevision.result import RunFacts
from tilevision.routing import Cascade, Route
from tilevision.schedule import Quota, Retry
from tilevision.sources.addresses import check_kept, lasting

__all__ = [
    "FORMAT_VERSION",
    "arguments_again",
    "begin_manifest",
    "check_free",
    "check_same_model",
    "check_same_work",
    "describe_run",
    "find_manifest",
    "lacks_model",
    "legible",
    "recall",
    "recipe",
    "recipe_of",
    "remember_work",
    "run_facts",
    "stand_in",
    "work_again",
]

FORMAT_VERSION = 1  # of recipes
# What a recipe holds besides the plain settings of the subject.
_RECIPE = (
    *("image", "model", "source", "model_params", "model_declared", "model_fingerprint"),
    *("model_price", "models", "routing", "tiling", "region", "moderation", "synthesis"),
)

_FUNCTION = "tilevision.adapters.function:load"
# Declarations of a function that decide under which keys its tiles are stored.
_READING = ("bands", "dtype", "shrinks", "input_size")

Folder = str | os.PathLike[str]

RELEASE_SECONDS = 2.0


def find_manifest(run_id: str, checkpoint: Folder) -> dict[str, Any]:
    """Return the manifest of a run; its ``id`` is that of the file, which may have been renamed.

    Raises
    ------
    RunError
        If there is no such run; the message names the latest ones.
    """
    path = journal_path(checkpoint, run_id)
    if not is_listed(path):
        latest = ", ".join(run.id for run in together(list_runs(checkpoint))[:3])
        raise RunError(
            f"There is no run {run_id} in {os.fspath(checkpoint)}; "
            + (f"the latest are {latest}." if latest else "the folder has no runs.")
        )
    return read_manifest(path) | {"id": run_id}


@contextmanager
def legible(run_id: str) -> Iterator[None]:
    """Turn what a manifest lacks, or has of another type, into one line about its run.

    Raises
    ------
    RunError
    """
    try:
        yield
    except GridError as error:  # of what is stored, not of an argument
        raise _illegible(run_id, error) from error
    except TilevisionError:  # some are ValueErrors, too, and say what is wrong
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _illegible(run_id, error) from error


def _illegible(run_id: str, error: Exception) -> RunError:
    return RunError(
        f"The journal of run {run_id} does not say what it analysed ({error!r:.200}). It was "
        "written by another version, or is damaged. Finished tiles are kept: the same "
        "tv.analyze call restores them."
    )


def begin_manifest(run_id: str, name: str, stages: Stages) -> dict[str, Any]:
    """Return what the manifest of any run begins with, of one image or of many."""
    return {
        "id": run_id,
        "started": time.time(),
        "image": name,
        "model": stages.asked.name,
        "versions": {"tilevision": version("tilevision"), "python": platform.python_version()},
    }


def describe_run(
    run_id: str, image: Any, plan: Plan, settings: Settings, *, batch: str = ""
) -> dict[str, Any]:
    """Return the manifest of a run: what another process needs to list, follow or resume it.

    Parameters
    ----------
    run_id : str
    image
        As the user gave it; its path or address is kept, without secrets.
    plan : Plan
    settings : Settings
    batch : str
        Id of the multi-image run that this one is part of.

    Returns
    -------
    dict
        Plain JSON types, no code, no secrets.
    """
    return {
        **begin_manifest(run_id, plan.name, plan.stages),
        "size": list(plan.source.size),
        "n_tiles": len(plan.tiles),
        "path": lasting(image),
        "source": plan.source.fingerprint,
        "tiling": plan.tiling.to_dict(),
        "region": None if plan.region is None else plan.region.to_dict(),
        **remember_work(plan.stages, settings),
        **({"batch": batch} if batch else {}),
    }


def run_facts(run_id: str, status: str, plan: Plan, manifest: Mapping[str, Any]) -> RunFacts:
    """Return what a result says of its run as far as plan and manifest decide it."""
    stages = plan.stages
    return RunFacts(
        run_id=run_id,
        status=status,
        recipe=recipe_of(manifest),
        model=stages.asked.name,
        model_fingerprint=stages.tile.fingerprint,
        models=tuple((label, mark) for mark, label in labels(stages.models).items()),
        grid=str(plan.tiling),
        scales=plan.tiling.scales,
        region=plan.region,
        classes=_classes(stages.models),
    )


def _classes(models: Sequence[ModelSpec]) -> tuple[str | None, ...]:
    """Return class names by number: the first model's, then those that only others have."""
    names: list[str | None] = []
    for spec in models:
        own = list(spec.classes)
        names += own if not names else [name for name in own if name not in names]
    return tuple(names)


def remember_work(stages: Stages, settings: Settings) -> dict[str, Any]:
    """Return the part of a manifest that is the same for every image."""
    spec = stages.tile
    return {
        "model_params": None if spec.payload else dict(spec.params),
        "model_declared": _declared(spec),
        "model_fingerprint": spec.fingerprint,
        "model_price": _price(spec),
        "models": [
            {"name": labels(stages.models)[one.fingerprint], "fingerprint": one.fingerprint}
            | _reading(one)
            for one in stages.models
        ],
        "routing": _routing(stages.asked),
        "moderation": _stage(stages.moderation),
        "synthesis": _stage(stages.synthesis),
        "retry": asdict(settings.retry),
        "quota": asdict(settings.quota) if settings.quota else None,
        "settings": settings.recorded(),
    }


def _reading(spec: ModelSpec) -> dict[str, Any]:
    """Return how a function or object wants its tiles, where that is not as usual.

    With it, what is stored of its tiles is found where the function itself is not at hand.
    """
    if not spec.payload:
        return {}
    usual = ModelSpec("", "", "")
    differs = (name for name in _READING if getattr(spec, name) != getattr(usual, name))
    reads = {name: getattr(spec, name) for name in differs}
    told: dict[str, Any] = {"reads": reads} if reads else {}
    return told if spec.raster is None else told | {"map": spec.raster.to_dict()}


def stand_in(manifest: Mapping[str, Any]) -> ModelSpec | None:
    """Return what has the identity of a run's function: it finds stored tiles, and runs none.

    None for a run with several models.
    """
    if manifest.get("routing") is not None or "models" not in manifest:
        return None
    (kept,) = manifest["models"]
    reads: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in kept.get("reads", {}).items()
    }
    params = dict(kept.get("map", {}))
    if params:
        params["returns"] = params.pop("kind")
    return ModelSpec(kept["name"], _FUNCTION, kept["fingerprint"], params, **reads)


def recall(
    manifest: dict[str, Any],
    checkpoint: Folder,
    image: Any = None,
    model_: Any = None,
    *,
    working: bool = False,
    **overrides: Any,
) -> tuple[Any, Settings]:
    """Return image and settings to resume the run of `manifest`.

    `working`: a process may be working on it; then nothing is to be run.

    Raises
    ------
    RunError
        If another process is working on it, or something has to be given again.
    """
    run_id = manifest["id"]
    if not working:
        check_free(run_id, checkpoint)
    with legible(run_id):
        if image is None:
            image = manifest["path"]
            if image is None:
                raise RunError(
                    f"Run {run_id} analysed an image in memory ({manifest['image']}); pass image=."
                )
            check_kept(image, f"run {run_id}")
        arguments = arguments_again(manifest, f"run {run_id}", model_, overrides)
    if overrides.get("client") is not None:
        arguments["workers"] = None
    return image, Settings(**(arguments | {"checkpoint": checkpoint} | overrides))


def check_free(run_id: str, checkpoint: Folder) -> None:
    """Refuse a run that a process is working on.

    A run that has ended is released a moment later, when its checkpoint is closed.

    Raises
    ------
    RunBusy
    """
    until = time.monotonic() + RELEASE_SECONDS
    while (owner := run_owner(checkpoint, run_id)) is not None and time.monotonic() < until:
        time.sleep(0.02)
    if owner is not None:
        raise RunBusy(f"Run {run_id} is in progress in {owner}; wait for it, or end that process.")


def arguments_again(
    manifest: Mapping[str, Any], who: str, model_: Any, given: Collection[str] = ()
) -> dict[str, Any]:
    """Return the arguments of `tilevision.start` that a manifest holds, without the image.

    Parameters
    ----------
    manifest : mapping
    who : str
        What errors call it.
    model_ : optional
        In place of the model that was used.
    given : collection of str
        Arguments that are given anew, so need not be known.

    Raises
    ------
    RunError
        If a function was used that has to be given again.
    """
    arguments = work_again(manifest, who, model_, given)
    tiling = Tiling.from_dict(manifest["tiling"])
    region = manifest.get("region")  # journals of earlier versions have none
    return arguments | {
        "region": None if region is None else Region.from_dict(region),
        "grid": tiling.grid,
        "resolution": list(tiling.scales),
        "full_image": tiling.whole is not None,
    }


def work_again(
    manifest: Mapping[str, Any], who: str, model_: Any, given: Collection[str] = ()
) -> dict[str, Any]:
    """Return the arguments that are the same for every image; as `arguments_again`."""
    if model_ is None:
        model_ = _model_again(manifest, who)
    unknown = sorted(set(manifest["settings"]) - {field.name for field in fields(Settings)})
    if unknown:
        raise RunError(
            f"{_capital(who)} was made with {unknown[0]}=, which this tilevision does not know. "
            "Update tilevision."
        )
    arguments: dict[str, Any] = manifest["settings"] | {
        "model": model_,
        "retry": Retry(**manifest["retry"]),
        "quota": Quota(**manifest["quota"]) if manifest["quota"] else None,
    }
    for stage in ("moderation", "synthesis"):
        kept = manifest[stage]
        if stage not in given:
            if kept is not None and kept["params"] is None:
                raise RunError(
                    f"{_capital(who)} used the function {kept['name']} for {stage}, which is not "
                    f"stored; pass {stage}=."
                )
            arguments[stage] = None if kept is None else _again(kept)
    return arguments


def check_same_work(manifest: dict[str, Any], decided: Plan) -> None:
    """Refuse to resume a run with another image or model than it was started with.

    Raises
    ------
    SourceError, ModelError
    """
    if decided.source.fingerprint != manifest.get("source"):
        raise SourceError(
            f"{decided.name} is not the image that run {manifest['id']} analysed, or it has "
            "changed since; start a new run."
        )
    check_same_model(manifest, decided.stages)


def check_same_model(manifest: dict[str, Any], stages: Stages) -> None:
    """Refuse to resume a run, of one image or many, with another model than before.

    Raises
    ------
    ModelError
    """
    # A route's rules may have changed, for they change no tile's record.
    with legible(manifest["id"]):
        known = manifest.get("models") or [{"fingerprint": manifest["model_fingerprint"]}]
        begun = {one["fingerprint"] for one in known}
    if begun != {spec.fingerprint for spec in stages.models}:
        raise ModelError(
            f"Model {stages.asked.name} is not what run {manifest['id']} used (other code, "
            "weights or parameters); start a new run."
        )


def recipe_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a manifest that `recipe` reads back, equal for runs that do the same."""
    return {
        "format": "tilevision recipe",
        "version": FORMAT_VERSION,
        **{name: manifest.get(name) for name in _RECIPE},
        "settings": {
            name: manifest["settings"][name]
            for name in Subject.RECORDED
            if name in manifest["settings"]  # earlier versions recorded fewer
        },
    }


def recipe(path: str | os.PathLike[str], model: Any = None) -> dict[str, Any]:
    """Read how a result was made, as arguments that make it again.

    ``result.save("found.recipe.json")`` writes such a file; ``.json`` exports hold it as well.

    Parameters
    ----------
    path : path-like
    model : optional
        Needed where the run used a function: no file holds one.

    Returns
    -------
    dict
        For ``tv.analyze(image, **tv.recipe("found.recipe.json"))``.

    Raises
    ------
    RunError
        If it is no such file, or the model has to be passed.
    ModelError
        If its model is not known here.
    """
    place = checks.path("path", path)
    name = str(place)
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
        kept = kept.get("recipe", kept)
        _check_format(name, kept)
        arguments = arguments_again(
            {"retry": {}, "quota": None, **kept}, f"the result of {name}", model
        )
    except OSError as error:
        raise RunError(f"{name} cannot be read: {error.strerror}.") from error
    except (RunError, ModelError):  # some are ValueErrors, too, and say what is wrong
        raise
    except (ValueError, KeyError, TypeError, AttributeError, GridError) as error:
        raise RunError(
            f"{name} is not a recipe; result.save('found.recipe.json') writes one."
        ) from error
    return {key: value for key, value in arguments.items() if key not in ("retry", "quota")}


def _check_format(name: str, kept: Mapping[str, Any]) -> None:
    if kept["format"] != "tilevision recipe" or kept["version"] != FORMAT_VERSION:
        raise RunError(f"{name} is a recipe for another version of tilevision.")


def _stage(spec: ModelSpec | None) -> dict[str, Any] | None:
    return None if spec is None else _described(spec)


def _described(spec: ModelSpec) -> dict[str, Any]:
    params = None if spec.payload else dict(spec.params)
    price, declared = _price(spec), _declared(spec)
    return {"name": spec.name, "params": params, "declared": declared, "price": price}


def _declared(spec: ModelSpec) -> dict[str, Any]:
    """Return what was declared of a model beside its parameters, where those can be stored."""
    if spec.payload:
        return {}
    try:
        bare = model(spec.name, **spec.params)
    except ModelError:  # a ModelSpec made by hand goes by no name that is known
        return {}
    kept = (name for name in DECLARABLE if name not in ("stages", "hosted", "price"))
    return {n: getattr(spec, n) for n in kept if getattr(spec, n) != getattr(bare, n)}


def _price(spec: ModelSpec) -> dict[str, float] | None:
    return asdict(spec.price) if spec.price is not None else None


def _again(kept: dict[str, Any]) -> ModelSpec:
    given = kept["params"] | kept.get("declared", {})
    return _priced(model(kept["name"], **given), kept.get("price"))


def _priced(spec: ModelSpec, price: dict[str, float] | None) -> ModelSpec:
    return spec if price is None else replace(spec, price=Price(**price))


def _routing(asked: ModelSpec | Route | Cascade) -> dict[str, Any] | None:
    if isinstance(asked, ModelSpec):
        return None
    kind = "route" if isinstance(asked, Route) else "cascade"
    return {"kind": kind, **asked.to_dict(_described)}


def _model_again(manifest: Mapping[str, Any], who: str) -> ModelSpec | Route | Cascade:
    """Make what the tiles went through once more, where it holds no function.

    Raises
    ------
    RunError
        If it does.
    """
    name, routing = manifest["model"], manifest.get("routing")
    if lacks_model(manifest):
        what = f"the function {name}" if routing is None else f"{name}, with a function in it"
        raise RunError(f"{_capital(who)} used {what}, which is not stored; pass model=.")
    if routing is None:
        declared, price = manifest.get("model_declared"), manifest.get("model_price")
        kept = {"params": manifest["model_params"], "declared": declared or {}, "price": price}
        return _again({"name": name, **kept})
    kind = Route if routing["kind"] == "route" else Cascade
    return kind.from_dict(routing, _again)


def lacks_model(manifest: Mapping[str, Any]) -> bool:
    """Return True if a function is among a run's models: it has to be given again."""
    return _lacks_function(manifest.get("routing") or {"params": manifest["model_params"]})


def _lacks_function(kept: Any) -> bool:
    if isinstance(kept, list):
        return any(item is None or _lacks_function(item) for item in kept)
    if not isinstance(kept, dict):
        return False
    missing = any(name in kept and kept[name] is None for name in ("params", "when"))
    return missing or any(_lacks_function(v) for name, v in kept.items() if name != "params")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
