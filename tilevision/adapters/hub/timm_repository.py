"""Networks of timm in a repository, ``config.json`` beside weights: encoders and classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tilevision.adapters.frameworks import timm_models
from tilevision.adapters.frameworks.devices import fed, library, placed, processes, torch_device
from tilevision.adapters.frameworks.tiles import NAMES, NOTES
from tilevision.adapters.frameworks.timm_models import TimmEncoder, runtime, stated_by
from tilevision.adapters.frameworks.together import NetworkInput
from tilevision.adapters.modelfiles import located, read_json
from tilevision.errors import ModelError
from tilevision.findings import Findings
from tilevision.modelspec import ModelSpec

__all__ = ["TimmClassifier", "examine", "load", "processes", "runtime"]

VERSION = 1
LIBRARY = "timm"
HALVES = True
ANY_BANDS = False
ENCODES = True
POOLS = True
PARAMS: dict[str, Any] = {"preparation": None, "prefix_tokens": None, "class_token": None}


class TimmClassifier(TimmEncoder):
    """A network of timm that says of each tile, as a whole, what it shows."""

    def _many(self, items: list[NetworkInput]) -> list[Findings]:
        names, floor = self._spec.names or (), self._spec.params["score_floor"]
        shown = library("torch").stack([item.values for item in items])
        try:
            values = self._network(fed(shown, self._spec, self._device))
        except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
            words = " ".join(str(error).split())[-200:]
            raise ModelError(
                f"Model {self._spec.name} does not run on a batch of {tuple(shown.shape)} "
                f"({type(error).__name__}: {words}); pass a function that calls it."
            ) from error
        rows = values.float().softmax(dim=1).cpu().numpy()
        return [
            Findings(
                tile_scores={
                    str(names[number]): float(row[number])
                    for number in range(len(row))
                    if row[number] >= floor
                }
            )
            for row in rows
        ]


def examine(name: str, kind: str, path: Path, params: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the spec that the repository decides, and complete the parameters.

    Raises
    ------
    ModelError
        If timm does not know the network, or a parameter makes no sense.
    """
    network = _made(name, path)
    told = stated_by(network)
    params.update({key: told[key] for key in PARAMS})
    count = int(getattr(network, "num_classes", 0) or 0)
    if params.get("returns") or not count:
        params["returns"] = "embedding"
        return timm_models.examine(name, kind, path, params)
    asked = dict(params)
    found = timm_models.examine(name, kind, path, asked)
    note = found[NOTES][0].rpartition("; pooling")[0]
    return {**found, NAMES: _labels(path, count), NOTES: (f"{note}; {count} classes.",)}


def load(spec: ModelSpec) -> TimmEncoder:
    """Open the network that `spec` describes, on its device.

    Raises
    ------
    ModelError
        If a file is missing, has changed or cannot be opened, or the device is missing.
    """
    spec = located(spec)
    weights = [file for file in spec.params["files"] if file.endswith((".safetensors", ".bin"))]
    network = _made(spec.name, Path(spec.params["path"]), weights[0]).eval()
    placed_ = placed(network, spec, torch_device(spec.device))
    return (TimmEncoder if spec.params.get("returns") else TimmClassifier)(placed_, spec)


def _made(name: str, path: Path, weights: str = "") -> Any:
    """Return the network of a folder, with weights where a file of them is named.

    Raises
    ------
    ModelError
        If timm cannot make it.
    """
    timm, torch = library("timm"), library("torch")
    try:
        if weights:
            own = {"source": "", "file": str(path / weights)}  # no other that lies there
            return timm.create_model(
                f"local-dir:{path}", pretrained=True, pretrained_cfg_overlay=own
            )
        with torch.device("meta"):
            return timm.create_model(f"local-dir:{path}")
    except Exception as error:
        words = " ".join(str(error).split())[:200].rstrip(".")
        raise ModelError(
            f"Model {name}: timm {timm.__version__} cannot make the network of {path} "
            f"({type(error).__name__}: {words}); a newer timm may know it."
        ) from error


def _labels(path: Path, count: int) -> dict[int, str]:
    """Return class names by number, as the repository or timm's tables have them."""
    config = read_json(path / "config.json")
    inner = config.get("pretrained_cfg")
    told = {**(inner if isinstance(inner, Mapping) else {}), **config}
    names, described = told.get("label_names"), told.get("label_descriptions")
    if isinstance(names, list) and len(names) == count:
        words = described if isinstance(described, Mapping) else {}
        return {number: str(words.get(name, name)) for number, name in enumerate(names)}
    data = library("timm.data")
    subset = data.infer_imagenet_subset({"num_classes": count})
    if subset:
        table = data.ImageNetInfo(subset)
        return {number: table.index_to_description(number) for number in range(count)}
    return {number: f"class_{number}" for number in range(count)}
