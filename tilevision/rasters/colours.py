"""The colours of classes on a map: by class number alone, so that every file of a map has them."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

from tilevision.rasterspec import NODATA

__all__ = ["class_palette", "coloured", "hexadecimal"]

# The bright scheme of Paul Tol first, which people with colour vision deficiencies tell apart.
_FIRST = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB")
_RAMP = "cividis"  # of values: readable with any colour vision, as heat maps are
_TURN = 0.618034  # of the circle of hues: neighbours in number are far apart


def class_palette(count: int) -> NDArray[np.uint8]:
    """Return red, green, blue and opacity ``(256, 4)`` of the values of a map of classes.

    Values from `count` on, among them 254 (none of the classes) and 255 (no data), are clear.
    """
    table = np.zeros((NODATA + 1, 4), np.uint8)
    for number in range(count):
        if number < len(_FIRST):
            value = int(_FIRST[number][1:], 16)
            rgb = (value >> 16, value >> 8 & 255, value & 255)
        else:
            hue, strong = number * _TURN % 1, 0.55 + 0.4 * (number % 3) / 2
            red, green, blue = colorsys.hsv_to_rgb(hue, strong, 0.9 - 0.3 * (number % 2))
            rgb = (round(red * 255), round(green * 255), round(blue * 255))
        table[number] = (*rgb, 255)
    return table


def coloured(values: NDArray[np.float32]) -> tuple[NDArray[np.uint8], dict[float, str]]:
    """Return values ``(h, w)`` in colours ``(h, w, 4)``, NaN clear, and what the colours stand for.

    The second has the lowest, the middle and the highest value, each with its colour in
    hexadecimal; it is empty where there are no data.
    """
    import matplotlib as mpl

    table = np.round(255 * mpl.colormaps[_RAMP](np.linspace(0, 1, 256))).astype(np.uint8)
    there = np.isfinite(values)
    out = np.zeros((*values.shape, 4), np.uint8)
    if not there.any():
        return out, {}
    low, high = float(values[there].min()), float(values[there].max())
    level = (values[there] - low) / max(high - low, 1e-12)
    out[there] = table[np.rint(255 * level).astype(np.uint8)]
    stands = {low: 0, (low + high) / 2: 128, high: 255} if high > low else {low: 0}
    return out, {value: hexadecimal(table[at]) for value, at in stands.items()}


def hexadecimal(colour: NDArray[np.uint8]) -> str:
    """Return a colour as ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour[:3].tolist())
