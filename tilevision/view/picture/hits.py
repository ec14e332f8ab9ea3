"""What lies under the pointer: boxes of the region shown, so that the page can tell at once."""

from __future__ import annotations

import numpy as np

from tilevision.geometry import Box
from tilevision.plot import shown
from tilevision.view.picture.boxes import BoxLayer

__all__ = ["MOST_HITS", "hits"]

MOST_HITS = 2000
NAME_LIMIT = 60


def hits(layer: BoxLayer, view: Box, limit: int = MOST_HITS) -> tuple[bytes, list[str]]:
    """Return the boxes of `layer` in `view` and the names of their classes.

    Returns
    -------
    rows : bytes
        float32 ``(n, 6)``: x0, y0, x1, y1 in pixels from the corner of `view`, number of the
        name, score (NaN for none). Where there are more than `limit`, the largest: the small
        ones could not be pointed at.
    names : list of str
        Untrusted text, made visible and cut.
    """
    if not layer.chunks:
        return b"", []
    boxes = np.concatenate([chunk.boxes for chunk in layer.chunks])
    inside = (boxes[:, 2:] > (view.x0, view.y0)).all(axis=1)
    inside &= (boxes[:, :2] < (view.x1, view.y1)).all(axis=1)
    at = np.flatnonzero(inside)
    if len(at) > limit:
        sides = boxes[at, 2:] - boxes[at, :2]
        at = at[np.argpartition(-sides.prod(axis=1), limit)[:limit]]
    labels = np.concatenate([chunk.labels for chunk in layer.chunks])[at]
    scores = np.concatenate([chunk.scores for chunk in layer.chunks])[at]
    used, numbers = np.unique(labels, return_inverse=True)
    corner = np.array([view.x0, view.y0] * 2)
    rows = np.column_stack([boxes[at] - corner, numbers, scores]).astype("<f4")
    return rows.tobytes(), [shown(layer.labels[i], NAME_LIMIT) for i in used]
