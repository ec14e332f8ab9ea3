"""SAM 3: the instances of each prompt, with their outlines."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.frameworks.tiles import in_tile, traced
from tilevision.adapters.prompted.promptedmodel import PromptedModel
from tilevision.findings import Findings

__all__ = ["ConceptSegmenter"]


class ConceptSegmenter(PromptedModel):
    """Masks, boxes and scores as the processor gives them for each prompt; empty masks are none."""

    TASK = "concept segmentation"

    def answers(self, shown: list[Any], tiles: list[NDArray[Any]]) -> list[Findings]:
        """Return the instances in each picture, which is looked at once for all prompts."""
        floor, count = self.spec.params["score_floor"], len(shown)
        sizes = [(one.height, one.width) for one in shown]
        pictures = self.inputs(images=shown)
        looked = self.network.get_vision_features(pixel_values=pictures["pixel_values"])
        rows: list[list[tuple[Any, Any, float, int]]] = [[] for _ in shown]
        for number, prompt in enumerate(self.words):
            text = self.inputs(text=prompt)
            outputs = self.network(
                vision_embeds=looked,
                input_ids=text["input_ids"].expand(count, -1),
                attention_mask=text["attention_mask"].expand(count, -1),
            )
            seen = self.processor.post_process_instance_segmentation(
                outputs, threshold=floor, target_sizes=sizes
            )
            for tile, one, into in zip(tiles, seen, rows, strict=True):
                boxes, scores = (one[key].float().cpu().numpy() for key in ("boxes", "scores"))
                for box, score, mask in zip(boxes, scores, one["masks"].cpu().numpy(), strict=True):
                    whole, shape = traced(mask > 0, tile)
                    if whole is not None:
                        into.append((box, shape, float(score), number))
        return [self._read(into, tile) for into, tile in zip(rows, tiles, strict=True)]

    def _read(self, rows: list[tuple[Any, Any, float, int]], tile: NDArray[Any]) -> Findings:
        rows.sort(key=lambda row: -row[2])
        return in_tile(
            tile,
            np.array([row[0] for row in rows], dtype=np.float64).reshape(-1, 4),
            [row[2] for row in rows],
            [self.words[row[3]] for row in rows],
            class_ids=[row[3] for row in rows],
            polygons=[row[1] for row in rows],
            floor=self.spec.params["score_floor"],
            most=self.spec.max_detections,
        )
