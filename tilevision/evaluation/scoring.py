"""Precision, recall, F1, AP and count error against ground truth."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.analysis.georeference import Georeference
from tilevision.checks import share
from tilevision.errors import RunError
from tilevision.evaluation.matches import matched
from tilevision.evaluation.truth import read_truth
from tilevision.findings import Findings

if TYPE_CHECKING:
    import pandas as pd

    from tilevision.result import Result

__all__ = ["Evaluation", "evaluate"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a result stands to ground truth.

    Attributes
    ----------
    precision, recall, f1 : float
        At `iou`, one to one within a class; NaN where there is nothing to divide by.
    ap50, ap : float
        Average precision at IoU 0.5, and over 0.5:0.95, by pycocotools; NaN without
        scores.
    count_error : float
        Found minus true, as a share of the true: 0.05 is 5 % too many.
    n_true, n_found, n_matched : int
    iou : float
        Overlap from which a detection counts as right.
    per_class : DataFrame
        One row a class: n_true, n_found, precision, recall, f1, count_error.
    by_distance : DataFrame
        The same by distance of the object's centre to the nearest inner tile edge, pixels.
    coverage : str
        How much of the image was analysed: what is missing there counts as missed.
    """

    precision: float
    recall: float
    f1: float
    ap50: float
    ap: float
    count_error: float
    n_true: int
    n_found: int
    n_matched: int
    iou: float
    per_class: pd.DataFrame
    by_distance: pd.DataFrame
    coverage: str

    def __str__(self) -> str:
        return (
            f"F1 {self.f1:.3f} (precision {self.precision:.3f}, recall {self.recall:.3f}) at IoU "
            f"{self.iou:g}; AP50 {self.ap50:.3f}, AP {self.ap:.3f}; {self.n_found:,} found for "
            f"{self.n_true:,} true ({self.count_error:+.1%}). {self.coverage}"
        )


def evaluate(
    result: Result, truth: Any, *, iou: float = 0.5, class_agnostic: bool = False
) -> Evaluation:
    """Compare a result with ground truth.

    Parameters
    ----------
    result : Result
    truth : Findings, DataFrame, mapping, str or PathLike
        COCO JSON, VOC XML, CSV boxes, GeoJSON or a table; see `read_truth`.
    iou : float
        Overlap from which a detection counts as right, above 0, up to 1.
    class_agnostic : bool
        True if the classes' names do not matter.

    Raises
    ------
    SourceError
        If the truth cannot be read.
    RunError
        If `iou` is out of range, or pycocotools is missing.
    """
    share("iou", iou, zero=False)
    place = Georeference.of(result.source.metadata)
    true, found = read_truth(truth, result.name, place), result.findings
    if class_agnostic:
        true, found = _one_class(true), _one_class(found)
    rows_true, rows_found = matched(true, found, iou)
    hit_true, hit_found = np.zeros(len(true), bool), np.zeros(len(found), bool)
    hit_true[rows_true] = hit_found[rows_found] = True
    whole = _row("all", hit_true, hit_found)
    ap50, ap = _average_precision(true, found)
    return Evaluation(
        precision=whole["precision"],
        recall=whole["recall"],
        f1=whole["f1"],
        ap50=ap50,
        ap=ap,
        count_error=whole["count_error"],
        n_true=len(true),
        n_found=len(found),
        n_matched=len(rows_true),
        iou=float(iou),
        per_class=_per_class(true, found, hit_true, hit_found),
        by_distance=_by_distance(result, true, found, hit_true, hit_found),
        coverage=result.coverage,
    )


def _one_class(findings: Findings) -> Findings:
    return Findings(findings.boxes, findings.scores)


def _row(name: str, hit_true: NDArray[np.bool_], hit_found: NDArray[np.bool_]) -> dict[str, Any]:
    def share(part: float, whole: float) -> float:
        return float(part) / whole if whole else float("nan")

    n_true, n_found, hits = len(hit_true), len(hit_found), hit_true.sum()
    return {
        "name": name,
        "n_true": n_true,
        "n_found": n_found,
        "precision": share(hit_found.sum(), n_found),
        "recall": share(hits, n_true),
        "f1": share(hits + hit_found.sum(), n_true + n_found),
        "count_error": share(n_found - n_true, n_true),
    }


