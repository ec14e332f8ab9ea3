"""Ground truth as people have it: COCO, VOC, CSV, GeoJSON, a table."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from tilevision.errors import SourceError, TilevisionError
from tilevision.findings import Findings

if TYPE_CHECKING:
    from tilevision.analysis.georeference import Georeference

__all__ = ["read_truth"]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_NAMES = ("label", "class", "name", "category")


def read_truth(truth: Any, image: str | None = None, place: Georeference | None = None) -> Findings:
    """Read ground truth as findings of the image.

    Parameters
    ----------
    truth : Findings, DataFrame, mapping, str or PathLike
        Findings as they are; a table with columns xmin, ymin, xmax, ymax and, where there
        are classes, label; COCO or GeoJSON as read from JSON; or a file of one of these:
        ``.json`` (COCO or GeoJSON), ``.geojson``, ``.xml`` (Pascal VOC), ``.csv``. All in
        pixels of the full-resolution image, but for GeoJSON where `place` is given.
    image : str, optional
        Name of the image, to choose it where a COCO file has several.
    place : Georeference, optional
        Where the image lies on Earth. GeoJSON is then in longitude and latitude (RFC 7946),
        unless it says under ``coordinates_in`` that it is in pixels.

    Raises
    ------
    SourceError
        If it is none of these, or a file cannot be read; the message says what is missing.
    """
    if isinstance(truth, Findings):
        return truth
    if isinstance(truth, Mapping):
        return _json(truth, image, place, "the truth")
    if hasattr(truth, "columns") and hasattr(truth, "to_dict"):
        return _table(truth, "the truth")
    if not isinstance(truth, (str, PathLike)):
        raise SourceError(
            f"Truth of type {type(truth).__name__} is not understood; give a file (COCO .json, "
            ".geojson, VOC .xml, .csv), a DataFrame or Findings."
        )
    return _file(Path(truth), image, place)


def _file(path: Path, image: str | None, place: Georeference | None) -> Findings:
    readers = {".json": _json_file, ".geojson": _json_file, ".xml": _voc, ".csv": _csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise SourceError(f"{path} is no known kind of truth; give {', '.join(sorted(readers))}.")
    try:
        return reader(path, image, place)
    except TilevisionError:
        raise
    except FileNotFoundError:
        raise SourceError(f"There is no file {path}; check the path of the truth.") from None
    except (OSError, ValueError, KeyError, TypeError, ElementTree.ParseError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SourceError(f"{path} cannot be read as truth: {reason}; check the file.") from error


def _json_file(path: Path, image: str | None, place: Georeference | None) -> Findings:
    return _json(json.loads(path.read_text("utf-8")), image, place, str(path))


def _csv(path: Path, _image: str | None, _place: Georeference | None) -> Findings:
    import pandas as pd

    return _table(pd.read_csv(path), str(path))


def _table(table: Any, where: str) -> Findings:
    names = {str(name).strip().lower(): name for name in table.columns}
    missing = [name for name in _CORNERS if name not in names]
    if missing:
        raise SourceError(
            f"{where} lacks the column {', '.join(missing)}; name the columns "
            "xmin, ymin, xmax, ymax and label."
        )
    boxes = table[[names[name] for name in _CORNERS]].to_numpy(dtype=np.float64)
    label = next((names[name] for name in _NAMES if name in names), None)
    if label is None:
        return Findings(boxes)
    # Our own CSV puts an apostrophe before what a spreadsheet would run as a formula.
    return Findings(boxes, labels=[re.sub(r"^'(?=[=+@\t\r-])", "", str(x)) for x in table[label]])


def _voc(path: Path, _image: str | None, _place: Georeference | None) -> Findings:
    text = path.read_text("utf-8")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise SourceError(f"{path} declares XML entities, which VOC never does; remove them.")
    objects = ElementTree.fromstring(text).findall("object")  # noqa: S314  # no entities
    boxes = [[float(one.findtext(f"bndbox/{name}", "")) for name in _CORNERS] for one in objects]
    return Findings(boxes, labels=[one.findtext("name", "object") for one in objects])


def _json(data: Any, image: str | None, place: Georeference | None, where: str) -> Findings:
    if isinstance(data, Mapping) and "annotations" in data:
        return _coco(data, image, where)
    if isinstance(data, Mapping) and data.get("type") == "FeatureCollection":
        return _geojson(data, place, where)
    raise SourceError(f"{where} is neither COCO (annotations) nor GeoJSON (a FeatureCollection).")


def _coco(data: Mapping[str, Any], image: str | None, where: str) -> Findings:
    wanted = _coco_image(data.get("images", []), image, where)
    names = {item["id"]: str(item["name"]) for item in data.get("categories", [])}
    rows = [
        row
        for row in data["annotations"]
        if (wanted is None or row.get("image_id") == wanted) and not row.get("iscrowd")
    ]
    corner = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
    boxes = np.hstack([corner[:, :2], corner[:, :2] + corner[:, 2:]])
    ids = [int(row.get("category_id", -1)) for row in rows]
    return Findings(boxes, labels=[names.get(i, "object") for i in ids], class_ids=ids)


def _coco_image(images: list[Mapping[str, Any]], image: str | None, where: str) -> Any:
    if len(images) <= 1:
        return images[0]["id"] if images else None
    stem = None if image is None else PurePath(image).stem
    fit = [item["id"] for item in images if PurePath(item.get("file_name", "")).stem == stem]
    if len(fit) != 1:
        raise SourceError(
            f"{where} describes {len(images)} images and {len(fit)} of them are named "
            f"{image!r}; give the annotations of one image."
        )
    return fit[0]


def _geojson(data: Mapping[str, Any], place: Georeference | None, where: str) -> Findings:
    import shapely
    from shapely.geometry import shape

    # Tiles with their probabilities, as our own export for QuPath has them, are no objects.
    rows = [row for row in data["features"] if _kind(row) != "tile"]
    shapes = np.array([shape(row["geometry"]) for row in rows], dtype=object)
    frame = str(data.get("coordinates_in", ""))
    if place is not None and not frame.startswith("pixels"):
        x0, y0, x1, y1 = shapely.total_bounds(shapes)
        if min(x0, 2 * y0) < -180 or max(x1, 2 * y1) > 180:
            raise SourceError(
                f"{where} is not in longitude and latitude, which GeoJSON of an image with a CRS "
                'is; if it is in pixels, give it the member "coordinates_in": "pixels".'
            )
        shapes = shapely.transform(shapes, place.from_degrees)
    elif frame.startswith("degrees"):
        raise SourceError(
            f"{where} is in degrees, and the image has no CRS and transform to find them by; give "
            "the truth in pixels."
        )
    origin = np.tile(np.asarray(data.get("origin", (0, 0)), dtype=np.float64), 2)
    boxes = np.reshape(shapely.bounds(shapes), (-1, 4)) + origin
    return Findings(boxes, labels=[_name(row) for row in rows])


def _kind(feature: Mapping[str, Any]) -> object:
    return (feature.get("properties") or {}).get("objectType")


def _name(feature: Mapping[str, Any]) -> str:
    """Return the class a feature names; QuPath nests it in ``classification``."""
    properties = feature.get("properties") or {}
    nested = properties.get("classification")
    if isinstance(nested, Mapping) and "name" in nested:
        return str(nested["name"])
    return next((str(properties[name]) for name in _NAMES if name in properties), "object")
