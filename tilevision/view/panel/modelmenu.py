"""The menu of the models that can serve a stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tilevision.catalogue import model, models
from tilevision.modelspec import Stage
from tilevision.routing import Cascade, Route
from tilevision.view.panel.form import menu, option

__all__ = ["ModelMenu"]


class ModelMenu:
    """A menu of the caller's own models, then of those that have a name.

    Parameters
    ----------
    label : str
    stage : str
        What they must be able to serve. Every stage but the tiles can be left out.
    own : sequence
        As `tilevision.start` takes them; those that serve other stages are left out.
    chosen : optional
        What is chosen at first; for the tiles, the first of all.

    Attributes
    ----------
    names, values : list
        What is offered: as people call it, and as `tilevision.start` takes it.

    Raises
    ------
    ModelError
        If one of `own` is no model.
    """

    def __init__(self, label: str, stage: Stage, own: Sequence[Any], chosen: Any = None) -> None:
        named = {m.name: m for m in models() if stage in m.stages and m.installed}
        options: list[tuple[str, Any]] = [] if stage == "tile" else [("none", None)]
        for value in [chosen, *own]:
            known = value is None or (isinstance(value, str) and value in named)
            if known or any(value is other for _, other in options):
                continue
            name, serves = _told(value, stage)
            if serves:
                options.append((name, value))
        options += [(f"{n}: {m.summary}" if m.summary else n, n) for n, m in named.items()]
        self.names = [words.partition(":")[0] for words, _ in options]
        self.values = [value for _, value in options]
        first = next(iter(own), None) if chosen is None and stage == "tile" else chosen
        # By position: a model may be an object that does not like to be compared.
        numbered = [(words, i) for i, (words, _) in enumerate(options)]
        self.control = menu(label, numbered, value=max(self.number_of(first), 0))
        self._stage = stage

    @property
    def value(self) -> Any:
        """What is chosen, as `tilevision.start` takes it."""
        return self[self.control.value]

    def __getitem__(self, number: int) -> Any:
        return self.values[number]

    def number_of(self, value: Any) -> int:
        """Return the place of a model; -1 where it is not offered."""
        return next((i for i, other in enumerate(self.values) if _same(other, value)), -1)

    def add(self, value: Any) -> bool:
        """Offer one more model, in place of one of the same name; say if it serves the stage.

        Raises
        ------
        ModelError
            If it is no model.
        """
        name, serves = _told(value, self._stage)
        if not serves:
            return False
        if name in self.names:
            self.values[self.names.index(name)] = value
        else:
            self.names.append(name)
            self.values.append(value)
            chosen = self.control.value
            self.control.options = (*self.control.options, option(name, len(self.values) - 1))
            self.control.value = chosen
        return True

    def called(self, name: str) -> Any:
        """Return the model of that name; None where there is none."""
        return self.values[self.names.index(name)] if name in self.names else None


def _told(value: Any, stage: Stage) -> tuple[str, bool]:
    """Return what people call a model, and whether it can serve `stage`."""
    if isinstance(value, (Route, Cascade)):
        return value.resolved(model).name, stage == "tile"
    spec = model(value)
    return spec.name, stage in spec.stages


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, str) and isinstance(b, str) and a == b)
