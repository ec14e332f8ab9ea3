"""Models of Ultralytics. They take arrays as BGR, so tiles are turned round for them."""

from __future__ import annotations

import json
import os
import threading
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.classnames import class_name
from tilevision.adapters.frameworks.devices import library, processes, torch_device
from tilevision.adapters.frameworks.devices import runtime as torch_runtime
from tilevision.adapters.frameworks.frameworkkind import classes_of, names_of, strings_of
from tilevision.adapters.frameworks.tiles import (
    NAMES,
    REVISION,
    SHAPED,
    in_tile,
    picture,
    unread,
)
from tilevision.adapters.frameworks.together import Together
from tilevision.adapters.mapanswers import complete_map, raster_of
from tilevision.adapters.modelfiles import located
from tilevision.adapters.outlines import outline
from tilevision.checks import share
from tilevision.errors import ModelArgumentError, ModelError
from tilevision.findings import Findings
from tilevision.modelspec import Answers, ModelSpec

__all__ = ["UltralyticsDetector", "examine", "load", "processes", "runtime", "save", "stated_by"]

VERSION = 1
LIBRARY = "ultralytics"
HALVES = True
ANY_BANDS = False
PARAMS: dict[str, Any] = {"iou": 0.7}
MAPS = True
TASKS = ("detect", "segment", "obb", "pose", "classify", "semantic")
# Of what its `Results` hold.
_READ = {"boxes", "masks", "probs", "keypoints", "obb", "semantic_mask"}
_SHAPED = ("OBBModel", "SegmentationModel")
_MASKED = ("SegmentationModel", "YOLOESegModel")
_BY_PIXELS = "outlines by pixels"  # which were the library's own polygons
_SEMANTIC = "SemanticSegmentationModel"
SIDE = 640  # Ultralytics' own default


class UltralyticsDetector:
    """A `ultralytics.YOLO` on its device.

    Parameters
    ----------
    model : ultralytics.YOLO
    spec : ModelSpec
    """

    def __init__(self, model: Any, spec: ModelSpec) -> None:
        self._model = model
        self._spec = spec
        self._device = torch_device(spec.device)
        self.turn = threading.RLock()
        self.on_device = self._device != "cpu"
        self._further: set[str] = set()
        self._ask = Together.of(spec, self.on_device, self._one, self._many)
        self._precision = _halved() if spec.params.get("half") else {}

    def predict(self, batch: Sequence[NDArray[Any]]) -> Answers:
        """Return one `Findings` per tile ``(h, w, c)``; what is not read is remarked upon.

        Raises
        ------
        ModelError
            If it does not run on the tiles.
        """
        torch = library("torch")
        with self.turn:
            torch.set_num_threads(1)  # there is a worker for each processor
            self._further = set()
            return Answers(self._ask(batch), remarks=unread(self._spec.name, self._further))

    def _one(self, tile: NDArray[Any]) -> Findings:
        return self._many([tile])[0]

    def _many(self, tiles: list[NDArray[Any]]) -> list[Findings]:
        spec, tile = self._spec, tiles[0]
        width, height = spec.input_size or (SIDE, SIDE)
        try:
            results = self._model.predict(
                [np.ascontiguousarray(picture(one)[..., ::-1]) for one in tiles],
                imgsz=[height, width],
                conf=max(spec.params["score_floor"], 1e-6),
                iou=spec.params["iou"],
                max_det=spec.max_detections or 1000,
                device=self._device,
                verbose=False,
                save=False,
                **self._precision,
            )
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            words = " ".join(str(error).split())[-200:]
            raise ModelError(
                f"Model {spec.name} does not run on a tile of {tile.shape[1]}×{tile.shape[0]} px "
                f"({type(error).__name__}: {words}); check input_size=."
            ) from error
        for result in results:
            parts = set(getattr(result, "_keys", ())) - _READ
            self._further.update(part for part in parts if getattr(result, part, None) is not None)
        return [self._read(result, one) for result, one in zip(results, tiles, strict=True)]

    def _read(self, result: Any, tile: NDArray[Any]) -> Findings:
        names = result.names if self._spec.params["names"] is None else self._spec.params["names"]
        floor = self._spec.params["score_floor"]
        seen: Any = getattr(result, "semantic_mask", None)
        if seen is not None and self._spec.raster is not None:
            whole = seen.data[: tile.shape[0], : tile.shape[1]]
            return raster_of(whole, self._spec.raster, self._spec.name)
        if result.probs is not None:
            scores = result.probs.data.float().cpu().numpy()
            rows = np.flatnonzero(scores >= floor)
            return Findings(tile_scores={class_name(int(r), names): float(scores[r]) for r in rows})
        found = result.obb if result.obb is not None else result.boxes
        boxes = found.xyxy.float().cpu().numpy()
        numbers = found.cls.cpu().numpy().astype(np.int64)
        polygons = None
        if result.masks is not None:
            polygons = _outlines(result.masks.data, result.orig_shape)
        return in_tile(
            tile,
            boxes,
            found.conf.float().cpu().numpy(),
            [class_name(int(number), names) for number in numbers],
            class_ids=numbers,
            polygons=polygons,
            keypoints=_keypoints(result),
            oriented=None if result.obb is None else result.obb.xyxyxyxy.float().cpu().numpy(),
            floor=floor,
            most=self._spec.max_detections,
        )


