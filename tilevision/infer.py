"""What a worker does for a batch of tiles: read, predict, compact. Plain, no Dask."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import cache
from operator import attrgetter
from queue import SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision import codec
from tilevision.adapters.compaction import POLYGON_TOLERANCE, compact
from tilevision.errors import Failure, ModelError
from tilevision.findings import Findings
from tilevision.grid import Tile
from tilevision.modelspec import (
    Answers,
    Calls,
    ModelSpec,
    Steps,
    Usage,
    Wish,
    calls_of,
    joined,
    may_wait,
)
from tilevision.payloads import PackedArray, PayloadRef, array_record, bytes_of, packed, viewed
from tilevision.printed import noting_what_is_printed
from tilevision.rasterspec import Raster
from tilevision.sources import (
    ImageSource,
    ReadOptions,
    SourceRef,
    check_unchanged,
    open_reference,
    read_pixels,
)

__all__ = ["POLYGON_TOLERANCE", "Hooks", "TileOutcome", "Work", "infer"]


@cache
def _references_alone() -> int:
    """Return what `sys.getrefcount` says of an array that one name alone refers to."""
    array = np.empty(1)
    return sys.getrefcount(array)


@dataclass(frozen=True, slots=True)
class Work:
    """What stays the same for all tiles of a run; pickled into every task.

    Parameters
    ----------
    source : SourceRef
    options : ReadOptions
        Bands, depth and stretch: what turns stored values into what the model sees.
    model : ModelSpec
    """

    source: SourceRef
    options: ReadOptions
    model: ModelSpec


@dataclass(frozen=True, slots=True)
class TileOutcome:
    """What became of one tile in one task.

    Parameters
    ----------
    tile : Tile
    records : tuple of bytes
        The findings as `codec.encode` writes them; empty where the tile failed.
    failure : Failure, optional
    n_findings : int
    saturated : bool
    read_seconds, infer_seconds : float
        A batch's time is shared equally among its tiles.
    batched : bool
        Whether the failure hit a call with several tiles, so no single tile is to blame.
    usage : Usage
        What the model was made to do for it; a request's is shared among its tiles.
    remarks : tuple of str
        What the user should be shown about the model.
    payloads : tuple of (bytes, bytes or PackedArray)
        The arrays that the records refer to: digest and bytes of each.
    """

    tile: Tile
    records: tuple[bytes, ...] = ()
    failure: Failure | None = None
    n_findings: int = 0
    saturated: bool = False
    read_seconds: float = 0.0
    infer_seconds: float = 0.0
    batched: bool = False
    usage: Usage = Usage(calls=1)  # noqa: RUF009 - frozen
    remarks: tuple[str, ...] = ()
    payloads: tuple[tuple[bytes, bytes | PackedArray], ...] = ()

    def __reduce__(self) -> tuple[type[TileOutcome], tuple[Any, ...]]:
        return TileOutcome, _VALUES(self)  # as of `Box`


_VALUES = attrgetter(*(one.name for one in fields(TileOutcome)))


def _nothing(_: Sequence[Tile]) -> None:
    return None


def _no_span(_: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the executor wants to know or do around a tile.

    Parameters
    ----------
    started : callable
        Called with the tiles that are read next, before they are: those of a batch.
    waiting : callable
        Called before a hosted model's requests, all sent at once, and before the first call of a
        model that may wait for a device: gives the processor slot back.
    span : callable
        ``span("read" | "infer" | "encode")``: a context that measures.
    queued : callable
        Called with tiles that have to wait for their turn at the model, since another thread of
        this process is at it; `started` is called again once they have it, on whatever thread
        makes the call.
    reading : callable
        ``reading()``: a context within which the tiles of a batch are read and prepared.
    """

    started: Callable[[Sequence[Tile]], None] = _nothing
    waiting: Callable[[], None] = field(default=lambda: None)
    span: Callable[[str], AbstractContextManager[None]] = _no_span
    queued: Callable[[Sequence[Tile]], None] = _nothing
    reading: Callable[[], AbstractContextManager[Any]] = nullcontext


