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
from typing import Any, NamedTuple

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
from tilevision.adapters.frameworks.frameworkkind import SEMANTIC, classes_of, strings_of
from tilevision.adapters.frameworks.tiles import (
    LIMIT,
    REVISION,
    SHAPED,
    UNCOUNTED,
    in_tile,
    padded,
    traced,
    unread,
)
from tilevision.adapters.frameworks.together import NetworkInput, Together
from tilevision.adapters.modelfiles import located
from tilevision.adapters.outlines import traced as field_traced
from tilevision.adapters.resizing import resized
from tilevision.adapters.vectors import vector_of
from tilevision.errors import ModelError
from tilevision.findings import Findings
from tilevision.modelspec import Answers, ModelSpec, Steps

__all__ = [
    "TorchDetector",
    "examine",
    "load",
    "opened_file",
    "processes",
    "runtime",
    "save",
    "stated_by",
]

VERSION = 1
LIBRARY = "torch"
HALVES = True
ANY_BANDS = True
ENCODES = True
PARAMS: dict[str, Any] = {"channels": "rgb", "normalize": "0..1"}


class Sizes(NamedTuple):
    """Heights and widths of the pictures that a network takes.

    Parameters
    ----------
    least, most : tuple of int
        Height and width.
    steps : tuple of int
        Of what height and width are multiples.
    square : bool
        True if both must be the same.
    """

    least: tuple[int, int]
    most: tuple[int, int]
    steps: tuple[int, int] = (1, 1)
    square: bool = False

    def around(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the least height and width that a picture of `shape` can be filled up to."""
        high, wide = (
            -(-max(have, least) // step) * step
            for have, least, step in zip(shape, self.least, self.steps, strict=False)
        )
        return (max(high, wide),) * 2 if self.square else (high, wide)


LARGEST = 4096  # pixels a side; what a file allows beyond is no size that it was made for
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


def examine(name: str, kind: str, path: Path, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the spec that the file decides.

    Raises
    ------
    ModelError
        If a parameter is none of those known.
    """
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
    if kind in ("torch", "torchscript"):
        most = dict(strings_of(path)).get("detections_per_img")
        found: dict[str, Any] = {LIMIT: most} if isinstance(most, int) else {}
        texts = " ".join(classes_of(path)) if kind == "torch" else ""
        if "keypoint_rcnn" in texts:
            found[REVISION] = "with key points"
        if "mask_rcnn" in texts:
            found[SHAPED] = True
        return found
    program = opened_file(kind, path, name)
    limit: dict[str, Any] = {LIMIT: rows} if (rows := _rows(program)) else {}
    sizes = _sizes(program)
    if sizes is None or max(sizes.most) > LARGEST:
        return limit
    least, most = sizes.least, sizes.most
    return {"input_size": (most[1], most[0]), "shrinks": "rounded, with masks", **limit} | (
        {} if least == most else {UNCOUNTED: True}
    )


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
        return TorchEncoder(_called(network, "batch"), spec, _sizes(opened) if export else None)
    if params["framework"] == "export":
        example = opened.example_inputs[0][0] if opened.example_inputs else None
        network, form = opened.module().to(device), _form(example)
        call = _called(network, form)
        return TorchDetector(call, spec, _sizes(opened), single=form == "picture")
    network = placed(opened, spec, device)
    if params["framework"] == "torch":
        return TorchDetector(_called(network, "list"), spec)
    takes = str(network.forward.schema.arguments[1].type)
    return TorchDetector(_called(network, "list" if takes.startswith("List") else "batch"), spec)


def opened_file(kind: str, path: Path, name: str) -> Any:
    """Return what a file holds: a network, or an exported program.

    Raises
    ------
    ModelError
        If it cannot be opened, or holds something else.
    """
    torch = library("torch")
    try:
        if kind == "export":
            return torch.export.load(path)
        if kind == "torchscript":
            return torch.jit.load(str(path), map_location="cpu")
        network = torch.load(path, map_location="cpu", weights_only=False)
    except ModelError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise ModelError(
            f"Model {name}: torch {torch.__version__} cannot open {path} "
            f"({type(error).__name__}: {words}); check that it is whole, and that what its classes "
            "belong to is installed here."
        ) from error
    if not isinstance(network, torch.nn.Module):
        raise ModelError(
            f"Model {name}: {path} holds a {type(network).__name__}, not a network; build the "
            "network, load the weights, and pass it."
        )
    return network


def _called(network: Any, form: str) -> Any:
    if form == "list":
        return network
    if form == "picture":
        return lambda pictures: network(pictures[0])
    torch = library("torch")
    return lambda pictures: network(torch.stack(pictures))


def _form(example: Any) -> str:
    if isinstance(example, (list, tuple)):
        return "list"
    return "picture" if example is not None and example.ndim == 3 else "batch"


def _sizes(program: Any) -> Sizes | None:
    """Return the heights and widths of the pictures that a program takes.

    None where it takes any: both sides are free, as far as its file says.
    """
    inputs = set(program.graph_signature.user_inputs)
    shapes = [node.meta["val"].shape for node in program.graph.nodes if node.name in inputs]
    if not shapes or len(shapes[0]) < 2:
        return None
    sides = shapes[0][-2:]
    height, width = (_range(side, program) for side in sides)
    same = str(sides[0]) == str(sides[1]) and not isinstance(sides[0], int)
    if max(height[1], width[1]) > LARGEST and not same:
        return None
    return Sizes((height[0], width[0]), (height[1], width[1]), (height[2], width[2]), same)


def _rows(program: Any) -> int | None:
    """Return how many boxes a program gives at most: the rows of its output of four columns.

    A number, or the least of a number and what there is: ``boxes[:100]`` is ``Min(100, u0)``.
    """
    made = set(program.graph_signature.user_outputs)
    shapes = [node.meta["val"].shape for node in program.graph.nodes if node.name in made]
    sides = [shape[0] for shape in shapes if len(shape) == 2 and shape[1] == 4]
    if not sides or isinstance(sides[0], int):
        return sides[0] if sides else None
    expression = sides[0].node.expr
    numbers = [int(part) for part in getattr(expression, "args", ()) if part.is_Integer]
    return min(numbers, default=None) if type(expression).__name__ == "Min" else None


def _range(side: Any, program: Any) -> tuple[int, int, int]:
    """Return the least, the most and the step of a side: a number, or a symbol in bounds."""
    if isinstance(side, int):
        return side, side, 1
    step, inner = side.node.expr.as_coeff_Mul()  # 32 times a symbol is a multiple of 32
    step = int(step) if step.is_Integer and step > 0 else 1
    known = program.range_constraints.get(side.node.expr)
    if known is None:
        known, times = program.range_constraints.get(inner), step
    else:
        times = 1
    try:
        return max(1, int(known.lower) * times), int(known.upper) * times, step
    except (AttributeError, OverflowError, TypeError, ValueError):  # unbounded, or worked out
        return 1, LARGEST + 1, step


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
    raster = answer.get("out") if isinstance(answer, Mapping) else answer
    if getattr(raster, "ndim", 0) == 4:
        raise ModelError(f"Model {name} {SEMANTIC}")
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
