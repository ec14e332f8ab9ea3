"""What in a truth makes a score mean little: no objects, no classes, those of another image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tilevision.evaluation.scoredimage import ScoredImage

__all__ = ["doubts"]

NO_CLASS = "object"  # what truth without a class is read as


def doubts(images: Sequence[ScoredImage]) -> list[str]:
    """Return a sentence for each thing that is not the model's fault; none where all is well."""
    n_true = sum(len(one.true) for one in images)
    if not n_true:
        return ["There is no true object where the image was analysed: check the truth."]
    if all(_sides(one).max(initial=0) < 1 for one in images):
        return ["Every true object is smaller than a pixel: give the truth in pixels, not degrees."]
    parts = (_without_class(images, n_true), _too_large(images, n_true), _beside(images, n_true))
    return [*_of_another(images), *(sentence for part in parts for sentence in part)]


def _without_class(images: Sequence[ScoredImage], n_true: int) -> list[str]:
    """Say how many true objects have the class of those whose truth names none."""
    found = {label for one in images for label in one.found.labels.tolist()}
    if not found or NO_CLASS in found:
        return []
    n = sum(int((one.true.labels == NO_CLASS).sum()) for one in images)
    if not n:
        return []
    return [
        f"{n:,} of {n_true:,} true objects have no class but {NO_CLASS!r}, which nothing was found "
        "as: name their classes (label), or give class_agnostic=True."
    ]


def _too_large(images: Sequence[ScoredImage], n_true: int) -> list[str]:
    """Say how many true objects are larger than their image, as degrees taken for pixels are."""
    n = sum(
        int((_sides(one) > 1.5 * np.array(one.source.size)).any(axis=1).sum()) for one in images
    )
    if not n:
        return []
    return [
        f"{n:,} of {n_true:,} true objects are larger than their image: give the truth in its "
        "pixels, or say in which reference system it is."
    ]


def _of_another(images: Sequence[ScoredImage]) -> list[str]:
    """Say of a truth that nothing matches that it is of an image of another name."""
    strange = [one for one in images if one.other and not one.hit_true.any() and len(one.found)]
    return [
        f"Nothing matches, and the truth is of {one.other[:80]!r}: is it that of {one.name}?"
        for one in strange[:1]
    ]


def _beside(images: Sequence[ScoredImage], n_true: int) -> list[str]:
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
