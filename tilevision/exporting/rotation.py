"""Rotated boxes as labelling tools keep them: a box and an angle."""

from __future__ import annotations

import math

from tilevision.exporting.detectionrows import Ring

__all__ = ["turned_box"]


def turned_box(corners: Ring) -> tuple[float, float, float, float, float]:
    """Return centre x, y, width, height and the clockwise angle in degrees, 0 to 360.

    Parameters
    ----------
    corners : list of four x, y
        In order around the box, either way; the angle is that of the first edge, taken
        clockwise.
    """
    a, b, c, d = corners
    if (b[0] - a[0]) * (d[1] - a[1]) < (b[1] - a[1]) * (d[0] - a[0]):  # counterclockwise, y down
        b, d = d, b
    x, y = (sum(corner[axis] for corner in corners) / 4 for axis in (0, 1))
    width = (math.dist(a, b) + math.dist(d, c)) / 2
    height = (math.dist(b, c) + math.dist(a, d)) / 2
    along = (b[0] - a[0] + c[0] - d[0], b[1] - a[1] + c[1] - d[1])
    return x, y, width, height, math.degrees(math.atan2(along[1], along[0])) % 360