def _outlines(masks: Any, shape: tuple[int, int]) -> list[Any]:
    """Return the outlines of masks ``(n, h, w)`` of what the network saw, in pixels of a picture.

    The library's own polygons go through the middles of pixels, close holes and tie pieces
    together: a square of 10 pixels would have an area of 81.

    Parameters
    ----------
    masks : tensor
        The picture's lie in their middle, shrunk or enlarged as the library does it.
    shape : tuple of int
        Height and width of the picture.
    """
    seen = masks.cpu().numpy() > 0
    gain = min(seen.shape[1] / shape[0], seen.shape[2] / shape[1])
    sides = [max(round(side * gain), 1) for side in shape]
    top, left = (round((seen.shape[1 + axis] - sides[axis]) / 2 - 0.1) for axis in (0, 1))
    inner = seen[:, top : top + sides[0], left : left + sides[1]]
    scale = np.array([shape[1] / sides[1], shape[0] / sides[0]])
    return [_scaled(_outline(mask), scale) for mask in inner]


def _outline(mask: NDArray[np.bool_]) -> Any:
    """Return the outline of a mask; None where it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    inner = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return outline(inner, (float(columns[0]), float(rows[0])))


def _scaled(parts: Any, scale: NDArray[np.float64]) -> Any:
    return None if parts is None else [[ring * scale for ring in part] for part in parts]


def _keypoints(result: Any) -> NDArray[Any] | None:
    """Return key points ``(n, k, 3)``; where a model gives no confidence, it is 1."""
    if result.keypoints is None:
        return None
    points = result.keypoints.data.float().cpu().numpy()
    if not points.size:
        return None
    if points.shape[2] == 3:
        return np.asarray(points)
    return np.concatenate([points, np.ones((*points.shape[:2], 1), points.dtype)], axis=2)


def stated_by(value: Any) -> dict[str, Any]:
    """Return what a model says of itself: nothing that its file does not."""
    _check_task(type(value).__name__, getattr(value, "task", None))
    return {}


def save(value: Any, folder: Path) -> Path:
    """Write a model into `folder`, without the date that Ultralytics would write with it."""
    torch = library("torch")
    if not isinstance(value.model, torch.nn.Module):
        path = Path(str(value.model))
        raise ModelError(f"Model {path.name} is a file of its own; pass its path instead.")
    path = folder / "model.pt"
    arguments = dict(value.overrides)
    kept = {key: arguments[key] for key in ("imgsz", "single_cls") if key in arguments}
    torch.save({"model": value.model, "train_args": {"task": value.task, **kept}}, path)
    return path


def examine(name: str, kind: str, path: Path, params: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    """Return the fields of the spec that the file decides, and complete the parameters.

    Raises
    ------
    ModelError
        If `iou` is none.
    """
    share(f"iou of model {name}", params["iou"], ModelArgumentError, zero=False)
    if path.suffix == ".torchscript":
        return _scripted(name, path, params)
    told = dict(strings_of(path))
    classes = [str(one) for one in classes_of(path)]
    semantic = any(one.endswith(_SEMANTIC) for one in classes)
    _check_task(name, told.get("task"))
    if semantic or params.get("returns"):
        _complete(name, semantic, names_of(path), params)
    side = told.get("imgsz")
    side = side if isinstance(side, int) and side > 0 else SIDE
    fields: dict[str, Any] = {"input_size": (side, side), NAMES: names_of(path)}
    fields[SHAPED] = any(one.endswith(_SHAPED) for one in classes)
    if any(one.rpartition(" ")[2] in _MASKED for one in classes):
        fields[REVISION] = _BY_PIXELS
    whole = semantic or told.get("task") == "classify"
    return fields | ({"max_detections": None} if whole else {})


def _scripted(name: str, path: Path, params: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the spec that a scripted file decides: what its exporter noted in it."""
    with zipfile.ZipFile(path) as archive:
        noted = next(one for one in archive.namelist() if one.endswith("extra/config.txt"))
        told = json.loads(archive.read(noted).rstrip(b"\0") or b"{}")
    task, listed, sides = told.get("task"), told.get("names"), told.get("imgsz")
    _check_task(name, task)
    numbered = isinstance(listed, Mapping) and all(str(number).isdecimal() for number in listed)
    names = {int(number): str(label) for number, label in listed.items()} if numbered else {}
    if task == "semantic" or params.get("returns"):
        _complete(name, task == "semantic", names, params)
    sides = [sides] * 2 if isinstance(sides, int) else sides
    known = isinstance(sides, list) and len(sides) == 2 and all(isinstance(n, int) for n in sides)
    height, width = sides if known and min(sides) > 0 else (SIDE, SIDE)
    fields: dict[str, Any] = {"input_size": (width, height), NAMES: names}
    fields[SHAPED] = task in ("obb", "segment")
    revised = {REVISION: _BY_PIXELS} if task == "segment" else {}
    return fields | revised | ({"max_detections": None} if task == "semantic" else {})


