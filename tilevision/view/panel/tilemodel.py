"""What the tiles go through: one model, or a second one where the first is unsure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from tilevision.routing import Cascade, Route
from tilevision.view.panel.form import control, menu, option, visible
from tilevision.view.panel.modelmenu import ModelMenu

__all__ = ["TileModel"]

BAND = (0.25, 0.6)


class TileModel:
    """Controls for the model of the tiles, a second one after it, and when it is asked.

    Parameters
    ----------
    own : sequence
        Models of the caller's, as `tilevision.start` takes them; the first is chosen. A cascade
        that goes by scores is shown as its two models.

    Raises
    ------
    ModelError
        If one of `own` is no model.
    """

    def __init__(self, own: Sequence[Any]) -> None:
        given = own[0] if own and _shows(own[0]) else None
        if given is not None:
            own = [given.first, given.second, *own[1:]]
        self.menu = ModelMenu("Model", "tile", own)
        tip = "sees the tiles that the first model is unsure of; its detections count there"
        second = -1 if given is None else self.menu.number_of(given.second)
        self.second = menu("If unsure", self._seconds(), tip, value=second)
        self.band = control(
            widgets.FloatRangeSlider,
            "Unsure from",
            "a tile goes on where any score lies between these",
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

    def _seconds(self) -> list[tuple[str, int]]:
        plain = [i for i, value in enumerate(self.menu.values) if not _leads_on(value)]
        return [("no second model", -1), *((f"ask {self.names[i]}", i) for i in plain)]

    def add(self, value: Any) -> bool:
        """Offer one more model, and choose it; say if it can serve tiles.

        Raises
        ------
        ModelError
            If it is no model.
        """
        if not self.menu.add(value):
            return False
        chosen = self.second.value
        self.second.options = [option(*one) for one in self._seconds()]
        self.second.value = chosen
        self.menu.control.value = self.menu.number_of(value)
        return True

    def _fit(self) -> None:
        plain = not _leads_on(self.menu.value)
        visible(self.second, plain)
        visible(self.band, plain and self.second.value >= 0)

    @property
    def names(self) -> list[str]:
        """What people call the models that are offered."""
        return self.menu.names

    def __getitem__(self, number: int) -> Any:
        return self.menu[number]

    @property
    def value(self) -> Any:
        """What is chosen, as `tilevision.start` takes it."""
        first = self.menu.value
        if self.second.value < 0 or _leads_on(first):
            return first
        return Cascade(first, self.menu[self.second.value], when=self.band.value)

    @property
    def words(self) -> str:
        """What is chosen, for people."""
        name: str = self.names[self.menu.control.value]
        if not isinstance(self.value, Cascade) or _leads_on(self.menu.value):
            return name
        low, high = self.band.value
        second = self.names[self.second.value]
        return f"{name}, then {second} where a score lies in {low:.2f} to {high:.2f}"

    def called(self, name: str, routing: Mapping[str, Any] | None = None) -> Any:
        """Return the model of that name; None where there is none.

        `routing` tells how a past run put several together, as its journal has it.
        """
        found = self.menu.called(name)
        told = routing or {}
        if found is not None or told.get("kind") != "cascade" or told["when"] is None:
            return found
        first, second = (self.menu.called(told[which]["name"]) for which in ("first", "second"))
        if first is None or second is None:
            return None
        return Cascade(first, second, when=tuple(told["when"]))

    def observe(self, heard: Callable[[], None]) -> None:
        """Call `heard` when anything was chosen."""
        for made in self.controls:
            made.observe(lambda _: heard(), names="value")


def _leads_on(value: Any) -> bool:
    return isinstance(value, (Route, Cascade))


def _shows(value: Any) -> bool:
    """Say whether the controls can show a cascade."""
    return isinstance(value, Cascade) and not callable(value.when)
