"""Functions and objects of the user's as models."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.answers import findings_of
from tilevision.adapters.classnames import beyond_names
from tilevision.adapters.gpuclaims import at_its_gpu, device_of, processes, runtime
from tilevision.adapters.mapanswers import Declared
from tilevision.adapters.packing import unpack
from tilevision.errors import ModelError
from tilevision.findings import Findings
from tilevision.modelspec import Answers, HostedModel, Model, ModelSpec, Steps

SILENT = ("auto", "cpu")  # devices of which `runtime` has nothing to say
_ANSWERS = ("returns", "precision", "classes", "unit", "keep", "setup")

__all__ = [
    "SILENT",
    "FunctionModel",
    "ObjectModel",
    "from_factory",
    "from_function",
    "from_object",
    "processes",
    "runtime",
]


class FunctionModel:
    """A function of one tile, or of a list of tiles, as a model.

    Parameters
    ----------
    function : callable
    name : str
        For errors.
    batched : bool
        Whether it is called with a list of tiles and returns one answer for each.
    names : sequence or mapping, optional
        Class names by class number.
    on_bad : str
        As in `findings_of`.
    thread_safe : bool
        Whether several threads of a worker may call it at the same time. Otherwise they take
        turns, since functions keep models, and models keep the picture they are at.
    declared : Declared, optional
        Reads the arrays that it returns, vectors or maps; None: they are detections.
    device : str
        On which it computes, as PyTorch calls it; empty: nobody has said so.

    Attributes
    ----------
    on_device : bool
        True if its calls wait for a device.
    turn : lock or None
        Held by the thread whose turn it is; a thread that holds it may call `predict`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        batched: bool = False,
        names: Any = None,
        on_bad: str = "raise",
        thread_safe: bool = False,
        declared: Declared | None = None,
        device: str = "",
    ) -> None:
        self.on_device = device not in ("", "cpu")
        self.function = at_its_gpu(function, device)
        self._name = name
        self._batched = batched
        self._names = names
        self._on_bad = on_bad
        self._declared = declared
        self.turn = None if thread_safe else threading.RLock()
        self.steps = Steps(None, self._compute, self._understood)

    def predict(self, batch: Sequence[NDArray[Any]]) -> Answers:
        """Return one `Findings` per tile.

        Raises
        ------
        ModelError
            If the function returns what cannot be read as detections.
        """
        return self._understood(self._compute(batch))

    def _compute(self, batch: Sequence[NDArray[Any]]) -> list[Any]:
        with self.turn or nullcontext():
            return self._asked(batch)

    def _asked(self, batch: Sequence[NDArray[Any]]) -> list[Any]:
        """Return what the function says of each tile: arrays as they are, all else as `Findings`.

        To read the arrays of a batch takes longer than many a device does for the next one.
        """
        if not self._batched:
            return [self._kept(self.function(pixels)) for pixels in batch]
        return [self._kept(answer) for answer in self._rows(batch)]

    def _kept(self, answer: Any) -> Any:
        """Return an answer that the next call leaves as it is: it may fill the same array anew."""
        return answer.copy() if type(answer) is np.ndarray else self._read(answer)

    def _understood(self, answers: Sequence[Any]) -> Answers:
        """Return findings, with a remark where they have numbers that have no name."""
        found = [one if isinstance(one, Findings) else self._read(one) for one in answers]
        numbers = (number for one in found for number in one.class_ids.tolist())
        return Answers(found, remarks=beyond_names(self._name, numbers, self._names))

    def _rows(self, batch: Sequence[NDArray[Any]]) -> Sequence[Any]:
        answers = self.function(list(batch))
        if self._declared is not None:
            answers = self._declared.rows(answers, len(batch))
        if not isinstance(answers, (list, tuple)) or len(answers) != len(batch):
            got = f"{len(answers)} answers" if hasattr(answers, "__len__") else "no list"
            raise ModelError(
                f"Model {self._name} was called with {len(batch)} tiles and returned {got}; a "
                "batched function returns a list with one answer for each tile."
            )
        return answers

    def encode(self, batch: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """Hand the tiles on: a hosted function encodes and asks in one go."""
        return batch

    def request(self, payload: Sequence[NDArray[Any]]) -> Answers:
        """Call the function while the worker's slot is free for other tiles, on any thread.

        Hosted ones take no turns: as many are asked at once as the quota allows.
        """
        return self._understood(self._asked(payload))

    def _read(self, answer: Any) -> Findings:
        if self._declared is not None:
            return self._declared.one(answer)
        return findings_of(answer, self._name, self._names, self._on_bad)


class ObjectModel:
    """An object with ``predict``, or with ``encode`` and ``request``, as a model.

    Parameters
    ----------
    value : object
    name, on_bad, thread_safe, declared, device
        As in `FunctionModel`.
    """

    def __init__(
        self,
        value: Any,
        name: str,
        on_bad: str = "raise",
        thread_safe: bool = False,
        declared: Declared | None = None,
        device: str = "",
    ) -> None:
        self.on_device = device not in ("", "cpu")
        self._value = value
        self._call = at_its_gpu(value.predict, device) if hasattr(value, "predict") else None
        self._name = name
        self._on_bad = on_bad
        self._declared = declared
        self.turn = None if thread_safe else threading.RLock()
        if callable(value):
            self.function = value

    def predict(self, batch: Sequence[NDArray[Any]]) -> list[Findings]:
        """Return one `Findings` per tile."""
        with self.turn or nullcontext():
            assert self._call is not None, "it is asked by request"
            return self._read(self._call(batch))

    def encode(self, batch: Sequence[NDArray[Any]]) -> Any:
        """Return what `request` sends."""
        return self._value.encode(batch)

    def request(self, payload: Any) -> list[Findings]:
        """Send `payload`, wait, and return one `Findings` per tile."""
        return self._read(self._value.request(payload))

    def _read(self, answers: Any) -> list[Findings]:
        declared = self._declared
        if declared is not None and not isinstance(answers, Answers):
            return [declared.one(row) for row in declared.rows(answers, None)]
        if not isinstance(answers, (list, tuple)):
            raise ModelError(
                f"Model {self._name} returned a {type(answers).__name__}; return a list with "
                "one answer for each tile of the batch."
            )
        findings = [findings_of(answer, self._name, None, self._on_bad) for answer in answers]
        if not isinstance(answers, Answers):
            return findings
        return Answers(findings, answers.usage, answers.remarks, answers.full)


def from_function(spec: ModelSpec) -> FunctionModel:
    """Open the function that `spec` carries, and set it up.

    Raises
    ------
    ModelError
        If its device is not here.
    """
    function, device = unpack(spec.payload), device_of(spec)
    if spec.params.get("setup"):
        function, setup = function
        function = _set_up(function, at_its_gpu(setup, device), device)
    return FunctionModel(function, spec.name, device=device, **_calling(spec))


def _set_up(function: Callable[..., Any], setup: Callable[..., Any], device: str) -> Any:
    """Call `setup`, with the device if it takes one, and return the function with what it made.

    The function takes that as its last argument.
    """
    try:
        takes = bool(inspect.signature(setup).parameters)
    except (TypeError, ValueError):  # of some built-in classes
        takes = False
    made = setup(device or "cpu") if takes else setup()

    def called(*given: Any) -> Any:
        return function(*given, made)

    return called


def from_object(spec: ModelSpec) -> ObjectModel:
    """Open the model object that `spec` carries.

    Raises
    ------
    ModelError
        If its device is not here.
    """
    device = device_of(spec)
    return ObjectModel(unpack(spec.payload), spec.name, device=device, **_calling(spec))


def _calling(spec: ModelSpec) -> dict[str, Any]:
    """Return how it is called, and what reads the arrays that it returns."""
    told = {key: value for key, value in spec.params.items() if key not in _ANSWERS}
    return told | ({"declared": Declared(spec)} if spec.params.get("returns") else {})


def from_factory(spec: ModelSpec) -> Any:
    """Call the factory that `spec` carries, and take what it makes as a model.

    Raises
    ------
    ModelError
        If it makes neither a model nor a function.
    """
    made = unpack(spec.payload)(**spec.params)
    device = device_of(spec)
    if isinstance(made, (Model, HostedModel)):
        return ObjectModel(made, spec.name, device=device)
    if callable(made):
        return FunctionModel(made, spec.name, device=device)
    raise ModelError(
        f"The factory of model {spec.name} made a {type(made).__name__}; return an object with "
        "predict, or a function of one tile."
    )
