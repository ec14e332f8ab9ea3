"""PyTorch networks that answer as torchvision's detectors do, whole, scripted or exported.

They take a list of pictures ``(3, h, w)``, or one batch ``(1, 3, h, w)``, from 0 to 1, and
return for each picture a dict of ``boxes`` (xmin, ymin, xmax, ymax in pixels of it), ``labels``
(class numbers), ``scores`` and, from instance segmentation, ``masks`` ``(n, 1, h, w)``. A graph
that cannot return dicts returns boxes, labels and scores as a tuple.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.classnames import beyond_names, class_name
from tilevision.adapters.foreignvalues import as_plain_array
from tilevision.adapters.frameworks.devices import (
    fed,
    library,
    placed,
    processes,
    runtime,
    torch_device,
)
from tilevision.adapters.frameworks.frameworkkind import classes_of, strings_of
from tilevision.adapters.frameworks.mapoutputs import MapOutputs
from tilevision.adapters.frameworks.networkfiles import (
    LARGEST,
    Sizes,
    called,
    form_of,
    opened_file,
    rows_of,
    sizes_of,
)
from tilevision.adapters.frameworks.tiles import (
    LIMIT,
    NOTES,
    REVISION,
    SHAPED,
    UNCOUNTED,
    in_tile,
    padded,
    traced,
    unread,
)
from tilevision.adapters.frameworks.together import NetworkInput, Together
from tilevision.adapters.frameworks.torchvision_maps import IMAGENET, map_of_network
from tilevision.adapters.modelfiles import located
from tilevision.adapters.outlines import traced as field_traced
from tilevision.adapters.pixels import are_shares
from tilevision.adapters.resizing import resized
from tilevision.adapters.vectors import vector_of
from tilevision.errors import ModelError
from tilevision.findings import Findings
from tilevision.modelspec import Answers, ModelSpec, Steps, is_out_of_memory

__all__ = [
    "TorchDetector",
    "examine",
    "load",
    "processes",
    "runtime",
    "save",
    "stated_by",
]

VERSION = 1
LIBRARY = "torch"
HALVES = True
ANY_BANDS = True
ENCODES = MAPS = True
PARAMS: dict[str, Any] = {"channels": "rgb", "normalize": None}


STEP = 32  # pixels, of which most networks that halve their pictures take multiples
_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)  # of ImageNet, red, green, blue
_DEVIATION = np.array([0.229, 0.224, 0.225], dtype=np.float32)
# The vector among several answers, as libraries name it.
_VECTORS = ("image_embeds", "pooler_output", "embeddings", "embedding")
_READ = ("boxes", "scores", "labels", "masks", "keypoints")
_CHOICES = {"channels": ("rgb", "bgr", "bands"), "normalize": ("0..1", "0..255")}


class TorchDetector:
    """A network on its device.

    Parameters
    ----------
    call : callable
        Takes a list of pictures ``(c, h, w)``, returns what the network does.
    spec : ModelSpec
    sizes : Sizes, optional
        Of the pictures it takes; None: any.
    single : bool
        Whether it takes one picture at a time.
    """

    def __init__(
        self, call: Any, spec: ModelSpec, sizes: Sizes | None = None, *, single: bool = False
    ) -> None:
        self._call = call
        self._spec = spec
        self._sizes = sizes
        self._device = torch_device(spec.device)
        self.on_device = self._device != "cpu"
        self.turn = threading.RLock()
        many = None if single else self._many
        self._place = (spec, self._device)
        self._ask = Together.of(spec, self.on_device, self._one, many, self._read_alone)
        self.steps = Steps(self._prepare, self._compute, self._understood)

    def predict(self, batch: Sequence[NDArray[Any]]) -> Answers:
        """Return one `Findings` per tile ``(h, w, c)``; what is not read is remarked upon.

        Raises
        ------
        ModelError
            If the network does not run on a tile, or returns what is not understood.
        """
        return self._understood(self._compute(self._prepare(batch)))

    def _prepare(self, batch: Sequence[NDArray[Any]]) -> list[NetworkInput]:
        """Return tiles as the network takes them, in the processor's memory."""
        torch = library("torch")
        torch.set_num_threads(1)  # there is a worker for each processor
        items = []
        for tile in batch:
            shown, ratio = self._fitted(tile)
            values = torch.from_numpy(self._scaled(shown)).permute(2, 0, 1).contiguous()
            items.append(NetworkInput(tile, values, ratio))
        return items

    def _compute(self, items: list[NetworkInput]) -> list[Any]:
        torch = library("torch")
        with self.turn, torch.inference_mode():
            torch.set_num_threads(1)  # as above
            return self._ask(items)

    def _understood(self, answers: list[Any]) -> Answers:
        """Return findings of answers; what is not read is remarked upon."""
        remarks: dict[str, None] = {}
        found = [self._read_answer(columns, item, remarks) for columns, item in answers]
        return Answers(found, remarks=list(remarks))

    def _one(self, item: NetworkInput) -> Any:
        return self._kept(_dict_of(self._called([item]), self._spec.name), item)

    def _many(self, items: list[NetworkInput]) -> list[Any]:
        answers = _dicts_of(self._called(items), len(items))
        return [self._kept(answer, item) for answer, item in zip(answers, items, strict=True)]

    def _called(self, items: list[NetworkInput]) -> Any:
        """Call the network with tiles of one size."""
        values = [fed(item.values, *self._place) for item in items]
        try:
            return self._call(values)
        except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
            words = " ".join(str(error).split())[-200:]
            raise ModelError(
                self._refusal(tuple(values[0].shape), len(values), error, words)
            ) from error

    def _refusal(self, shape: Any, count: int, error: Exception, words: str) -> str:
        pictures = f"a picture of {shape}" if count == 1 else f"{count} pictures of {shape}"
        return (
            f"Model {self._spec.name} does not run on {pictures} "
            f"({type(error).__name__}: {words}); it is called as torchvision's detectors are."
        )

    @staticmethod
    def _kept(found: Mapping[str, Any], item: NetworkInput) -> tuple[dict[str, Any], NetworkInput]:
        """Return an answer in the processor's memory, and what is not read of it by name alone."""
        rest = {key: None for key in found if key not in _READ}
        columns = {key: _array(found[key]) for key in _READ if found.get(key) is not None}
        return rest | columns, item

    def _read_alone(self, answer: tuple[dict[str, Any], NetworkInput]) -> Findings:
        return self._read_answer(*answer, {})

    def _read_answer(
        self, found: Mapping[str, Any], item: NetworkInput, remarks: dict[str, None]
    ) -> Findings:
        further = unread(self._spec.name, (key for key in found if key not in _READ))
        columns = {key: found[key] for key in _READ if key in found}
        seen = self._read(columns, item.tile, item.ratio)
        beyond = beyond_names(self._spec.name, seen.class_ids.tolist(), self._spec.params["names"])
        remarks.update(dict.fromkeys([*further, *beyond]))
        return seen

    def _fitted(self, tile: NDArray[Any]) -> tuple[NDArray[Any], float]:
        """Return the tile at a size that the network takes, and by how much it was shrunk."""
        if self._sizes is None:
            return padded(tile), 1.0
        height, width = self._sizes.most
        ratio = min(1.0, height / tile.shape[0], width / tile.shape[1])
        if ratio < 1:
            high, wide = (max(1, round(side * ratio)) for side in tile.shape[:2])
            tile = resized(tile, (min(width, wide), min(height, high)))
        return padded(tile, self._sizes.around(tile.shape)), ratio

    def _scaled(self, tile: NDArray[Any]) -> NDArray[np.float32]:
        if self._spec.params["channels"] == "bgr":
            tile = tile[..., ::-1]
        values = np.ascontiguousarray(tile, dtype=np.float32)
        if self._spec.params["normalize"] == "0..1" and tile.dtype.kind in "iu":
            values = values / np.float32(np.iinfo(tile.dtype).max)
        return values

    def _read(
        self, columns: Mapping[str, NDArray[Any]], tile: NDArray[Any], ratio: float
    ) -> Findings:
        boxes = columns["boxes"].reshape(-1, 4) / ratio
        if are_shares(boxes * ratio):
            raise ModelError(
                f"Model {self._spec.name} gives boxes between 0 and 1, as shares of the picture's "
                "sides; pass a function that calls it and multiplies them by width and height."
            )
        scores = columns.get("scores", np.full(len(boxes), np.nan)).reshape(-1)
        numbers = columns.get("labels", np.full(len(boxes), -1)).reshape(-1).astype(np.int64)
        points = columns.get("keypoints")
        if points is not None:
            sure = points[..., 2:] if points.shape[2] > 2 else np.ones((*points.shape[:2], 1))
            points = np.concatenate([points[..., :2] / ratio, sure], axis=2)
        params = self._spec.params
        keep = np.flatnonzero(~(scores < params["score_floor"]))
        polygons = None
        if "masks" in columns:
            masks = columns["masks"].reshape(len(boxes), *columns["masks"].shape[-2:])
            size, scale = (tile.shape[1], tile.shape[0]), np.full(2, ratio)
            whole = np.array([0.0, 0.0, *size])
            polygons = [
                traced(masks[row] > 0.5, tile)[1]
                if ratio == 1
                else field_traced(masks[row], whole, size, scale, np.zeros(2), 0.5)
                for row in keep
            ]
        return in_tile(
            tile,
            boxes[keep],
            scores[keep],
            [class_name(int(number), params["names"]) for number in numbers[keep]],
            class_ids=numbers[keep],
            polygons=polygons,
            keypoints=None if points is None else points[keep],
            most=self._spec.max_detections,
        )


