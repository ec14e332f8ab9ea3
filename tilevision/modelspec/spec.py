"""What a model is: a recipe that travels, and the protocols of what it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Protocol, runtime_checkable

from numpy.typing import NDArray

from tilevision.findings import Findings
from tilevision.fingerprint import fingerprint_value
from tilevision.modelspec.price import Price

__all__ = ["HostedModel", "Model", "ModelSpec", "Stage"]

Stage = Literal["moderation", "tile", "synthesis"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """How a worker builds a model: small, picklable, and what the model declares of itself.

    Parameters
    ----------
    name : str
        For people: ``"nuclei"``, ``"count_ships"``, ``"weights.onnx"``.
    factory : str
        ``"package.module:attribute"``, called on the worker once per process as
        ``attribute(spec)``; returns the model.
    fingerprint : str
        Everything the model's answers depend on; part of each tile's key.
    params : mapping
        Plain JSON values for the factory.
    payload : bytes
        A function or object as one cloudpickle blob, 1 MB at most.
    stages : tuple of str
        What it can serve: ``"moderation"``, ``"tile"``, ``"synthesis"``.
    batch_size : int
        Most tiles that `predict` takes at once.
    input_size : tuple of int, optional
        Width and height it was made for; decides the default grid.
    mpp : float, optional
        Microns per pixel it was made for; decides the default resolution.
    bands : tuple of int or str, optional
        Bands it reads, from 0, or by the names that images give them; None is RGB.
    dtype : str
        ``"uint8"``: RGB as displayed; ``"raw"``: values as stored; ``"scaled"``: float32, by
        the scale and offset that the file declares, no-data as NaN.
    max_detections : int, optional
        A tile with this many is saturated.
    nms : float, optional
        IoU above which detections of one tile are duplicates, for models without NMS of their own.
    min_score : float, optional
        Score from which detections are shown, unless the user asks for another; those recorded
        below it need no inference to be shown.
    hosted : bool
        Whether predictions wait on a network instead of a processor.
    price : Price, optional
        Per call and per token.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda:0"``, ``"mps"``: where it runs. Not part of its identity.
    names : tuple of (str or None), optional
        Class names by class number, for exports; None: those among its parameters. Not part of its
        identity.
    class_agnostic : bool
        True if `nms` takes detections of different classes for duplicates as well.
    shrinks : str
        How tiles larger than `input_size` are made smaller, where earlier versions did it
        otherwise; part of the identity for such tiles alone.
    """

    name: str
    factory: str
    fingerprint: str
    params: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = field(default=b"", repr=False)
    stages: tuple[Stage, ...] = ("tile",)
    batch_size: int = 1
    input_size: tuple[int, int] | None = None
    mpp: float | None = None
    bands: tuple[int | str, ...] | None = None
    dtype: Literal["uint8", "raw", "scaled"] = "uint8"
    max_detections: int | None = None
    nms: float | None = None
    min_score: float | None = None
    hosted: bool = False
    price: Price | None = None
    device: str = "auto"
    shrinks: str = ""
    names: tuple[str | None, ...] | None = None
    class_agnostic: bool = False

    @property
    def classes(self) -> tuple[str | None, ...]:
        """Class names by number, as far as the model states them; None for a number without one.

        `names`, else the parameter ``names`` (or, for models that are given what to look for,
        ``labels``).
        """
        if self.names is not None:
            return self.names
        return _by_number(self.params.get("names") or self.params.get("labels"))

    def fingerprint_for(self, size: tuple[int, int]) -> str:
        """Return what the answers for a tile of `size` (width, height) depend on."""
        if not self.shrinks or self.input_size is None:
            return self.fingerprint
        fits = size[0] <= self.input_size[0] and size[1] <= self.input_size[1]
        return self.fingerprint if fits else _shrunk(self.fingerprint, self.shrinks)


@lru_cache(maxsize=256)
def _shrunk(fingerprint: str, how: str) -> str:
    return fingerprint_value((fingerprint, "shrunk", how))


def _by_number(given: Any) -> tuple[str | None, ...]:
    """Return names by number, of a list or of a mapping of number to name."""
    if isinstance(given, Mapping):
        numbered = {int(number): str(name) for number, name in given.items()}
        return tuple(numbered.get(i) for i in range(max(numbered, default=-1) + 1))
    if isinstance(given, (list, tuple)):
        return tuple(None if name is None else str(name) for name in given)
    return ()


@runtime_checkable
class Model(Protocol):
    """A detector of any kind, living on a worker."""

    def predict(self, batch: Sequence[NDArray[Any]]) -> Sequence[Findings]:
        """Return one `Findings` per tile ``(h, w, c)``, in pixels of that tile."""
        ...


@runtime_checkable
class HostedModel(Protocol):
    """A detector behind a network: encoding takes a processor, the request only waits."""

    def encode(self, batch: Sequence[NDArray[Any]]) -> Any:
        """Return what `request` sends, made in the worker's slot."""
        ...

    def request(self, payload: Any) -> Sequence[Findings]:
        """Send `payload`, wait, and return one `Findings` per tile."""
        ...
