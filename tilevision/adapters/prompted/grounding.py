"""Grounding DINO: boxes of all prompts at once, each of the prompt that it fits best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from tilevision.adapters.frameworks.devices import library
from tilevision.adapters.frameworks.tiles import in_tile
from tilevision.adapters.prompted.promptedmodel import PromptedModel
from tilevision.errors import ModelArgumentError, ModelError
from tilevision.findings import Findings

__all__ = ["GroundedDetector"]

_NO_WORD = 2.0  # no score is higher, so that the library composes no names
_ENDS = (".", "?")  # the network takes what stands between them for one phrase


class GroundedDetector(PromptedModel):
    """Boxes and scores as the processor gives them.

    The library names a box by the words that pass a threshold, which may be parts of several
    prompts or none. Here it is of the prompt that has the word with the highest score.
    """

    TASK = "grounded object detection"

    @classmethod
    def check(cls, name: str, words: Sequence[str]) -> None:
        """Refuse prompts that hold what separates prompts."""
        odd = next((one for one in words if any(end in one for end in _ENDS)), None)
        if odd is not None:
            raise ModelArgumentError(
                f"Prompt {odd!r} of model {name} holds a full stop or a question mark, which "
                "separates prompts; leave it out."
            )

    def answers(self, shown: list[Any], tiles: list[NDArray[Any]]) -> list[Findings]:
        """Return the boxes of each picture."""
        inputs = self.inputs(images=shown, text=[self.words] * len(shown))
        places = self._places(inputs["input_ids"][0].tolist())
        outputs = self.network(**inputs)
        outputs.logits, outputs.pred_boxes = outputs.logits.float(), outputs.pred_boxes.float()
        floor = self.spec.params["score_floor"]
        sizes = [(one.height, one.width) for one in shown]
        seen = self.processor.post_process_grounded_object_detection(
            outputs,
            inputs["input_ids"],
            threshold=floor,
            text_threshold=_NO_WORD,
            target_sizes=sizes,
        )
        scores = outputs.logits.sigmoid()
        found = []
        for tile, one, by_token in zip(tiles, seen, scores, strict=True):
            kept = by_token[by_token.max(dim=-1)[0] > floor]  # as the library keeps them
            numbers = _best(kept, places)
            found.append(
                in_tile(
                    tile,
                    one["boxes"].cpu().numpy(),
                    one["scores"].cpu().numpy(),
                    [self.words[number] for number in numbers],
                    class_ids=numbers,
                    floor=floor,
                    most=self.spec.max_detections,
                )
            )
        return found

    def _places(self, tokens: list[int]) -> list[list[int]]:
        """Return the places that each prompt's words have among the tokens.

        Raises
        ------
        ModelError
            If there are more tokens than the network reads.
        """
        most = int(getattr(self.network.config, "max_text_len", 256))
        if len(tokens) > most:
            raise ModelError(
                f"The prompts of model {self.spec.name} take {len(tokens)} tokens, and it reads "
                f"{most}; give fewer or shorter ones."
            )
        tokenizer = self.processor.tokenizer
        end = tokenizer.convert_tokens_to_ids(".")
        special = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id}
        places: list[list[int]] = [[]]
        for place, token in enumerate(tokens):
            if token == end:
                places.append([])
            elif token not in special:
                places[-1].append(place)
        places = [one for one in places if one]
        if len(places) != len(self.words):
            raise ModelError(
                f"The tokenizer of model {self.spec.name} makes {len(places)} phrases of "
                f"{len(self.words)} prompts; write them in plain words."
            )
        return places


def _best(scores: Any, places: list[list[int]]) -> list[int]:
    """Return, for each row of scores by token, the prompt whose best word has the highest."""
    if not len(scores):
        return []
    best = library("torch").stack([scores[:, one].max(dim=1)[0] for one in places], dim=1)
    numbers: list[int] = best.argmax(dim=1).tolist()
    return numbers
