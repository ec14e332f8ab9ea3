"""Encoders of transformers: what ``image-feature-extraction`` pipelines do, pooled to a vector."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from tilevision.adapters.frameworks.devices import fed, library, placed
from tilevision.adapters.frameworks.frameworkkind import FEATURES
from tilevision.adapters.frameworks.pooling import check_pooling, pooled
from tilevision.adapters.frameworks.tiles import NOTES, picture
from tilevision.adapters.frameworks.together import NetworkInput, Together
from tilevision.adapters.vectors import vector_of
from tilevision.errors import ModelError
from tilevision.findings import Findings
from tilevision.modelspec import Answers, ModelSpec, Steps

__all__ = ["TransformersEncoder", "prepared"]

# What stands before the patches, as the networks call it: the class token first.
_CLASS = ("cls_token", "class_token", "class_embedding")
_BESIDE = ("register_tokens", "distillation_token")
# The vectors of pictures that pairs of text and picture are compared by.
_PAIRED = ("get_image_features", "visual_projection")
_RANDOM = ("vit_mae",)  # drops patches by chance: no two answers are the same


class TransformersEncoder:
    """A network and its image processor on their device.

    Parameters
    ----------
    spec : ModelSpec
    device : str
        As PyTorch calls it.
    """

    def __init__(self, spec: ModelSpec, device: str) -> None:
        transformers = library("transformers")
        self._spec = spec
        path = spec.params["path"]
        try:
            network = placed(_opened(spec), spec, device)
            self._pipeline = transformers.pipeline(
                FEATURES, model=network, image_processor=path, device=device
            )
        except ModelError:
            raise
        except Exception as error:
            words = " ".join(str(error).split())[:200]
            raise ModelError(
                f"Model {spec.name}: transformers {transformers.__version__} cannot open {path} as "
                f"{FEATURES} ({type(error).__name__}: {words}); save network and image processor "
                "together with pipeline.save_pretrained."
            ) from error
        self.turn = threading.RLock()
        self.on_device = device != "cpu"
        self._ask = Together.of(spec, self.on_device, self._one, self._many)
        self.steps = Steps(self._shown, self._compute, Answers)

    def predict(self, batch: Sequence[NDArray[Any]]) -> Answers:
        """Return one vector per tile ``(h, w, 3)``.

        Raises
        ------
        ModelError
            If the network does not run on a tile, or gives no such vector.
        """
        return Answers(self._compute(self._shown(batch)))

    def _shown(self, batch: Sequence[NDArray[Any]]) -> list[NetworkInput]:
        """Return tiles as the network takes them, in the processor's memory."""
        library("torch").set_num_threads(1)  # there is a worker for each processor
        items = []
        for tile in batch:
            shown = Image.fromarray(picture(tile)).crop((0, 0, tile.shape[1], tile.shape[0]))
            with self._running(tile):
                items.append(NetworkInput(tile, self._pipeline.preprocess(shown)))
        return items

    def _compute(self, items: list[NetworkInput]) -> list[Findings]:
        torch = library("torch")
        with self.turn, torch.inference_mode():
            torch.set_num_threads(1)  # as above
            return self._ask(items)

    def _one(self, item: NetworkInput) -> Findings:
        return self._many([item])[0]

    @contextmanager
    def _running(self, tile: NDArray[Any]) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            words = " ".join(str(error).split())[-200:]
            raise ModelError(
                f"Model {self._spec.name} ({FEATURES}) does not run on a tile of "
                f"{tile.shape[1]}×{tile.shape[0]} px ({type(error).__name__}: {words}); pass a "
                "function that calls it."
            ) from error

    def _many(self, items: list[NetworkInput]) -> list[Findings]:
        params, name = self._spec.params, self._spec.name
        with self._running(items[0].tile):
            parts = [item.values for item in items]
            values = self._features(parts, params["pooling"] == "model")
        if values is None:
            raise ModelError(
                f"Model {name} gives no vector of its own; give pooling='mean', or 'cls' where it "
                "has a class token."
            )
        rows = values.float().cpu().numpy()
        if params["pooling"] == "model":
            return [vector_of(row.reshape(-1), name) for row in rows]  # maps keep (d, 1, 1)
        pooling, prefix = params["pooling"], params["prefix_tokens"]
        return [vector_of(pooled(row, pooling, prefix, name), name) for row in rows]

    def _features(self, parts: list[Any], own: bool) -> Any:
        """Return the library's own vectors (b, d), or features of the patches (b, n, d)."""
        network = self._pipeline.model
        cat, device = library("torch").cat, network.device
        whole = {key: cat([part[key] for part in parts]) for key in parts[0]}
        inputs = {key: fed(value, self._spec, str(device)) for key, value in whole.items()}
        if hasattr(network, "get_image_features"):  # a network of text and picture
            if not own:
                return network.vision_model(**inputs).last_hidden_state
            answer = network.get_image_features(**inputs)
            return getattr(answer, "pooler_output", answer)
        answer = network(**inputs)
        if not own:
            return answer.last_hidden_state
        vector = getattr(answer, "image_embeds", None)
        return getattr(answer, "pooler_output", None) if vector is None else vector


