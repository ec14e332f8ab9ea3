"""Precision, recall, F1, AP and count error against ground truth."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.analysis.units import Georeference
from tilevision.checks import share
from tilevision.errors import RunError, SourceError
from tilevision.evaluation.annotated import NoTruth, Pictured, stem_of
from tilevision.evaluation.doubts import doubts
from tilevision.evaluation.scoredimage import Panoptic, ScoredImage, scored_image
from tilevision.evaluation.scoretables import html_table, no_class_in_both, text_table
from tilevision.evaluation.truth import by_image, preloaded, truth_of
from tilevision.findings import Findings
from tilevision.overlaps import Bodies

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tilevision.batch import Batch
    from tilevision.result import Result

__all__ = ["Evaluation", "evaluate"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_NAMED = 5


@dataclass(frozen=True, slots=True, repr=False)
class Evaluation:
    """How a result, or the results of many images, compare with ground truth.

    Attributes
    ----------
    precision, recall, f1 : float
        At `iou`, one to one within a class; NaN where there is nothing to divide by.
    ap50, ap : float
        Average precision at IoU 0.5, and over 0.5:0.95, by pycocotools; 0 if nothing was found,
        NaN if there is no truth or no score.
    count_error : float
        Found minus true, as a share of the true: 0.05 is 5 % too many.
    n_true, n_found, n_matched : int
        Detections in crowd regions that match no object count as neither right nor wrong.
    iou : float
        Overlap from which a detection counts as right.
    per_class : DataFrame
        One row a class: n_true, n_found, precision, recall, f1, count_error.
    by_distance : DataFrame
        The same by distance of the object's centre to the nearest inner tile edge, pixels.
    coverage : str
        How much of the image was analysed: what is missing there counts as missed.
    per_image : DataFrame
        One row an image: the columns of `per_class`, and ap50 and ap.
    pq, sq, rq : float
        Panoptic quality, and its factors: how alike matched segments are (mean IoU), and how many
        match (F1), at IoU above 0.5, whatever `iou` is. Each is the mean over the classes, NaN
        without any (Kirillov et al., *Panoptic Segmentation*, 2019).
    images : tuple
        Each image with what is true and what was found, for `plot` and `confusion`.
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
    per_image: pd.DataFrame | None = None
    pq: float = float("nan")
    sq: float = float("nan")
    rq: float = float("nan")
    images: tuple[ScoredImage, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        error = f" ({self.count_error:+.1%})" if self.n_true else ""
        line = (
            f"F1 {self.f1:.3f} (precision {self.precision:.3f}, recall {self.recall:.3f}) at IoU "
            f"{self.iou:g}; AP50 {self.ap50:.3f}, AP {self.ap:.3f}; {self.n_found:,} found for "
            f"{self.n_true:,} true{error}. {self.coverage}{self._strangers()}"
        )
        return " ".join([line, *doubts(self.images)]) if self.images else line

    def __repr__(self) -> str:
        return f"{self}\n{text_table(self.to_frame())}"

    def _repr_html_(self) -> str:
        return html_table(f"F1 {self.f1:.3f}", [str(self)], self.to_frame())

    def to_frame(self) -> pd.DataFrame:
        """Return `per_class`, the most frequent class first, and a last row for all."""
        import pandas as pd

        classes = self.per_class.sort_values(["n_true", "n_found"], ascending=False, kind="stable")
        names = ("n_true", "n_found", "precision", "recall", "f1", "count_error")
        whole = {"label": "all"} | {name: getattr(self, name) for name in names}
        return pd.DataFrame([*classes.to_dict("records"), whole], columns=list(whole))

    @property
    def confusion(self) -> pd.DataFrame:
        """Which class was found for which true one, in number of objects.

        Rows are true classes, columns found ones; the last row holds false alarms, the last column
        what was missed. Pairs of one class are those that count as right; the others are what
        overlaps among the rest.
        """
        from tilevision.evaluation.scoreplots import confusion

        return confusion(self.images, self.iou)

    def plot(self, image: str | None = None, *, ax: Axes | None = None) -> Figure:
        """Draw hits, misses and false alarms on the image, and the scores.

        Beside the image: precision over recall as the score threshold falls, precision and recall
        by class, and the classes that are taken for each other.

        Parameters
        ----------
        image : str, optional
            Name of the image to draw where there are several; default: the one with most mistakes.
        ax : matplotlib Axes, optional
            Where to draw the image with hits, misses and false alarms, without the scores beside
            it. None makes a figure of all.

        Returns
        -------
        Figure
            That holds the drawing.

        Raises
        ------
        RunError
            If no image has that name.
        """
        from tilevision.evaluation.scoreplots import drawn, drawn_image

        if ax is not None:
            return drawn_image(ax, self.images, image)
        return drawn(
            self.images,
            image,
            f"F1 {self.f1:.3f} at IoU {self.iou:g}",
            self.to_frame().iloc[:-1],
            self.confusion,
        )

    def _strangers(self) -> str:
        """Return a line where no class is on both sides, though there are classes on either."""
        sides = (
            self.per_class.loc[self.per_class[column] > 0, "label"].to_list()
            for column in ("n_found", "n_true")
        )
        found, true = sides
        told = no_class_in_both(found, true, ("found", "truth has"))
        return f" {told} Give class_agnostic=True, or name the classes alike." if told else ""


def evaluate(
    result: Result | Batch,
    truth: Any,
    *,
    iou: float = 0.5,
    class_agnostic: bool = False,
    classes: Mapping[int, str | None] | None = None,
) -> Any:
    """Compare a result with ground truth, or the results of many images with theirs.

    Overlap is that of the shapes (outline, else rotated box) where both sides have one, else of the
    boxes. Of an image that was analysed in a region, only the truth whose box has its centre in
    that region counts.

    A map is compared pixel by pixel with a raster, block by block: of classes by IoU, Dice,
    precision and recall of each class, of values by the errors.

    Parameters
    ----------
    result : Result or Batch
    truth : Findings, DataFrame, mapping, list, array, str or PathLike
        COCO, VOC, CVAT, YOLO, Label Studio, GeoJSON, GeoPackage, CSV, Parquet, a mask or a table;
        see `tilevision.evaluation.read_truth`. For a batch: a file or table that names its images,
        a folder with a file for each, or a mapping of image name to truth. Images without truth are
        left out, and `coverage` names them. For a map: a raster file, an array ``(h, w)`` or
        another map, of the size of the map or of the image, or in the image's reference system; its
        numbers are the map's class numbers, and 255 (of uint8) or the file's no-data value is none.
    iou : float
        Overlap from which a detection counts as right, above 0, up to 1.
    class_agnostic : bool
        True if the classes' names do not matter.
    classes : mapping of int to str, optional
        For a map: what the values of the truth mean, where they are not the map's class numbers;
        None for values whose pixels do not count.

    Returns
    -------
    Evaluation, or of a map `MapEvaluation` or `ValueEvaluation`

    Raises
    ------
    SourceError
        If the truth cannot be read.
    RunError
        If `iou` is out of range, or pycocotools is missing.
    """
    share("iou", iou, zero=False)
    if (compared := _of_map(result, truth, classes)) is not None:
        return compared
    if classes is not None:
        raise RunError("classes= is for maps; the labels of detections are matched by name.")
    if isinstance(result, Mapping):
        scored, without = _of_batch(result, truth, iou, class_agnostic)
        coverage = _coverage_of(scored, without)
        return _evaluation(scored, float(iou), coverage)
    one = scored_image(result, truth_of(truth, _pictured(result)), iou, class_agnostic)
    return _evaluation([one], float(iou), result.coverage)


def _of_map(result: Any, truth: Any, classes: Any) -> Any:
    """Return how a map compares with a raster; None where there is no map, or other truth.

    Raises
    ------
    RunError
        If it is no result, or a batch of maps, or what is true of a map is no raster.
    """
    from tilevision.evaluation.maptruth import is_map_truth

    if isinstance(result, Mapping):
        _check_batch(result)
        if any(one.raster is not None and not len(one.findings) for one in result.values()):
            raise RunError(
                "These results are maps, which are compared one by one: "
                "tv.evaluate(results['name'], truth)."
            )
        return None
    if not hasattr(result, "findings"):
        order = " The result comes first, then the truth." * hasattr(truth, "findings")
        raise RunError(
            f"The result is a {type(result).__name__:.40}; give what tv.analyze returned.{order}"
        )
    raster = result.raster
    if raster is None:
        return None
    if hasattr(truth, "findings") and getattr(truth, "raster", None) is not None:
        truth = truth.raster
    if not is_map_truth(truth):
        if len(result.findings):
            return None  # it has objects beside, of which this is the truth
        raise RunError(
            "The result is a map, which is compared with a raster; give a file (.tif, .png, .npy), "
            "an array (h, w), or another map."
        )
    from tilevision.evaluation.mapscoring import evaluate_map

    return evaluate_map(
        raster,
        truth,
        result.source,
        classes=classes,
        region=result.facts.region,
        coverage=result.coverage,
    )


def _check_batch(batch: Mapping[str, Any]) -> None:
    """Raise RunError where there is no result in a batch, or anything else."""
    if not batch:
        raise RunError("There are no results to compare; give those of one image or more.")
    for name, one in batch.items():
        if not hasattr(one, "findings"):
            raise RunError(
                f"The result of {name!s:.60} is a {type(one).__name__:.40}; give what "
                "tv.analyze_many returned."
            )


def _pictured(result: Result, *, strict: bool = False) -> Pictured:
    return Pictured(
        name=result.name,
        size=result.source.size,
        place=Georeference.of(result.source.metadata),
        names=result.facts.classes,
        strict=strict,
    )


def _of_batch(
    batch: Mapping[str, Result], truth: Any, iou: float, class_agnostic: bool
) -> tuple[list[ScoredImage], list[str]]:
    """Return the images of a batch that have truth, and the names of those without."""
    by_name = isinstance(truth, Mapping) and set(truth) & set(batch)
    shared = None if by_name else preloaded(truth)
    if isinstance(shared, Findings):
        raise RunError("Findings are the truth of one image; give a mapping of name to truth.")
    parts = truth if by_name else by_image(shared)
    scored, without = [], []
    for name, result in batch.items():
        key = name if by_name else stem_of(result.name)
        if parts is not None and key not in parts:
            without.append(name)
            continue
        given = shared if parts is None else parts[key]
        try:
            known = truth_of(given, _pictured(result, strict=not by_name))
        except NoTruth:
            without.append(name)
            continue
        scored.append(scored_image(result, known, iou, class_agnostic))
    if not scored:
        raise SourceError(
            f"The truth names none of the {len(without):,} images ({', '.join(without[:_NAMED])})."
        )
    return scored, without


def _coverage_of(scored: Sequence[ScoredImage], without: Sequence[str]) -> str:
    lacking = [one.name for one in scored if one.coverage.startswith("INCOMPLETE")]
    text = f"{len(scored):,} images were compared."
    if lacking:
        text += f" INCOMPLETE: {len(lacking):,} of them in part ({', '.join(lacking[:_NAMED])})."
    if without:
        text += f" No truth for {len(without):,} images: {', '.join(without[:_NAMED])}."
    return text


def _evaluation(scored: Sequence[ScoredImage], iou: float, coverage: str) -> Evaluation:
    import pandas as pd

    def one(column: str) -> Any:
        return np.concatenate([getattr(each, column) for each in scored])

    hit_true, hit_found = one("hit_true"), one("hit_found")[one("counted")]
    whole = _row("all", hit_true, hit_found)
    ap50, ap = _average_precision(scored)
    pq, sq, rq = _panoptic_quality([each.panoptic for each in scored])
    images = [_image_row(each) for each in scored]
    return Evaluation(
        precision=whole["precision"],
        recall=whole["recall"],
        f1=whole["f1"],
        ap50=ap50,
        ap=ap,
        count_error=whole["count_error"],
        n_true=len(hit_true),
        n_found=len(hit_found),
        n_matched=int(hit_true.sum()),
        iou=iou,
        per_class=_per_class(scored),
        by_distance=_by_distance(scored),
        coverage=coverage,
        per_image=pd.DataFrame(images).rename(columns={"name": "image"}),
        pq=pq,
        sq=sq,
        rq=rq,
        images=tuple(scored),
    )


def _panoptic_quality(images: Sequence[Panoptic]) -> tuple[float, float, float]:
    """Return panoptic, segmentation and recognition quality, each the mean over the classes."""
    by_class: dict[str, list[float]] = {}
    for image in images:
        for place, (names, values) in enumerate(
            (
                (image.matched, image.alike),
                (image.matched, np.ones(len(image.matched))),
                (image.missed, np.full(len(image.missed), 0.5)),
                (image.wrong, np.full(len(image.wrong), 0.5)),
            )
        ):
            for name, value in zip(names.tolist(), values.tolist(), strict=True):
                by_class.setdefault(name, [0.0, 0.0, 0.0, 0.0])[place] += value
    if not by_class:
        return float("nan"), float("nan"), float("nan")
    sums = np.array(list(by_class.values()))
    alike, hits, whole = sums[:, 0], sums[:, 1], sums[:, 1:].sum(axis=1)
    each = alike / whole, alike / np.maximum(hits, 1), hits / whole
    pq, sq, rq = (float(one.mean()) for one in each)
    return pq, sq, rq


def _image_row(each: ScoredImage) -> dict[str, Any]:
    ap50, ap = _average_precision([each])
    row = _row(each.name, each.hit_true, each.hit_found[each.counted])
    return row | {"ap50": ap50, "ap": ap}


def _row(name: str, hit_true: Mask, hit_found: Mask) -> dict[str, Any]:
    def part(of: float, whole: float) -> float:
        return float(of) / whole if whole else float("nan")

    n_true, n_found, hits = len(hit_true), len(hit_found), hit_true.sum()
    return {
        "name": name,
        "n_true": n_true,
        "n_found": n_found,
        "precision": part(hit_found.sum(), n_found),
        "recall": part(hits, n_true),
        "f1": part(hits + hit_found.sum(), n_true + n_found),
        "count_error": part(n_found - n_true, n_true),
    }


def _per_class(scored: Sequence[ScoredImage]) -> pd.DataFrame:
    def rows(name: str) -> Iterator[tuple[Mask, Mask]]:
        for each in scored:
            wanted = (each.found.labels == name) & each.counted
            yield each.hit_true[each.true.labels == name], each.hit_found[wanted]

    names = sorted(set().union(*(each.names for each in scored)))
    return _table("label", [(name, *_concatenated(rows(name))) for name in names])


def _concatenated(pairs: Iterator[tuple[Mask, Mask]]) -> tuple[Mask, Mask]:
    true, found = zip(*pairs, strict=True)
    return np.concatenate(true), np.concatenate(found)


def _table(first: str, rows: Sequence[tuple[str, Mask, Mask]]) -> pd.DataFrame:
    import pandas as pd

    columns = list(_row("", np.zeros(0, bool), np.zeros(0, bool)))
    made = pd.DataFrame([_row(*row) for row in rows], columns=columns)
    return made.rename(columns={"name": first})


def _by_distance(scored: Sequence[ScoredImage]) -> pd.DataFrame:
    """Return the scores in four steps of distance to the nearest inner tile edge."""
    far_true = np.concatenate([each.far_true for each in scored])
    far_found = np.concatenate([each.far_found[each.counted] for each in scored])
    hit_true = np.concatenate([each.hit_true for each in scored])
    hit_found = np.concatenate([each.hit_found[each.counted] for each in scored])
    there = np.concatenate([far_true, far_found])
    there = there[np.isfinite(there)]
    steps = np.unique(np.quantile(there, [0.25, 0.5, 0.75]).round()) if len(there) else there
    names = [f"up to {step:.0f} px" for step in steps]
    names.append(f"beyond {steps[-1]:.0f} px" if len(steps) else "no seam")
    in_true, in_found = (np.searchsorted(steps, far) for far in (far_true, far_found))
    return _table(
        "distance",
        [
            (name, hit_true[in_true == place], hit_found[in_found == place])
            for place, name in enumerate(names)
        ],
    )


def _average_precision(scored: Sequence[ScoredImage]) -> tuple[float, float]:
    """Return AP at IoU 0.5, and over 0.5:0.95, with no limit of detections an image."""
    if not any(len(each.true) for each in scored):
        return float("nan"), float("nan")
    if not any(len(each.found) for each in scored):
        return 0.0, 0.0
    if all(np.isnan(each.found.scores).all() for each in scored):
        return float("nan"), float("nan")
    try:
        # Ships no types, and may not be installed.
        from pycocotools.coco import COCO  # type: ignore[import, unused-ignore]
        from pycocotools.cocoeval import COCOeval  # type: ignore[import, unused-ignore]
    except ImportError:
        raise RunError(
            "Average precision needs pycocotools, which is not installed: pip install "
            "'tilevision[evaluation]'."
        ) from None
    names = sorted(set().union(*(each.names for each in scored)))
    number = {name: place + 1 for place, name in enumerate(names)}
    with contextlib.redirect_stdout(io.StringIO()):
        ours = COCO()
        ours.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(scored))],
            "categories": [{"id": i, "name": name} for name, i in number.items()],
            "annotations": _numbered(
                row
                for i, each in enumerate(scored)
                for crowd, rows in ((0, each.true), (1, each.crowd))
                for row in _annotations(rows, number, i, crowd)
            ),
        }
        ours.createIndex()
        found = _numbered(
            row for i, each in enumerate(scored) for row in _annotations(each.found, number, i)
        )
        run = COCOeval(ours, ours.loadRes(found), "bbox")
        run.params.maxDets = [max(1, *(len(each.found) for each in scored))]
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e12]], ["all"]
        if any(_shaped(each) for each in scored):
            run.computeIoU = _ShapeIoU(run, scored)
        run.evaluate()
        run.accumulate()
    # Precision is (IoU, recall, class, area, maxDets); -1 where a class has no truth.
    precision = run.eval["precision"][:, :, :, 0, 0]
    known = precision[:, :, (precision > -1).any(axis=(0, 1))]
    return float(known[0].mean()), float(known.mean())


