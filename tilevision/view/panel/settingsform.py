"""The form with a run's settings: what `tilevision.plan` and `tilevision.start` are given."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from tilevision.catalogue import models
from tilevision.errors import GridError
from tilevision.grid import DEFAULT_OVERLAP, DEFAULT_TILE, Grid
from tilevision.sources.addresses import address_of, is_address
from tilevision.view.notebook import variable
from tilevision.view.panel.controls import column, control, menu, visible
from tilevision.view.panel.modelmenu import ModelMenu, TileModelMenu

__all__ = ["SettingsForm"]

STORED = "as stored"


class SettingsForm:
    """Controls for image, tiles and models.

    Parameters
    ----------
    image : object
        As `tilevision.start` takes it.
    model : object
        The tiles' model; None: the first one offered.
    extra : sequence
        More models to choose from, besides the registered ones.
    arguments : dict
        Initial values, arguments of `tilevision.start`. Those without a control are kept.
    on_change : callable
        Called after a setting was changed.

    Raises
    ------
    ModelError, GridError
        If a model or the grid is invalid.
    """

    def __init__(
        self,
        image: Any,
        model: Any,
        extra: Sequence[Any],
        arguments: dict[str, Any],
        on_change: Callable[[], None],
    ) -> None:
        self._image = image
        self._given = dict(arguments)
        own = [*([] if model is None else [model]), *extra]
        in_file = isinstance(image, (str, os.PathLike))
        self.image = control(
            widgets.Text,
            "Image",
            value=self._shown_image(),
            continuous_update=False,
            disabled=not in_file,
        )
        registered = models()
        self.model = TileModelMenu(own, registered)
        moderation = arguments.get("moderation")
        self.moderation = ModelMenu("Moderation", "moderation", own, moderation, registered)
        chosen = arguments.get("synthesis", "summary")
        self.synthesis = ModelMenu("Synthesis", "synthesis", own, chosen, registered)
        self._add_grid(arguments.get("grid"))
        self._add_resolution(arguments.get("resolution"))
        self._before = self._values()
        self.kind.observe(lambda _: self._fit(), names="value")
        self._fit()
        self.box = column(*self._inputs(), name="choices")
        for made in self._inputs():
            if made is not self.more:
                made.observe(lambda _: on_change(), names="value")

    def add_model(self, text: str) -> None:
        """Offer a model that the user typed, in the menu of every stage that it serves.

        Raises
        ------
        ModelError
            If it is neither a name in the notebook nor a file, or is not a model.
        """
        text = text.strip()
        value = variable(text)
        value = text if value is None else value
        served = [menu.add(value) for menu in (self.model, self.moderation, self.synthesis)]
        if any(served):
            self.more.value = ""

    @property
    def in_memory(self) -> Any:
        """The image, if it was not given as a path; else None."""
        return self._image if self.image.disabled else None

    def read(self) -> tuple[Any, dict[str, Any]]:
        """Return image and arguments for `tilevision.plan` and `tilevision.start`.

        Raises
        ------
        GridError
            If the grid cannot be understood.
        """
        arguments = self._given | {
            "model": self.model.value,
            "moderation": self.moderation.value,
            "synthesis": self.synthesis.value,
        }
        # What the user has not changed is passed as it was given: a form cannot show it all.
        values = self._values()
        if values["grid"] != self._before["grid"]:
            arguments["grid"] = self._grid()
        if values["resolution"] != self._before["resolution"]:
            arguments["resolution"] = _resolution(self.resolution.value)
        given = self.image.disabled or self.image.value == self._shown_image()
        return self._image if given else self.image.value, arguments

    def _add_grid(self, given: Any) -> None:
        grid = None if given is None else Grid.parse(given)
        kind = "model" if grid is None else "tile" if grid.tile else "rows"
        kinds = [
            ("as suits the model", "model"),
            ("by tile size", "tile"),
            ("by rows and columns", "rows"),
        ]
        self.kind = menu("Tiles", kinds, value=kind)
        side = grid.tile[0] if grid and grid.tile else DEFAULT_TILE
        self.tile = _count("Side, px", side, 100_000)
        self.rows = _count("Rows", (grid and grid.rows) or 8, 10_000)
        self.cols = _count("Columns", (grid and grid.cols) or 8, 10_000)
        self.overlap = control(
            widgets.Combobox,
            "Overlap",
            "As a share of the tile, such as 0.2, or in pixels, such as 64px",
            value=str(grid.overlap if grid else DEFAULT_OVERLAP),
            options=["0", "0.1", "0.2", "0.3", "0.5", "64px"],
            continuous_update=False,
        )

    def _add_resolution(self, given: Any) -> None:
        self.resolution = control(
            widgets.Combobox,
            "Resolution",
            "As stored, or 0.5mpp, 20x, or a scale such as 0.5",
            value=_words(given),
            options=[STORED, "0.5mpp", "1mpp", "20x", "10x", "0.5", "0.25"],
            continuous_update=False,
        )
        self.more = control(
            widgets.Text,
            "Add a model",
            "Type the name of a function in this notebook, or a file such as weights.onnx, "
            "then press Enter",
            placeholder="function or weights.onnx",
            continuous_update=False,
        )

    def _inputs(self) -> tuple[Any, ...]:
        return (
            *(self.image, *self.model.controls, self.kind, self.tile, self.rows, self.cols),
            *(self.overlap, self.resolution, self.moderation.control, self.synthesis.control),
            self.more,
        )

    def _values(self) -> dict[str, tuple[Any, ...]]:
        grid = (self.kind, self.tile, self.rows, self.cols, self.overlap)
        return {
            "grid": tuple(made.value for made in grid),
            "resolution": (self.resolution.value,),
        }

    def _fit(self) -> None:
        """Show the controls that belong to the chosen kind of grid."""
        kind = self.kind.value
        visible(self.tile, kind == "tile")
        visible(self.rows, kind == "rows")
        visible(self.cols, kind == "rows")
        visible(self.overlap, kind != "model")

    def _shown_image(self) -> str:
        """Return how the form, which a notebook keeps, shows the image: without secrets."""
        if not isinstance(self._image, (str, os.PathLike)):
            return f"{type(self._image).__name__} in memory"
        text = os.fspath(self._image)
        return address_of(text).shown if is_address(text) else text

    def _grid(self) -> Grid | None:
        kind, text = self.kind.value, self.overlap.value.strip()
        if kind == "model":
            return None
        try:
            overlap: float | str = text if text.endswith("px") else float(text)
        except ValueError:
            raise GridError(f"Overlap {text!r} is not valid. Use 0.2 or 64px.") from None
        if kind == "tile":
            return Grid.by_tile(self.tile.value, overlap)
        return Grid(self.rows.value, self.cols.value, overlap)


def _count(label: str, value: int, most: int) -> Any:
    kind = widgets.BoundedIntText
    return control(kind, label, value=value, min=1, max=most, continuous_update=False)


def _words(resolution: Any) -> str:
    if resolution is None:
        return STORED
    if isinstance(resolution, (list, tuple)):
        return ", ".join(map(str, resolution))
    return str(resolution)


def _resolution(text: str) -> Any:
    """Read what was typed; the plan understands or refuses what is not a number."""
    text = text.strip()
    if text in ("", STORED):
        return None
    try:
        return float(text)
    except ValueError:
        return text
