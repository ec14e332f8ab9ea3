"""What map a model gives: decided from its graph, its notes and what was declared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tilevision.adapters.classnames import class_names
from tilevision.adapters.mapanswers import ACTIVATIONS, check_activation, complete_map
from tilevision.adapters.modelfiles import read_json
from tilevision.adapters.onnx.families import Layout
from tilevision.adapters.onnx.families.layout import MULTIPLE
from tilevision.adapters.onnx.families.pixelmaps import activation_of, map_port, plane_count
from tilevision.adapters.onnx.graph import maker_of
from tilevision.adapters.onnx.ports import Port, listed
from tilevision.errors import ModelArgumentError, ModelError
from tilevision.rasterspec import KINDS

__all__ = ["decide_map", "declares_map"]

_ODD = (109, 75)  # pixels: no multiple of anything that networks halve
_PROBABILITIES = "probabilities"


def declares_map(name: str, params: Mapping[str, Any], *, decodes: bool, family: str) -> bool:
    """Return True if ``returns`` says that a model gives a map, or a mask of numbered objects.

    Raises
    ------
    ModelArgumentError
        If ``decode`` or another family is given beside.
    """
    returns = params.get("returns")
    if returns not in (*KINDS, "instances"):
        return False
    if decodes or params.get("family", family) != family:
        other = "decode=" if decodes else f"family={params['family']!r}"
        raise ModelArgumentError(
            f"Model {name}: give returns={returns!r} or {other}, not both; a decoder may return "
            "tv.Findings(raster=tv.Raster(array, …))."
        )
    return True


def decide_map(
    path: Path, layout: Layout, params: Mapping[str, Any], names: Any, runs: Callable[..., Any]
) -> dict[str, Any]:
    """Return the parameters of a model of pixels, as plain JSON types.

    Parameters
    ----------
    path : Path
        Its file.
    layout : Layout
    params : mapping
        As declared.
    names : list, dict or None
        Class names that were declared or stand in the file.
    runs : callable
        ``runs(size)``: raises a `ModelError` where the model takes no picture of that size.

    Raises
    ------
    ModelError
        If no output has a map, or it is not known what its numbers are.
    """
    name, port = path.name, map_port(layout)
    if port is None:
        raise ModelError(
            f"Model {name} has no one output (n, k, h, w) or (n, h, w) for the pixels of its input "
            f"({listed(layout.facts)}); pass decode=f, which may return "
            "tv.Findings(raster=tv.Raster(array, …))."
        )
    keys = ("returns", "classes", "unit", "precision", "activation", "keep")
    told = {key: params[key] for key in keys if params.get(key) is not None}
    check_activation(name, told)
    planes = plane_count(port, layout)
    made = maker_of(layout.nodes, port.name)
    if planes is None and not told.get("returns") and made != "ArgMax" and not layout.task:
        raise ModelError(
            f"Model {name} gives whole numbers for pixels ({port}), which may be classes or "
            "objects; give returns='classes', or returns='instances'."
        )
    beside = _beside(path)
    if planes is not None:
        _settle_activation(name, port, layout, told, planes, beside)
    if names is None and told.get("returns", "classes") in (_PROBABILITIES, "classes"):
        names = class_names(name, None, beside.get("id2label"))
    complete_map(name, told, planes, names)
    return {**told, "output": port.name, "multiple": _multiple(layout, runs)}


def _beside(path: Path) -> Mapping[str, Any]:
    """Return what transformers or Optimum wrote of a network beside its file."""
    with suppress(ModelError):  # something else's file of that name
        found: Mapping[str, Any] = read_json(path.parent / "config.json")
        return found
    return {}


def _settle_activation(
    name: str,
    port: Port,
    layout: Layout,
    told: dict[str, Any],
    planes: int,
    beside: Mapping[str, Any],
) -> None:
    """Enter what makes shares of a model's numbers; the range of numbers alone tells nothing."""
    if told.get("returns") not in (None, _PROBABILITIES, "classes"):
        return
    known = activation_of(port, layout)
    semantic = "SemanticSegmentation" in str(beside.get("architectures"))
    if not known and planes > 1 and (semantic or layout.task == "semantic"):
        known = "softmax"
    asked = told.get("activation")
    if known == "none" and asked in ACTIVATIONS[:2]:
        made = maker_of(layout.nodes, port.name)
        raise ModelArgumentError(
            f"activation of model {name} is {asked!r}, and its graph ends with {made}, so that its "
            "numbers are shares; leave activation out."
        )
    if told.get("returns") == "classes" and planes > 1:
        told.pop("activation", None)  # the largest number stays the largest
    elif asked or known:
        told["activation"] = asked or known
    else:
        made = maker_of(layout.nodes, port.name)
        raise ModelError(
            f"Model {name} gives {planes} plane{'s' if planes > 1 else ''} ({port}), made by "
            f"{made or 'an unknown operator'}, which may be anything; give activation='softmax' "
            "(a pixel has one class), 'sigmoid' (it may have several) or 'none' (they are shares), "
            "or returns='values' (measures)."
        )


def _multiple(layout: Layout, runs: Callable[..., Any]) -> int:
    """Return of what the sides of a tile must be a multiple: 1 where the model takes any."""
    if layout.facts.size is not None:
        return 1
    try:
        runs(_ODD)
    except ModelError:
        return MULTIPLE
    return 1
