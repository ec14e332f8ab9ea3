"""CLIPSeg: a map of each prompt."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from tilevision.adapters.frameworks.devices import library
from tilevision.adapters.prompted.promptedmodel import PromptedModel
from tilevision.findings import Findings
from tilevision.rasterspec import Raster

__all__ = ["TextMapper"]


class TextMapper(PromptedModel):
    """Shares of each prompt, the sigmoid of the network's logits at the size of the tile.

    The network answers at a size of its own; its logits are brought to the tile's bilinearly, as
    the library does with those of other segmentation networks.
    """

    TASK = "segmentation by text"

    def answers(self, shown: list[Any], tiles: list[NDArray[Any]]) -> list[Findings]:
        """Return the map of each picture."""
        torch, spec = library("torch"), self.spec.answered
        assert spec is not None
        height, width = tiles[0].shape[:2]
        count = len(self.words)
        given = [one for one in shown for _ in self.words]
        inputs = self.inputs(images=given, text=self.words * len(shown), padding=True)
        logits = self.network(**inputs).logits.float()
        logits = logits.reshape(len(shown), count, *logits.shape[-2:])
        whole = torch.nn.functional.interpolate(
            logits, size=(shown[0].height, shown[0].width), mode="bilinear", align_corners=False
        )
        shares = whole.sigmoid().cpu().numpy()[..., :height, :width]
        return [Findings(raster=Raster.of(one, spec)) for one in shares]