def _complete(name: str, semantic: bool, names: Mapping[int, str], params: dict[str, Any]) -> None:
    """Enter what map the file of a semantic model gives: of class numbers, as the library's."""
    if not semantic or params.get("returns", "classes") != "classes":
        raise ModelArgumentError(
            f"returns of model {name} is {params.get('returns')!r:.80}, and Ultralytics gives maps "
            "of class numbers, with semantic models alone; leave it out."
        )
    if any(params.get(key) for key in ("activation", "unit", "keep")):
        raise ModelArgumentError(
            f"Model {name} gives class numbers as Ultralytics does; leave activation, unit and "
            "keep out."
        )
    params["returns"] = "classes"
    given = {str(number): label for number, label in names.items()}
    planes = max(names) + 1 if names else None
    complete_map(name, params, planes, params["names"] or given or None)


def runtime(spec: ModelSpec) -> str:
    """Return what this process would run the model on."""
    return f"ultralytics {_library().__version__}, {torch_runtime(spec)}"


def load(spec: ModelSpec) -> UltralyticsDetector:
    """Open the model that `spec` describes.

    Raises
    ------
    ModelError
        If its file is missing, has changed or cannot be opened, or its task is not supported.
    """
    spec = located(spec)
    path = Path(spec.params["path"])
    ultralytics = _library()
    torch_runtime(spec)  # Ultralytics itself ignores half=True on a processor
    try:
        model = ultralytics.YOLO(str(path))
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise ModelError(
            f"Model {spec.name}: ultralytics {ultralytics.__version__} cannot open {path} "
            f"({type(error).__name__}: {words}); check that it is whole."
        ) from error
    _check_task(spec.name, model.task)
    return UltralyticsDetector(model, spec)


def _halved() -> dict[str, Any]:
    """Return the argument that has Ultralytics compute in half precision, by its version's name."""
    known = library("ultralytics.utils").DEFAULT_CFG_DICT
    return {"quantize": 16} if "quantize" in known else {"half": True}


def _library() -> Any:
    # On a worker nothing is installed or sent behind the user's back.
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ.setdefault("YOLO_OFFLINE", "true")
    library("torchvision")
    return library("ultralytics")


def _check_task(name: str, task: Any) -> None:
    if isinstance(task, str) and task not in TASKS:
        raise ModelError(
            f"Model {name} is for {task}, which is not read; there are {', '.join(TASKS)}, or "
            "pass a function."
        )
