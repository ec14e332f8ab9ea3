"""The menus of models: one for each stage, and the two models of a cascade for the tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from tilevision.catalogue import Registered, model, models
from tilevision.modelspec import Stage
from tilevision.routing import Cascade, Route
from tilevision.view.panel.controls import control, menu, option, visible

__all__ = ["ModelMenu", "TileModelMenu"]

BAND = (0.25, 0.6)


class ModelMenu:
    """A menu of the user's own models, followed by the registered ones.

    Parameters
    ----------
    label : str
    stage : str
        The stage that the models must be able to serve. Every stage except the tiles also
        offers "none".
    own : sequence
        Models as `tilevision.start` takes them; those that cannot serve `stage` are left out.
    chosen : optional
        The initial choice; for the tiles, the first model by default.
    registered : sequence of Registered, optional
        What `tilevision.models` returned, where it was asked already.

    Attributes
    ----------
    names, values : list
        The models offered: their names, and the values that `tilevision.start` takes.

    Raises
    ------
    ModelError
        If one of `own` is not a model.
    """

    def __init__(
        self,
        label: str,
        stage: Stage,
        own: Sequence[Any],
        chosen: Any = None,
        registered: Sequence[Registered] | None = None,
    ) -> None:
        offered = models() if registered is None else registered
        named = {m.name: m for m in offered if stage in m.stages and m.installed}
        options: list[tuple[str, Any]] = [] if stage == "tile" else [("none", None)]
        for value in [chosen, *own]:
            known = value is None or (isinstance(value, str) and value in named)
            if known or any(value is other for _, other in options):
                continue
            name, serves = _name_and_fit(value, stage)
            if serves:
                options.append((name, value))
        options += [(f"{n}: {m.summary}" if m.summary else n, n) for n, m in named.items()]
        self.names = [words.partition(":")[0] for words, _ in options]
        self.values = [value for _, value in options]
        first = next(iter(own), None) if chosen is None and stage == "tile" else chosen
        # By position: a model may be an object that cannot be compared.
        numbered = [(words, i) for i, (words, _) in enumerate(options)]
        self.control = menu(label, numbered, value=max(self.number_of(first), 0))
        self._stage = stage

    @property
    def value(self) -> Any:
        """The chosen model, as `tilevision.start` takes it."""
        return self[self.control.value]

    def __getitem__(self, number: int) -> Any:
        return self.values[number]

    def number_of(self, value: Any) -> int:
        """Return the position of a model; -1 if it is not offered."""
        return next((i for i, other in enumerate(self.values) if _same(other, value)), -1)

    def add(self, value: Any) -> bool:
        """Offer one more model; it replaces one of the same name.

        Returns
        -------
        bool
            True if the model can serve the menu's stage.

        Raises
        ------
        ModelError
            If it is not a model.
        """
        name, serves = _name_and_fit(value, self._stage)
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
        """Return the model with that name; None if there is none."""
        return self.values[self.names.index(name)] if name in self.names else None


class TileModelMenu:
    """Controls for the tiles' model, a second model after it, and when the second one is used.

    Parameters
    ----------
    own : sequence
        The user's models, as `tilevision.start` takes them; the first is chosen. A cascade
        that decides by score is shown as its two models.
    registered : sequence of Registered, optional
        As `ModelMenu` takes it.

    Raises
    ------
    ModelError
        If one of `own` is not a model.
    """

    def __init__(self, own: Sequence[Any], registered: Sequence[Registered] | None = None) -> None:
        given = own[0] if own and _can_show(own[0]) else None
        if given is not None:
            own = [given.first, given.second, *own[1:]]
        self.menu = ModelMenu("Model", "tile", own, registered=registered)
        tip = "Analyses the tiles that the first model is unsure of; its detections replace them"
        second = -1 if given is None else self.menu.number_of(given.second)
        self._twice = second if second == self.menu.control.value else None  # as it was given
        self._seconds = self._second_options()
        self.second = menu("If unsure", self._seconds, tip, value=second)
        self.band = control(
            widgets.FloatRangeSlider,
            "Unsure from",
            "The second model analyses a tile if any score lies in this range",
            value=BAND if given is None else given.when,
            min=0.0,
            max=1.0,
            step=0.01,
            readout_format=".2f",
            continuous_update=False,
        )
        self.controls = (self.menu.control, self.second, self.band)
        for made in (self.menu.control, self.second):
            made.observe(lambda _: self._fit(), names="value")
        self._fit()

    def add(self, value: Any) -> bool:
        """Offer one more model and choose it.

        Returns
        -------
        bool
            True if the model can analyse tiles.

        Raises
        ------
        ModelError
            If it is not a model.
        """
        if not self.menu.add(value):
            return False
        self.menu.control.value = self.menu.number_of(value)
        self._fit()
        return True

    @property
    def names(self) -> list[str]:
        """Names of the models that are offered."""
        return self.menu.names

    def __getitem__(self, number: int) -> Any:
        return self.menu[number]

    @property
    def value(self) -> Any:
        """The choice, as `tilevision.start` takes it."""
        first = self.menu.value
        if self.second.value < 0 or _is_combined(first):
            return first
        return Cascade(first, self.menu[self.second.value], when=self.band.value)

    @property
    def words(self) -> str:
        """The choice in words."""
        name: str = self.names[self.menu.control.value]
        if not isinstance(self.value, Cascade) or _is_combined(self.menu.value):
            return name
        low, high = self.band.value
        second = self.names[self.second.value]
        return f"{name}, then {second} where a score lies in {low:.2f} to {high:.2f}"

    def called(self, name: str, routing: Mapping[str, Any] | None = None) -> Any:
        """Return the model with that name; None if there is none.

        `routing` says how a past run combined several models, as its journal has it.
        """
        found = self.menu.called(name)
        kept = routing or {}
        if found is not None or kept.get("kind") != "cascade" or kept["when"] is None:
            return found
        first, second = (self.menu.called(kept[which]["name"]) for which in ("first", "second"))
        if first is None or second is None:
            return None
        return Cascade(first, second, when=tuple(kept["when"]))

    def observe(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` after every change of the choice."""
        for made in self.controls:
            made.observe(lambda _: on_change(), names="value")

    def _second_options(self) -> list[tuple[str, int]]:
        first = self.menu.control.value  # asked again, it says the same
        plain = [
            i
            for i, value in enumerate(self.menu.values)
            if (i != first or i == self._twice) and not _is_combined(value)
        ]
        return [("no second model", -1), *((f"ask {self.names[i]}", i) for i in plain)]

    def _fit(self) -> None:
        if self._seconds != (offered := self._second_options()):
            chosen, self._seconds = self.second.value, offered
            self.second.options = [option(*one) for one in offered]
            self.second.value = chosen if chosen in [i for _, i in offered] else -1
        plain = not _is_combined(self.menu.value)
        visible(self.second, plain)
        visible(self.band, plain and self.second.value >= 0)


def _name_and_fit(value: Any, stage: Stage) -> tuple[str, bool]:
    """Return a model's name, and True if it can serve `stage`."""
    if isinstance(value, (Route, Cascade)):
        return value.resolved(model).name, stage == "tile"
    spec = model(value)
    return spec.name, stage in spec.stages


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, str) and isinstance(b, str) and a == b)


def _is_combined(value: Any) -> bool:
    return isinstance(value, (Route, Cascade))


def _can_show(value: Any) -> bool:
    """Return True if the controls can show a cascade."""
    return isinstance(value, Cascade) and not callable(value.when)
