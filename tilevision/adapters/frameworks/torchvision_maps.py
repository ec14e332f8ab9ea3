"""Which networks of PyTorch give maps: torchvision's by their class, all others as declared."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

from tilevision.adapters.frameworks.frameworkkind import classes_of
from tilevision.adapters.frameworks.networkfiles import opened_file
from tilevision.adapters.frameworks.tiles import NOTES
from tilevision.adapters.mapanswers import complete_map
from tilevision.rasterspec import KINDS

__all__ = ["IMAGENET", "map_of_network"]

IMAGENET = "imagenet"
_HOME = "torchvision.models.segmentation"
_OUT = "out"


def map_of_network(
    name: str, path: Path, params: dict[str, Any], program: Any = None
) -> dict[str, Any]:
    """Return the fields of a network's spec, and complete its parameters, where it gives a map.

    Parameters
    ----------
    name : str
    path : Path
        Its file.
    params : dict
        Gains ``returns``, ``classes`` and ``activation``.
    program : ExportedProgram, optional
        What the file holds, where it is one.

    Returns
    -------
    dict
        Empty for all others; with `NOTES` for torchvision's, which are fed by ImageNet's mean.

    Raises
    ------
    ModelError
        If what is declared makes no sense.
    """
    returns = params.get("returns")
    known, planes = False, None
    if returns in (None, *KINDS):
        if program is not None:
            known, planes = _of_program(program)
        elif _HOME in (texts := " ".join(classes_of(path))):
            kind = "torchscript" if "__torch__" in texts else "torch"
            known, planes = True, _planes(opened_file(kind, path, name))
    if not known and returns not in (*KINDS, "instances"):
        return {}
    if known and returns in (None, "probabilities", "classes"):
        params.setdefault("activation", "softmax")
    complete_map(name, params, planes, params["names"])
    fields: dict[str, Any] = {"max_detections": None}
    if known:
        how = params["normalize"] or IMAGENET
        fields[NOTES] = (
            f"Model {name} is fed as torchvision's segmentation networks are (normalize={how!r}), "
            "and gives a map.",
        )
    return fields


def _planes(network: Any) -> int | None:
    """Return how many classes a network of torchvision's has."""
    heads = [value for key, value in network.state_dict().items() if key.startswith("classifier")]
    return int(heads[-1].shape[0]) if heads else None


def _of_program(program: Any) -> tuple[bool, int | None]:
    """Return whether a program gives a dict as torchvision's networks, and how many planes."""
    made = list(program.graph_signature.user_outputs)
    told = {node.name: node.meta.get("val") for node in program.graph.nodes}
    values = [told.get(str(name)) for name in made]
    spec = program.call_spec.out_spec
    keys = list(spec.context or ()) if spec is not None and spec.type in (dict, OrderedDict) else []
    known = _OUT in keys and len(keys) == len(values)
    value = values[keys.index(_OUT)] if known else values[0] if len(values) == 1 else None
    if getattr(value, "ndim", 0) != 4 or not value.is_floating_point():  # type: ignore[union-attr]
        return False, None
    count = value.shape[1]  # type: ignore[union-attr]
    return known, count if isinstance(count, int) else None
