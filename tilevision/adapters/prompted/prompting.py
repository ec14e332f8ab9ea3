"""Prompts as they are declared, and which network takes them in which way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tilevision.adapters.frameworks.tiles import LIMIT, NAMES, NOTES, SHAPED
from tilevision.adapters.prompted.concepts import ConceptSegmenter
from tilevision.adapters.prompted.grounding import GroundedDetector
from tilevision.adapters.prompted.promptedmodel import PromptedModel
from tilevision.adapters.prompted.textclasses import TextClassifier
from tilevision.adapters.prompted.textmaps import TextMapper
from tilevision.errors import ModelArgumentError, ModelError
from tilevision.modelspec import ModelSpec

__all__ = ["check_prompts", "load", "takes_words_alone", "worded"]

_ONE_BY_ONE = "zero-shot-object-detection"  # the pipeline's task, with `candidate_labels`
_PIPELINES = ("OwlViT", "Owlv2", "OmDet")
_NETWORKS: dict[str, type[PromptedModel]] = {
    "GroundingDinoForObjectDetection": GroundedDetector,
    "MMGroundingDinoForObjectDetection": GroundedDetector,
    "Sam3Model": ConceptSegmenter,
    "CLIPSegForImageSegmentation": TextMapper,
}
# Of text and picture, which say how well the one fits the other.
_PAIRS = (
    *("CLIPModel", "SiglipModel", "Siglip2Model", "AlignModel", "AltCLIPModel"),
    *("ChineseCLIPModel", "MetaClip2Model"),
)
_LONGEST = 200  # characters; text encoders read some 16 to 256 tokens


def check_prompts(name: str, value: Any) -> list[str]:
    """Return prompts as they are asked.

    Raises
    ------
    ModelArgumentError
        If they are no list of different texts.
    """
    good = isinstance(value, (list, tuple)) and value and all(isinstance(one, str) for one in value)
    if not good or not all(one.strip() and one.isprintable() for one in value):
        raise ModelArgumentError(
            f"prompts of model {name} is {value!r:.80}; give a list of what it is to look for, as "
            "['ship', 'oil tank']."
        )
    words = [" ".join(one.split()) for one in value]
    twice = next((one for one in words if words.count(one) > 1), None)
    if twice is not None:
        raise ModelArgumentError(f"prompts of model {name} has {twice!r} twice; give it once.")
    long = next((one for one in words if len(one) > _LONGEST), None)
    if long is not None:
        raise ModelArgumentError(
            f"A prompt of model {name} has {len(long)} characters; give a noun or a few words, "
            f"{_LONGEST} characters at most."
        )
    return words


def takes_words_alone(architecture: str) -> bool:
    """Return True if such a network finds nothing without prompts."""
    return architecture in _NETWORKS


def worded(
    name: str, architecture: str, config: Mapping[str, Any], params: dict[str, Any]
) -> dict[str, Any] | None:
    """Return the fields of the spec of a model with prompts, and complete the parameters.

    Parameters
    ----------
    name, architecture : str
    config : mapping
        What ``config.json`` says.
    params : dict
        With ``prompts``, which are taken out where the network is a pipeline's.

    Returns
    -------
    dict or None
        None: a pipeline looks for them one by one, as its ``candidate_labels``.

    Raises
    ------
    ModelError
        If the model takes no prompts, or is given something else beside them.
    """
    words = params["prompts"]
    if params.get("returns") == "probabilities" and params.get("classes") == words:
        del params["returns"], params["classes"]  # of a run that is resumed
    beside = [key for key in ("candidate_labels", "returns", "pooling", "names") if params.get(key)]
    if beside:
        raise ModelArgumentError(
            f"Model {name} is given prompts= and {beside[0]}=; prompts are what it looks for and "
            f"the names of its classes, so leave {beside[0]} out."
        )
    if architecture.startswith(_PIPELINES):
        params["candidate_labels"] = params.pop("prompts")
        params["task"] = params["task"] or _ONE_BY_ONE
        return None
    network = _NETWORKS.get(architecture) or (TextClassifier if architecture in _PAIRS else None)
    if network is None:
        raise ModelError(
            f"Model {name} ({architecture or 'no architecture'}) takes no prompts; leave them out, "
            "or choose OWLv2, Grounding DINO, SAM 3, CLIPSeg or CLIP."
        )
    params["task"] = network.TASK
    network.check(name, words)
    found: dict[str, Any] = {NAMES: dict(enumerate(words)), SHAPED: network is ConceptSegmenter}
    if network is TextMapper:
        params |= {"returns": "probabilities", "classes": words}
        found = {NOTES: (f"Model {name} gives a map of each prompt: probabilities.",)}
    if network in (TextMapper, TextClassifier):
        return {"max_detections": None, **found}
    queries = _queries(config)
    each = len(words) if network is ConceptSegmenter else 1
    return {**found, LIMIT: None if queries is None else queries * each}


def load(spec: ModelSpec, architecture: str, device: str) -> PromptedModel:
    """Open the network that `spec` describes, whose files are here.

    Raises
    ------
    ModelError
        If it cannot be opened.
    """
    network = _NETWORKS.get(architecture, TextClassifier)
    return network(spec, architecture, device)


def _queries(config: Mapping[str, Any]) -> int | None:
    for part in (config, config.get("detr_decoder_config")):
        count = part.get("num_queries") if isinstance(part, Mapping) else None
        if isinstance(count, int) and count > 0:
            return count
    return None
