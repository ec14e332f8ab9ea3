"""CLIP, SigLIP and their like: which of the prompts a tile shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from tilevision.adapters.frameworks.devices import library
from tilevision.adapters.prompted.promptedmodel import PromptedModel
from tilevision.errors import ModelArgumentError
from tilevision.findings import Findings

__all__ = ["TextClassifier"]


class TextClassifier(PromptedModel):
    """Scores of a tile as the pipeline ``zero-shot-image-classification`` gives them."""

    TASK = "zero-shot-image-classification"

    def __init__(self, spec: Any, architecture: str, device: str) -> None:
        super().__init__(spec, architecture, device)
        parts = {key: getattr(self.processor, key) for key in ("tokenizer", "image_processor")}
        self._pipeline = library("transformers").pipeline(
            self.TASK, model=self.network, device=device, **parts
        )

    @classmethod
    def check(cls, name: str, words: Sequence[str]) -> None:
        """Refuse a single prompt, of which the share is always 1."""
        if len(words) < 2:
            raise ModelArgumentError(
                f"Model {name} says which of several prompts fits a tile best, and there is one; "
                "give two or more, as ['forest', 'something else']."
            )

    def answers(self, shown: list[Any], tiles: list[NDArray[Any]]) -> list[Findings]:
        """Return the score of each prompt, for each picture cut to its tile."""
        height, width = tiles[0].shape[:2]
        cut = [one.crop((0, 0, width, height)) for one in shown]
        told = self._pipeline(cut, candidate_labels=self.words, batch_size=len(cut))
        floor = self.spec.params["score_floor"]
        scores = [{one["label"]: one["score"] for one in rows} for rows in told]
        return [
            Findings(tile_scores={word: value for word, value in one.items() if value >= floor})
            for one in scores
        ]
