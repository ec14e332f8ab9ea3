"""What the colours of a map stand for, and what it says at a point."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import to_hex

from tilevision.colouring import chosen_colour
from tilevision.plot import shown
from tilevision.plot.heat import heat_colours
from tilevision.view.mapping.mapchoice import CLEAR, MapChoice, class_key
from tilevision.view.mapping.mapsheet import MapSheet

if TYPE_CHECKING:
    from tilevision.rasters import RasterMap

__all__ = ["legend_of", "read_at"]

MOST_CLASSES = 12
BAR_STEPS = 9
LISTED = 3


def legend_of(raster: RasterMap, choice: MapChoice, sheet: MapSheet | None) -> list[dict[str, Any]]:
    """Return the entries of the legend.

    Areas are counted from the pixels that `sheet`, of the whole image, has by now; where it has
    not every pixel of the map, they are about right, and where blocks are yet to come, they are
    those so far; both is said.
    """
    if choice.kind != "classes":
        return [_bar(raster, choice, sheet)]
    areas = {} if sheet is None else _areas(raster, sheet)
    whole = sum(areas.values())
    about = "" if sheet is not None and sheet.step == 1 else "≈ "
    so_far = "" if sheet is not None and sheet.whole else " so far"
    named = sorted(raster.classes.items(), key=lambda one: (-areas.get(one[1], 0.0), one[1]))
    entries = []
    for name, number in named[:MOST_CLASSES]:
        words = shown(name, 30)
        if whole:
            area = areas.get(number, 0.0)
            words += f" · {about}{raster.units.in_words(area)} ({area / whole:.0%}){so_far}"
        colour = "#{:02x}{:02x}{:02x}".format(*raster.palette[number, :3].tolist())
        mine = {"key": class_key(name), "own": True, "chosen": chosen_colour(name) is not None}
        entries.append({"words": words, "colour": colour, "wide": True, **mine})
    if len(named) > MOST_CLASSES:
        words = f"{len(named) - MOST_CLASSES:,} more classes"
        entries.append({"words": words, "colour": "#999999", "wide": True})
    return entries


def _bar(raster: RasterMap, choice: MapChoice, sheet: MapSheet | None) -> dict[str, Any]:
    ramp = [to_hex(heat_colours(share)) for share in np.linspace(0, 1, BAR_STEPS)]
    ends = choice.ends if sheet is None else sheet.ends
    words = choice.words
    if ends is not None:
        unit = f" {shown(raster.unit, 20)}" if raster.unit and choice.kind == "value" else ""
        words = f"{words}: {ends[0]:.4g} to {ends[1]:.4g}{unit}"
    return {"words": words, "colour": ramp[-1], "wide": True, "ramp": ramp}


def _areas(raster: RasterMap, sheet: MapSheet) -> dict[int, float]:
    """Return the area of each class so far, in the unit of the image."""
    high, wide = sheet.values.shape
    if not high or not wide:
        return {}
    x0, y0, x1, _ = sheet.window
    y = (y0 + (np.arange(high) + 0.5) * sheet.step) / raster.scale
    middle = np.full(high, (x0 + x1) / 2 / raster.scale)
    pixel = (
        raster.units.pixel_areas(np.column_stack([middle, y])) * (sheet.step / raster.scale) ** 2
    )
    rows = np.arange(high)[:, None] * 256 + sheet.values
    counts = np.bincount(rows.ravel(), minlength=high * 256).reshape(high, 256)
    found = pixel @ counts
    return {number: float(found[number]) for number in raster.classes.values()}


def read_at(raster: RasterMap, x: float, y: float) -> str:
    """Return what a map says at a point of the image; empty off the image."""
    column, row = math.floor(x * raster.scale), math.floor(y * raster.scale)
    width, height = raster.size
    if not (0 <= column < width and 0 <= row < height):
        return ""
    window = (column, row, column + 1, row + 1)
    return f"Map at {math.floor(x):,}, {math.floor(y):,}: {_said(raster, window)}"


def _said(raster: RasterMap, window: tuple[int, int, int, int]) -> str:
    if raster.spec.kind == "values":
        values = raster.window(*window)[:, 0, 0].tolist()
        unit = f" {shown(raster.unit, 20)}" if raster.unit else ""
        told = [f"{value:.6g}{unit}" for value in values[:LISTED] if not math.isnan(value)]
        return ", ".join(told) or "no data"
    names = {number: shown(name, 40) for name, number in raster.classes.items()}
    number = int(raster.window(*window)[0, 0, 0])
    if number == CLEAR:
        return "no data"
    words = names.get(number, "none of the classes")
    if raster.spec.kind != "probabilities":
        return words
    shares = raster.probabilities.window(*window)[:, 0, 0]
    order = np.argsort(-shares, kind="stable")[:LISTED].tolist()
    return f"{words} ({', '.join(f'{names[n]} {shares[n]:.2f}' for n in order)})"
