"""Results as objects of other libraries, where those are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilevision.analysis.units import Georeference
from tilevision.errors import RunError
from tilevision.exporting.detectionrows import Detection, detections
from tilevision.exporting.statement import statement

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData

__all__ = ["to_fiftyone", "to_geodataframe", "to_supervision"]


def to_supervision(result: ResultData) -> Any:
    """Return `supervision.Detections`, pixels of the full-resolution image.

    Scores are NaN where the model gives none, and None where it gives none at all. ``data``
    holds ``class_name``, and where there are such ``xyxyxyxy`` (corners of rotated boxes,
    else of the boxes), ``polygon``, ``keypoints`` ``(n, k, 3)`` and ``text``; masks of a large
    image would fit no memory.
    ``metadata`` says what was not analysed.

    Raises
    ------
    RunError
        If supervision is not installed.
    """
    try:
        import supervision
    except ImportError:
        raise RunError(
            "The package supervision is not installed: pip install supervision; or save "
            ".coco.json, which it reads."
        ) from None
    found = result.findings
    data: dict[str, Any] = {"class_name": np.array(found.labels.tolist(), dtype=str)}
    if found.oriented is not None:
        corners = found.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        turned = ~np.isnan(found.oriented).any(axis=(1, 2), keepdims=True)
        data["xyxyxyxy"] = np.where(turned, found.oriented, corners)
    if found.keypoints is not None:
        data["keypoints"] = np.array(found.keypoints)
    for name, column in (("polygon", found.polygons), ("text", found.texts)):
        if column is not None:
            data[name] = np.empty(len(found), dtype=object)
            data[name][:] = column
    return supervision.Detections(
        xyxy=np.array(found.boxes),
        confidence=None if np.isnan(found.scores).all() else np.array(found.scores),
        class_id=result.class_numbers.astype(int),
        data=data,
        metadata={"coverage": result.coverage, "complete": result.complete},
    )


def to_geodataframe(result: ResultData) -> Any:
    """Return a `geopandas.GeoDataFrame`: the table of detections with their shapes.

    In the image's reference system where it has one, else in pixels without one.

    Raises
    ------
    RunError
        If geopandas is not installed.
    """
    try:
        import geopandas
    except ImportError:
        raise RunError(
            "The package geopandas is not installed: pip install geopandas; or save .parquet, "
            "which it reads."
        ) from None
    import shapely

    table = result.to_dataframe("shapely")
    place = Georeference.of(result.source.metadata)
    shapes = table.pop("geometry")
    if place is not None:
        shapes = shapely.transform(shapes.to_numpy(), place.to_crs)
    crs = None if place is None else place.crs
    made = geopandas.GeoDataFrame(table, geometry=list(shapes), crs=crs)
    made.attrs = table.attrs
    return made


def to_fiftyone(result: ResultData, filepath: str | None = None) -> Any:
    """Return a `fiftyone.Sample` with ``detections`` and, where there are outlines, ``outlines``.

    Positions are shares of the image's sides, 0 to 1. ``tilevision`` says what was not
    analysed.

    Parameters
    ----------
    result : Result
    filepath : str, optional
        Where FiftyOne finds the picture. Default: where it was opened from.

    Raises
    ------
    RunError
        If fiftyone is not installed.
    """
    try:
        import fiftyone
    except ImportError:
        raise RunError(
            "The package fiftyone is not installed: pip install fiftyone; or save .coco.json, "
            "which it reads."
        ) from None
    size = result.source.size
    boxes, outlines = [], []
    for found in detections(result):
        said = {"label": found.label, "confidence": found.score}
        said |= {} if found.text is None else {"text": found.text}
        boxes.append(fiftyone.Detection(bounding_box=_shares(found, size), **said))
        if found.outline:
            rings = [[_share(p, size) for p in ring] for part in found.outline for ring in part]
            outlines.append(fiftyone.Polyline(points=rings, closed=True, filled=True, **said))
    sample = fiftyone.Sample(filepath=filepath or result.source.reference.path)
    sample["detections"] = fiftyone.Detections(detections=boxes)
    if outlines:
        sample["outlines"] = fiftyone.Polylines(polylines=outlines)
    sample["tilevision"] = statement(result)
    return sample


def _shares(found: Detection, size: tuple[int, int]) -> list[float]:
    """Return left, top, width and height of the box as shares of `size`."""
    x0, y0, x1, y1 = found.box
    return [*_share([x0, y0], size), *_share([x1 - x0, y1 - y0], size)]


def _share(point: list[float], size: tuple[int, int]) -> tuple[float, float]:
    return point[0] / size[0], point[1] / size[1]
