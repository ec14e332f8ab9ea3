"""A model for each tile by rules, decided before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tilevision.errors import Failure, ModelError
from tilevision.modelspec import ModelSpec
from tilevision.routing.cascade import Cascade
from tilevision.routing.predicates import Predicate, from_list, to_list
from tilevision.routing.tilefacts import TileFacts

__all__ = ["Route"]


@dataclass(frozen=True, slots=True)
class Route:
    """The first rule that is true of a tile names its model; where none is, the default.

    Decided when the run is planned, from facts of a thumbnail (`TileFacts`). A tile is stored
    under its own model's key: whoever runs that model alone finds it, and the other way round.

    Parameters
    ----------
    default : name, path, function, model object, ModelSpec or Cascade
    rules : sequence of (predicate, model)
        ``predicate(facts) -> bool``, tried in order. Ready-made: `Detailed`, `Within`.

    Raises
    ------
    ModelError
        If a rule is not a pair of a function and a model.

    Examples
    --------
    >>> busy = lambda facts: facts.edge_density > 0.1
    >>> tv.analyze("scene.tif", tv.Route("blobs", [(busy, "nuclei")]))
    """

    default: Any
    rules: Sequence[tuple[Predicate, Any]] = ()

    def __post_init__(self) -> None:
        try:
            rules = tuple((predicate, target) for predicate, target in self.rules)
        except (TypeError, ValueError):
            raise ModelError(
                f"rules is {self.rules!r:.80}; give a list of (predicate, model)."
            ) from None
        for number, (predicate, _) in enumerate(rules, 1):
            if not callable(predicate):
                raise ModelError(
                    f"Rule {number} of the route begins with {predicate!r:.40}; give a function "
                    "of TileFacts that returns True or False, then the model."
                )
        object.__setattr__(self, "rules", rules)
        if any(isinstance(target, Route) for target in self.targets):
            raise ModelError("A route cannot lead to a route; put all rules into one.")

    @property
    def targets(self) -> tuple[Any, ...]:
        """What the tiles may be sent to: the default, then each rule's."""
        return (self.default, *(target for _, target in self.rules))

    @property
    def name(self) -> str:
        """For people; once resolved."""
        return " or ".join(dict.fromkeys(target.name for target in self.targets))

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """All models in the order of `targets`, once resolved; some may be there twice."""
        return tuple(
            spec
            for target in self.targets
            for spec in (target.models if isinstance(target, Cascade) else (target,))
        )

    def resolved(self, resolve: Callable[[Any], ModelSpec]) -> Route:
        """Return it with specs for models."""

        def one(target: Any) -> Any:
            return target.resolved(resolve) if isinstance(target, Cascade) else resolve(target)

        rules = [(predicate, one(target)) for predicate, target in self.rules]
        return Route(one(self.default), rules)

    def choose(self, facts: TileFacts) -> Any:
        """Return the target of a tile.

        Raises
        ------
        ModelError
            If a predicate fails, or answers neither True nor False.
        """
        for number, (predicate, target) in enumerate(self.rules, 1):
            try:
                answer = predicate(facts)
            except Exception as error:
                raise ModelError(
                    f"Rule {number} of the route failed on tile {facts.id}: "
                    f"{str(Failure.of(error)).rstrip('.')}; it gets the TileFacts of one tile."
                ) from error
            if not isinstance(answer, bool) and type(answer).__name__ != "bool":
                raise ModelError(
                    f"Rule {number} of the route returned {type(answer).__name__} for tile "
                    f"{facts.id}; return True or False."
                )
            if answer:
                return target
        return self.default

    def to_dict(self, told: Callable[[ModelSpec], Any]) -> dict[str, Any]:
        """Return plain JSON types; a function is None, and has to be given again."""

        def one(target: Any) -> Any:
            return target.to_dict(told) if isinstance(target, Cascade) else told(target)

        rules = [[to_list(predicate), one(target)] for predicate, target in self.rules]
        return {"default": one(self.default), "rules": rules}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], model: Callable[[Any], Any]) -> Route:
        """Read what `to_dict` wrote; `model` makes a model of what stands for one."""

        def one(told: Any) -> Any:
            return Cascade.from_dict(told, model) if "first" in told else model(told)

        return cls(one(raw["default"]), [(from_list(rule), one(to)) for rule, to in raw["rules"]])
