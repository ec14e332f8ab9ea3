"""Semantic segmentation of transformers: the map that the image processor makes of an answer."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from tilevision.adapters.foreignvalues import as_plain_array
from tilevision.adapters.frameworks.devices import fed, library, torch_device
from tilevision.adapters.frameworks.mapoutputs import resized_planes
from tilevision.adapters.frameworks.tiles import NOTES, picture
from tilevision.adapters.frameworks.together import Together
from tilevision.adapters.mapanswers import Declared, complete_map
from tilevision.errors import ModelArgumentError, ModelError
from tilevision.findings import Findings
from tilevision.modelspec import Answers, ModelSpec

__all__ = ["SEGMENTATION", "TransformersSegmenter", "semantic_fields"]

SEGMENTATION = "image-segmentation"  # the task of its pipelines
_SCORES = "return_segmentation_scores"  # of image processors since transformers 5


class TransformersSegmenter:
    """A pipeline for ``image-segmentation`` on its device, of which the semantic map is taken.

    Class numbers are what the image processor's ``post_process_semantic_segmentation`` says.
    Probabilities are the softmax of the logits that it compares; of networks that classify masks
    (MaskFormer, Mask2Former, OneFormer) each class's share of the scores that it compares.

    Parameters
    ----------
    pipeline : transformers.Pipeline
    spec : ModelSpec

    Raises
    ------
    ModelError
        If its image processor makes no such map.
    """

    def __init__(self, pipeline: Any, spec: ModelSpec) -> None:
        processor = getattr(pipeline, "image_processor", None)
        after: Any = getattr(processor, "post_process_semantic_segmentation", None)
        if after is None:
            raise ModelError(
                f"Model {spec.name} has no image processor that makes a semantic map; pass a "
                "function that calls it."
            )
        self._after = after
        self._scores = _SCORES in inspect.signature(after).parameters
        self._pipeline = pipeline
        self._spec = spec
        self._declared = Declared(spec)
        self.turn = threading.RLock()
        self.on_device = torch_device(spec.device) != "cpu"
        self._ask = Together.of(spec, self.on_device, self._one, self._many)

    def predict(self, batch: Sequence[NDArray[Any]]) -> Answers:
        """Return one map per tile ``(h, w, 3)``.

        Raises
        ------
        ModelError
            If the network does not run on a tile, or gives no map.
        """
        torch = library("torch")
        with self.turn, torch.inference_mode():
            torch.set_num_threads(1)  # there is a worker for each processor
            return Answers(self._ask(batch))

    def _one(self, tile: NDArray[Any]) -> Findings:
        return self._many([tile])[0]

    def _many(self, tiles: list[NDArray[Any]]) -> list[Findings]:
        height, width = tiles[0].shape[:2]
        shown = [Image.fromarray(picture(tile)) for tile in tiles]
        try:
            maps = self._maps(shown)
        except ModelError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            words = " ".join(str(error).split())[-200:]
            raise ModelError(
                f"Model {self._spec.name} (semantic segmentation) does not run on a tile of "
                f"{width}×{height} px ({type(error).__name__}: {words}); try other tile sizes, or "
                "pass a function."
            ) from error
        # Tiles of fewer than 32 pixels were laid on black.
        return [self._declared.one(one[..., :height, :width]) for one in maps]

    def _maps(self, shown: list[Any]) -> list[NDArray[Any]]:
        """Return the map of each of the pictures, which have one size, at that size."""
        torch, network = library("torch"), self._pipeline.model
        parts = [self._pipeline.preprocess(one, subtask="semantic") for one in shown]
        sizes = [part.pop("target_size")[0] for part in parts]
        whole = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        inputs = {key: fed(one, self._spec, str(network.device)) for key, one in whole.items()}
        answer = network(**inputs)
        if self._spec.params["returns"] == "classes":
            return [as_plain_array(one) for one in self._after(answer, target_sizes=sizes)]
        by_query = hasattr(answer, "class_queries_logits") or hasattr(answer, "pred_masks")
        if self._scores:
            told = self._after(answer, target_sizes=sizes, **{_SCORES: True})
            scores = [one.segmentation_scores.float() for one in told]
        elif by_query or getattr(answer, "logits", None) is None:
            raise ModelError(
                f"Model {self._spec.name} gives shares of classes with transformers 5 and later; "
                "update it, or give returns='classes'."
            )
        else:
            scores = list(resized_planes(answer.logits.float(), sizes[0]))
        return [as_plain_array(_shares(one, by_query)) for one in scores]


def _shares(scores: Any, by_query: bool) -> Any:
    """Return the share of each class, of logits or of scores that add up to any sum."""
    if not by_query:
        return scores.softmax(dim=0)
    return scores / scores.sum(dim=0, keepdim=True).clamp_min(1e-12)


def semantic_fields(
    name: str, architecture: str, names: Mapping[int, str], params: dict[str, Any]
) -> dict[str, Any]:
    """Return the fields of the spec of a model that gives a semantic map, and complete `params`.

    Parameters
    ----------
    name, architecture : str
    names : mapping
        Class names by number.
    params : dict
        Gains ``task``, ``returns`` and ``classes``.

    Raises
    ------
    ModelError
        If what is declared makes no sense.
    """
    if params["task"] not in (None, SEGMENTATION):
        raise ModelError(
            f"Model {name} ({architecture}) is given task={params['task']!r}, which gives no map; "
            f"leave task out, or give {SEGMENTATION!r}."
        )
    params["task"] = SEGMENTATION
    returns = params.get("returns")
    if returns not in (None, "probabilities", "classes") or params.get("activation"):
        key = "activation" if params.get("activation") else "returns"
        raise ModelArgumentError(
            f"{key} of model {name} is {params[key]!r:.80}, and {architecture} gives a semantic "
            "map; give returns='probabilities' or 'classes', or leave it out."
        )
    names = names or {0: "LABEL_0", 1: "LABEL_1"}  # which the library leaves out of its file
    planes = max(names) + 1
    given = params["names"] or {str(number): label for number, label in names.items()}
    complete_map(name, params, planes, given)
    said = f"Model {name} gives a map of {planes} classes: {params['returns']}."
    return {"max_detections": None, NOTES: (said,)}
