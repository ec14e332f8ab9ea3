"""A result as a figure: the image, its tiles by status, its findings, and missing tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.analysis.heatmap import Heatmap
from tilevision.findings import Findings
from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.plot.heat import ALPHA, draw_heat, heat_keys
from tilevision.plot.labels import drawable
from tilevision.plot.tile_map import TileMap, status_codes
from tilevision.plot.wording import (
    MAX_CLASSES,
    OUTLINE,
    Key,
    class_keys,
    colours_of,
    heading_for,
    region_keys,
    status_keys,
)
from tilevision.sources.source import ImageSource

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_overlay", "draw_result"]

LONGEST_SIDE = 2048  # px read of the image
MAX_POLYGONS = 3000
_HALO = "#00000080"
_DASHES = (0, (5, 3))  # a region's outline: detections are never dashed


def draw_result(
    target: Figure | Axes | None,
    image: ImageSource | NDArray[np.uint8],
    tiles: Sequence[tuple[Tile, str]],
    findings: Findings,
    *,
    size: tuple[int, int] | None = None,
    title: str = "",
    note: str = "",
    outline: Sequence[NDArray[np.float64]] = (),
    heat: tuple[Heatmap, str] | None = None,
    cover: tuple[NDArray[np.uint8], Mapping[str, str]] | None = None,
) -> Figure:
    """Draw a result with its title, missing tiles, and a legend with counts.

    Parameters
    ----------
    target : Figure or Axes, optional
        Where to draw; None makes a figure that a notebook shows by itself.
    image : ImageSource or array (h, w, 3) of uint8
        The image; as an array at any resolution.
    tiles : sequence of (Tile, status)
    findings : Findings
        In pixels of the full-resolution image.
    size : tuple of int, optional
        Width and height at full resolution; where `image` is an array at another one.
    title : str
        Shown as plain text, never as markup.
    note : str
        One line below the title, such as how much of the image was analysed. If tiles were
        not analysed and no note is given, this line says so.
    outline : sequence of array (k, 2)
        Closed rings x, y of the analysed region, full-resolution pixels.
    heat : (Heatmap, str), optional
        Probabilities of the tiles, and the class to show.
    cover : (array (h, w, 4) of uint8, mapping of str to str), optional
        A map of the whole image in colours, and the colour of each of its classes.

    Returns
    -------
    Figure
        That holds the drawing; save it with ``figure.savefig("out.png")``.
    """
    from tilevision.plot.framing import figure_of, frame_axes, write_around

    size = size or _full_size(image)
    heading = heading_for(title, note, tiles)
    keys = status_keys(tiles) + region_keys(outline) + class_keys(findings)
    keys += heat_keys(heat[1]) if heat is not None else []
    classes = list(cover[1].items())[:MAX_CLASSES] if cover is not None else []
    keys += [Key(drawable(name, 24), colour, fill=1.0) for name, colour in classes]
    axes = frame_axes(target, size, heading.n_lines, len(keys))
    draw_overlay(axes, image, tiles, findings, size=size, outline=outline, heat=heat)
    if cover is not None:
        extent = (0, size[0], size[1], 0)
        axes.imshow(cover[0], extent=extent, interpolation="nearest", zorder=1.5, alpha=ALPHA)
    write_around(axes, heading, keys)
    return figure_of(axes)


def draw_overlay(
    axes: Axes,
    image: ImageSource | NDArray[np.uint8],
    tiles: Sequence[tuple[Tile, str]],
    findings: Findings,
    *,
    size: tuple[int, int] | None = None,
    outline: Sequence[NDArray[np.float64]] = (),
    heat: tuple[Heatmap, str] | None = None,
) -> None:
    """Draw the image, its tiles by status and its findings, and nothing around them.

    Parameters are those of `draw_result`. Coordinates of the axes are pixels of the
    full-resolution image.
    """
    width, height = size = size or _full_size(image)
    extent = (0, width, height, 0)
    pixels = _pixels(image, size)
    axes.imshow(pixels, extent=extent, interpolation="antialiased", zorder=0)
    if heat is not None:
        draw_heat(axes, *heat)
    if tiles:
        factor = min(1.0, 1200 / max(size))
        shape = (max(1, round(height * factor)), max(1, round(width * factor)))
        painted = TileMap([tile for tile, _ in tiles], Box(0, 0, width, height), shape).paint(
            status_codes([status for _, status in tiles])
        )
        axes.imshow(painted, extent=extent, interpolation="antialiased", zorder=1)
    _draw_outline(axes, outline)
    _draw_findings(axes, findings)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axes.set_axis_off()


def _draw_outline(axes: Axes, rings: Sequence[NDArray[np.float64]]) -> None:
    from matplotlib.collections import LineCollection

    if rings:
        for colour, width, style in ((_HALO, 3.0, "solid"), (OUTLINE, 1.4, _DASHES)):
            lines = LineCollection(
                list(rings), colors=colour, linewidths=width, linestyles=[style], zorder=2
            )
            axes.add_collection(lines, autolim=False)


def _draw_findings(axes: Axes, findings: Findings) -> None:
    from matplotlib.collections import LineCollection

    outlines, rows = _outlines(findings)
    if not outlines:
        return
    colours = colours_of(findings)
    width = float(np.interp(len(findings), [100, 1000, 20000], [1.5, 1.0, 0.5]))
    edge = [colours[str(findings.labels[row])] for row in rows]
    for colour, extra in ((_HALO, 1.4), (edge, 0.0)):
        lines = LineCollection(outlines, colors=colour, linewidths=width + extra, zorder=2)
        axes.add_collection(lines, autolim=False)


def _outlines(findings: Findings) -> tuple[list[NDArray[np.float64]], list[int]]:
    """Return closed lines and the row each belongs to: polygons when few, else boxes."""
    polygons = findings.polygons if len(findings) <= MAX_POLYGONS else None
    outlines, rows = [], []
    corners = findings.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(-1, 5, 2)
    for row in range(len(findings)):
        shape = polygons[row] if polygons is not None else None
        rings = [ring for part in shape or () for ring in part]
        lines = [np.concatenate([ring, ring[:1]]) for ring in rings] or [corners[row]]
        outlines += lines
        rows += [row] * len(lines)
    return outlines, rows


def _full_size(image: ImageSource | NDArray[np.uint8]) -> tuple[int, int]:
    return (image.shape[1], image.shape[0]) if isinstance(image, np.ndarray) else image.size


def _pixels(image: ImageSource | NDArray[np.uint8], size: tuple[int, int]) -> NDArray[Any]:
    if isinstance(image, np.ndarray):
        return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    from tilevision.sources import display_options, read_pixels

    scale = min(1.0, LONGEST_SIDE / max(size))
    pixels: NDArray[Any] = read_pixels(image, Box(0, 0, *size), scale, display_options(image))
    return pixels
