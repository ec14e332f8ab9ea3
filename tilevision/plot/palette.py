"""The look of statuses: each has a hatch as well, so none depends on colour.

Status colours are those of Okabe and Ito (2008), told apart by people with any of the
common colour vision deficiencies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilevision.status import TileStatus

__all__ = [
    "PERIOD",
    "SENT_ON",
    "STATUSES",
    "STYLES",
    "StatusStyle",
    "hatch_pattern",
    "rgb",
]

PERIOD = 12


@dataclass(frozen=True, slots=True)
class StatusStyle:
    """The look of one tile status.

    Parameters
    ----------
    colour : str
        ``#rrggbb``.
    glyph : str
        One character, for text.
    hatch : str
        Matplotlib's name of the pattern, such as ``"/"`` or ``"."``; empty for none.
    fill, stroke, edge : float
        Opacity of the tile's area, of its hatch and of its edge, 0 to 1.
    """

    colour: str
    glyph: str
    hatch: str
    fill: float
    stroke: float
    edge: float


# A finished tile is left clear, to show the image and the boxes.
STYLES: Mapping[TileStatus, StatusStyle] = {
    TileStatus.PENDING: StatusStyle("#5F6B76", "·", "", 0.55, 0.0, 0.4),
    TileStatus.RUNNING: StatusStyle("#56B4E9", "▸", "/", 0.28, 0.85, 0.85),
    TileStatus.DONE: StatusStyle("#009E73", "✓", "", 0.0, 0.0, 0.6),
    TileStatus.RESTORED: StatusStyle("#0072B2", "↺", ".", 0.0, 0.4, 0.6),
    TileStatus.RETRYING: StatusStyle("#E69F00", "↻", "\\", 0.35, 0.9, 0.9),
    TileStatus.THROTTLED: StatusStyle("#CC79A7", "‖", "-", 0.4, 0.9, 0.9),
    TileStatus.FAILED: StatusStyle("#D55E00", "✕", "x", 0.45, 1.0, 1.0),
    TileStatus.SKIPPED: StatusStyle("#1B1B1B", "–", "|", 0.55, 0.75, 0.75),
}
STATUSES = tuple(STYLES)
# A tile that one model sent on to another: a frame, whatever its status. Dark with a light edge,
# where boxes are bright with a dark one: 16 from any colour of a class or a status, for all eyes.
SENT_ON = StatusStyle("#2200AA", "»", "", 0.0, 0.0, 1.0)


def hatch_pattern(hatch: str) -> NDArray[np.bool_]:
    """Return the pattern as a mask (PERIOD, PERIOD) that repeats without a seam."""
    y, x = np.mgrid[:PERIOD, :PERIOD]
    rising, falling = (x + y) % PERIOD < 2, (x - y) % PERIOD < 2
    empty = np.zeros((PERIOD, PERIOD), dtype=bool)
    patterns = {
        "": empty,
        "/": rising,
        "\\": falling,
        "x": rising | falling,
        "-": y % 6 < 2,
        "|": x % 6 < 2,
        ".": (x < 2) & (y < 2),
    }
    pattern: NDArray[np.bool_] = patterns[hatch]
    return pattern


def rgb(colour: str) -> tuple[int, int, int]:
    """Return red, green and blue, 0 to 255, of ``#rrggbb``."""
    value = int(colour.removeprefix("#"), 16)
    return value >> 16, value >> 8 & 255, value & 255