def _shaped(each: ScoredImage) -> bool:
    """Return True if any overlap in an image is of shapes."""
    true, found = each.true, each.found
    return (true.polygons is not None or true.oriented is not None) and (
        found.polygons is not None or found.oriented is not None
    )


class _ShapeIoU:
    """In place of pycocotools' own measure, which knows boxes: overlap of the shapes there are."""

    def __init__(self, run: Any, scored: Sequence[ScoredImage]) -> None:
        self._run = run
        self._bodies = [
            (Bodies.of(each.found), Bodies.of(each.true), Bodies.of(each.crowd)) for each in scored
        ]

    def __call__(self, image: int, category: int) -> Any:
        """Return the overlaps ``(detections by score, truths)``, as pycocotools orders them."""
        truths = self._run._gts[image, category]  # noqa: SLF001  # it has no other
        detections = self._run._dts[image, category]  # noqa: SLF001
        if not truths or not detections:
            return []
        order = np.argsort([-one["score"] for one in detections], kind="mergesort")
        mine = np.array([detections[i]["row"] for i in order])
        found, true, crowd = self._bodies[image]
        out = np.zeros((len(mine), len(truths)))
        for place, one in enumerate(truths):
            theirs = np.full(len(mine), one["row"])
            if one["iscrowd"]:
                out[:, place] = found.share_within(mine, crowd, theirs)
            else:
                out[:, place] = found.overlap(mine, true, theirs, both=True)
        return out


def _numbered(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return annotations numbered from 1, since pycocotools takes number 0 for no match."""
    return [row | {"id": number} for number, row in enumerate(rows, start=1)]


def _annotations(
    findings: Findings, number: Mapping[str, int], image: int, crowd: int = 0
) -> Iterator[dict[str, Any]]:
    boxes = Bodies.of(findings).boxes
    sides = boxes[:, 2:] - boxes[:, :2]
    scores = np.nan_to_num(findings.scores, nan=0.0)
    for row in range(len(findings)):
        if crowd and findings.labels[row] not in number:
            continue
        yield {
            "row": row,
            "image_id": image,
            "category_id": number[findings.labels[row]],
            "bbox": [*boxes[row, :2].tolist(), *sides[row].tolist()],
            "area": float(sides[row].prod()),
            "iscrowd": crowd,
            "score": float(scores[row]),
        }