def infer(
    work: Work,
    tiles: Sequence[Tile],
    hooks: Hooks = Hooks(),
    *,
    alone: bool = False,
) -> list[TileOutcome]:
    """Read tiles, ask the model about them, and make their records.

    Nothing that happens to a tile is raised, not even the model calling ``sys.exit``; a
    tile that cannot be read costs its neighbours nothing.

    Parameters
    ----------
    work : Work
    tiles : sequence of Tile
    hooks : Hooks
    alone : bool
        True if these tiles share no call with those that other threads bring at the same time:
        it is to be found out what they do.

    Returns
    -------
    list of TileOutcome
        Exactly one for each tile, in order.
    """
    task = _Task(work, tuple(tiles), hooks, alone=alone)
    if work.model.hosted:
        requests = [task.encode(rows) for rows in map(task.read, task.batches()) if rows]
        task.request([request for request in requests if request.rows])
    else:
        for rows in map(task.read, task.batches()):
            if rows:
                task.predict(rows)
    return [task.outcomes[row] for row in range(len(tiles))]


@dataclass(slots=True)
class _Request:
    """What is sent to a hosted model at once, and what came of it."""

    rows: list[int]
    payload: Any
    seconds: float
    answers: Any = None
    error: BaseException | None = None

    def ask(self, ask: Callable[[Any], Any]) -> None:
        """Send and wait, on any thread."""
        began = perf_counter()
        try:
            with noting_what_is_printed():
                self.answers = ask(self.payload)
        except BaseException as error:  # noqa: BLE001  # raised again where it belongs to tiles
            self.error = error
        self.payload = None
        self.seconds += perf_counter() - began


def _answered(ask: Callable[[Any], Any], requests: list[_Request]) -> Iterator[_Request]:
    """Send all requests at the same time; yield each as soon as it is answered.

    The threads only wait. They are daemons: a worker that is told to go must not stay for them.
    """
    if len(requests) == 1:
        requests[0].ask(ask)
        yield requests[0]
        return
    done: SimpleQueue[_Request] = SimpleQueue()

    def send(request: _Request) -> None:
        request.ask(ask)
        done.put(request)

    for request in requests:
        Thread(target=send, args=(request,), daemon=True).start()
    for _ in requests:
        yield done.get()


