"""Encoders of timm, by object: prepared by their own configuration, pooled as they say."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from tilevision.adapters.frameworks.devices import fed, library, placed, processes, torch_device
from tilevision.adapters.frameworks.devices import runtime as torch_runtime
from tilevision.adapters.frameworks.networkfiles import opened_file
from tilevision.adapters.frameworks.pooling import check_pooling, pooled
from tilevision.adapters.frameworks.tiles import NOTES, picture
from tilevision.adapters.frameworks.together import NetworkInput, Together
from tilevision.adapters.frameworks.torch_modules import save
from tilevision.adapters.modelfiles import located
from tilevision.adapters.vectors import vector_of
from tilevision.errors import ModelError
from tilevision.findings import Findings
from tilevision.modelspec import Answers, ModelSpec, Steps

__all__ = ["TimmEncoder", "examine", "load", "processes", "runtime", "save", "stated_by"]

VERSION = 1
LIBRARY = "timm"
HALVES = True
ANY_BANDS = False
ENCODES = True
POOLS = True
ONLY_ENCODES = True
PARAMS: dict[str, Any] = {"preparation": None, "prefix_tokens": None, "class_token": None}


class TimmEncoder:
    """A network of timm on its device, called with the tiles of a batch.

    Parameters
    ----------
    network : torch.nn.Module
    spec : ModelSpec
    """

    def __init__(self, network: Any, spec: ModelSpec) -> None:
        data = library("timm.data")
        self._network = network
        self._spec = spec
        self._device = torch_device(spec.device)
        self._prepare = data.create_transform(
            **_as_timm(spec.params["preparation"]), is_training=False
        )
        self.turn = threading.RLock()
        self.on_device = self._device != "cpu"
        self._ask = Together.of(spec, self.on_device, self._one, self._many)
        self.steps = Steps(self._shown, self._compute, Answers)

    def predict(self, batch: Sequence[NDArray[Any]]) -> Answers:
        """Return one vector per tile ``(h, w, 3)``.

        Raises
        ------
        ModelError
            If the network does not run on a tile.
        """
        return Answers(self._compute(self._shown(batch)))

    def _shown(self, batch: Sequence[NDArray[Any]]) -> list[NetworkInput]:
        """Return tiles as the network takes them, in the processor's memory."""
        library("torch").set_num_threads(1)  # there is a worker for each processor
        pictures = [Image.fromarray(picture(t)).crop((0, 0, t.shape[1], t.shape[0])) for t in batch]
        return [NetworkInput(t, self._prepare(p)) for t, p in zip(batch, pictures, strict=True)]

    def _compute(self, items: list[NetworkInput]) -> list[Findings]:
        torch = library("torch")
        with self.turn, torch.inference_mode():
            torch.set_num_threads(1)  # as above
            return self._ask(items)

    def _one(self, item: NetworkInput) -> Findings:
        return self._many([item])[0]

    def _many(self, items: list[NetworkInput]) -> list[Findings]:
        name, pooling = self._spec.name, self._spec.params["pooling"]
        shown = library("torch").stack([item.values for item in items])
        try:
            features = self._network.forward_features(fed(shown, self._spec, self._device))
            if pooling == "model":
                features = self._network.forward_head(features, pre_logits=True)
        except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
            words = " ".join(str(error).split())[-200:]
            raise ModelError(
                f"Model {name} does not run on a batch of {tuple(shown.shape)} "
                f"({type(error).__name__}: {words}); pass a function that calls it."
            ) from error
        rows = features.float().cpu().numpy()
        if pooling != "model":
            last = getattr(self._network, "output_fmt", "NCHW") == "NHWC"
            prefix = self._spec.params["prefix_tokens"]
            rows = [pooled(row, pooling, prefix, name, channels_last=last) for row in rows]
        return [vector_of(row, name) for row in rows]


def stated_by(value: Any) -> dict[str, Any]:
    """Return what a network says of itself: how pictures are prepared, and its class token.

    Raises
    ------
    ModelError
        If it is no network that gives features, or takes other than three bands.
    """
    name = type(value).__name__
    if not hasattr(value, "forward_features") or not hasattr(value, "forward_head"):
        raise ModelError(
            f"Model {name} of timm has no forward_features and forward_head; make it without "
            "features_only, or pass a function that returns the vector."
        )
    first = next((each.shape[1] for each in value.parameters() if each.ndim == 4), 3)
    if first != 3:
        raise ModelError(
            f"Model {name} of timm takes {first} bands, and its configuration prepares three; "
            "pass a function that prepares them and returns the vector."
        )
    data = library("timm.data")
    fixed = getattr(getattr(value, "patch_embed", None), "img_size", None)  # of this network
    given = {"input_size": (3, *fixed)} if fixed else {}
    preparation = {
        key: list(part) if isinstance(part, tuple) else part
        for key, part in data.resolve_data_config(given, model=value).items()
    }
    prefix = int(getattr(value, "num_prefix_tokens", 0))
    token = bool(prefix) and getattr(value, "cls_token", None) is not None
    told = {"preparation": preparation, "prefix_tokens": prefix, "class_token": token}
    called = (getattr(value, "pretrained_cfg", None) or {}).get("architecture")
    return told | ({"name": called} if called else {})


def examine(name: str, kind: str, path: Path, params: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    """Return the fields of the spec that the network decides, and complete the parameters.

    Raises
    ------
    ModelError
        If a parameter makes no sense.
    """
    params["pooling"] = params.get("pooling") or "model"
    check_pooling(name, params["pooling"], bool(params["class_token"]))
    told = params["preparation"]
    height, width = told["input_size"][1:]
    size = (width, height)
    if told["crop_mode"] == "center":
        size = (math.floor(width / told["crop_pct"]), math.floor(height / told["crop_pct"]))
    crop = "" if size == (width, height) else f", of which the middle {width} × {height} px count"
    mean, deviation = (", ".join(f"{value:.3f}" for value in told[key]) for key in ("mean", "std"))
    note = (
        f"Model {name}, by timm's configuration of it: a tile is brought to {size[0]} × {size[1]} "
        f"px ({told['interpolation']}){crop}; mean {mean}, deviation {deviation}; "
        f"pooling {params['pooling']!r}."
    )
    return {"max_detections": None, "input_size": size, NOTES: (note,)}


def runtime(spec: ModelSpec) -> str:
    """Return what this process would run the model on."""
    return f"timm {library('timm').__version__}, {torch_runtime(spec)}"


def load(spec: ModelSpec) -> TimmEncoder:
    """Open the network that `spec` describes, on its device.

    Raises
    ------
    ModelError
        If its file is missing, has changed or cannot be opened, or the device is missing.
    """
    spec = located(spec)
    path = Path(spec.params["path"])
    library("timm")
    network = opened_file("torch", path, spec.name)
    return TimmEncoder(placed(network, spec, torch_device(spec.device)), spec)


def _as_timm(preparation: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in preparation.items()
    }
