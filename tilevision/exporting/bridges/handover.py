"""Results as objects of other libraries, where those are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.analysis.units import Georeference
from tilevision.colouring import class_colours, load_colours
from tilevision.errors import RunError
from tilevision.exporting.detectionrows import Detection, detections
from tilevision.exporting.statement import statement
from tilevision.findings import Findings
from tilevision.geometry import Box
from tilevision.rasterspec import MOST_CLASSES

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData

__all__ = ["shapes_of", "to_fiftyone", "to_geodataframe", "to_napari", "to_supervision"]

_PICTURE = 2048  # pixels of the longer side of the picture that napari shows


def to_supervision(result: ResultData) -> Any:
    """Return `supervision.Detections`, pixels of the full-resolution image.

    Scores are NaN where the model gives none, and None where it gives none at all. ``data``
    holds ``class_name``, and where there are such ``xyxyxyxy`` (corners of rotated boxes,
    else of the boxes), ``polygon``, ``point``, ``keypoints`` ``(n, k, 3)``, ``embedding``
    ``(n, d)``, ``text`` and each attribute; masks of a large image would fit no memory.
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
    if found.embeddings is not None:
        data["embedding"] = np.array(found.embeddings)
    if found.points is not None:
        data["point"] = np.array(found.points)
    columns = {"polygon": found.polygons, "text": found.texts, **_attributes(found)}
    for name, column in columns.items():
        if column is not None and name not in data:
            data[name] = np.empty(len(found), dtype=object)
            data[name][:] = column
    return supervision.Detections(
        xyxy=np.array(found.boxes),
        confidence=None if np.isnan(found.scores).all() else np.array(found.scores),
        class_id=result.class_numbers.astype(int),
        data=data,
        metadata={"coverage": result.coverage, "complete": result.complete},
    )


