"""One image: what is true, what was found, and which of both match."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilevision.evaluation.annotated import Truth
from tilevision.evaluation.matches import matched
from tilevision.findings import Findings
from tilevision.overlaps import Bodies, meetings

if TYPE_CHECKING:
    from tilevision.result import Result
    from tilevision.sources import ImageSource

__all__ = ["Panoptic", "ScoredImage", "one_class", "scored_image"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Panoptic:
    """The segments of one image that match at IoU above 0.5, and what counts beside them."""

    matched: NDArray[np.object_]  # classes
    alike: Floats  # IoU of each
    missed: NDArray[np.object_]  # classes of true segments without a match
    wrong: NDArray[np.object_]  # classes of detections without one, outside crowd regions

    @classmethod
    def of(cls, true: Findings, crowd: Findings, found: Findings) -> Panoptic:
        """Match what is true and what was found."""
        there, here = matched(true, found, float(np.nextafter(0.5, 1)))
        alike = Bodies.of(true).overlap(there, Bodies.of(found), here, both=True)
        missed = np.delete(true.labels, there)
        excused = _in_crowd(found, crowd, 0.5)
        excused[here] = True
        return cls(true.labels[there], alike, missed, found.labels[~excused])


@dataclass(frozen=True, eq=False)
class ScoredImage:
    """One image: what is true, what was found, and which of both match."""

    name: str
    coverage: str
    source: ImageSource
    true: Findings
    crowd: Findings
    found: Findings
    hit_true: Mask
    hit_found: Mask
    excused: Mask
    panoptic: Panoptic
    far_true: Floats
    far_found: Floats
    other: str = ""  # what its truth calls it, where that is another name

    @property
    def counted(self) -> Mask:
        """Detections that count: all but those that a crowd region excuses."""
        return ~self.excused

    @cached_property
    def names(self) -> set[str]:
        """Every class in it."""
        return {*self.true.labels.tolist(), *self.found.labels.tolist()}


def scored_image(result: Result, truth: Truth, iou: float, class_agnostic: bool) -> ScoredImage:
    """Match a result with the truth of its image, where the result looked."""
    true, crowd, found = truth.objects, truth.crowd, result.findings
    if result.facts.region is not None:
        true = true.take(result.facts.region.holds((true.boxes[:, :2] + true.boxes[:, 2:]) / 2))
    if class_agnostic:
        true, crowd, found = one_class(true), one_class(crowd), one_class(found)
    rows_true, rows_found = matched(true, found, iou)
    hit_true, hit_found = np.zeros(len(true), bool), np.zeros(len(found), bool)
    hit_true[rows_true] = hit_found[rows_found] = True
    return ScoredImage(
        name=result.name,
        coverage=result.coverage,
        source=result.source,
        true=true,
        crowd=crowd,
        found=found,
        hit_true=hit_true,
        hit_found=hit_found,
        excused=_in_crowd(found, crowd, iou) & ~hit_found,
        panoptic=Panoptic.of(true, crowd, found),
        far_true=_to_seam(result, true.boxes),
        far_found=_to_seam(result, found.boxes),
        other=truth.other,
    )


def one_class(findings: Findings) -> Findings:
    """Return findings whose classes are all alike."""
    columns = findings.columns | {"labels": ["object"] * len(findings)}
    return Findings(**columns | {"class_ids": None})


def _in_crowd(found: Findings, crowd: Findings, iou: float) -> Mask:
    """Mark detections of which a share of `iou` or more lies in a crowd region of their class."""
    out = np.zeros(len(found), dtype=bool)
    if len(found) and len(crowd):
        mine, regions = Bodies.of(found), Bodies.of(crowd)
        here, there = meetings(mine.boxes, regions.boxes)
        same = found.labels[here] == crowd.labels[there]
        here, there = here[same], there[same]
        out[here[mine.share_within(here, regions, there) >= iou]] = True
    return out


def _to_seam(result: Result, boxes: Floats) -> Floats:
    """Return how far each centre is from the nearest inner tile edge; infinite without one."""
    import shapely

    width, height = result.source.size
    lines = set()
    for x0, y0, x1, y1 in (row.tile.box.as_tuple() for row in result.rows):
        lines |= {((x, y0), (x, y1)) for x in (x0, x1) if 0 < x < width}
        lines |= {((x0, y), (x1, y)) for y in (y0, y1) if 0 < y < height}
    out = np.full(len(boxes), np.inf)
    if lines and len(boxes):
        tree = shapely.STRtree(shapely.linestrings(sorted(lines)))
        centres = shapely.points((boxes[:, :2] + boxes[:, 2:]) / 2)
        at, distance = tree.query_nearest(centres, return_distance=True, all_matches=False)
        out[at[0]] = distance
    return out
