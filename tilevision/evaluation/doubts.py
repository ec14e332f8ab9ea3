"""What in a truth makes a score mean little: no objects, or objects that are not in the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tilevision.evaluation.scoredimage import ScoredImage

__all__ = ["doubts"]


def doubts(images: Sequence[ScoredImage]) -> list[str]:
    """Return a sentence for each thing that is not the model's fault; none where all is well."""
    n_true = sum(len(one.true) for one in images)
    if not n_true:
        return ["There is no true object where the image was analysed: check the truth."]
    if all(_sides(one).max(initial=0) < 1 for one in images):
        return ["Every true object is smaller than a pixel: give the truth in pixels, not degrees."]
    outside = [_outside(one) for one in images]
    n_outside = sum(int(away.sum()) for away in outside)
    if not n_outside:
        return []
    one, away = next((one, away) for one, away in zip(images, outside, strict=True) if away.any())
    boxes, (width, height) = one.true.boxes[away], one.source.size
    (x0, y0), (x1, y1) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    return [
        f"{n_outside:,} of {n_true:,} true objects lie outside their image (x {x0:,.0f} to "
        f"{x1:,.0f}, y {y0:,.0f} to {y1:,.0f} of {width:,} × {height:,} px): is this the truth of "
        "another image?"
    ]


def _sides(one: ScoredImage) -> NDArray[np.float64]:
    return np.asarray(one.true.boxes[:, 2:] - one.true.boxes[:, :2])


def _outside(one: ScoredImage) -> NDArray[np.bool_]:
    """Mark true objects of which nothing lies in the image."""
    boxes, size = one.true.boxes, np.array(one.source.size)
    return np.asarray(((boxes[:, 2:] <= 0) | (boxes[:, :2] >= size)).any(axis=1))
