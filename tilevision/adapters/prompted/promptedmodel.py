"""A network and its processor on their device, asked about tiles in words."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from numpy.typing import NDArray
from PIL import Image

from tilevision.adapters.frameworks.devices import fed, library, placed
from tilevision.adapters.frameworks.tiles import picture
from tilevision.adapters.frameworks.together import Together
from tilevision.errors import ModelError
from tilevision.findings import Findings
from tilevision.modelspec import Answers, ModelSpec

__all__ = ["PromptedModel"]


class PromptedModel(ABC):
    """What all networks have in common that are asked in words.

    Parameters
    ----------
    spec : ModelSpec
    architecture : str
        The network's class.
    device : str
        As PyTorch calls it.

    Raises
    ------
    ModelError
        If it cannot be opened.
    """

    TASK: ClassVar[str]

    def __init__(self, spec: ModelSpec, architecture: str, device: str) -> None:
        self.spec = spec
        self.words: list[str] = spec.params["prompts"]
        self.device = device
        self.network, self.processor = self._opened(architecture)
        self.turn = threading.RLock()
        self.on_device = device != "cpu"
        self._ask = Together.of(spec, self.on_device, self._one, self._many)

    @classmethod
    def check(cls, name: str, words: Sequence[str]) -> None:
        """Refuse prompts that such a network cannot be asked.

        Raises
        ------
        ModelArgumentError
            If there are any.
        """
        del name, words  # most take any

    @abstractmethod
    def answers(self, shown: list[Any], tiles: list[NDArray[Any]]) -> list[Findings]:
        """Return what is found in pictures of one size, and so in their tiles."""

    def predict(self, batch: Sequence[NDArray[Any]]) -> Answers:
        """Return one `Findings` per tile ``(h, w, c)``.

        Raises
        ------
        ModelError
            If the network does not run on a tile.
        """
        torch = library("torch")
        with self.turn, torch.inference_mode():
            torch.set_num_threads(1)  # there is a worker for each processor
            return Answers(self._ask(batch))

    def inputs(self, **given: Any) -> dict[str, Any]:
        """Return what the processor makes of pictures and words, on the device."""
        made: Mapping[str, Any] = self.processor(**given, return_tensors="pt")
        tensor = library("torch").Tensor
        return {
            key: fed(value, self.spec, self.device) if isinstance(value, tensor) else value
            for key, value in made.items()
        }

    def _one(self, tile: NDArray[Any]) -> Findings:
        return self._many([tile])[0]

    def _many(self, tiles: list[NDArray[Any]]) -> list[Findings]:
        height, width = tiles[0].shape[:2]
        shown = [Image.fromarray(picture(tile)) for tile in tiles]
        try:
            return self.answers(shown, tiles)
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            if isinstance(error, ModelError):
                raise
            words = " ".join(str(error).split())[-200:]
            raise ModelError(
                f"Model {self.spec.name} ({self.TASK}, {len(self.words)} prompts) does not run on "
                f"a tile of {width}×{height} px ({type(error).__name__}: {words}); try shorter "
                "prompts or other tile sizes."
            ) from error

    def _opened(self, architecture: str) -> tuple[Any, Any]:
        transformers, path = library("transformers"), self.spec.params["path"]
        log = logging.getLogger("transformers")
        level = log.level
        log.setLevel(logging.ERROR)  # what is missing is said below
        try:
            processor = transformers.AutoProcessor.from_pretrained(path)
            kind = getattr(transformers, architecture)
            network, told = kind.from_pretrained(path, output_loading_info=True)
        except Exception as error:
            words = " ".join(str(error).split())[:200].rstrip(".")
            raise ModelError(
                f"Model {self.spec.name}: transformers {transformers.__version__} cannot open "
                f"{path} as {architecture} ({type(error).__name__}: {words}); save network and "
                "processor together."
            ) from error
        finally:
            log.setLevel(level)
        if missing := sorted(told["missing_keys"]):
            raise ModelError(
                f"Model {self.spec.name}: {path} has no weights for {', '.join(missing[:3])}, "
                "which would be random; save the whole network."
            )
        return placed(network, self.spec, self.device), processor
