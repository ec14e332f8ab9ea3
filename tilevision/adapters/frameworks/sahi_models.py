"""Any `DetectionModel` of SAHI: its class and arguments travel, each worker loads it anew."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.frameworks.devices import library, processes, torch_device
from tilevision.adapters.frameworks.devices import runtime as torch_runtime
from tilevision.adapters.frameworks.tiles import (
    LIMIT,
    MOST_CLASSES,
    in_tile,
    picture,
    traced,
    unread,
)
from tilevision.adapters.frameworks.together import Together
from tilevision.adapters.frameworks.torch_modules import stated_by
from tilevision.adapters.frameworks.transformers_pipelines import object_limit
from tilevision.adapters.modelfiles import checked, content_of
from tilevision.adapters.packing import pack, unpack
from tilevision.errors import ModelError
from tilevision.findings import Findings
from tilevision.fingerprint import fingerprint_value, version
from tilevision.modelspec import Answers, ModelSpec
from tilevision.modelspec.spec import split

__all__ = ["SahiDetector", "declare", "load", "processes", "runtime"]

VERSION = 1
LIBRARY = "sahi"
_ULTRALYTICS = {"UltralyticsDetectionModel", "Yolov8DetectionModel", "YOLOE11DetectionModel"}
_PATHS = ("model_path", "config_path")
_SKIPPED = {"self", "args", "kwargs", "model", "device", "load_at_init", *_PATHS}


class SahiDetector:
    """A `DetectionModel` of SAHI, handed whole tiles in RGB as SAHI hands slices.

    Parameters
    ----------
    model : sahi.models.base.DetectionModel
    spec : ModelSpec
    """

    def __init__(self, model: Any, spec: ModelSpec) -> None:
        self._model = model
        self._spec = spec
        self.turn = threading.RLock()
        self.on_device = torch_device(spec.device) != "cpu"
        batched = hasattr(model, "perform_batch_inference")
        many = self._many if batched else None
        self._ask = Together.of(spec, self.on_device, self._one, many)

    def predict(self, batch: Sequence[NDArray[Any]]) -> Answers:
        """Return one `Findings` per tile ``(h, w, c)``; what SAHI leaves out is remarked upon."""
        with self.turn:
            found = self._ask(batch)
        task = getattr(getattr(self._model, "model", None), "task", None)
        further = ("key points",) if task == "pose" else ()
        remedy = "SAHI hands none on: pass the model itself, as ultralytics.YOLO"
        return Answers(found, remarks=unread(self._spec.name, further, remedy))

    def _one(self, tile: NDArray[Any]) -> Findings:
        shown = picture(tile)
        self._model.perform_inference(shown)
        self._convert([shown])
        return self._read(self._model.object_prediction_list, tile)

    def _many(self, tiles: list[NDArray[Any]]) -> list[Findings]:
        shown = [picture(tile) for tile in tiles]
        self._model.perform_batch_inference(shown)
        self._convert(shown)
        found = self._model.object_prediction_list_per_image
        return [self._read(one, tile) for one, tile in zip(found, tiles, strict=True)]

    def _convert(self, shown: list[NDArray[np.uint8]]) -> None:
        self._model.convert_original_predictions(
            shift_amount=[[0, 0] for _ in shown],
            full_shape=[list(one.shape[:2]) for one in shown],
        )

    def _read(self, found: list[Any], tile: NDArray[Any]) -> Findings:
        turned = _is_turned(self._model)
        polygons = [None if turned else _polygon(one, tile) for one in found]
        return in_tile(
            tile,
            [one.bbox.to_xyxy() for one in found],
            [one.score.value for one in found],
            [one.category.name for one in found],
            class_ids=[-1 if one.category.id is None else int(one.category.id) for one in found],
            polygons=polygons if any(shape is not None for shape in polygons) else None,
            oriented=[_corners(one) for one in found] if turned and found else None,
            most=self._spec.max_detections,
        )


def declare(value: Any, name: str, fingerprint: str | None, given: Mapping[str, Any]) -> ModelSpec:
    """Return the spec of a `DetectionModel`.

    Its own `confidence_threshold` is what decides what is recorded.

    Raises
    ------
    ModelError
        If it was made of a model in memory, its weights are no file, or a declaration makes no
        sense.
    """
    declared, params = split(name, given)
    if params or declared.get("bands") or declared.get("dtype", "uint8") != "uint8":
        wrong = next(iter(params), "bands or dtype")
        raise ModelError(f"A SAHI model takes no {wrong}; give it to the DetectionModel itself.")
    paths = {key: str(getattr(value, key)) for key in _PATHS if getattr(value, key, None)}
    files = {key: Path(path).resolve() for key, path in paths.items() if Path(path).exists()}
    if "model_path" not in files and fingerprint is None:
        problem = (
            f"model_path {paths['model_path']!r}, which is no file here"
            if paths.get("model_path")
            else "no model_path"
        )
        raise ModelError(
            f"SAHI model {name} has {problem}; workers load it anew: give model_path= as a file, "
            "or state its identity with tv.model(model, fingerprint='v1')."
        )
    arguments = _arguments(value) | paths | {key: str(path) for key, path in files.items()}
    content = {key: content_of(path) for key, path in files.items()}
    counted = {key: item for key, item in arguments.items() if key not in files}
    home = f"{type(value).__module__}:{type(value).__qualname__}"
    try:
        own = () if home.startswith("sahi.") else fingerprint_value(type(value))
    except ModelError:
        if fingerprint is None:
            raise
        own = ()
    identity = (
        *(VERSION, home, own, sorted(counted.items()), sorted(content.items()), fingerprint),
        *(version("sahi"), declared.get("nms"), declared.get("max_detections")),
        *(("masks by pixels",) if _has_masks(value) else ()),
        *(("corners",) if _is_turned(value) else ()),  # they were outlines of pixels
        *(("overlap of shapes",) if _has_masks(value) and declared.get("nms") else ()),
    )
    return ModelSpec(
        name=name,
        factory=f"{__name__}:load",
        fingerprint=fingerprint_value(identity),
        params={"arguments": arguments, "content": content},
        payload=pack(type(value), name),
        **{"names": _names(value)}
        | ({"max_detections": limit} if (limit := _limit(value)) else {})
        | declared,
    )


def _names(value: Any) -> tuple[str | None, ...] | None:
    """Return class names by number, as far as the model was told them or has read them."""
    given = getattr(value, "category_mapping", None)
    if not isinstance(given, Mapping) or not all(str(number).isdecimal() for number in given):
        return None
    named = {int(number): str(name) for number, name in given.items()}
    if max(named, default=MOST_CLASSES) >= MOST_CLASSES:
        return None
    return tuple(named.get(number) for number in range(max(named) + 1))


def runtime(spec: ModelSpec) -> str:
    """Return what this process would run the model on."""
    library("sahi")
    return f"sahi {version('sahi')}, {torch_runtime(spec)}"


def load(spec: ModelSpec) -> SahiDetector:
    """Make the `DetectionModel` that `spec` describes, on its device.

    Raises
    ------
    ModelError
        If its files are missing or have changed, or it cannot be made.
    """
    library("sahi")
    arguments = dict(spec.params["arguments"])
    for key, content in spec.params["content"].items():
        checked({"path": arguments[key], "content": content}, spec.name)
    device = torch_device(spec.device)
    library("torch").set_num_threads(1)  # there is a worker for each processor
    try:
        made = unpack(spec.payload)(**arguments, device=device)
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise ModelError(
            f"SAHI model {spec.name} cannot be made anew ({type(error).__name__}: {words}); "
            "check that what it needs is installed here."
        ) from error
    return SahiDetector(made, spec)


def _arguments(value: Any) -> dict[str, Any]:
    """Return what a model was made with, as it keeps it under the names of its arguments."""
    names: set[str] = set()
    for base in type(value).__mro__:
        if "__init__" in vars(base):
            names |= set(inspect.signature(vars(base)["__init__"]).parameters)
    kept = {name: getattr(value, name) for name in sorted(names - _SKIPPED) if hasattr(value, name)}
    plain = (str, int, float, bool, list, dict)
    return {name: item for name, item in kept.items() if isinstance(item, plain)}


def _polygon(found: Any, tile: NDArray[Any]) -> Any:
    """Return the outline of a mask, holes cut out: SAHI's own rings do not say which are holes."""
    if found.mask is None:
        return None
    return traced(np.asarray(found.mask.bool_mask, dtype=bool), tile)[1]


