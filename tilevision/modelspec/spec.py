"""What a model is: plain data with its fingerprint, what its owner may declare, its price."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

from numpy.typing import NDArray

from tilevision.checks import flag, positive, share, whole
from tilevision.errors import ModelArgumentError, ModelError
from tilevision.findings import Findings
from tilevision.fingerprint import fingerprint_value
from tilevision.rasterspec import RasterSpec

__all__ = [
    "DECLARABLE",
    "DEVICES",
    "Answers",
    "HostedModel",
    "Model",
    "ModelSpec",
    "Price",
    "Stage",
    "Steps",
    "Usage",
    "count",
    "counting",
    "split",
    "stages",
]

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Usage:
    """What a model was made to do; adds up.

    Parameters
    ----------
    calls : int
        Requests sent, those that failed included.
    input_tokens, output_tokens : int
        As the backend counts them; 0 where it does not.
    uncounted : int
        Requests whose tokens the backend did not count.
    most_input, most_output : int
        The most tokens that those requests can have used.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    uncounted: int = 0
    most_input: int = 0
    most_output: int = 0

    def __reduce__(self) -> tuple[type[Usage], tuple[int, ...]]:
        return Usage, _counts(self)

    def __add__(self, other: Usage) -> Usage:
        mine, theirs = _counts(self), _counts(other)
        return Usage(*(a + b for a, b in zip(mine, theirs, strict=True)))

    def split(self, parts: int) -> list[Usage]:
        """Return `parts` shares that add up to this exactly; the first ones have what is over."""
        counts = _counts(self)
        if not any(total % parts for total in counts):
            return [Usage(*(total // parts for total in counts))] * parts
        return [
            Usage(*(total // parts + (part < total % parts) for total in counts))
            for part in range(parts)
        ]


# `dataclasses.astuple` copies deeply: that took a run a fifth of its time for each short tile.
_counts = attrgetter(*(one.name for one in fields(Usage)))


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's use costs, in a currency of the user's.

    Parameters
    ----------
    call : float
        Per request.
    input, output : float
        Per million tokens read and written.
    """

    call: float = 0.0
    input: float = 0.0
    output: float = 0.0

    def of(self, usage: Usage) -> float:
        """Return what `usage` costs; tokens that nobody counted at their most."""
        tokens = self.input * (usage.input_tokens + usage.most_input)
        tokens += self.output * (usage.output_tokens + usage.most_output)
        return self.call * usage.calls + tokens / _MILLION

    @classmethod
    def parse(cls, value: Any) -> Price:
        """Read a number (per call), ``{"call": …, "input": …, "output": …}`` or a `Price`.

        Raises
        ------
        ModelError
            If it is none of these, or a number in it is negative.
        """
        if isinstance(value, Price):
            return value
        given = value if isinstance(value, Mapping) else {"call": value}
        known = {"call", "input", "output"}
        if not set(given) <= known or not all(_amount(number) for number in given.values()):
            raise ModelError(
                f"price is {value!r:.80}; give a number per call, or a dict with call (each), "
                "input and output (per million tokens)."
            )
        return cls(**{name: float(number) for name, number in given.items()})


class Answers(list[Findings]):
    """What `predict` or `request` may return to say more than what was found: findings, and that.

    Parameters
    ----------
    findings : iterable of Findings
        One for each tile.
    usage : Usage, optional
        Of all of them together; None: one call for each tile.
    remarks : sequence of str
        What the user should be shown about the model, one sentence each; each is shown once.
    full : sequence of bool
        One for each tile: True if the model can give no more, though it gave fewer than its
        `max_detections`. Default: False for all.
    """

    def __init__(
        self,
        findings: Iterable[Findings],
        usage: Usage | None = None,
        remarks: Sequence[str] = (),
        full: Sequence[bool] = (),
    ) -> None:
        super().__init__(findings)
        self.usage = usage
        self.remarks = tuple(remarks)
        self.full = tuple(full) or (False,) * len(self)


_counted: ContextVar[list[Usage] | None] = ContextVar("tilevision_usage", default=None)


def count(usage: Usage) -> None:
    """For adapters: tell whoever counts around this call (`counting`) what it used."""
    counted = _counted.get()
    if counted is not None:
        counted.append(usage)


@contextmanager
def counting() -> Iterator[list[Usage]]:
    """Collect what calls use whose answer cannot say it: a text, a verdict.

    Yields
    ------
    list of Usage
        Grows with each `count` in this thread.
    """
    counted: list[Usage] = []
    token = _counted.set(counted)
    try:
        yield counted
    finally:
        _counted.reset(token)


def _amount(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 <= value < float("inf")


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
        Most tiles that `predict` takes at once; declared as ``"auto"`` it is 64, and `auto_batch`.
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
        IoU above which detections of one tile are duplicates, for models without NMS of their own:
        of their outlines or rotated boxes where there are such. (An ONNX file's ``overlap``.)
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
    auto_batch : bool
        True if each process finds out how many tiles, up to `batch_size`, a call best takes. Not
        part of its identity.
    notes : tuple of str
        What a plan says of it, one line each. Not part of its identity.
    shrinks : str
        How tiles larger than `input_size` are made smaller, where earlier versions did it
        otherwise; without an `input_size`, how those that are no multiple of 32 pixels are taken;
        with `CUT`, how those are taken whose sides come out as no whole pixels; with `MIDDLE`, how
        those are taken that are no squares. Part of the identity for such tiles alone.
    stride : int, optional
        Pixels of the model's input that become one where it has pooled most: tiles begin at
        multiples of it. Not part of its identity: where tiles begin is.
    pools : int, optional
        The same as far as the model itself tells it: plans say where tiles begin off it.
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
    notes: tuple[str, ...] = ()
    auto_batch: bool = False
    # What came after identities were stored of functions that hold a spec: see `fingerprint`.
    stride: int | None = field(default=None, metadata={"later": True})
    pools: int | None = field(default=None, metadata={"later": True})

    @property
    def classes(self) -> tuple[str | None, ...]:
        """Class names by number, as far as the model states them; None for a number without one.

        `names`, else the parameter ``names`` (or, for models that are given what to look for,
        ``labels``).
        """
        if self.names is not None:
            return self.names
        return _by_number(self.params.get("names") or self.params.get("labels"))

    @property
    def raster(self) -> RasterSpec | None:
        """What the maps are that are kept of it; None where it does not declare any."""
        answered = self.answered
        return None if answered is None else answered.stored

    @property
    def answered(self) -> RasterSpec | None:
        """What the maps are that it returns, and what is kept of them; None as in `raster`."""
        return RasterSpec.declared(self.params) if "returns" in self.params else None

    def fingerprint_for(self, size: tuple[int, int]) -> str:
        """Return what the answers for a tile of `size` (width, height) depend on."""
        if not self.shrinks:
            return self.fingerprint
        if self.shrinks == MIDDLE:
            side = 0 if self.input_size is None else self.input_size[0]
            fits = side * max(size) // min(size) == side
        elif self.input_size is None:
            fits = size[0] % _FILLED == 0 == size[1] % _FILLED
        else:
            fits = size[0] <= self.input_size[0] and size[1] <= self.input_size[1]
            if self.shrinks == CUT:
                ratio = min(self.input_size[0] / size[0], self.input_size[1] / size[1])
                fits = fits and all(int(side * ratio) == round(side * ratio) for side in size)
        return self.fingerprint if fits else _shrunk(self.fingerprint, self.shrinks)


CUT = "linear, cut to whole pixels"
MIDDLE = "the middle"  # of tiles that were stretched to a square
_FILLED = 32  # pixels: tiles were filled up to a multiple of it


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


class Steps(NamedTuple):
    """What `predict` of a model does one after the other; only the middle needs its device.

    A model that has them as ``steps`` has its tiles prepared and its answers read on the threads
    that bring and store them, while the device computes for others.

    Parameters
    ----------
    prepare : callable or None
        ``prepare(tiles)``: an item for each tile; None: it takes tiles as they are read.
    compute : callable
        ``compute(items)``: what the model says of each, which the next call leaves as it is.
    read : callable
        ``read(answers)``: one `Findings` for each of them.
    """

    prepare: Callable[[Sequence[NDArray[Any]]], list[Any]] | None
    compute: Callable[[list[Any]], list[Any]]
    read: Callable[[list[Any]], Answers]


@runtime_checkable
class HostedModel(Protocol):
    """A detector behind a network: encoding takes a processor, the request only waits."""

    def encode(self, batch: Sequence[NDArray[Any]]) -> Any:
        """Return what `request` sends, made in the worker's slot."""
        ...

    def request(self, payload: Any) -> Sequence[Findings]:
        """Send `payload`, wait, and return one `Findings` per tile."""
        ...


DEVICES = re.compile(r"auto|cpu|mps|openvino|(cuda|tensorrt)(:\d+)?")


AUTO = 64  # tiles to a call at most where their number is found out


def split(
    name: str, given: Mapping[str, Any], own: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sort what was given for model `name` into fields of `ModelSpec` and parameters.

    Parameters
    ----------
    name : str
    given : mapping
    own : collection of str
        Names that are parameters in any case.

    Returns
    -------
    declared, params : dict
        Fields of the spec, checked; everything else, plain JSON values.

    Raises
    ------
    ModelError
        If a value makes no sense, or a parameter is not plain JSON.
    """
    declared, params = {}, {}
    for key, value in given.items():
        if key == "batch_size":
            declared["auto_batch"] = value == "auto"
        if key in _CHECKS and key not in own:
            declared[key] = _CHECKS[key](f"{key} of model {name}", value)
        else:
            params[key] = _json(f"{key} of model {name}", value)
    return declared, params


def _json(what: str, value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        raise ModelArgumentError(
            f"{what} is {value!r:.80}; give text, numbers, true or false, lists and dicts of them."
        ) from None


def _whole(what: str, value: Any) -> int:
    return whole(what, value, ModelArgumentError)


def _maybe(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda what, value: None if value is None else check(what, value)


def _positive(what: str, value: Any) -> float:
    return float(positive(what, value, ModelArgumentError, what="a number"))


def _overlap(what: str, value: Any) -> float:
    advice = "give an IoU above 0 and up to 1, as 0.5"
    return float(share(what, value, ModelArgumentError, zero=False, advice=advice))


def _share(what: str, value: Any) -> float:
    return float(share(what, value, ModelArgumentError))


def _size(what: str, value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ModelArgumentError(
            f"{what} is {value!r:.80}; give (width, height) in pixels, or one side."
        )
    return _whole(what, pair[0]), _whole(what, pair[1])


def _bands(what: str, value: Any) -> tuple[int | str, ...]:
    items = tuple(value) if isinstance(value, (tuple, list, range)) else ()
    known = (b >= 0 if isinstance(b, int) else isinstance(b, str) and bool(b) for b in items)
    if not items or not all(known):
        raise ModelArgumentError(
            f"{what} is {value!r:.80}; give band numbers from 0, as (3, 2, 1), or names, as "
            '("DAPI", "CD3").'
        )
    return items


def _dtype(what: str, value: Any) -> str:
    if not isinstance(value, str) or value not in ("uint8", "raw", "scaled"):
        raise ModelArgumentError(
            f"{what} is {value!r:.80}; give 'uint8' (as displayed), 'raw' (as stored) or 'scaled' "
            "(by the scale and offset of the file)."
        )
    return str(value)


def _flag(what: str, value: Any) -> bool:
    return flag(what, value, ModelArgumentError)


def _device(what: str, value: Any) -> str:
    if not isinstance(value, str) or not DEVICES.fullmatch(value):
        raise ModelArgumentError(
            f"{what} is {value!r:.80}; give 'auto', 'cpu', 'cuda:0', 'mps', 'openvino' or "
            "'tensorrt:0'."
        )
    return value


def stages(what: str, value: Any) -> tuple[Stage, ...]:
    """Check a stage, or several."""
    several = isinstance(value, Iterable) and not isinstance(value, str)
    items = tuple(value) if several else (value,)
    wrong = [item for item in items if item not in get_args(Stage)]
    if wrong or not items:
        raise ModelArgumentError(
            f"{what} is {value!r:.80}; give some of {', '.join(get_args(Stage))}."
        )
    return items


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "stages": stages,
    "batch_size": lambda what, value: AUTO if value == "auto" else _whole(what, value),
    "input_size": _maybe(_size),
    "mpp": _maybe(_positive),
    "bands": _maybe(_bands),
    "dtype": _dtype,
    "max_detections": _maybe(_whole),
    "nms": _maybe(_overlap),
    "class_agnostic": _flag,
    "min_score": _maybe(_share),
    "hosted": _flag,
    "device": _device,
    "price": _maybe(lambda _, value: Price.parse(value)),
    "stride": _maybe(_whole),
}

DECLARABLE = tuple(_CHECKS)