def _per_class(
    true: Findings, found: Findings, hit_true: NDArray[np.bool_], hit_found: NDArray[np.bool_]
) -> pd.DataFrame:
    import pandas as pd

    names = sorted({*true.labels.tolist(), *found.labels.tolist()})
    rows = [_row(n, hit_true[true.labels == n], hit_found[found.labels == n]) for n in names]
    columns = list(_row("", np.zeros(0, bool), np.zeros(0, bool)))
    return pd.DataFrame(rows, columns=columns).rename(columns={"name": "label"})


def _by_distance(
    result: Result,
    true: Findings,
    found: Findings,
    hit_true: NDArray[np.bool_],
    hit_found: NDArray[np.bool_],
) -> pd.DataFrame:
    """Return the scores in four steps of distance to the nearest inner tile edge."""
    import pandas as pd

    far_true, far_found = (_to_seam(result, one.boxes) for one in (true, found))
    there = np.concatenate([far_true, far_found])
    there = there[np.isfinite(there)]
    steps = np.unique(np.quantile(there, [0.25, 0.5, 0.75]).round()) if len(there) else there
    names = [f"up to {step:.0f} px" for step in steps]
    names.append(f"beyond {steps[-1]:.0f} px" if len(steps) else "no seam")
    in_true, in_found = (np.searchsorted(steps, far) for far in (far_true, far_found))
    rows = [
        _row(name, hit_true[in_true == place], hit_found[in_found == place])
        for place, name in enumerate(names)
    ]
    columns = list(_row("", np.zeros(0, bool), np.zeros(0, bool)))
    return pd.DataFrame(rows, columns=columns).rename(columns={"name": "distance"})


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


def _average_precision(true: Findings, found: Findings) -> tuple[float, float]:
    """Return AP at IoU 0.5, and over 0.5:0.95, with no limit of detections an image."""
    if not len(true) or not len(found) or np.isnan(found.scores).all():
        return float("nan"), float("nan")
    try:
        # Ships no types, and may not be installed.
        from pycocotools.coco import COCO  # type: ignore[import, unused-ignore]
        from pycocotools.cocoeval import COCOeval  # type: ignore[import, unused-ignore]
    except ImportError:
        raise RunError(
            "Average precision needs pycocotools, which is not installed; pip install pycocotools."
        ) from None
    names = sorted({*true.labels.tolist(), *found.labels.tolist()})
    with contextlib.redirect_stdout(io.StringIO()):
        ours = COCO()
        ours.dataset = {
            "info": {},
            "images": [{"id": 1}],
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
            "annotations": _annotations(true, names),
        }
        ours.createIndex()
        run = COCOeval(ours, ours.loadRes(_annotations(found, names)), "bbox")
        run.params.maxDets = [len(found)]
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e12]], ["all"]
        run.evaluate()
        run.accumulate()
    # Precision is (IoU, recall, class, area, maxDets); -1 where a class has no truth.
    precision = run.eval["precision"][:, :, :, 0, 0]
    known = precision[:, :, (precision > -1).any(axis=(0, 1))]
    return float(known[0].mean()), float(known.mean())


def _annotations(findings: Findings, names: list[str]) -> list[dict[str, Any]]:
    corner, side = findings.boxes[:, :2], findings.boxes[:, 2:] - findings.boxes[:, :2]
    scores = np.nan_to_num(findings.scores, nan=0.0)
    number = {name: place + 1 for place, name in enumerate(names)}
    return [
        {
            "id": place + 1,
            "image_id": 1,
            "category_id": number[findings.labels[place]],
            "bbox": [*corner[place].tolist(), *side[place].tolist()],
            "area": float(side[place].prod()),
            "iscrowd": 0,
            "score": float(scores[place]),
        }
        for place in range(len(findings))
    ]