def _attributes(found: Findings) -> dict[str, list[Any]]:
    """Return further values as columns; None where a detection lacks one."""
    rows = [dict(row or {}) for row in found.attributes or ()]
    names = dict.fromkeys(str(name) for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


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


def to_napari(result: ResultData) -> list[tuple[Any, dict[str, Any], str]]:
    """Return layer data tuples ``(data, settings, kind)``, made without napari.

    ``for layer in result.to_napari(): viewer.add_layer(napari.layers.Layer.create(*layer))``
    shows them; a plugin's reader or widget returns them as they are. World coordinates are
    pixels of the full-resolution image, row before column, whole at the middle of a pixel, as
    napari has them.

    Returns
    -------
    list of tuple
        ``image``: the picture, 2,048 pixels on its longer side at most. A map is computed as it
        is looked at: of values an ``image``, else ``labels``: class number + 1, 0 where nothing
        is known, and their names in ``metadata["classes"]``. ``shapes``: outlines where there are
        such, one for each part and without its holes, else rotated boxes, else boxes; columns of
        the detections are its features. ``points``, where there are such: detections that are a
        point and nothing else. ``metadata["coverage"]`` says what was not analysed.
    """
    from tilevision.sources import display_options, read_pixels

    source, said = result.source, {"coverage": result.coverage, "complete": result.complete}
    width, height = source.size
    scale = min(1.0, _PICTURE / max(source.size))
    picture = read_pixels(source, Box(0, 0, width, height), scale, display_options(source))
    steps = (height / picture.shape[0], width / picture.shape[1])
    middle = [step / 2 - 0.5 for step in steps]  # of the first pixel
    settings = {"name": result.name, "scale": list(steps), "translate": middle, "metadata": said}
    layers: list[tuple[Any, dict[str, Any], str]] = [(picture, settings | {"rgb": True}, "image")]
    if result.raster is not None:
        layers.append(_map(result, said))
    layers.append(shapes_of(result))
    return [*layers, _points(result)] if _alone(result.findings).any() else layers


def _map(result: ResultData, said: dict[str, Any]) -> tuple[Any, dict[str, Any], str]:
    """Return the map as labels, or as pictures of its values."""
    raster = result.raster
    assert raster is not None
    step = 1 / raster.scale
    settings: dict[str, Any] = {
        "name": "map",
        "scale": [step, step],
        "translate": [step / 2 - 0.5] * 2,
    }
    if raster.spec.kind == "values":
        axis = {"channel_axis": 2} if raster.dask.ndim == 3 else {}
        return raster.dask, {**settings, **axis, "metadata": said}, "image"
    known = {number + 1: name for number, name in enumerate(raster.spec.classes) if name}
    numbers = raster.dask.map_blocks(_labelled, dtype=np.uint8)
    shades = raster.colours / 255
    colours: dict[int | None, Any] = {None: "transparent", 0: "transparent"}
    colours |= {number: shades[number - 1] for number in known}
    settings |= {"colormap": colours, "metadata": said | {"classes": known}}
    return numbers, settings, "labels"


def _labelled(numbers: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return class numbers + 1, and 0 where no class is meant or nothing is known."""
    return np.where(numbers < MOST_CLASSES, numbers + 1, 0).astype(np.uint8)


def shapes_of(result: ResultData) -> tuple[Any, dict[str, Any], str]:
    """Return the detections as a layer of shapes for napari; see `to_napari`."""
    corners: list[NDArray[np.float64]] = []
    rows: list[int] = []
    found, alone = result.findings, _alone(result.findings)
    for row in np.flatnonzero(~alone).tolist():
        rings = _rings(found, row)
        corners += [np.asarray(ring, np.float64)[:, ::-1] - 0.5 for ring in rings]
        rows += [row] * len(rings)
    settings: dict[str, Any] = {"shape_type": "polygon", "edge_color": "label"}
    settings |= {"face_color": "transparent", **_cycle(result, "edge", rows)}
    return corners, _described(result, "detections", rows) | settings, "shapes"


def _cycle(result: ResultData, side: str, rows: list[int]) -> dict[str, list[str]]:
    """Return the colours of the classes of `rows`: napari gives them to names in sorted order."""
    load_colours(result.facts.checkpoint)
    labels = sorted(set(result.findings.labels[rows].astype(str).tolist()) if rows else ())
    colours = class_colours(labels)
    return {f"{side}_color_cycle": [colours[label] for label in labels]} if labels else {}


def _alone(found: Findings) -> NDArray[np.bool_]:
    """Return a mask ``(n,)`` of the detections that are a point and nothing else."""
    if found.points is None:
        return np.zeros(len(found), dtype=bool)
    shaped = (found.boxes[:, 2:] > found.boxes[:, :2]).all(axis=1)
    if found.polygons is not None:
        shaped = shaped | np.array([bool(shape) for shape in found.polygons], dtype=bool)
    if found.oriented is not None:
        shaped = shaped | np.isfinite(found.oriented).all(axis=(1, 2))
    alone: NDArray[np.bool_] = np.isfinite(found.points).all(axis=1) & ~np.asarray(shaped)
    return alone


def _rings(found: Findings, row: int) -> list[Any]:
    """Return the outline of each part, else the corners of the rotated box, else of the box."""
    shape = found.polygons[row] if found.polygons is not None else None
    if shape:
        return [part[0] for part in shape]
    if found.oriented is not None and np.isfinite(found.oriented[row]).all():
        return [found.oriented[row]]
    x0, y0, x1, y1 = found.boxes[row]
    return [[(x0, y0), (x1, y0), (x1, y1), (x0, y1)]]


def _points(result: ResultData) -> tuple[Any, dict[str, Any], str]:
    found = result.findings
    rows = np.flatnonzero(_alone(found)).tolist()
    assert found.points is not None
    settings = {"face_color": "label", **_cycle(result, "face", rows)}
    places = found.points[rows][:, ::-1] - 0.5
    return places, _described(result, "points", rows) | settings, "points"


def _described(result: ResultData, name: str, rows: list[int]) -> dict[str, Any]:
    """Return a layer's name, what was not analysed, and columns of the detections in `rows`."""
    found = result.findings
    columns: dict[str, Any] = {
        "label": found.labels[rows].astype(str) if rows else np.empty(0, dtype=str),
        "score": found.scores[rows] if rows else np.empty(0),
        "detection": np.array(rows, dtype=np.int64),
    }
    if found.texts is not None:
        columns["text"] = np.array([found.texts[row] or "" for row in rows], dtype=str)
    if result.by_hand is not None:
        columns["origin"] = result.to_dataframe()["origin"].to_numpy(dtype=str)[rows]
    said = {"coverage": result.coverage, "complete": result.complete}
    return {"name": name, "features": columns, "metadata": said}


def to_fiftyone(result: ResultData, filepath: str | None = None) -> Any:
    """Return a `fiftyone.Sample` with ``detections`` and, where there are such, more fields.

    ``outlines`` are polylines, ``keypoints`` poses and ``points`` points, with their label. A
    detection has ``class_id`` and its attributes as fields of its own. Positions are shares of the
    image's sides, 0 to 1. ``tilevision`` says what was not analysed.

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
    boxes, outlines, poses, points = [], [], [], []
    for found in detections(result):
        said = {"label": found.label, "confidence": found.score}
        said |= {} if found.text is None else {"text": found.text}
        boxes.append(
            fiftyone.Detection(bounding_box=_shares(found, size), **_fields(found), **said)
        )
        if found.keypoints is not None:
            poses.append(_pose(fiftyone, found, size))
        if found.point is not None:
            at = [_share(found.point, size)]
            points.append(fiftyone.Keypoint(label=found.label, points=at))
        if found.outline:
            rings = [[_share(p, size) for p in ring] for part in found.outline for ring in part]
            outlines.append(fiftyone.Polyline(points=rings, closed=True, filled=True, **said))
    sample = fiftyone.Sample(filepath=filepath or result.source.reference.path)
    sample["detections"] = fiftyone.Detections(detections=boxes)
    if outlines:
        sample["outlines"] = fiftyone.Polylines(polylines=outlines)
    for name, listed in (("keypoints", poses), ("points", points)):
        if listed:
            sample[name] = fiftyone.Keypoints(keypoints=listed)
    sample["tilevision"] = statement(result)
    return sample


def _fields(found: Detection) -> dict[str, Any]:
    """Return class number and attributes, but for names that a detection has of its own."""
    own = {"label", "confidence", "text", "bounding_box", "mask", "mask_path", "index", "instance"}
    own |= {"tags", "attributes", "id"}
    given = {str(name): value for name, value in (found.attributes or {}).items()}
    return {"class_id": found.class_id} | {k: v for k, v in given.items() if k not in own}


def _pose(fiftyone: Any, found: Detection, size: tuple[int, int]) -> Any:
    """Return key points as FiftyOne has them: NaN for those that are not there."""
    rows = np.asarray(found.keypoints, dtype=np.float64)
    absent = ~np.isfinite(rows).all(axis=1) | (rows == 0).all(axis=1)
    shares = rows[:, :2] / np.array(size)
    shares[absent] = np.nan
    sure = np.where(absent, 0.0, rows[:, 2])
    return fiftyone.Keypoint(
        label=found.label, points=[tuple(at) for at in shares.tolist()], confidence=sure.tolist()
    )


def _shares(found: Detection, size: tuple[int, int]) -> list[float]:
    """Return left, top, width and height of the box as shares of `size`."""
    x0, y0, x1, y1 = found.box
    return [*_share([x0, y0], size), *_share([x1 - x0, y1 - y0], size)]


def _share(point: list[float], size: tuple[int, int]) -> tuple[float, float]:
    return point[0] / size[0], point[1] / size[1]