class _Task:
    """The tiles of one task on their way from pixels to records; rows number its tiles."""

    def __init__(self, work: Work, tiles: tuple[Tile, ...], hooks: Hooks, *, alone: bool) -> None:
        self._alone = alone
        self.outcomes: dict[int, TileOutcome] = {}
        self._work = work
        self._tiles = tiles
        self._hooks = hooks
        self._pixels: dict[int, NDArray[Any]] = {}
        self._read_seconds: dict[int, float] = {}
        self._usage: dict[int, Usage] = {}
        self._remarks: tuple[str, ...] = ()
        self._calls: Calls | None = None

    def batches(self) -> Iterator[range]:
        """Yield the rows to read and ask about together, as many as the model takes by then."""
        model, first = self._work.model, 0
        while first < len(self._tiles):
            size = max(1, model.batch_size)
            if model.auto_batch and not model.hosted:
                size = 1 if self._calls is None else self._calls.at_once(size, auto=True)
            yield range(first, min(first + size, len(self._tiles)))
            first += size

    def read(self, rows: Sequence[int]) -> list[int]:
        """Read tiles; return the rows of those that could be.

        The image is looked up once for all of them, and once more after the last: each look is a
        system call, at which Python's lock goes to another thread.
        """
        began = perf_counter()
        with self._hooks.reading(), self._surviving(list(rows), began):
            self._hooks.started([self._tiles[row] for row in rows])
            with self._hooks.span("read"):
                self._read_each(rows)
        return [row for row in rows if row in self._pixels]

    def _read_each(self, rows: Sequence[int]) -> None:
        source, ref = None, self._work.source
        for row in rows:
            began = perf_counter()
            with self._surviving([row], began):
                source = source or open_reference(ref)
                self._pixels[row] = self._own_pixels(source, self._tiles[row])
            self._read_seconds[row] = perf_counter() - began
        try:
            check_unchanged(ref)
        except BaseException:  # nobody knows which of them it has cost
            for row in rows:
                self._pixels.pop(row, None)
                with self._surviving([row], perf_counter() - self._read_seconds[row]):
                    raise

    def predict(self, rows: list[int]) -> None:
        """Ask a model that lives in this process."""
        began = perf_counter()
        with self._surviving(rows, began):
            with noting_what_is_printed():
                calls = self._called()
            last, hooks, steps = [self._tiles[rows[-1]]], self._hooks, calls.steps
            if may_wait(self._work.model):  # it is loaded: what kills now is a tile, not the model
                hooks.waiting()
            pixels: list[Any] = [self._pixels.pop(row) for row in rows]
            if steps is not None and steps.prepare is not None:
                with hooks.reading(), noting_what_is_printed():
                    pixels = steps.prepare(pixels)
            wish = Wish(
                pixels,
                self._ask if steps is None else lambda items: self._compute(steps, items),
                lambda: hooks.queued(last),
                lambda: hooks.started(last),
                self._alone,
            )
            self._used(rows, Usage(calls=len(rows)))
            before = perf_counter()
            model = self._work.model
            calls.ask(wish, max(1, model.batch_size), auto=model.auto_batch)
            began += perf_counter() - before - wish.seconds  # the wait is no tile's time
            if wish.error is not None:
                raise wish.error
            answers = wish.answers if steps is None else self._understood(steps, wish.answers)
            self._finish(rows, answers, perf_counter() - began)

    def _ask(self, pixels: list[NDArray[Any]]) -> Any:
        with self._hooks.span("infer"), noting_what_is_printed():
            answers = self._called().model.predict(pixels)
            _check(self._work.model, answers, len(pixels))  # of all that share the call
            return answers

    def _compute(self, steps: Steps, items: list[Any]) -> list[Any]:
        with self._hooks.span("infer"), noting_what_is_printed():
            return steps.compute(items)

    @staticmethod
    def _understood(steps: Steps, answers: Sequence[Any]) -> Sequence[Findings]:
        with noting_what_is_printed():
            found = steps.read(list(answers))
        remarks = getattr(answers, "remarks", ())  # on the call itself
        return joined([found], remarks) if remarks else found

    def encode(self, rows: list[int]) -> _Request:
        """Make the request of a hosted model."""
        began = perf_counter()
        payload = None
        with self._surviving(rows, began), noting_what_is_printed():
            model = self._called().model
            with self._hooks.span("encode"):
                payload = model.encode([self._pixels.pop(row) for row in rows])
        left = [row for row in rows if row not in self.outcomes]
        return _Request(left, payload, perf_counter() - began)

    def request(self, requests: list[_Request]) -> None:
        """Send all requests at once, with the processor slot given back, and finish each."""
        if not requests:
            return
        with self._surviving([row for request in requests for row in request.rows], perf_counter()):
            self._hooks.waiting()
            ask = self._called().model.request
            with self._hooks.span("infer"):
                for request in _answered(ask, requests):
                    self._take(request)

    def _take(self, request: _Request) -> None:
        with self._surviving(request.rows, perf_counter() - request.seconds):
            self._used(request.rows, Usage(calls=1))
            if request.error is not None:
                raise request.error
            self._finish(request.rows, request.answers, request.seconds)

    def _called(self) -> Calls:
        # Built only after its first tile was announced: a model that kills its process
        # while it loads must be blamed on someone.
        if self._calls is None:
            self._calls = calls_of(self._work.model)
        return self._calls

    def _own_pixels(self, source: ImageSource, tile: Tile) -> NDArray[Any]:
        """Return the tile as the model's own to write on."""
        pixels = read_pixels(source, tile.box, tile.scale, self._work.options)
        alone = sys.getrefcount(pixels) == _references_alone()  # also, nobody has a view of it
        flags = pixels.flags
        if alone and flags.owndata and flags.writeable and flags.c_contiguous:
            return pixels
        return np.array(pixels, order="C", copy=True)

    def _finish(self, rows: list[int], answers: Any, seconds: float) -> None:
        """Turn a batch's answers into outcomes, tile by tile."""
        full: Sequence[bool] = (False,) * len(rows)
        if isinstance(answers, Answers):
            if answers.usage is not None:
                self._used(rows, answers.usage)
            self._remarks, full = answers.remarks, answers.full
        _check(self._work.model, answers, len(rows))
        share = seconds / len(rows)
        with self._hooks.span("encode"):
            for row, findings, filled in zip(rows, answers, full, strict=True):
                with self._surviving([row], perf_counter() - share):
                    self.outcomes[row] = self._compacted(row, findings, share, filled)

    def _used(self, rows: list[int], usage: Usage) -> None:
        """Share what a call used among its tiles; it stands even if the call fails."""
        self._usage.update(zip(rows, usage.split(len(rows)), strict=True))

    @property
    def _nms(self) -> float | None:
        """The overlap of duplicates; None where the model has left them out by its own measure."""
        spec = self._work.model
        model = self._calls.model if self._calls is not None else None
        own = getattr(model, "suppresses", False) and not spec.class_agnostic
        return None if own else spec.nms

    def _compacted(self, row: int, findings: Findings, seconds: float, filled: bool) -> TileOutcome:
        tile, model = self._tiles[row], self._work.model
        kept = compact(findings, tile.output_size, self._nms, model.class_agnostic)
        records = codec.encode(kept)
        arrays = {"embedding": findings.embedding, "embeddings": kept.rounded().embeddings}
        stored = _vectors({k: one for k, one in arrays.items() if one is not None}, model)
        if findings.raster is not None:
            stored["raster"] = _map(findings.raster, tile, model.name)
        if stored:
            records += (array_record({name: ref for name, (ref, _) in stored.items()}),)
        payloads = tuple((ref.digest, raw) for ref, raw in stored.values())
        most = model.max_detections
        return TileOutcome(
            tile,
            records,
            n_findings=len(kept),
            saturated=filled or (most is not None and len(findings) >= most),
            read_seconds=self._read_seconds[row],
            infer_seconds=seconds,
            usage=self._usage[row],
            remarks=self._remarks,
            payloads=payloads,
        )

    @contextmanager
    def _surviving(self, rows: list[int], began: float) -> Iterator[None]:
        """Turn whatever is raised into outcomes of `rows`: a worker outlives its models."""
        try:
            yield
        except BaseException as error:  # noqa: BLE001  # SystemExit too must end no worker
            failure = Failure.of(error)
            if isinstance(used := getattr(error, "usage", None), Usage):
                self._used(rows, used)
            seconds = (perf_counter() - began) / len(rows)
            for row in rows:
                read = self._read_seconds.get(row)
                self.outcomes[row] = TileOutcome(
                    self._tiles[row],
                    failure=failure,
                    read_seconds=seconds if read is None else read,
                    infer_seconds=0.0 if read is None else seconds,
                    batched=len(rows) > 1 and self._calls is not None,
                    usage=self._usage.get(row, Usage()),
                )


