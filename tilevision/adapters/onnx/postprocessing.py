"""From a decoder's candidates in the model's input to findings of the tile.

Masks become outlines at the tile's resolution. Prototypes cover the input at a quarter of its
resolution; a detection's mask is their sum by its coefficients (Bolya et al., YOLACT: Real-time
Instance Segmentation, arXiv:1904.02689).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.classnames import class_name
from tilevision.adapters.compaction import suppress
from tilevision.adapters.onnx.families import Candidates
from tilevision.adapters.onnx.preparation import Placement
from tilevision.adapters.outlines import traced
from tilevision.adapters.vectors import vector_of
from tilevision.errors import ModelError
from tilevision.findings import Findings
from tilevision.overlaps import meeting_chunks

__all__ = ["Rules", "findings_in_tile", "finish"]

_TINY = 1e-7  # as Ultralytics keeps away from 0
_TOLERANCE = 1e-3  # by which a sigmoid in half precision passes 1


@dataclass(frozen=True, slots=True)
class Rules:
    """What becomes of candidates.

    Parameters
    ----------
    name : str
        Of the model, for errors.
    names : sequence or mapping, optional
        Class names by class number.
    score_floor : float
        What scores lower is dropped.
    nms : float, optional
        IoU above which two of one class are the same; None keeps all.
    most : int, optional
        How many are kept, the best first; None keeps all.
    each : int, optional
        How many boxes of one class the graph itself keeps at most.
    chooses : bool
        Whether the graph itself chooses, so that what it gives is counted before `nms` is applied.
    by_shape : bool
        Whether overlap is that of outlines and rotated boxes, not what the family's tool measures.
    """

    name: str
    names: Any
    score_floor: float
    nms: float | None
    most: int | None
    by_shape: bool = False
    each: int | None = None
    chooses: bool = False

    def are_filled_by(self, findings: Findings) -> bool:
        """Return True if a tile has as many as the graph can give, in all or of one class."""
        if self.chooses and self.most is not None and len(findings) >= self.most:
            return True
        if self.each is None or len(findings) < self.each:
            return False
        named = (findings.class_ids < 0).all()
        kinds = findings.labels.astype(str) if named else findings.class_ids
        return bool(np.unique(kinds, return_counts=True)[1].max() >= self.each)


def findings_in_tile(seen: Candidates, place: Placement, rules: Rules) -> tuple[Findings, bool]:
    """Return the findings of one tile, in its pixels, and whether the graph can give no more.

    Raises
    ------
    ModelError
        If scores are none.
    """
    if seen.tile_scores is not None:
        return Findings(tile_scores=_tile_scores(seen.tile_scores, rules)), False
    if seen.embedding is not None:
        return vector_of(seen.embedding, rules.name), False
    _check_scores(seen.scores, rules.name)
    good = np.isfinite(seen.boxes).all(axis=1) & (seen.scores >= rules.score_floor)
    good &= (seen.boxes[:, 2:] > seen.boxes[:, :2]).all(axis=1)
    rows = np.flatnonzero(good)
    if seen.oriented is not None and rules.nms is not None and not rules.by_shape:
        rows = rows[_not_again(seen, rows, rules.nms)]
    boxes = place.to_tile(seen.boxes[rows].astype(np.float64).reshape(-1, 2, 2)).reshape(-1, 4)
    oriented = None if seen.oriented is None else place.to_tile(seen.oriented[rows])
    ids = seen.class_ids[rows].astype(np.int64)
    names = {number: class_name(number, rules.names) for number in set(ids.tolist())}
    findings = Findings(
        boxes,
        np.clip(seen.scores[rows], 0, 1),
        [names[number] for number in ids.tolist()],
        ids,
        oriented,
        keypoints=_keypoints(seen, rows, place),
        attributes=[{"row": int(row)} for row in rows],  # findings sort themselves
    )
    full = rules.are_filled_by(findings)
    # Outlines are costly: where they do not decide, only what is kept gets one.
    kept = findings if rules.by_shape else finish(findings, rules)
    chosen = np.array([a["row"] for a in kept.attributes or () if a], dtype=np.int64)
    columns = kept.columns
    columns.pop("attributes", None)
    columns["polygons"] = _polygons(seen, chosen, kept.boxes, place)
    found = Findings(**columns)
    return finish(found, rules) if rules.by_shape else found, full


def _not_again(seen: Candidates, rows: NDArray[np.int64], threshold: float) -> NDArray[np.bool_]:
    """Mark those of `rows` that no better one of their class covers, as Ultralytics measures it.

    Rotated boxes are compared as Gaussians (Murrugarra-Llerena et al., *Probabilistic
    Intersection-over-Union for Training and Evaluation of Oriented Object Detectors*, 2022): their
    networks are trained with that, and a box that is long and thin differs in it less by its
    angle than in the area shared.
    """
    assert seen.oriented is not None
    order = rows[np.argsort(-seen.scores[rows], kind="stable")]
    corners = seen.oriented[order].astype(np.float64)
    boxes = np.hstack([corners.min(axis=1), corners.max(axis=1)])
    kept = np.ones(len(order), dtype=bool)
    kinds = seen.class_ids[order].astype(np.int64)
    for better, worse in meeting_chunks(boxes, boxes, kinds, kinds):
        ranked = better < worse
        one, two = better[ranked], worse[ranked]
        kept[two[_gaussian_overlap(corners[one], corners[two]) > threshold]] = False
    found = np.zeros(len(seen.scores), dtype=bool)
    found[order[kept]] = True
    return found[rows]


def _gaussian_overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return one less the Hellinger distance of rotated boxes ``(n, 4, 2)``, pair by pair."""

    def spread(corners: NDArray[np.float64]) -> NDArray[np.float64]:
        sides = (corners[:, [1, 3]] - corners[:, :1]) / 2
        return np.asarray(np.einsum("nsi,nsj->nij", sides, sides) / 3)

    def area(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(matrix[:, 0, 0] * matrix[:, 1, 1] - matrix[:, 0, 1] ** 2)

    first, second = spread(a), spread(b)
    both = first + second
    x, y = (a.mean(axis=1) - b.mean(axis=1)).T
    whole = area(both)
    apart = both[:, 0, 0] * y**2 + both[:, 1, 1] * x**2 - 2 * both[:, 0, 1] * x * y
    alone = np.sqrt(np.maximum(area(first), 0) * np.maximum(area(second), 0))
    distance = apart / (whole + _TINY) / 4
    distance += np.log(whole / (4 * alone + _TINY) + _TINY) / 2
    return np.asarray(1 - np.sqrt(1 - np.exp(-np.clip(distance, _TINY, 100)) + _TINY))


def _keypoints(
    seen: Candidates, rows: NDArray[np.int64], place: Placement
) -> NDArray[np.float64] | None:
    """Return the key points of candidates in pixels of the tile."""
    if seen.keypoints is None:
        return None
    points = seen.keypoints[rows].astype(np.float64)
    points[..., :2] = place.to_tile(points[..., :2])
    return points


def finish(findings: Findings, rules: Rules) -> Findings:
    """Return findings of a tile without duplicates, and no more than are wanted.

    Suppression happens here and not only when findings are stored, since what is cut off, and
    whether a tile is saturated, is a matter of objects and not of their duplicates.
    """
    if rules.nms is not None:
        findings = findings.take(suppress(findings, rules.nms))
    if rules.most is not None and len(findings) > rules.most:
        findings = findings.take(np.arange(rules.most))
    return findings


def _polygons(
    seen: Candidates, rows: NDArray[np.int64], boxes: NDArray[np.float64], place: Placement
) -> list[Any] | None:
    if seen.prototypes is not None and seen.coefficients is not None:
        return _from_prototypes(seen.coefficients[rows], seen.prototypes, boxes, place)
    if seen.masks is not None:
        masks = seen.masks[rows]
        if seen.masks_in_boxes:
            return _from_boxes(masks, boxes, place, seen.mask_level)
        return _from_raster(masks, boxes, place, seen.mask_level)
    return None


def _check_scores(scores: NDArray[Any], name: str) -> None:
    if scores.size and not (scores.min() >= -_TOLERANCE and scores.max() <= 1 + _TOLERANCE):
        raise ModelError(
            f"Model {name}: scores run from {scores.min():g} to {scores.max():g}, not from 0 to 1; "
            "its outputs are laid out otherwise: pass another family=, or decode=."
        )


def _tile_scores(scores: NDArray[Any], rules: Rules) -> dict[str, float]:
    _check_scores(scores, rules.name)
    found: dict[str, float] = {}
    for number in np.flatnonzero(scores >= rules.score_floor):
        label = class_name(int(number), rules.names)
        found[label] = min(1.0, found.get(label, 0.0) + float(scores[number]))
    return found


def _from_prototypes(
    coefficients: NDArray[Any],
    prototypes: NDArray[Any],
    boxes: NDArray[np.float64],
    place: Placement,
) -> list[Any]:
    """Return the outline of each detection within its box, in pixels of the tile.

    Parameters
    ----------
    coefficients : array (n, k)
    prototypes : array (k, h, w)
        Over the whole input.
    boxes : array (n, 4)
        In pixels of the tile.
    place : Placement

    Returns
    -------
    list
        For each an outline as `outlines.outline` makes it, or None where the mask is empty.
    """
    return [
        _traced(np.tensordot(weights, prototypes, axes=1), box, place, 0.0)
        for weights, box in zip(coefficients, boxes, strict=True)
    ]


def _from_raster(
    masks: NDArray[Any], boxes: NDArray[np.float64], place: Placement, level: float
) -> list[Any]:
    """Return the outline of each mask ``(n, h, w)`` over the whole input."""
    return [_traced(mask, box, place, level) for mask, box in zip(masks, boxes, strict=True)]


def _from_boxes(
    masks: NDArray[Any], boxes: NDArray[np.float64], place: Placement, level: float
) -> list[Any]:
    """Return the outline of each mask ``(n, h, w)`` over its own box."""
    found = []
    for mask, box in zip(masks, boxes, strict=True):
        extent = np.maximum(box[2:] - box[:2], 1e-9)
        ratio = np.array(mask.shape[::-1]) / extent
        found.append(traced(mask, box, place.tile, ratio, -box[:2] * ratio, level))
    return found


def _traced(field: NDArray[Any], box: NDArray[np.float64], place: Placement, level: float) -> Any:
    """Outline where `field`, laid over the input, passes `level`, at pixels of the tile."""
    ratio = np.array(field.shape[::-1]) / np.array(place.input)
    scale, offset = np.array(place.scale) * ratio, np.array(place.offset) * ratio
    return traced(field, box, place.tile, scale, offset, level)
