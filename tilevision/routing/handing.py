"""In which order models look at tiles, and why some get them from another one.

Of a run that is going, by its models; of a stored one, by what its journal says of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tilevision.routing.cascade import Cascade

__all__ = ["Step", "last_label", "sent_on", "steps_of"]

_UNKNOWN = "unknown"  # a model of which nothing is known: no event names it


@dataclass(frozen=True, slots=True)
class Step:
    """One model over its tiles.

    Parameters
    ----------
    label : str
        As events name it: two models of one name are numbered.
    why : str
        Why it gets tiles from another model; empty for one that looks at them first.
    """

    label: str
    why: str = ""


def steps_of(asked: Any) -> list[Step]:
    """Return the models in the order in which they go over tiles; empty for a damaged journal.

    First come all that look at tiles first, once each, then those that get tiles from another.

    Parameters
    ----------
    asked : ModelSpec, Route, Cascade or mapping
        What the tiles go through; a mapping as `Cascade.to_dict` and `Route.to_dict` make it.
    """
    labels: dict[str, str] = {}
    firsts: list[Step] = []
    further: list[Step] = []
    try:
        for target in _targets(asked):
            first = _part(target, "first")
            if first is None:
                firsts.append(Step(_label(labels, target)))
                continue
            firsts.append(Step(_label(labels, first)))
            second = _part(target, "second")
            label = _label(labels, second, beside=_identity(first))
            further.append(Step(label, _why(_part(target, "when"))))
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
    return [*dict.fromkeys(firsts), *further]


def sent_on(asked: Any) -> dict[str, str]:
    """Return the label of each model that gets tiles from another one, and why it gets them.

    Models that other tiles come to as well are left out: what is known of a tile does not say
    which way it came. Empty without a cascade. See `steps_of` for `asked`.
    """
    steps = steps_of(asked)
    others = {step.label for step in steps if not step.why}
    found: dict[str, list[str]] = {}
    for step in steps:
        if step.why and step.label not in others:
            found.setdefault(step.label, []).append(step.why)
    return {label: " or ".join(dict.fromkeys(whys)) for label, whys in found.items()}


def last_label(asked: Any) -> str:
    """Return which of several models looks at tiles last, as events name it; else nothing.

    Where that one looks at other tiles first, too, no event says which way a tile came: the name
    that is returned is then none that an event has. See `steps_of` for `asked`.
    """
    named = getattr(asked, "models", ())
    if len(named) > 1 and all(isinstance(one, str) for one in named):
        return _UNKNOWN  # journals of earlier releases name the models, not how they follow
    steps = steps_of(asked)
    if len({step.label for step in steps}) < 2:
        return ""
    last = steps[-1]
    first_too = last.why and Step(last.label) in steps
    return f"{last.label} after another" if first_too else last.label


def _targets(asked: Any) -> Iterator[Any]:
    if isinstance(asked, Mapping):
        if "rules" not in asked:
            yield asked
        else:
            yield asked["default"]
            yield from (target for _, target in asked["rules"])
    else:
        yield from getattr(asked, "targets", (asked,))


def _part(target: Any, name: str) -> Any:
    if isinstance(target, Mapping):
        return target.get(name)
    return getattr(target, name) if isinstance(target, Cascade) else None


def _identity(model: Any) -> str:
    """Return what tells a model from another of its name: of a stored function, nothing does."""
    if isinstance(model, Mapping):
        return json.dumps(model, sort_keys=True, default=str)
    return str(getattr(model, "fingerprint", model.name))


def _label(labels: dict[str, str], model: Any, beside: str = "") -> str:
    """Return the label of a model, numbered where another one has its name.

    `beside` is the identity of the model before it in a cascade: two functions of one name are
    stored alike, and are two all the same.
    """
    identity = _identity(model)
    if identity == beside and isinstance(model, Mapping):
        identity += " after itself"
    if identity not in labels:
        name = str(model["name"] if isinstance(model, Mapping) else model.name)
        label, number = name, 1
        while label in labels.values():
            number += 1
            label = f"{name} ({number})"
        labels[identity] = label
    return labels[identity]


def _why(when: Any) -> str:
    if isinstance(when, (tuple, list)):
        low, high = map(float, when)
        return f"a score from {low:g} to {high:g}"
    return "when= says so"
