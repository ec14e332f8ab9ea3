"""Drawing an image, its tiles and its findings: matplotlib without pyplot or global state."""

from __future__ import annotations

from tilevision.colouring import class_colours
from tilevision.plot.labels import shown
from tilevision.plot.palette import STATUSES, STYLES, StatusStyle
from tilevision.plot.result_figure import draw_overlay, draw_result
from tilevision.plot.tile_map import TileMap

__all__ = [
    "STATUSES",
    "STYLES",
    "StatusStyle",
    "TileMap",
    "class_colours",
    "draw_overlay",
    "draw_result",
    "shown",
]