class TorchEncoder(TorchDetector):
    """An encoder on its device: a batch ``(1, c, h, w)`` in, a vector ``(1, d)`` out."""

    def _one(self, item: NetworkInput) -> Findings:
        return vector_of(_chosen(self._called([item])), self._spec.name)

    def _many(self, items: list[NetworkInput]) -> list[Findings]:
        vectors = _chosen(self._called(items))
        if len(vectors) != len(items):
            raise ModelError(f"Model {self._spec.name} does not tell {len(items)} tiles apart.")
        return [vector_of(vectors[row : row + 1], self._spec.name) for row in range(len(items))]

    def _understood(self, answers: list[Any]) -> Answers:
        return Answers(answers)

    def _read_alone(self, answer: Any) -> Findings:
        return answer  # type: ignore[no-any-return]

    def _fitted(self, tile: NDArray[Any]) -> tuple[NDArray[Any], float]:
        if self._sizes is not None and self._sizes.least == self._sizes.most:
            height, width = self._sizes.most
            if tile.shape[:2] != (height, width):
                return resized(tile, (width, height)), 1.0
        return tile, 1.0

    def _refusal(self, shape: Any, count: int, error: Exception, words: str) -> str:
        return (
            f"Model {self._spec.name} does not run on a batch of {(count, *shape)} "
            f"({type(error).__name__}: {words}); declare input_size=, or pass a function."
        )

    def _scaled(self, tile: NDArray[Any]) -> NDArray[np.float32]:
        if self._spec.params["normalize"] != "imagenet":
            return super()._scaled(tile)
        if tile.shape[2] != len(_MEAN):
            raise ModelError(
                f"Model {self._spec.name} is given {tile.shape[2]} bands, and "
                "normalize='imagenet' is of three; give normalize='0..1'."
            )
        most = np.float32(np.iinfo(tile.dtype).max if tile.dtype.kind in "iu" else 1)
        values = (tile.astype(np.float32) / most - _MEAN) / _DEVIATION
        turned = values[..., ::-1] if self._spec.params["channels"] == "bgr" else values
        return np.ascontiguousarray(turned)


