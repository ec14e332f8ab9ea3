"""From a path or an object and what the user declares to a spec."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tilevision.adapters import ADAPTERS, adapter_of
from tilevision.adapters.classnames import class_names
from tilevision.adapters.frameworks.frameworkkind import FEATURES, kind_of, kind_of_path
from tilevision.adapters.frameworks.tiles import (
    LIMIT,
    MOST_CLASSES,
    NAMES,
    NOTES,
    REVISION,
    SHAPED,
    UNCOUNTED,
)
from tilevision.adapters.mapanswers import OF_MAPS, check_activation
from tilevision.adapters.modelfiles import content_of, find, keep
from tilevision.adapters.vectors import check_vectors
from tilevision.checks import flag, share
from tilevision.errors import ModelArgumentError, ModelError
from tilevision.fingerprint import fingerprint_value, version
from tilevision.modelspec import ModelSpec
from tilevision.modelspec.spec import DECLARABLE, split
from tilevision.rasterspec import KINDS

__all__ = ["declare", "declare_object", "declare_saved"]

# What `framework=` may say: every kind of an object's, but those that no file holds.
_STATED = {one.kind for one in ADAPTERS if one.base} - {"sahi"}
_COMMON = {"names": None, "score_floor": 0.05}
MIN_SCORE = 0.25
MOST = 1000
BATCH = 4


def declare(text: str, fingerprint: str | None, given: Mapping[str, Any]) -> ModelSpec:
    """Return the spec of the model in a file of PyTorch's or a folder of transformers'.

    Parameters
    ----------
    text : str
        Its path, or its name where `given` has the path.
    fingerprint : str, optional
        A further part of its identity, in your words; the content counts in any case.
    given : mapping
        Fields of `ModelSpec`, and of these what the model does not say itself:

        names : list or dict
            Class names, one for each class number, or some by number.
        score_floor : float
            Detections scored lower are not recorded. Default 0.05.
        framework : str
            ``"torch"``, ``"torchscript"``, ``"export"``, ``"transformers"`` or
            ``"ultralytics"``, where the file does not tell.
        channels, normalize : str
            For PyTorch's: ``"rgb"`` or ``"bgr"``; ``"0..1"`` or ``"0..255"``, for encoders and
            maps also ``"imagenet"``, the default for torchvision's segmentation networks.
        returns : str
            ``"embedding"``: the model is an encoder, which gives a vector of each tile. A network
            of PyTorch's takes a batch ``(n, c, h, w)`` and returns ``(n, d)``. Networks of timm
            and pipelines for ``image-feature-extraction`` are encoders without saying so.
            ``"probabilities"``, ``"classes"`` or ``"values"``: it gives a map. A network of
            PyTorch's takes a batch ``(n, c, h, w)`` and returns ``(n, k, h, w)`` or ``(n, h, w)``,
            or a dict that has it as ``"out"``, of its input's size or a whole stride.
            ``"instances"``: a mask of numbered objects. Semantic segmentation networks of
            torchvision, transformers and Ultralytics give maps without saying so: shares of up to
            32 classes, of more the class numbers alone.
        classes, unit : sequence or mapping, str
            Of maps: class names by number, where the model does not state them, and the unit of
            values.
        activation : str
            What makes shares of a map's numbers: ``"softmax"`` where a pixel has one class (the
            default for ``{"out": …}``), ``"sigmoid"`` where it may have several, ``"none"`` (the
            default for all else).
        keep : str
            Of maps of probabilities: ``"classes"`` keeps the number of each pixel's class alone.
        pooling : str
            For encoders of timm and transformers: ``"model"`` (what the library gives as the
            vector of a picture), ``"cls"`` (the class token), ``"mean"`` (of the patches) or
            ``"cls+mean"`` (one after the other). The plan says which it is.
        precision : str or float
            ``"float16"`` (the default) or ``"float32"``, of the vectors that are stored; of values
            the step in which they are kept.
        prompts : list of str
            For transformers: what to look for, which are also the names of the classes.
            Zero-shot detectors (OWL-ViT, OWLv2, Grounding DINO) give boxes, SAM 3 outlines of
            instances, CLIPSeg a map of each, CLIP and SigLIP a score of each for the tile.
        task, candidate_labels : str, list of str
            For transformers: the pipeline's task, and what it looks for, where ``prompts`` are
            not given.
        half : bool
            Whether the network computes in half precision, on a GPU: quicker, and its answers
            differ, so it is part of the identity.
        iou : float
            For Ultralytics: the overlap above which it takes two detections for one.

    Raises
    ------
    ModelError
        If the file is no model that is understood, its library is missing, or a declaration
        makes no sense.
    """
    wanted = {key: value for key, value in given.items() if key != "content"}
    path = find(str(wanted.pop("path", None) or text))
    stated = wanted.pop("framework", None)
    if stated is not None and stated not in _STATED:
        raise ModelError(
            f"framework of model {path.name} is {stated!r:.80}; give torch, torchscript, export, "
            "transformers or ultralytics."
        )
    return _declared(str(stated or kind_of_path(path)), Path(text).name, path, fingerprint, wanted)


def declare_object(value: Any, fingerprint: str | None, given: Mapping[str, Any]) -> ModelSpec:
    """Return the spec of a model object, saved as it is now for the workers.

    Parameters
    ----------
    value : torch.nn.Module, ScriptModule, ExportedProgram, Pipeline, YOLO or DetectionModel
        A network of timm's is an encoder.
    fingerprint, given
        As in `declare`.

    Raises
    ------
    ModelError
        If it cannot be saved, or as in `declare`.
    """
    kind = kind_of(value)
    adapter = _adapter(kind)
    wanted = dict(given)
    asked = wanted.pop("name", None)
    if kind == "sahi":
        name = str(asked or type(value).__name__)
        spec: ModelSpec = adapter.declare(value, name, fingerprint, wanted)
        return spec
    stated = adapter.stated_by(value)
    own = stated.pop("name", None)
    name = str(asked or own or type(value).__name__)
    limit = stated.pop(LIMIT, None)
    path = keep(name, lambda folder: adapter.save(value, folder))
    return _declared(kind, name, path, fingerprint, {**stated, **wanted}, limit)


def declare_saved(
    kind: str,
    name: str,
    path: Path,
    fingerprint: str | None,
    given: Mapping[str, Any],
    files: Sequence[str],
) -> ModelSpec:
    """Return the spec of a model of a known kind: some of the files of a folder.

    Parameters
    ----------
    kind : str
        As in `tilevision.adapters.ADAPTERS`.
    name : str
        What it is called.
    path : Path
        The folder.
    fingerprint, given
        As in `declare`.
    files : sequence of str
        What it consists of.

    Raises
    ------
    ModelError
        As `declare`.
    """
    return _declared(kind, name, path, fingerprint, given, files=files)


def _declared(
    kind: str,
    name: str,
    path: Path,
    fingerprint: str | None,
    given: Mapping[str, Any],
    limit: int | None = None,
    files: Sequence[str] | None = None,
) -> ModelSpec:
    adapter = _adapter(kind)
    declared, asked = split(name, given)
    worded = _prompts(name, adapter, asked)
    answers = {} if worded else _answers(name, adapter, asked)
    half = {"half": True} if getattr(adapter, "HALVES", False) and _halved(name, asked) else {}
    known = {**_COMMON, **adapter.PARAMS}
    for key in asked:
        if key not in known:
            close = difflib.get_close_matches(key, [*known, *DECLARABLE], 1)
            hint = f"Did you mean {close[0]!r}?" if close else f"It has {', '.join(known)}."
            raise ModelError(f"Model {name} ({kind}) has no parameter {key!r}. {hint}")
    params = {**known, **asked, **answers, **worded, **half}
    params["names"] = class_names(name, params["names"], None)
    share(f"score_floor of model {name}", params["score_floor"], ModelArgumentError)
    _check_pictures(name, declared, adapter.ANY_BANDS)
    found = adapter.examine(name, kind, path, params)
    _check_no_map(name, params)
    uncounted, further = found.pop(UNCOUNTED, False), found.pop(REVISION, None)
    limit = found.pop(LIMIT, None) or limit
    shaped = found.pop(SHAPED, False) and declared.get("nms") is not None
    noted = found.pop(NAMES, None)
    said = tuple(found.pop(NOTES, ()))
    if noted and 0 <= min(noted) <= max(noted) < MOST_CLASSES:
        found["names"] = _by_number(noted, params["names"])
    fields = {"batch_size": BATCH, "max_detections": MOST, "min_score": MIN_SCORE, **found}
    fields.update(declared)
    most = fields["max_detections"]
    if limit is not None and most is not None and "max_detections" not in declared:
        fields["max_detections"] = min(most, limit)
    params |= {"framework": kind, "path": str(path), "content": content_of(path, files)}
    counted = sorted((key, value) for key, value in params.items() if key != "path")
    size = list(fields["input_size"]) if fields.get("input_size") else None
    size = None if uncounted and "input_size" not in declared else size
    identity = (
        *(adapter.VERSION, counted, fingerprint, size, most),
        *(fields.get("nms"), version(adapter.LIBRARY)),
        *(() if further is None else (further,)),
        *(("overlap of shapes",) if shaped else ()),  # upright boxes were compared before
    )
    if files is not None:
        params["files"] = list(files)  # their names and hashes are in the content
    return ModelSpec(
        name=name,
        factory=f"{adapter.__name__}:load",
        fingerprint=fingerprint_value(identity),
        params=params,
        notes=said,
        **fields,
    )


def _prompts(name: str, adapter: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """Take out of `asked`, and return, what a model is asked in words; nothing, if it is not."""
    if "prompts" not in asked or not getattr(adapter, "PROMPTED", False):
        return {}
    from tilevision.adapters.prompted import check_prompts

    beside = ("returns", "classes", "pooling")
    said = {key: asked.pop(key) for key in beside if asked.get(key)}
    return {**said, "prompts": check_prompts(name, asked.pop("prompts"))}


def _halved(name: str, asked: dict[str, Any]) -> bool:
    """Take `half` out of `asked`: where it is not asked for, models keep their identity."""
    half = asked.pop("half", False)
    flag(f"half of model {name}", half, ModelArgumentError)
    return bool(half)


def _answers(name: str, adapter: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """Take out of `asked`, and return, what says that a model gives vectors or maps.

    Where nothing is said, nothing is added: all other models keep their identity.
    """
    encodes, maps = getattr(adapter, "ENCODES", False), getattr(adapter, "MAPS", False)
    if not (encodes or maps):
        return {}
    only = getattr(adapter, "ONLY_ENCODES", False) or asked.get("task") == FEATURES
    keys = ("returns", "precision", *(("pooling",) if hasattr(adapter, "POOLS") else ()))
    keys += OF_MAPS if maps else ()
    said: dict[str, Any] = {key: asked.pop(key) for key in keys if key in asked}
    check_activation(name, said)
    if maps and not only and said.get("returns") in (*KINDS, "instances"):
        if said.get("pooling"):
            raise ModelArgumentError(
                f"pooling of model {name} makes a vector, and it is declared with "
                f"returns={said['returns']!r}; leave pooling out."
            )
        return {key: value for key, value in said.items() if value}
    check_vectors(name, said)
    if only:
        said["returns"] = "embedding"
    if "pooling" in said and not said.get("returns"):
        raise ModelArgumentError(
            f"Model {name} is given pooling= without returns='embedding', and is no encoder so; "
            "give both, or leave pooling out."
        )
    return {key: value for key, value in said.items() if value}


def _check_no_map(name: str, params: Mapping[str, Any]) -> None:
    """Refuse what describes maps where a model gives none."""
    beside = next((key for key in OF_MAPS if params.get(key)), None)
    if beside and params.get("returns") not in (*KINDS, "instances"):
        raise ModelArgumentError(
            f"{beside} of model {name} is for maps, and it gives none as far as is known; give "
            "returns='probabilities', 'classes' or 'values' (names= has the classes of detections)."
        )


def _by_number(noted: Mapping[int, str], asked: Any) -> tuple[str | None, ...]:
    """Return the names that answers have: the file's, the user's in place of those they name."""
    names = [noted.get(number) for number in range(max(noted) + 1)]
    given = dict(enumerate(asked)) if isinstance(asked, list) else asked or {}
    for number, name in given.items():
        if int(number) < len(names):
            names[int(number)] = str(name)
    return tuple(names)


def _adapter(kind: str) -> Any:
    known = adapter_of(kind)
    if importlib.util.find_spec(known.library) is None:
        raise ModelError(f"This model needs {known.library}: {known.remedy}.")
    return known.module


def _check_pictures(name: str, declared: Mapping[str, Any], any_bands: bool) -> None:
    if not any_bands and (declared.get("bands") or declared.get("dtype", "uint8") != "uint8"):
        raise ModelError(
            f"Model {name} reads pictures in RGB, 8 bits a channel; leave bands and dtype out."
        )
