"""Runs that were: what their manifests hold, and how to go on with one."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import Any

from tilevision.catalogue import model
from tilevision.checkpoint import run_owner
from tilevision.errors import ModelError, RunBusy, RunError, SourceError
from tilevision.events import journal_path, list_runs, read_manifest, together
from tilevision.modelspec import ModelSpec, Price
from tilevision.modelspec.declarations import DECLARABLE
from tilevision.pipeline.passes import labels
from tilevision.pipeline.planning import Plan, Stages
from tilevision.pipeline.settings import Settings
from tilevision.pipeline.tiling import Tiling
from tilevision.regions import Region
from tilevision.routing import Cascade, Route
from tilevision.schedule import Quota, Retry
from tilevision.sources.addresses import check_kept, lasting

__all__ = [
    "arguments_again",
    "check_free",
    "check_same_model",
    "check_same_work",
    "find_manifest",
    "recall",
    "remember",
    "remember_work",
    "work_again",
]

Folder = str | os.PathLike[str]

LETTING_GO_SECONDS = 2.0


def find_manifest(run_id: str, checkpoint: Folder) -> dict[str, Any]:
    """Return the manifest of a run.

    Raises
    ------
    RunError
        If there is no such run; the message names the latest ones.
    """
    path = journal_path(checkpoint, run_id)
    if not path.is_file():
        latest = ", ".join(run.id for run in together(list_runs(checkpoint))[:3])
        raise RunError(
            f"there is no run {run_id} in {os.fspath(checkpoint)}; "
            + (f"the latest are {latest}" if latest else "there are no runs at all")
        )
    return read_manifest(path)


def remember(image: Any, decided: Plan, settings: Settings) -> dict[str, Any]:
    """Return what `recall` needs to go on with a run: plain JSON types, no code, no secrets."""
    return {
        "path": lasting(image),
        "source": decided.source.fingerprint,
        "tiling": decided.tiling.to_dict(),
        "region": None if decided.region is None else decided.region.to_dict(),
        **remember_work(decided.stages, settings),
    }


def remember_work(stages: Stages, settings: Settings) -> dict[str, Any]:
    """Return of `remember` what is the same for every image."""
    spec = stages.tile
    return {
        "model_params": None if spec.payload else dict(spec.params),
        "model_declared": _declared(spec),
        "model_fingerprint": spec.fingerprint,
        "model_price": _price(spec),
        "models": [
            {"name": label, "fingerprint": fingerprint}
            for fingerprint, label in labels(stages.models).items()
        ],
        "routing": _routing(stages.asked),
        "moderation": _stage(stages.moderation),
        "synthesis": _stage(stages.synthesis),
        "retry": asdict(settings.retry),
        "quota": asdict(settings.quota) if settings.quota else None,
        "settings": settings.recorded(),
    }


def recall(
    manifest: dict[str, Any],
    checkpoint: Folder,
    image: Any = None,
    model_: Any = None,
    **overrides: Any,
) -> tuple[Any, Settings]:
    """Return image and settings to go on with the run that `manifest` tells of.

    Raises
    ------
    RunError
        If another process is at work on it, or something has to be given again.
    """
    run_id = manifest["id"]
    check_free(run_id, checkpoint)
    if image is None:
        image = manifest["path"]
        if image is None:
            raise RunError(f"run {run_id} analysed a {manifest['image']} in memory; pass image=")
        check_kept(image, f"run {run_id}")
    arguments = arguments_again(manifest, f"run {run_id}", model_, overrides)
    if overrides.get("client") is not None:
        arguments["workers"] = None
    return image, Settings(**(arguments | {"checkpoint": checkpoint} | overrides))


def check_free(run_id: str, checkpoint: Folder) -> None:
    """Refuse a run that a process is at work on.

    One that says it has ended is let go of a moment later, when its checkpoint is closed.

    Raises
    ------
    RunBusy
    """
    until = time.monotonic() + LETTING_GO_SECONDS
    while (owner := run_owner(checkpoint, run_id)) is not None and time.monotonic() < until:
        time.sleep(0.02)
    if owner is not None:
        raise RunBusy(
            f"run {run_id} is being worked on by process {owner.pid} on {owner.host}; wait for "
            "it, or end that process"
        )


def arguments_again(
    manifest: Mapping[str, Any], who: str, model_: Any, given: Collection[str] = ()
) -> dict[str, Any]:
    """Return the arguments of `tilevision.start` that `remember` took down, but for the image.

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
    """Return the arguments that `remember_work` took down; as `arguments_again`."""
    if model_ is None:
        model_ = _model_again(manifest, who)
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
                    f"{who} used the function {kept['name']} for {stage}, which is not "
                    f"stored; pass {stage}="
                )
            arguments[stage] = None if kept is None else _again(kept)
    return arguments


