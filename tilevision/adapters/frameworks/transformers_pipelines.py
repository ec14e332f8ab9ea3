"""Pipelines of transformers: detection, instances, classification and encoders of pictures."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tilevision.adapters.frameworks.devices import library, placed, processes, torch_device
from tilevision.adapters.frameworks.devices import runtime as torch_runtime
from tilevision.adapters.frameworks.feature_pipelines import TransformersEncoder, prepared
from tilevision.adapters.frameworks.frameworkkind import FEATURES
from tilevision.adapters.frameworks.segmentation_pipelines import (
    SEGMENTATION,
    TransformersSegmenter,
    semantic_fields,
)
from tilevision.adapters.frameworks.tiles import (
    LIMIT,
    NAMES,
    REVISION,
    SHAPED,
    in_tile,
    picture,
    traced,
    unread,
)
from tilevision.adapters.frameworks.together import Together
from tilevision.adapters.modelfiles import located, read_json
from tilevision.errors import ModelError
from tilevision.findings import Findings
from tilevision.modelspec import Answers, ModelSpec

__all__ = [
    "TransformersDetector",
    "examine",
    "load",
    "object_limit",
    "processes",
    "runtime",
    "save",
    "stated_by",
]

VERSION = 1
LIBRARY = "transformers"
HALVES = True
ANY_BANDS = False
ENCODES = MAPS = True
POOLS = PROMPTED = True
PARAMS: dict[str, Any] = {"task": None, "candidate_labels": None}
TASKS = (
    *("object-detection", "zero-shot-object-detection"),
    *(SEGMENTATION, "image-classification", FEATURES),
)
# How the class of a saved network ends, to the task it is for.
_ENDINGS = {
    "ForObjectDetection": "object-detection",
    "ForImageClassification": "image-classification",
    "ForInstanceSegmentation": "image-segmentation",
    "ForUniversalSegmentation": "image-segmentation",
    "DetrForSegmentation": "image-segmentation",
}
# Image processors that keep the best pairs of query and class, by default so many; and networks
# that are saved with one of them.
_TOP_ONLY, _TOP = ("DeformableDetr", "ConditionalDetr", "Deta"), 100
_OF_TOP_ONLY = ("deformable_detr", "conditional_detr", "deta", "lw_detr", "dab-detr", "dab_detr")
_READ = ("score", "label", "box", "mask")
_ZERO_SHOT = ("OwlViT", "Owlv2", "GroundingDino", "MMGroundingDino", "OmDet")


class TransformersDetector:
    """A pipeline on its device.

    Parameters
    ----------
    pipeline : transformers.Pipeline
    spec : ModelSpec
    """

    def __init__(self, pipeline: Any, spec: ModelSpec) -> None:
        self._pipeline = pipeline
        self._spec = spec
        self._numbers = {
            str(label): int(number)
            for number, label in (getattr(pipeline.model.config, "id2label", None) or {}).items()
        }
        self.turn = threading.RLock()
        self.on_device = torch_device(spec.device) != "cpu"
        self._further: set[str] = set()
        self._ask = Together.of(spec, self.on_device, self._one, self._many)

    def predict(self, batch: Sequence[NDArray[Any]]) -> Answers:
        """Return one `Findings` per tile ``(h, w, c)``; what is not read is remarked upon.

        Raises
        ------
        ModelError
            If the pipeline does not run on a tile.
        """
        torch = library("torch")
        with self.turn:
            torch.set_num_threads(1)  # there is a worker for each processor
            self._further = set()
            return Answers(self._ask(batch), remarks=unread(self._spec.name, self._further))

    def _one(self, tile: NDArray[Any]) -> Findings:
        return self._many([tile])[0]

    def _many(self, tiles: list[NDArray[Any]]) -> list[Findings]:
        params, tile = self._spec.params, tiles[0]
        shown = [Image.fromarray(picture(one)) for one in tiles]
        try:
            answers = self._answers(shown)
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
            words = " ".join(str(error).split())[-200:]
            raise ModelError(
                f"Model {self._spec.name} ({params['task']}) does not run on a tile of "
                f"{tile.shape[1]}×{tile.shape[0]} px ({type(error).__name__}: {words}); check the "
                "task, or try other tile sizes."
            ) from error
        return [self._read(rows, one) for rows, one in zip(answers, tiles, strict=True)]

    def _answers(self, shown: list[Any]) -> list[Any]:
        """Ask the pipeline about pictures of one size; return the rows of each."""
        params = self._spec.params
        floor, each = params["score_floor"], {"batch_size": len(shown)}
        if params["task"] == "image-classification":
            answers = self._pipeline(shown, top_k=max(1, len(self._numbers)), **each)
        elif params["task"] == "zero-shot-object-detection":
            labels = params["candidate_labels"]
            asked = [{"image": one, "candidate_labels": labels} for one in shown]
            answers = self._pipeline(asked, threshold=floor, **each)
        elif params["task"] == SEGMENTATION:
            answers = self._pipeline(shown, threshold=floor, subtask="instance", **each)
        else:
            answers = self._pipeline(shown, threshold=floor, **each)
        return list(answers)

    def _read(self, rows: Sequence[Mapping[str, Any]], tile: NDArray[Any]) -> Findings:
        if self._spec.params["task"] == "image-classification":
            floor = self._spec.params["score_floor"]
            scores = {row["label"]: row["score"] for row in rows if row["score"] >= floor}
            return Findings(tile_scores=scores)
        self._further.update(key for row in rows for key in row if key not in _READ)
        polygons = None
        if self._spec.params["task"] == SEGMENTATION:
            shapes = [traced(np.asarray(row["mask"]) > 0, tile) for row in rows]
            boxes: Any = [box or [0.0] * 4 for box, _ in shapes]
            polygons = [shape for _, shape in shapes]
        else:
            edges = ("xmin", "ymin", "xmax", "ymax")
            boxes = [[row["box"][edge] for edge in edges] for row in rows]
        names = self._spec.params["names"]
        numbers = [self._numbers.get(row["label"], -1) for row in rows]
        labels = [
            _named(row["label"], number, names) for row, number in zip(rows, numbers, strict=True)
        ]
        return in_tile(
            tile,
            boxes,
            [float("nan") if row["score"] is None else row["score"] for row in rows],
            labels,
            class_ids=numbers,
            polygons=polygons,
            floor=self._spec.params["score_floor"],
            most=self._spec.max_detections,
        )


def _named(label: str, number: int, names: Any) -> str:
    """Return the user's name of a class, else the model's."""
    if isinstance(names, Mapping):
        return str(names.get(str(number), label))
    return str(names[number]) if names and 0 <= number < len(names) else label


def stated_by(value: Any) -> dict[str, Any]:
    """Return what a pipeline says of itself: its task."""
    return {"task": value.task}


def save(value: Any, folder: Path) -> Path:
    """Write a pipeline into `folder`: its network and what prepares pictures and words."""
    value.save_pretrained(str(folder))
    return folder


def examine(name: str, kind: str, path: Path, params: Any) -> dict[str, Any]:  # noqa: ARG001
    """Return the fields of the spec that the folder decides, and complete the parameters.

    Raises
    ------
    ModelError
        If it is no saved model, or its task is unknown or not supported.
    """
    config = _config(path)
    architecture = str((config.get("architectures") or [""])[0])
    if (asked := _worded(name, architecture, config, params)) is not None:
        return {"input_size": _size(path), **asked}
    if params.get("returns") == "embedding":
        if params["task"] not in (None, FEATURES):
            raise ModelError(
                f"Model {name} is given returns='embedding' and task={params['task']!r}; leave "
                f"task out, or give {FEATURES!r}."
            )
        params["task"] = FEATURES
        return prepared(name, path, config, _processor(path), params)
    if params.get("returns") or "SemanticSegmentation" in architecture:
        found = semantic_fields(name, architecture, _names(config), params)
        return {"input_size": _size(path), **found}
    params["task"] = params["task"] or _task_of(architecture)
    if params["task"] not in TASKS:
        raise ModelError(
            f"task of model {name} is {params['task']!r} ({architecture or 'no architecture'}); "
            f"give task= as one of {', '.join(TASKS)}."
        )
    words = params["candidate_labels"]
    if params["task"] == "zero-shot-object-detection":
        _check_words(name, words)
    if params["task"] == "image-classification":
        return {"max_detections": None, "input_size": _size(path), NAMES: _names(config)}
    names = _names(config)
    limit = object_limit(config, str(_processor(path).get("image_processor_type", "")))
    if params["task"] == "zero-shot-object-detection":
        names = dict(enumerate(words))
        limit = None if limit is None else limit * len(words)  # they are looked for one by one
    found = {"input_size": _size(path), LIMIT: limit, NAMES: names}
    found[SHAPED] = params["task"] == SEGMENTATION
    if "object-detection" in params["task"]:
        found[REVISION] = "boxes in fractions of pixels"
    return found


def _config(path: Path) -> dict[str, Any]:
    config = read_json(path / "config.json")
    if not config:
        raise ModelError(
            f"{str(path)!r} has no config.json, so it is no model that transformers saved; give "
            "the folder that save_pretrained wrote."
        )
    return config


def _check_words(name: str, words: Any) -> None:
    if not (isinstance(words, list) and words and all(isinstance(word, str) for word in words)):
        raise ModelError(
            f"Model {name} needs the names of what it looks for; give prompts=['ship', 'car']."
        )


def _worded(
    name: str, architecture: str, config: Mapping[str, Any], params: dict[str, Any]
) -> dict[str, Any] | None:
    """Return the fields of a model that is asked in words; None where a pipeline is opened.

    Raises
    ------
    ModelError
        If it takes no prompts, or is given none and finds nothing without.
    """
    from tilevision.adapters.prompted import takes_words_alone, worded

    if "prompts" in params:
        return worded(name, architecture, config, params)
    asks = takes_words_alone(architecture) and not params["candidate_labels"]
    if asks and not params.get("returns"):
        raise ModelError(
            f"Model {name} ({architecture}) finds what prompts name; give prompts=['ship', 'car']."
        )
    return None


def runtime(spec: ModelSpec) -> str:
    """Return what this process would run the model on."""
    return f"transformers {library('transformers').__version__}, {torch_runtime(spec)}"


def load(spec: ModelSpec) -> Any:
    """Open the pipeline that `spec` describes, on its device.

    Raises
    ------
    ModelError
        If its folder is missing, has changed or cannot be opened, or the device is missing.
    """
    spec = located(spec)
    params, path = spec.params, Path(spec.params["path"])
    device = torch_device(spec.device)
    if params.get("prompts"):
        from tilevision.adapters import prompted

        architecture = read_json(path / "config.json")["architectures"][0]
        return prompted.load(spec, architecture, device)
    transformers = library("transformers")
    transformers.utils.logging.disable_progress_bar()  # in a worker's log it tells nobody anything
    if params["task"] == FEATURES:
        return TransformersEncoder(spec, device)
    try:
        own = _whole(transformers, path)
        made = transformers.pipeline(params["task"], model=str(path), device=device, **own)
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise ModelError(
            f"Model {spec.name}: transformers {transformers.__version__} cannot open {path} as "
            f"{params['task']} ({type(error).__name__}: {words}); save network and image "
            "processor together with pipeline.save_pretrained."
        ) from error
    made.model = placed(made.model, spec, device)
    if params.get("returns"):
        return TransformersSegmenter(made, spec)
    _check_instances(made, spec)
    if hasattr(made, "_get_bounding_box"):
        made._get_bounding_box = _exact  # noqa: SLF001 - its own cuts boxes to whole pixels
    return TransformersDetector(made, spec)


def _whole(transformers: Any, path: Path) -> dict[str, Any]:
    """Return what keeps the library from downloading weights of a backbone.

    Before version 5 it does, only to put those of the folder in their place.
    """
    early = int(transformers.__version__.partition(".")[0]) < 5
    if not early or not read_json(path / "config.json").get("use_pretrained_backbone"):
        return {}
    return {"model_kwargs": {"use_pretrained_backbone": False}}


def _exact(box: Any) -> dict[str, float]:
    """Return a box as pipelines give them, in fractions of pixels as the network gives it."""
    return dict(zip(("xmin", "ymin", "xmax", "ymax"), box.tolist(), strict=True))


def _check_instances(pipeline: Any, spec: ModelSpec) -> None:
    processor = getattr(pipeline, "image_processor", None)
    if spec.params["task"] == SEGMENTATION and not hasattr(
        processor, "post_process_instance_segmentation"
    ):
        raise ModelError(
            f"Model {spec.name} finds no objects with its image processor; give "
            "returns='probabilities' or 'classes' for a semantic map."
        )


def _task_of(architecture: str) -> str | None:
    if architecture.startswith(_ZERO_SHOT):
        return "zero-shot-object-detection"
    return next((task for end, task in _ENDINGS.items() if architecture.endswith(end)), None)


def _names(config: Mapping[str, Any]) -> dict[int, str]:
    """Return class names by number; those that nobody has written down are ``LABEL_0``, ..."""
    noted = config.get("id2label")
    if not isinstance(noted, dict) or not all(str(number).isdecimal() for number in noted):
        return {}
    return {int(number): str(name) for number, name in noted.items()}


def object_limit(config: Mapping[str, Any], processor: str = "") -> int | None:
    """Return how many objects a picture can have: one for each query, or what is kept of them.

    Parameters
    ----------
    config : mapping
        What ``config.json`` of a network says.
    processor : str
        The class of its image processor, where it is known.
    """
    parts = (config, config.get("decoder_config"), config.get("vision_config"))
    told = [part for part in parts if isinstance(part, Mapping)]
    for key in ("num_queries", "num_detection_tokens"):
        for places in (part.get(key) for part in told):
            if isinstance(places, int) and places > 0:
                of_few = config.get("model_type") in _OF_TOP_ONLY
                few = processor.startswith(_TOP_ONLY) if processor else of_few
                return min(places, _TOP) if few else places
    if str(config.get("model_type")) not in ("owlvit", "owlv2"):
        return None
    size, patch = (told[-1].get(key) for key in ("image_size", "patch_size"))
    return (size // patch) ** 2 if isinstance(size, int) and isinstance(patch, int) else None


def _processor(path: Path) -> Mapping[str, Any]:
    """Return what a folder says of how pictures are prepared."""
    told = read_json(path / "preprocessor_config.json")
    found: Mapping[str, Any] = told or read_json(path / "processor_config.json").get(
        "image_processor", {}
    )
    return found


def _size(path: Path) -> tuple[int, int] | None:
    """Return width and height of the pictures that the network sees, where they are fixed."""
    size = _processor(path).get("size")
    if not isinstance(size, dict) or not {"height", "width"} <= set(size):
        return None
    return int(size["width"]), int(size["height"])