_Stored = dict[str, tuple[PayloadRef, bytes | PackedArray]]


def _vectors(arrays: dict[str, NDArray[Any]], spec: ModelSpec) -> _Stored:
    """Return the references to a tile's embeddings, and what goes to a side file."""
    if not arrays:
        return {}
    from tilevision.adapters.vectors import at_precision

    precision = "float32" if spec.params.get("precision") == "float32" else "float16"
    return {
        name: bytes_of(at_precision(array, precision, spec.name)) for name, array in arrays.items()
    }


def _map(raster: Raster, tile: Tile, name: str) -> tuple[PayloadRef, PackedArray]:
    """Return the reference to a tile's map, and what goes to a side file."""
    if raster.size != tile.output_size:
        (width, height), (wide, high) = raster.size, tile.output_size
        raise ModelError(
            f"Model {name} returned a map of {width}×{height} pixels for a tile of {wide}×{high}; "
            "return one value for each pixel of the tile (resize it in the model)."
        )
    ref, raw = viewed(raster.kept)
    rows = raster.kept.shape[-1] if raster.spec.kind == "probabilities" else 0
    return replace(ref, raster=raster.spec), packed(raw, raster.kept.dtype.itemsize, rows)


def _check(spec: ModelSpec, answers: Any, wanted: int) -> None:
    if not isinstance(answers, Sequence) or len(answers) != wanted:
        got = f"{len(answers)}" if hasattr(answers, "__len__") else f"a {type(answers).__name__}"
        raise ModelError(
            f"Model {spec.name} got {wanted} tiles and returned {got} answers; "
            "return a list with one Findings for each tile."
        )
    for answer in answers:
        if not isinstance(answer, Findings):
            raise ModelError(
                f"Model {spec.name} returned a {type(answer).__name__} for a tile; return Findings."
            )
