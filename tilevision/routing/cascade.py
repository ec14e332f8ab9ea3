"""A cheap model on every tile, a capable one where the cheap one is unsure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tilevision.errors import Failure, ModelError
from tilevision.findings import Findings
from tilevision.modelspec import ModelSpec

__all__ = ["Cascade", "When"]

When = tuple[float, float] | Callable[[Findings], Any]


@dataclass(frozen=True, slots=True)
class Cascade:
    """All tiles go to the first model; those it is unsure of go to the second as well.

    The findings of such a tile are the second's alone. Each model's findings are stored under
    a key of their own, so another `when` repeats nothing that is stored.

    Parameters
    ----------
    first, second : name, path, function, model object or ModelSpec
        As ``analyze(model=…)`` takes them.
    when : (float, float) or callable
        ``(low, high)``: the first model is unsure where the score of any of its detections in
        the tile lies in this band, both ends included; detections without a score do not count.
        A function ``when(findings) -> bool`` gets the tile's findings in the tile's frame.

    Raises
    ------
    ModelError
        If `when` is no such band and no function, or a model is a `Route` or a `Cascade`.

    Examples
    --------
    >>> tv.analyze("slide.svs", tv.Cascade("blobs", "nuclei", when=(0.2, 0.7)))
    """

    first: Any
    second: Any
    when: When = (0.25, 0.6)

    def __post_init__(self) -> None:
        for target in (self.first, self.second):
            if hasattr(target, "resolved"):
                raise ModelError(
                    "The models of a cascade are plain ones; a route may lead to a cascade, not "
                    "the other way round."
                )
        if not callable(self.when):
            object.__setattr__(self, "when", _band(self.when))

    @property
    def name(self) -> str:
        """For people; once resolved."""
        return f"{self.first.name} then {self.second.name}"

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """Both models, once resolved."""
        return (self.first, self.second)

    def resolved(self, resolve: Callable[[Any], ModelSpec]) -> Cascade:
        """Return it with specs for models."""
        return replace(self, first=resolve(self.first), second=resolve(self.second))

    def unsure(self, findings: Findings) -> bool:
        """Return True if a tile with these findings of the first model goes to the second.

        Raises
        ------
        ModelError
            If the user's function fails, or answers neither True nor False.
        """
        if not callable(self.when):
            low, high = self.when
            return bool(((findings.scores >= low) & (findings.scores <= high)).any())
        try:
            answer = self.when(findings)
        except Exception as error:
            raise ModelError(
                f"when= of the cascade failed: {str(Failure.of(error)).rstrip('.')}; what is "
                "done is kept, and it gets the Findings of one tile."
            ) from error
        if not isinstance(answer, bool) and type(answer).__name__ != "bool":
            raise ModelError(
                f"when= of the cascade returned {type(answer).__name__}; return True or False."
            )
        return bool(answer)

    def to_dict(self, told: Callable[[ModelSpec], Any]) -> dict[str, Any]:
        """Return plain JSON types; a function is None, and has to be given again."""
        band = None if callable(self.when) else list(self.when)
        return {"first": told(self.first), "second": told(self.second), "when": band}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], model: Callable[[Any], Any]) -> Cascade:
        """Read what `to_dict` wrote; `model` makes a model of what stands for one."""
        return cls(model(raw["first"]), model(raw["second"]), tuple(raw["when"]))


def _band(value: Any) -> tuple[float, float]:
    try:
        low, high = map(float, value)
    except (TypeError, ValueError):
        low, high = 1.0, 0.0
    if not 0 <= low <= high <= 1:
        raise ModelError(
            f"when is {value!r:.80}; give (low, high) as (0.25, 0.6), or a function of a tile's "
            "findings that returns True or False."
        )
    return low, high