def prepared(
    name: str,
    path: Path,
    config: Mapping[str, Any],
    processor: Mapping[str, Any],
    params: dict[str, Any],
) -> dict[str, Any]:
    """Return the fields of the spec that the folder decides, and complete the parameters.

    Parameters
    ----------
    name : str
    path : Path
        The folder.
    config, processor : mapping
        What it says of the network, and of how pictures are prepared.
    params : dict
        Gains ``pooling`` where none was asked for, and ``prefix_tokens``.

    Raises
    ------
    ModelError
        If it is no encoder of pictures, or has no image processor.
    """
    if not processor:
        raise ModelError(
            f"{str(path)!r} has no preprocessor_config.json, which says how pictures are prepared; "
            "save the image processor into the folder, too."
        )
    if config.get("model_type") in _RANDOM:
        raise ModelError(
            f"Model {name} leaves out patches by chance, so it never says the same of a tile; load "
            "the encoder alone: transformers.ViTModel.from_pretrained."
        )
    parts = _parts(path, config, name)
    token = any(part.endswith(_CLASS) for part in parts)
    asked = params.get("pooling")
    params["pooling"] = asked or _usual(parts)
    check_pooling(name, params["pooling"], token)
    params["prefix_tokens"] = sum(
        1 if part.endswith(_CLASS) else shape[-2]
        for part, shape in parts.items()
        if part.endswith((*_CLASS, *_BESIDE))
    )
    size, said = _size(processor)
    notes = (f"Model {name}, by its image processor: {said}; pooling {params['pooling']!r}.",)
    return {"max_detections": None, "input_size": size, NOTES: notes}


def _usual(parts: Mapping[str, Any]) -> str:
    """Return the pooling of a network: its own vector, where its weights are known to be trained.

    A dense layer over the class token is left untrained by most ways of training, and is then
    filled with random numbers when a checkpoint is opened.
    """
    return "cls" if any("pooler.dense" in part for part in parts) else "model"


def _parts(path: Path, config: Mapping[str, Any], name: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's tensors by name, without its weights.

    Raises
    ------
    ModelError
        If the library does not know the network.
    """
    torch, transformers = library("torch"), library("transformers")
    try:
        settings = transformers.AutoConfig.from_pretrained(str(path))
        with torch.device("meta"):
            kind = _class_of(config)
            network = kind(settings) if kind else transformers.AutoModel.from_config(settings)
        tower = getattr(network, "vision_model", network)
        own = {part for part in _PAIRED if hasattr(network, part)}
        shapes = {part: tuple(value.shape) for part, value in tower.named_parameters()}
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise ModelError(
            f"Model {name}: transformers {transformers.__version__} cannot make the network of "
            f"{path} ({type(error).__name__}: {words}); pass a function that calls it."
        ) from error
    return shapes if not own else {part: s for part, s in shapes.items() if "pooler" not in part}


def _class_of(config: Mapping[str, Any]) -> Any:
    """Return the class a folder names, where it gives features; None where it has a head."""
    architecture = str((config.get("architectures") or [""])[0])
    if "For" in architecture:
        return None
    return getattr(library("transformers"), architecture, None) if architecture else None


def _opened(spec: ModelSpec) -> Any:
    """Open the network, and make sure that what the vector rests on has weights in the folder.

    Raises
    ------
    ModelError
        If some are missing, which the library fills with random numbers.
    """
    transformers = library("transformers")
    path = Path(spec.params["path"])
    config = transformers.AutoConfig.from_pretrained(str(path))
    kind = _class_of(config.to_dict()) or transformers.AutoModel
    level = logging.getLogger("transformers").level
    logging.getLogger("transformers").setLevel(logging.ERROR)  # what is missing is said below
    try:
        network, told = kind.from_pretrained(str(path), output_loading_info=True)
    finally:
        logging.getLogger("transformers").setLevel(level)
    own = spec.params["pooling"] == "model"
    missing = [part for part in sorted(told["missing_keys"]) if own or "pooler" not in part]
    if missing:
        raise ModelError(
            f"Model {spec.name}: {path} has no weights for {', '.join(missing[:3])}, which would "
            "be random; save the whole network"
            + (", or give pooling='cls' or 'mean'." if "pooler" in missing[0] else ".")
        )
    return network.eval()


def _size(processor: Mapping[str, Any]) -> tuple[tuple[int, int] | None, str]:
    """Return the size (width, height) that tiles are brought to, and all that is done, in words."""
    size, crop = processor.get("size"), processor.get("crop_size")
    width, height = _sides(size) if processor.get("do_resize", True) else (0, 0)
    inner = _sides(crop) if processor.get("do_center_crop") else (0, 0)
    said = [f"a tile is brought to {width} × {height} px" if width else "a tile keeps its size"]
    if inner[0]:
        said.append(f"of which the middle {inner[0]} × {inner[1]} px count")
    if processor.get("do_normalize", True):
        for key, word in (("image_mean", "mean"), ("image_std", "deviation")):
            told = processor.get(key)
            if isinstance(told, (list, tuple)):
                said.append(f"{word} {', '.join(f'{value:.3f}' for value in told)}")
    else:
        said.append("not normalised")
    first, rest = said[0], said[1:]
    chosen = (width, height) if width else inner
    return (chosen if chosen[0] else None), ", ".join([first, *rest])


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if not isinstance(size, Mapping):
        return 0, 0
    if "height" in size and "width" in size:
        return int(size["width"]), int(size["height"])
    edge = int(size.get("shortest_edge") or 0)
    return edge, edge
