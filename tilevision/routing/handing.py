"""To which models a cascade sends tiles on, and why: of a run that is going, or of a stored one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tilevision.routing.cascade import Cascade

__all__ = ["sent_on"]


def sent_on(asked: Any) -> dict[str, str]:
    """Return the label of each model that gets tiles from another one, and why it gets them.

    Parameters
    ----------
    asked : ModelSpec, Route, Cascade or mapping
        What the tiles go through; a mapping as `Cascade.to_dict` and `Route.to_dict` make it.

    Returns
    -------
    dict of str to str
        Empty without a cascade. Models that other tiles come to as well are left out: what is
        known of a tile does not say which way it came.
    """
    found: dict[str, str] = {}
    others: set[str] = set()
    try:
        for target in _targets(asked):
            first = _part(target, "first")
            if first is None:
                others.add(_name(target))
                continue
            others.add(_name(first))
            name = _name(_part(target, "second"))
            # Two of one name are numbered in the order in which they come.
            label = f"{name} (2)" if name == _name(first) else name
            found[label] = _why(_part(target, "when"))
    except (KeyError, TypeError, ValueError, AttributeError):  # of a damaged journal
        return {}
    return {label: why for label, why in found.items() if label not in others}


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


def _name(model: Any) -> str:
    return str(model["name"] if isinstance(model, Mapping) else model.name)


def _why(when: Any) -> str:
    if isinstance(when, (tuple, list)):
        low, high = map(float, when)
        return f"a score from {low:g} to {high:g}"
    return "when= says so"
