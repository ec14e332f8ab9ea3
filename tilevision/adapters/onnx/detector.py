"""A model from a file, as it lives on a worker."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from time import thread_time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.answers import findings_of
from tilevision.adapters.classnames import beyond_names
from tilevision.adapters.modelfiles import located
from tilevision.adapters.onnx.families import FAMILIES, Candidates, DecodeInfo
from tilevision.adapters.onnx.families.layout import MULTIPLE
from tilevision.adapters.onnx.families.pixelmaps import MAP, decoder
from tilevision.adapters.onnx.graph import mixes_pictures, nodes_of
from tilevision.adapters.onnx.mapreading import MapReader
from tilevision.adapters.onnx.mostrows import suppressed_to
from tilevision.adapters.onnx.ports import DTYPES, Facts, by_name, listed, read_facts
from tilevision.adapters.onnx.postprocessing import Rules, findings_in_tile, finish
from tilevision.adapters.onnx.preparation import FITS, Placement, Preparation
from tilevision.adapters.onnx.providers import CPU, bound_device, open_session, run_on
from tilevision.adapters.packing import unpack
from tilevision.errors import ModelError
from tilevision.findings import Findings
from tilevision.modelspec import Answers, ModelSpec, Steps

__all__ = ["OnnxDetector", "TilesPerCall", "load"]

_COMPARED = 6  # calls that are looked at, of one tile and of several by turns


class SessionInput(NamedTuple):
    """A tile as the session takes it: a row of the tiles that were prepared together."""

    place: Placement
    pictures: NDArray[Any]
    row: int


class TilesPerCall:
    """How many tiles a call on a processor takes: as many as fit, or one, whichever takes less.

    There a batch saves no launch and no copy, and may fall out of the caches. Found out by calls of
    either kind in turn; what a tile takes in the quickest of each decides.

    Parameters
    ----------
    most : int
    settled : bool
        True to take the most, without a look.
    """

    def __init__(self, most: int, *, settled: bool) -> None:
        self._size = most
        self._left = 0 if settled or most == 1 else _COMPARED
        self._quickest = {True: np.inf, False: np.inf}

    def share(self, tiles: int) -> int:
        """Return how many of `tiles` the next call takes."""
        whole = min(self._size, tiles)
        return 1 if whole > 1 and self._left and self._left % 2 == 0 else whole

    def took(self, tiles: int, called: int, seconds: float) -> None:
        """Learn what a call for `called` took, where `tiles` were there."""
        if not self._left or tiles < 2:
            return
        alone = called == 1
        self._quickest[alone] = min(self._quickest[alone], seconds / called)
        self._left -= 1
        if not self._left and self._quickest[True] < self._quickest[False]:
            self._size = 1


class OnnxDetector:
    """A session, with what comes before and after it.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
    facts : Facts
    preparation : Preparation
    decode : callable
        Makes `Candidates` of a family's outputs, or what a user's function returns.
    rules : Rules
    batch_size : int
        Most tiles at once.
    suppresses : bool
        True if duplicates are left out as the family's own tool does it, so that what is stored
        needs no second look: outlines can be alike where boxes are not.
    maps : MapReader, optional
        Of a model that says something of each pixel.
    sized : bool
        True if somebody else finds out how many tiles a call takes.
    """

    def __init__(
        self,
        session: Any,
        facts: Facts,
        preparation: Preparation,
        decode: Any,
        rules: Rules,
        batch_size: int,
        *,
        suppresses: bool = False,
        maps: MapReader | None = None,
        sized: bool = False,
    ) -> None:
        self.suppresses = suppresses
        self._maps = maps
        self._device = bound_device(session)
        self.on_device = session.get_providers()[0] != CPU
        self.turn = threading.RLock() if self.on_device else None
        self._session = session
        self._facts = facts
        self._preparation = preparation
        self._decode = decode
        self._rules = rules
        self._batch_size = facts.batch or batch_size  # where pictures mix, 1: see `load`
        fixed = sized or bool(facts.batch) or self.on_device
        self._at_once = TilesPerCall(self._batch_size, settled=fixed)
        self.steps = Steps(self._prepare, self._compute, self._understood)

    def predict(self, batch: Sequence[NDArray[Any]]) -> Answers:
        """Return one `Findings` per tile ``(h, w, c)``, and which of them the graph has filled.

        Raises
        ------
        ModelError
            If the model does not run, or its outputs cannot be read.
        """
        placed = [(self._preparation.place(tile), tile) for tile in batch]
        answers: list[Any] = []
        for _, group in groupby(placed, key=lambda pair: pair[0]):
            tiles = [tile for _, tile in group]
            for first in range(0, len(tiles), self._batch_size):  # so many pictures in memory
                answers += self._compute(self._prepare(tiles[first : first + self._batch_size]))
        return self._understood(answers)

    def _prepare(self, batch: Sequence[NDArray[Any]]) -> list[SessionInput]:
        """Return tiles as the session takes them."""
        placed = [(self._preparation.place(tile), tile) for tile in batch]
        items: list[SessionInput] = []
        for place, group in groupby(placed, key=lambda pair: pair[0]):
            pictures = self._preparation.prepare([tile for _, tile in group], place)
            items += [SessionInput(place, pictures, row) for row in range(len(pictures))]
        return items

    def _compute(
        self, items: list[SessionInput]
    ) -> list[tuple[dict[str, NDArray[Any]], Placement]]:
        """Return the outputs of each tile, as if it had been alone."""
        answers = []
        for place, group in groupby(items, key=lambda item: item.place):
            alike = list(group)
            while alike:
                some = alike[: self._at_once.share(len(alike))]
                pictures = _stacked(some)
                missing = (self._facts.batch or 0) - len(some)
                if missing > 0:  # the batch is fixed
                    spare = np.zeros_like(pictures[:1]).repeat(missing, 0)
                    pictures = np.concatenate([pictures, spare])
                began = thread_time()
                outputs = self._run(pictures, place.input)
                self._at_once.took(len(alike), len(some), thread_time() - began)
                alike = alike[len(some) :]
                answers += [
                    (self._one(outputs, row, len(pictures)), place) for row in range(len(some))
                ]
        return answers

    def _understood(self, answers: list[tuple[dict[str, NDArray[Any]], Placement]]) -> Answers:
        """Return what was found, and which of it the graph has filled."""
        found = [self._read(outputs, place) for outputs, place in answers]
        numbers = (number for seen, _ in found for number in seen.class_ids.tolist())
        remarks = beyond_names(self._rules.name, numbers, self._rules.names)
        return Answers([seen for seen, _ in found], None, remarks, [full for _, full in found])

    def _run(self, pictures: NDArray[Any], size: tuple[int, int]) -> dict[str, NDArray[Any]]:
        if len(self._facts.picture.shape) == 3:
            pictures = pictures[0]
        try:
            outputs = run_on(self._session, self._facts.feeds(pictures, size), self._device)
        except Exception as error:
            words = " ".join(str(error).split())[:200]
            raise ModelError(
                f"Model {self._rules.name} does not run on {size[0]}×{size[1]} px, {len(pictures)} "
                f"at once ({words}); pass input_size= or batch_size=1 as it was exported."
            ) from error
        return by_name(self._facts, outputs)

    def _one(self, outputs: Mapping[str, NDArray[Any]], row: int, count: int) -> dict[str, Any]:
        """Return the outputs of one tile, as if it had been alone."""
        if count == 1:
            return dict(outputs)
        for name, out in outputs.items():
            if not out.ndim or len(out) != count:
                raise ModelError(
                    f"Model {self._rules.name}: output {name} of shape {out.shape} does not tell "
                    f"{count} tiles apart; pass batch_size=1 ({listed(self._facts)})."
                )
        return {name: out[row : row + 1] for name, out in outputs.items()}

    def _read(self, outputs: dict[str, NDArray[Any]], place: Placement) -> tuple[Findings, bool]:
        rules = self._rules
        info = DecodeInfo(
            place.input, place.tile, rules.names, rules.score_floor, self._facts.keypoints
        )
        try:
            seen = self._decode(outputs, info)
        except (IndexError, KeyError, ValueError) as error:
            shapes = ", ".join(f"{name} {out.shape}" for name, out in outputs.items())
            raise ModelError(
                f"Model {rules.name}: outputs {shapes} cannot be decoded "
                f"({type(error).__name__}: {error}); pass another family=, or decode=."
            ) from error
        if self._maps is not None and isinstance(seen, Candidates) and seen.planes is not None:
            return self._maps.read(seen.planes, place), False
        if isinstance(seen, Candidates):
            return findings_in_tile(seen, place, rules)
        return _in_tile(findings_of(seen, rules.name, rules.names), place, rules)


def load(spec: ModelSpec) -> OnnxDetector:
    """Open the model that `spec` describes, after a look whether the file is still the same.

    Raises
    ------
    ModelError
        If the file is missing here or has changed, onnxruntime or the device is missing, or the
        file cannot be opened.
    """
    spec = located(spec)
    params, path = spec.params, Path(spec.params["path"])
    facts = read_facts(path, spec.name)
    session = open_session(path, spec.name, device=spec.device, threads=params["threads"])
    size = params["input_size"]
    preparation = Preparation(
        size=None if size is None else (size[0], size[1]),
        fit=FITS[params["letterbox"]],
        multiple=_multiple(spec),
        channels=params["channels"],
        normalize=params["normalize"],
        dtype=DTYPES[facts.picture.dtype],
        channels_first=facts.channels_first,
        antialias=spec.payload != b"" or FAMILIES[params["family"]].antialias,
        rounds=spec.payload != b"" or FAMILIES[params["family"]].rounds,
    )
    decode = unpack(spec.payload) if spec.payload else FAMILIES[params["family"]].decode
    shows_pixels = params["family"] == MAP
    if shows_pixels:
        decode = decoder(params["output"], facts.channels_first)
    by_shape = params.get("overlap") == "shape"
    floor, most = params["score_floor"], spec.max_detections
    own_choice = not (spec.payload or FAMILIES[params["family"]].suppresses)
    _, each = suppressed_to(path, [port.name for port in facts.outputs])
    rules = Rules(
        *(spec.name, params["names"], floor, spec.nms, most, by_shape),
        each=each,
        chooses=own_choice,
    )
    # Whatever was declared: a tile's result must not depend on those it was dealt out with.
    most = 1 if mixes_pictures(nodes_of(path)) else spec.batch_size
    own = not (spec.payload or by_shape) and FAMILIES[params["family"]].suppresses
    maps = MapReader(spec) if shows_pixels else None
    return OnnxDetector(
        *(session, facts, preparation, decode, rules, most),
        suppresses=own,
        maps=maps,
        sized=spec.auto_batch,
    )


def _multiple(spec: ModelSpec) -> int:
    """Return of what both sides of an input of any size are a multiple."""
    if spec.payload:
        return MULTIPLE
    told = spec.params.get("multiple")  # of maps it was tried out
    return FAMILIES[spec.params["family"]].multiple if told is None else int(told)


def _stacked(items: list[SessionInput]) -> NDArray[Any]:
    """Return prepared tiles as one array; as it was prepared, where they are all of that."""
    first = items[0].pictures
    whole = [item.row for item in items] == list(range(len(first)))
    if whole and all(item.pictures is first for item in items):
        return first
    return np.concatenate([item.pictures[item.row : item.row + 1] for item in items])


def _in_tile(findings: Findings, place: Placement, rules: Rules) -> tuple[Findings, bool]:
    """Return what a user's function found in the input, in pixels of the tile."""
    scale, offset = place.scale, place.offset
    moved = findings.filter(rules.score_floor).mapped(
        (1 / scale[0], 1 / scale[1]), (-offset[0] / scale[0], -offset[1] / scale[1])
    )
    return finish(moved, rules), rules.are_filled_by(moved)