class TorchSegmenter(TorchEncoder):
    """A network on its device: a batch ``(n, c, h, w)`` in, maps ``(n, k, h, w)`` out.

    Tiles have the size that the network is fixed to; else they keep theirs, and where it does not
    run on that, they are filled up to a multiple of 32 pixels by what lies at their edge.
    """

    def __init__(self, call: Any, spec: ModelSpec, sizes: Sizes | None = None) -> None:
        super().__init__(call, spec, sizes)
        self._maps = MapOutputs(spec)
        self._filled: set[tuple[int, ...]] = set()  # shapes on which it does not run as they are

    def _one(self, item: NetworkInput) -> Findings:
        return self._many([item])[0]

    def _many(self, items: list[NetworkInput]) -> list[Findings]:
        shape, sizes = items[0].shape, self._sizes
        high, wide = items[0].values.shape[1:]
        shown = (high, wide)  # of the tile in what the network is given
        if sizes is not None and sizes.least != sizes.most:
            ratio = items[0].ratio
            shown = max(1, round(shape[0] * ratio)), max(1, round(shape[1] * ratio))
        if shape in self._filled:
            items = _filled(items)
        try:
            answer = self._called(items)
        except ModelError as error:
            even = not any(side % STEP for side in items[0].values.shape[1:])
            if even or is_out_of_memory(error):
                raise
            items = _filled(items)
            answer = self._called(items)
            self._filled.add(shape)
        high, wide = items[0].values.shape[1:]
        return self._maps.read(answer, len(items), (high, wide), shown, (shape[0], shape[1]))

    def _fitted(self, tile: NDArray[Any]) -> tuple[NDArray[Any], float]:
        sizes = self._sizes
        if sizes is None or sizes.least == sizes.most:
            return super()._fitted(tile)
        ratio = min(1.0, sizes.most[0] / tile.shape[0], sizes.most[1] / tile.shape[1])
        if ratio < 1:
            high, wide = (max(1, round(side * ratio)) for side in tile.shape[:2])
            tile = resized(tile, (wide, high))
        full = sizes.around(tile.shape)
        missing = [(0, max(0, side - have)) for side, have in zip(full, tile.shape, strict=False)]
        return np.pad(tile, (*missing, (0, 0)), mode="edge"), ratio


