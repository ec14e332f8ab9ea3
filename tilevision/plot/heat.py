"""A map of probabilities over the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilevision.analysis.heatmap import Heatmap
from tilevision.plot.labels import drawable
from tilevision.plot.wording import Key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ALPHA", "draw_heat", "heat_colours", "heat_keys"]

_COLOURS = "cividis"  # readable with any colour vision
ALPHA = 0.55
_STEPS = (0.0, 0.5, 1.0)


def draw_heat(axes: Axes, heat: Heatmap, label: str) -> None:
    """Draw the probability of class `label`; transparent where there is none.

    The coordinates of the axes are pixels of the full-resolution image.
    """
    values = heat.of(label)
    rows, columns = values.shape
    extent = (0, columns * heat.cell, rows * heat.cell, 0)
    axes.imshow(
        values,
        extent=extent,
        interpolation="nearest",
        zorder=1.5,
        cmap=_COLOURS,
        vmin=0.0,
        vmax=1.0,
        alpha=ALPHA,
    )


def heat_colours(share: float) -> tuple[float, float, float, float]:
    """Return red, green, blue and opacity, 0 to 1, of a probability."""
    import matplotlib as mpl

    red, green, blue, opacity = mpl.colormaps[_COLOURS](share)
    return red, green, blue, opacity


def heat_keys(label: str) -> list[Key]:
    """Return the legend of `draw_heat`."""
    from matplotlib.colors import to_hex

    return [
        Key(f"{drawable(label, 24)} {step:.0%}", to_hex(heat_colours(step)), fill=1.0)
        for step in _STEPS
    ]
