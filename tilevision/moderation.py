"""The stage before the tiles: whether this image may be analysed at all.

The built-in `limits` always runs; it spends a few small reads and finds damage before
hundreds of tiles do. A model of the user's may follow; where it refuses, nothing is spent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tilevision.errors import Failure, ModelError
from tilevision.modelspec import ModelSpec, unwrap
from tilevision.sources import ImageSource, Pixels, display_options, to_uint8

__all__ = ["THUMBNAIL_SIDE", "Verdict", "limits", "moderate"]

THUMBNAIL_SIDE = 1024

_ACCEPTED = "True or False, (allowed, reason), {'allowed': …, 'reason': …} or a tv.Verdict"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What moderation says of an image.

    Parameters
    ----------
    allowed : bool
    reason : str
        One line: why it is refused, or what was looked at.
    model : str
        Who says so.
    scores : mapping of str to float
        Category to probability, where the model gives them.
    """

    allowed: bool
    reason: str = ""
    model: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; ``Verdict(**…)`` reads them back."""
        return {
            "allowed": self.allowed,
            "reason": self.reason,
            "model": self.model,
            "scores": dict(self.scores),
        }


def limits(_spec: ModelSpec) -> Callable[[Pixels], Verdict]:
    """Make the built-in moderation model: it has run on every image before it is asked."""
    return lambda _thumbnail: Verdict(True, "within limits", "limits")


def moderate(spec: ModelSpec, source: ImageSource) -> Verdict:
    """Ask a moderation model about the image.

    The model is called with an RGB uint8 thumbnail ``(h, w, 3)`` of at most 1024 pixels a
    side, on the client.

    Raises
    ------
    ModelError
        If the model fails, or answers anything but a verdict: no verdict is no permission.
    """
    thumbnail = to_uint8(source.thumbnail(THUMBNAIL_SIDE), display_options(source))
    ask = unwrap(spec, "moderation")
    try:
        answer = ask(thumbnail)
    except Exception as error:
        raise ModelError(
            f"Moderation model {spec.name} failed, so nothing was analysed: "
            f"{str(Failure.of(error)).rstrip('.')}."
        ) from error
    verdict = _verdict(answer)
    if verdict is None:
        raise ModelError(
            f"Moderation model {spec.name} returned {type(answer).__name__}; return {_ACCEPTED}."
        )
    return Verdict(verdict.allowed, verdict.reason, spec.name, verdict.scores)


def _verdict(answer: Any) -> Verdict | None:
    if isinstance(answer, Verdict):
        return answer
    if isinstance(answer, Mapping) and isinstance(answer.get("allowed"), bool):
        scores = {str(k): float(v) for k, v in dict(answer.get("scores", {})).items()}
        return Verdict(answer["allowed"], str(answer.get("reason", "")), scores=scores)
    if isinstance(answer, tuple) and len(answer) == 2:
        answer, reason = answer
        return Verdict(bool(answer), str(reason))
    if isinstance(answer, bool) or type(answer).__name__ == "bool_":
        return Verdict(bool(answer))
    return None
