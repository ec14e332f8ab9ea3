"""A hosted vision model at work: tiles, scenes, verdicts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.hosted import endpoint, prompt
from tilevision.adapters.hosted.imageencoding import EncodedPicture, encode
from tilevision.adapters.hosted.parameters import Parameters
from tilevision.adapters.hosted.replies import Malformed, read_tile, read_verdict
from tilevision.errors import PermanentError, Throttled, TransientError
from tilevision.findings import Findings
from tilevision.modelspec import Answers, Usage

__all__ = ["HostedVision"]

T = TypeVar("T")

TRIES = 4  # of a stage that nobody else retries
LONGEST_WAIT = 30.0


class HostedVision:
    """A model behind an OpenAI-compatible endpoint, at whatever stage it is asked.

    Parameters
    ----------
    parameters : Parameters
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def encode(self, batch: Sequence[NDArray[Any]]) -> list[EncodedPicture]:
        """Return the tiles ``(h, w, 1 or 3)`` uint8 as they are sent."""
        return [self._picture(pixels) for pixels in batch]

    def request(self, payload: Sequence[EncodedPicture]) -> Answers:
        """Ask about each picture and wait; tokens are counted, those of bad answers too.

        Raises
        ------
        Throttled, TransientError, PermanentError
        """
        findings: list[Findings] = []
        usage = Usage()
        for picture in payload:
            found, used = self._tile(picture)
            findings.append(found)
            usage += used
        return Answers(findings, usage, endpoint.remarks(self._parameters))

    def moderation(self, thumbnail: NDArray[Any]) -> dict[str, Any]:
        """Return whether an image may be analysed, as a dict: ``allowed``, ``reason``, ``scores``.

        Parameters
        ----------
        thumbnail : array (h, w, 3)
            RGB uint8.
        """
        picture = self._picture(thumbnail)
        if self._parameters.moderates:
            return _patiently(lambda: self._moderated(picture))
        messages = prompt.ask_verdict(self._parameters, picture)
        schema = prompt.verdict_schema()
        return _patiently(lambda: self._asked(messages, schema, read_verdict)[0])

    def synthesis(self, digest: Mapping[str, Any], thumbnail: NDArray[Any]) -> str:
        """Write a text about the whole image, from the digest and an RGB uint8 thumbnail."""
        messages = prompt.ask_scene(self._parameters, digest, self._picture(thumbnail))
        reply = _patiently(lambda: endpoint.chat(self._parameters, messages))
        text = reply.text.strip()
        if not text:
            raise PermanentError(f"{self._parameters.model} answered nothing.")
        return text

    def _picture(self, pixels: NDArray[Any]) -> EncodedPicture:
        chosen = self._parameters
        return encode(np.asarray(pixels), chosen.max_side, chosen.quality, chosen.boxes.multiple)

    def _tile(self, picture: EncodedPicture) -> tuple[Findings, Usage]:
        messages = prompt.ask_tile(self._parameters, picture)
        schema = prompt.tile_schema(self._parameters)
        return self._asked(
            messages, schema, lambda text: read_tile(text, self._parameters, picture)
        )

    def _asked(
        self,
        messages: list[dict[str, Any]],
        schema: dict[str, Any],
        read: Callable[[str], T],
    ) -> tuple[T, Usage]:
        """Ask until the answer can be read, telling the model what was wrong with the last."""
        usage = Usage()
        conversation = messages
        for _ in range(1 + self._parameters.reasks):
            try:
                reply = endpoint.chat(self._parameters, conversation, schema)
            except (Throttled, TransientError, PermanentError) as error:
                error.usage = usage + (error.usage or Usage(1))
                raise
            usage += reply.usage
            try:
                return read(reply.text), usage
            except Malformed as problem:
                complaint = str(problem)
            conversation = [*messages, *prompt.correction(reply.text, complaint)]
        failed = PermanentError(
            f"{self._parameters.model} gave no readable answer in {1 + self._parameters.reasks} "
            f"attempts; of the last: {complaint}."
        )
        failed.usage = usage
        raise failed

    def _moderated(self, picture: EncodedPicture) -> dict[str, Any]:
        result = endpoint.moderate(self._parameters, picture.url)
        scores = _numbers(result.get("category_scores"))
        categories = result.get("categories") or {}
        flagged = sorted(name for name, flag in categories.items() if flag is True)
        counted = self._parameters.categories
        if counted is not None:
            unknown = sorted(set(counted) - scores.keys())
            if unknown:
                raise PermanentError(
                    f"{self._parameters.host} knows no category {unknown[0]!r}; it has "
                    f"{', '.join(sorted(scores))}."
                )
            flagged = [name for name in flagged if name in counted]
        blocked = bool(flagged) if counted is not None else result["flagged"]
        reason = ", ".join(f"{name} {scores.get(name, 1.0):.2f}" for name in flagged)
        if not blocked:
            reason = "nothing flagged"
        return {"allowed": not blocked, "reason": reason or "flagged", "scores": scores}


def _numbers(columns: Any) -> dict[str, float]:
    return {
        str(name): float(value)
        for name, value in (columns or {}).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _patiently(ask: Callable[[], T]) -> T:
    """Ask again where the server is busy: these stages have no scheduler that would."""
    for attempt in range(TRIES):
        try:
            return ask()
        except (Throttled, TransientError) as error:
            wait = getattr(error, "retry_after", None)
            wait = 0.5 * 2**attempt if wait is None else wait
            if attempt == TRIES - 1 or wait > LONGEST_WAIT:
                raise
        time.sleep(wait)
    raise AssertionError("The last attempt returns or raises.")