def _filled(items: list[NetworkInput]) -> list[NetworkInput]:
    """Return what a network is given, filled up to a multiple of `STEP` by its edge."""
    pad = library("torch").nn.functional.pad
    high, wide = items[0].values.shape[1:]
    missing = (0, -wide % STEP, 0, -high % STEP)
    return [
        item._replace(values=pad(item.values[None], missing, mode="replicate")[0]) for item in items
    ]


def stated_by(value: Any) -> dict[str, Any]:
    """Return what an object says of itself: how many objects torchvision's detectors keep."""
    head = getattr(value, "roi_heads", value)
    most = getattr(head, "detections_per_img", None)
    return {LIMIT: most} if isinstance(most, int) else {}


def save(value: Any, folder: Path) -> Path:
    """Write a network into `folder`.

    Raises
    ------
    ModelError
        If its class is defined in the notebook or script, where workers cannot find it.
    """
    torch = library("torch")
    path = folder / "model.pt"  # the name stands in the file, and would be part of its content
    if isinstance(value, torch.jit.ScriptModule):
        torch.jit.save(value, path)
    elif isinstance(value, torch.nn.Module):
        strange = {type(part) for part in value.modules() if type(part).__module__ == "__main__"}
        if strange:
            name = strange.pop().__name__
            raise ModelError(
                f"Class {name} is defined in this notebook or script, where workers cannot find "
                "it; move it to a module, or pass torch.jit.script(model)."
            )
        torch.save(value, path)
    else:
        path = folder / "model.pt2"
        torch.export.save(value, path)
    return path