def check_same_work(manifest: dict[str, Any], decided: Plan) -> None:
    """Refuse to go on with a run on another image or model than it was begun with.

    Raises
    ------
    SourceError, ModelError
    """
    if decided.source.fingerprint != manifest["source"]:
        raise SourceError(
            f"{decided.name} is not the image that run {manifest['id']} analysed, or it has "
            "changed since; start a new run"
        )
    check_same_model(manifest, decided.stages)


def check_same_model(manifest: dict[str, Any], stages: Stages) -> None:
    """Refuse to go on with a run, or a batch, with another model than it was begun with.

    Raises
    ------
    ModelError
    """
    # A route's rules may have changed, for they change no tile's record.
    known = manifest.get("models", [{"fingerprint": manifest["model_fingerprint"]}])
    begun = {one["fingerprint"] for one in known}
    if begun != {spec.fingerprint for spec in stages.models}:
        raise ModelError(
            f"model {stages.asked.name} is not what run {manifest['id']} used (other code, "
            "weights or parameters); start a new run"
        )


def _stage(spec: ModelSpec | None) -> dict[str, Any] | None:
    return None if spec is None else _told(spec)


def _told(spec: ModelSpec) -> dict[str, Any]:
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


def _again(told: dict[str, Any]) -> ModelSpec:
    given = told["params"] | told.get("declared", {})
    return _priced(model(told["name"], **given), told.get("price"))


def _priced(spec: ModelSpec, price: dict[str, float] | None) -> ModelSpec:
    return spec if price is None else replace(spec, price=Price(**price))


def _routing(asked: ModelSpec | Route | Cascade) -> dict[str, Any] | None:
    if isinstance(asked, ModelSpec):
        return None
    kind = "route" if isinstance(asked, Route) else "cascade"
    return {"kind": kind, **asked.to_dict(_told)}


def _model_again(manifest: Mapping[str, Any], who: str) -> ModelSpec | Route | Cascade:
    """Make what the tiles went through once more, where it holds no function.

    Raises
    ------
    RunError
        If it does.
    """
    name, routing = manifest["model"], manifest.get("routing")
    if _lacks_function(routing or {"params": manifest["model_params"]}):
        what = f"the function {name}" if routing is None else f"{name}, with a function in it"
        raise RunError(f"{who} used {what}, which is not stored; pass model=")
    if routing is None:
        declared, price = manifest.get("model_declared"), manifest.get("model_price")
        told = {"params": manifest["model_params"], "declared": declared or {}, "price": price}
        return _again({"name": name, **told})
    kind = Route if routing["kind"] == "route" else Cascade
    return kind.from_dict(routing, _again)


def _lacks_function(told: Any) -> bool:
    if isinstance(told, list):
        return any(item is None or _lacks_function(item) for item in told)
    if not isinstance(told, dict):
        return False
    missing = any(name in told and told[name] is None for name in ("params", "when"))
    return missing or any(_lacks_function(v) for name, v in told.items() if name != "params")