def _corners(found: Any) -> NDArray[np.float64]:
    """Return the corners of a rotated box, which SAHI keeps as the outline of a mask."""
    shape = np.ravel(found.mask.segmentation[0]) if found.mask is not None else ()
    return np.reshape(shape, (4, 2)) if len(shape) == 8 else np.full((4, 2), np.nan)


def _is_turned(value: Any) -> bool:
    """Return True if a model gives rotated boxes."""
    try:
        return bool(value.is_obb)
    except Exception:  # noqa: BLE001 - a model that is not loaded yet, or has no such word
        return False


def _limit(value: Any) -> int | None:
    """Return how many objects the library behind a model gives at most, by its default."""
    bases = {base.__name__ for base in type(value).__mro__}
    if bases & _ULTRALYTICS:
        return 300  # max_det of its predict()
    network = getattr(value, "model", None)  # None where it is not loaded yet
    config: Any = getattr(network, "config", None)
    if hasattr(config, "to_dict"):  # of transformers
        processor = getattr(value, "processor", None)
        return object_limit(config.to_dict(), type(processor).__name__ if processor else "")
    most = getattr(network, "max_det", None)  # of YOLOv5
    if not isinstance(most, int):
        most = stated_by(network).get(LIMIT)  # of torchvision
    return most if isinstance(most, int) else None


def _has_masks(value: Any) -> bool:
    try:
        return bool(value.has_mask)
    except Exception:  # noqa: BLE001 - a model that is not loaded yet cannot say
        return False