def examine(name: str, kind: str, path: Path, params: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the spec that the file decides, and complete the parameters.

    Raises
    ------
    ModelError
        If a parameter is none of those known.
    """
    program = opened_file(kind, path, name) if kind == "export" else None
    shown = map_of_network(name, path, params, program)
    params["normalize"] = params["normalize"] or (IMAGENET if shown.get(NOTES) else "0..1")
    for key, usual in _CHOICES.items():
        further = ("imagenet",) if key == "normalize" and params.get("returns") else ()
        known = (*usual, *further)
        if params[key] not in known:
            raise ModelError(
                f"{key} of model {name} is {params[key]!r:.80}; give one of {', '.join(known)}."
            )
    if kind == "export" and params.get("half"):
        raise ModelError(
            f"Model {name} computes in the precision it was exported in; leave half out, and "
            "export model.half()."
        )
    if shown and kind != "export":
        return shown
    if kind in ("torch", "torchscript"):
        most = dict(strings_of(path)).get("detections_per_img")
        found: dict[str, Any] = {LIMIT: most} if isinstance(most, int) else {}
        texts = " ".join(classes_of(path)) if kind == "torch" else ""
        if "keypoint_rcnn" in texts:
            found[REVISION] = "with key points"
        if "mask_rcnn" in texts:
            found[SHAPED] = True
        return found
    limit: dict[str, Any] = {LIMIT: rows} if (rows := rows_of(program)) else {}
    sizes = sizes_of(program)
    if sizes is None or max(sizes.most) > LARGEST:
        return limit | shown
    least, most = sizes.least, sizes.most
    fields: dict[str, Any] = {} if shown else {"shrinks": "rounded, with masks", **limit}
    fields |= {} if least == most else {UNCOUNTED: True}
    return {"input_size": (most[1], most[0]), **fields, **shown}


def load(spec: ModelSpec) -> TorchDetector:
    """Open the network that `spec` describes, on its device.

    Raises
    ------
    ModelError
        If its file is missing, has changed or cannot be opened, or the device is missing.
    """
    spec = located(spec)
    params, path = spec.params, Path(spec.params["path"])
    device = torch_device(spec.device)
    opened = opened_file(params["framework"], path, spec.name)
    if params.get("returns"):
        export = params["framework"] == "export"
        network = opened.module().to(device) if export else placed(opened, spec, device)
        kind = TorchEncoder if params["returns"] == "embedding" else TorchSegmenter
        return kind(called(network, "batch"), spec, sizes_of(opened) if export else None)
    if params["framework"] == "export":
        example = opened.example_inputs[0][0] if opened.example_inputs else None
        network, form = opened.module().to(device), form_of(example)
        call = called(network, form)
        return TorchDetector(call, spec, sizes_of(opened), single=form == "picture")
    network = placed(opened, spec, device)
    if params["framework"] == "torch":
        return TorchDetector(called(network, "list"), spec)
    takes = str(network.forward.schema.arguments[1].type)
    return TorchDetector(called(network, "list" if takes.startswith("List") else "batch"), spec)


def _dict_of(answer: Any, name: str) -> Mapping[str, Any]:
    """Return what a network answered for its one picture, as a dict of columns.

    Raises
    ------
    ModelError
        If it is no answer of a detector: says what came.
    """
    if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], list):
        answer = answer[1]  # scripted detectors return their losses first
    if isinstance(answer, (list, tuple)) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, (list, tuple)) and len(answer) == 3:
        answer = _columns(answer)
    if isinstance(answer, Mapping) and "boxes" in answer:
        return answer
    raster: Any = answer.get("out") if isinstance(answer, Mapping) else answer
    if getattr(raster, "ndim", 0) == 4:
        raise ModelError(
            f"Model {name} returned {tuple(raster.shape)}, a map of the tile; declare what it is: "
            "tv.model(…, returns='probabilities', classes=(…), activation='softmax'), or "
            "returns='values'."
        )
    shown = tuple(answer.shape) if hasattr(answer, "shape") else type(answer).__name__
    raise ModelError(
        f"Model {name} returned {shown}; torchvision's detectors return [{{boxes, labels, "
        "scores}}]: wrap it in a module that does, export it to ONNX, or pass a function."
    )


def _dicts_of(answer: Any, count: int) -> Sequence[Mapping[str, Any]]:
    """Return what a network answered for each of its pictures, as dicts of columns.

    Raises
    ------
    ModelError
        If it does not tell the pictures apart.
    """
    if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], list):
        answer = answer[1]  # scripted detectors return their losses first
    good = isinstance(answer, (list, tuple)) and len(answer) == count
    if good and all(isinstance(one, Mapping) and "boxes" in one for one in answer):
        return answer  # type: ignore[no-any-return]  # isinstance does not tell mypy the items
    raise ModelError(f"The network does not tell {count} pictures apart.")


def _chosen(answer: Any) -> Any:
    """Return the vector among what an encoder answered."""
    for name in _VECTORS:
        found = answer.get(name) if isinstance(answer, Mapping) else getattr(answer, name, None)
        if found is not None:
            return found
    return answer


def _array(value: Any) -> NDArray[Any]:
    """Return a column of an answer as an array: of a tensor, or of what a wrapper made of it."""
    return np.asarray(as_plain_array(value))


def _columns(answer: Sequence[Any]) -> dict[str, Any]:
    """Tell boxes, class numbers and scores apart by their shapes and types."""
    found = {}
    for part in answer:
        if getattr(part, "ndim", 0) == 2 and part.shape[1] == 4:
            found["boxes"] = part
        elif getattr(part, "ndim", 0) == 1:
            found["scores" if part.is_floating_point() else "labels"] = part
    return found
