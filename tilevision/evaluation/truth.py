"""Ground truth as people have it: COCO, VOC, CSV, GeoJSON, a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path, PurePath
from typing import Any
from xml.etree import ElementTree

import numpy as np

from tilevision.errors import SourceError, TilevisionError
from tilevision.findings import Findings

__all__ = ["read_truth"]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_NAMES = ("label", "class", "name", "category")


def read_truth(truth: Any, image: str | None = None) -> Findings:
    """Read ground truth as findings of the image.

    Parameters
    ----------
    truth : Findings, DataFrame, mapping, str or PathLike
        Findings as they are; a table with columns xmin, ymin, xmax, ymax and, where there
        are classes, label; COCO or GeoJSON as read from JSON; or a file of one of these:
        ``.json`` (COCO or GeoJSON), ``.geojson``, ``.xml`` (Pascal VOC), ``.csv``. All in
        pixels of the full-resolution image.
    image : str, optional
        Name of the image, to choose it where a COCO file has several.

    Raises
    ------
    SourceError
        If it is none of these, or a file cannot be read; the message says what is missing.
    """
    if isinstance(truth, Findings):
        return truth
    if isinstance(truth, Mapping):
        return _json(truth, image, "the truth")
    if hasattr(truth, "columns") and hasattr(truth, "to_dict"):
        return _table(truth, "the truth")
    if not isinstance(truth, (str, PathLike)):
        raise SourceError(
            f"truth of type {type(truth).__name__} is not understood; give a file (COCO .json, "
            ".geojson, VOC .xml, .csv), a DataFrame or Findings"
        )
    return _file(Path(truth), image)


def _file(path: Path, image: str | None) -> Findings:
    readers = {".json": _json_file, ".geojson": _json_file, ".xml": _voc, ".csv": _csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise SourceError(
            f"{path} is of no kind of truth that is known; give {', '.join(sorted(readers))}"
        )
    try:
        return reader(path, image)
    except TilevisionError:
        raise
    except FileNotFoundError:
        raise SourceError(f"there is no file {path}; check the path of the truth") from None
    except (OSError, ValueError, KeyError, TypeError, ElementTree.ParseError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SourceError(f"{path} cannot be read as truth: {reason}; check the file") from error


def _json_file(path: Path, image: str | None) -> Findings:
    return _json(json.loads(path.read_text("utf-8")), image, str(path))


def _csv(path: Path, _image: str | None) -> Findings:
    import pandas as pd

    return _table(pd.read_csv(path), str(path))


def _table(table: Any, where: str) -> Findings:
    names = {str(name).strip().lower(): name for name in table.columns}
    missing = [name for name in _CORNERS if name not in names]
    if missing:
        raise SourceError(
            f"{where} lacks the column {', '.join(missing)}; name the columns "
            "xmin, ymin, xmax, ymax and label"
        )
    boxes = table[[names[name] for name in _CORNERS]].to_numpy(dtype=np.float64)
    label = next((names[name] for name in _NAMES if name in names), None)
    return Findings(boxes, labels=None if label is None else [str(x) for x in table[label]])


def _voc(path: Path, _image: str | None) -> Findings:
    text = path.read_text("utf-8")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise SourceError(f"{path} declares XML entities, which VOC never does; remove them")
    objects = ElementTree.fromstring(text).findall("object")  # noqa: S314  # no entities
    boxes = [[float(one.findtext(f"bndbox/{name}", "")) for name in _CORNERS] for one in objects]
    return Findings(boxes, labels=[one.findtext("name", "object") for one in objects])


def _json(data: Any, image: str | None, where: str) -> Findings:
    if isinstance(data, Mapping) and "annotations" in data:
        return _coco(data, image, where)
    if isinstance(data, Mapping) and data.get("type") == "FeatureCollection":
        return _geojson(data["features"])
    raise SourceError(f"{where} is neither COCO (annotations) nor GeoJSON (a FeatureCollection)")


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
            f"{image!r}; give the annotations of one image"
        )
    return fit[0]


def _geojson(features: Iterable[Mapping[str, Any]]) -> Findings:
    import shapely
    from shapely.geometry import shape

    rows = list(features)
    bounds = shapely.bounds([shape(row["geometry"]) for row in rows])
    return Findings(np.reshape(bounds, (-1, 4)), labels=[_name(row) for row in rows])


def _name(feature: Mapping[str, Any]) -> str:
    """Return the class a feature names; QuPath nests it in ``classification``."""
    properties = feature.get("properties") or {}
    nested = properties.get("classification")
    if isinstance(nested, Mapping) and "name" in nested:
        return str(nested["name"])
    return next((str(properties[name]) for name in _NAMES if name in properties), "object")
