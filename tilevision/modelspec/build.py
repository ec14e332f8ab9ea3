"""From a spec to the model itself: once per process."""

from __future__ import annotations

import importlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from tilevision.errors import ModelError, Throttled, TransientError
from tilevision.modelspec.calls import Calls
from tilevision.modelspec.spec import HostedModel, Model, ModelSpec, Stage

__all__ = [
    "attribute",
    "build",
    "calls_of",
    "may_wait",
    "on_device",
    "processes",
    "runtime",
    "unwrap",
    "usual_workers",
    "waits",
    "within",
]

KEPT = 8  # models a process keeps; the one used longest ago goes first

_built: OrderedDict[tuple[str, str, bytes, str, str], Calls] = OrderedDict()
_lock = threading.RLock()


def build(spec: ModelSpec) -> Any:
    """Return the model that `spec` describes, built at the first call in this process.

    Returns
    -------
    Model or HostedModel
        For a spec of another stage, whatever its factory makes: see `unwrap`.

    Raises
    ------
    ModelError
        If it cannot be built, or what was built is not a model.
    Throttled, TransientError
        As its factory raises them.
    """
    return calls_of(spec).model


def calls_of(spec: ModelSpec) -> Calls:
    """Return the calls of the model that `spec` describes, which is built as by `build`."""
    key = _key(spec)
    with _lock:
        if key not in _built:
            _built[key] = Calls(_make(spec))
            while len(_built) > KEPT:
                _built.popitem(last=False)
        _built.move_to_end(key)
        return _built[key]


def waits(spec: ModelSpec) -> bool:
    """Return True if the model is built here and its calls leave the processor to others."""
    calls = _built.get(_key(spec))
    return calls is not None and calls.waits


def may_wait(spec: ModelSpec) -> bool:
    """Return True if the model is built here, takes batches, and may turn out to wait.

    It has not answered yet. What takes batches most likely computes elsewhere.
    """
    calls = _built.get(_key(spec))
    return calls is not None and calls.may_wait and spec.batch_size > 1


def _key(spec: ModelSpec) -> tuple[str, str, bytes, str, str]:
    # Parameters too: not all of them are part of the identity (a timeout is not).
    params = json.dumps(dict(spec.params), sort_keys=True)
    return spec.factory, spec.fingerprint, spec.payload, spec.device, params


def unwrap(spec: ModelSpec, stage: Stage) -> Callable[..., Any]:
    """Return what a spec is called as at the moderation or synthesis stage.

    For a function that is the function itself, so it may take and return anything; a model
    that serves several stages has a method named like each of them.

    Raises
    ------
    ModelError
        If it cannot be built or called.
    """
    made = build(spec)
    function: Any = getattr(made, stage, None) or getattr(made, "function", made)
    if not callable(function):
        raise ModelError(
            f"Model {spec.name} is a {type(made).__name__}, which cannot be called; "
            "pass a function, or an object with __call__."
        )
    return function  # type: ignore[no-any-return]  # callable() does not tell mypy the type


def runtime(spec: ModelSpec) -> str:
    """Return what this process would run the model on, without loading it.

    The module of the spec's factory may have a function ``runtime(spec)`` that knows.

    Returns
    -------
    str
        For people: ``"onnxruntime, CUDAExecutionProvider on cuda:0"``; empty where nobody knows.

    Raises
    ------
    ModelError
        If the device asked for is not there, or the model's library is not.
    """
    tell = _adapter(spec, "runtime")
    return "" if tell is None else str(tell(spec))


def usual_workers(models: Iterable[ModelSpec]) -> int | None:
    """Return how many workers a local cluster has for these models; None: one a processor.

    Raises
    ------
    ModelError
        As `processes`.
    """
    return min((count for count in map(processes, models) if count is not None), default=None)


def processes(spec: ModelSpec) -> int | None:
    """Return how many processes of this machine should hold the model: one for each GPU.

    The module of the spec's factory may have a function ``processes(spec)`` that knows.

    Returns
    -------
    int or None
        None: as many as there are processors.

    Raises
    ------
    ModelError
        If the device asked for is not there, or the model's library is not.
    """
    count = _adapter(spec, "processes")
    return None if count is None else count(spec)


def on_device(spec: ModelSpec, device: str) -> ModelSpec:
    """Return the spec of a model that is to run on `device`; ``"auto"`` leaves it as it is.

    Raises
    ------
    ModelError
        If another device than the processor is asked for and the model's adapter, having no
        function ``runtime``, has none to choose from.
    """
    if device == "auto":
        return spec
    if device != "cpu" and (spec.hosted or _adapter(spec, "runtime") is None):
        adapter = spec.factory.partition(":")[0]
        raise ModelError(
            f"Device is {device!r}, but model {spec.name} ({adapter}) has no choice of device; "
            "leave device out (beside others, declare it of one: tv.model(…, device=…))."
        )
    return replace(spec, device=device)


def within(spec: ModelSpec, seconds: float | None) -> ModelSpec:
    """Return the spec of a hosted model that gives up a request after `seconds`, or sooner.

    A worker that waits for a server cannot be restarted without losing hundreds of requests, so
    the limit is one of the request itself. It is part of no identity.
    """
    own = spec.params.get("timeout")
    if seconds is None or not spec.hosted or not isinstance(own, (int, float)) or own <= seconds:
        return spec
    return replace(spec, params={**spec.params, "timeout": seconds})


def _adapter(spec: ModelSpec, name: str) -> Any:
    return getattr(importlib.import_module(spec.factory.partition(":")[0]), name, None)


def attribute(reference: str) -> Any:
    """Return what ``"package.module:attribute"`` refers to.

    Raises
    ------
    ModelError
        If there is no such module or attribute.
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(
            f"Cannot find {reference!r} ({error}); check the name, and that it is installed here."
        ) from error


def _make(spec: ModelSpec) -> Any:
    try:
        made = attribute(spec.factory)(spec)
    except (ModelError, Throttled, TransientError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"Model {spec.name} cannot be built: {type(error).__name__}: {str(error).rstrip('.')}."
        ) from error
    if "tile" in spec.stages and not isinstance(made, HostedModel if spec.hosted else Model):
        wanted = "encode and request" if spec.hosted else "predict"
        raise ModelError(
            f"Model {spec.name}: {spec.factory} made a {type(made).__name__} without {wanted}; "
            "return an object that has it."
        )
    return made
