"""How each format of annotations is read as truth."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.errors import SourceError
from tilevision.evaluation.annotated import Pictured, Truth
from tilevision.evaluation.drawntruth import hand_drawn
from tilevision.evaluation.toolformats import (
    label_studio,
    tree,
    whole_task,
    xml,
)
from tilevision.evaluation.truthshapes import (
    findings_of_shapes,
    mask_outline,
    moved,
    outlines_of,
    unscored,
)
from tilevision.evaluation.yololabels import yolo
from tilevision.files import MOST_UNZIPPED, unzipped
from tilevision.findings import Findings

__all__ = ["IMAGES", "READERS", "csv_of", "json_of", "key_of", "mask", "parsed", "table"]

Floats = NDArray[np.float64]

_BOX_COLUMNS = (4, 5, 6)  # with a class or a score
_AS_TABLE = (
    "give a DataFrame with the columns xmin, ymin, xmax, ymax and label, or "
    "tv.Findings(boxes, labels=[…])."
)
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_NAMES = ("label", "class", "class_name", "name", "category")
IMAGES = ("image_path", "file_name", "filename", "image", "image_name", "image_id", "path", "img")


def parsed(data: Any, where: str, pictured: Pictured) -> Truth:
    """Read what a JSON file holds.

    Raises
    ------
    SourceError
        If it is of no known kind.
    """
    if isinstance(data, Mapping) and data.get("format") == "tilevision":
        return _ours(data, pictured, where)
    if isinstance(data, Mapping) and "annotations" in data and "result" not in data:
        return _coco(data, pictured, where)
    if (collection := _collection(data)) is not None:
        return _geojson(collection, pictured, where)
    if (drawn := hand_drawn(data, pictured, where)) is not None:
        return drawn
    tasks = data if isinstance(data, list) else [data]
    if tasks and all(isinstance(one, Mapping) for one in tasks):
        if all("data" in one for one in tasks):
            return label_studio(tasks, pictured, where)
        if all("annotation_id" in one or "annotator" in one for one in tasks):
            return label_studio([whole_task(one) for one in tasks], pictured, where)
        if all("bbox" in one and "category_id" in one for one in tasks):
            return _coco_results(tasks, pictured, where)
    if data == []:
        return Truth(Findings())
    raise SourceError(_unknown(data, where))


def _unknown(data: Any, where: str) -> str:
    """Return what JSON of no known kind is, as far as can be told, and what is."""
    if isinstance(data, list) and all(_like_a_box(one) for one in data):
        return f"{where} is a list of boxes; {_AS_TABLE}"
    return (
        f"{where} is neither COCO (annotations) nor GeoJSON (a FeatureCollection), Label Studio "
        "(tasks), LabelMe (shapes) nor VIA 2 (regions)."
    )


def _like_a_box(one: Any) -> bool:
    if isinstance(one, Mapping):
        return "box" in one
    return isinstance(one, (list, tuple, np.ndarray)) and len(one) in _BOX_COLUMNS


def _collection(data: Any) -> Mapping[str, Any] | None:
    """Return what is GeoJSON of any kind as a FeatureCollection; None for all else."""
    if isinstance(data, list):  # as QuPath exports it
        features = [isinstance(one, Mapping) and one.get("type") == "Feature" for one in data]
        return {"features": data} if data and all(features) else None
    if not isinstance(data, Mapping):
        return None
    if "coordinates" in data or "geometries" in data:
        data = {"type": "Feature", "geometry": data}
    if data.get("type") == "Feature":
        data = {"type": "FeatureCollection", "features": [data]}
    return data if data.get("type") == "FeatureCollection" else None


def table(rows: Any, where: str, pictured: Pictured) -> Truth:
    """Read a table of boxes; of a table of several images the rows of this one.

    Raises
    ------
    SourceError
        If a corner has no column, or no image is this one.
    """
    names = {str(name).strip().lower(): name for name in rows.columns}
    if hasattr(rows, "crs") and "geometry" in names:  # of geopandas
        label = next((names[name] for name in (*_NAMES, "class_id") if name in names), None)
        said = [None] * len(rows) if label is None else rows[label].tolist()
        given = rows[names["geometry"]].to_numpy(dtype=object)
        return _on_map(given, said, label == names.get("class_id"), rows.crs, where, pictured)
    missing = [name for name in _CORNERS if name not in names]
    if missing:
        raise SourceError(
            f"{where} lacks the column {', '.join(missing)}; name the columns "
            "xmin, ymin, xmax, ymax and label."
        )
    image = next((names[name] for name in IMAGES if name in names), None)
    if image is not None and len(rows):
        wanted = pictured.chosen(rows[image].tolist(), where)
        rows = rows[rows[image].isin(wanted)]
    corners = [names[name] for name in _CORNERS]
    rows = rows[~rows[corners].isna().all(axis=1)]  # an image without objects is one empty row
    boxes = rows[corners].to_numpy(dtype=np.float64)
    if len(boxes) and boxes.max() <= 1 and (boxes % 1 > 0).any():  # as Open Images has them
        raise SourceError(f"{where} holds shares of the sides, from 0 to 1; give boxes in pixels.")
    found = Findings(
        boxes,
        scores=np.arange(len(rows), 0, -1) / max(len(rows), 1),  # keeps rows in their order
        labels=_labels_of(rows, names, pictured),
        polygons=_outlines_of(rows, names, boxes),
    )
    return Truth(unscored(found))


def _labels_of(rows: Any, names: Mapping[str, Any], pictured: Pictured) -> list[str] | None:
    """Return the class of each row: a name, or a number that the model names."""
    column = next((names[name] for name in (*_NAMES, "class_id") if name in names), None)
    if column is None:
        return None
    given = rows[column]
    said = [None if none else one for one, none in zip(given, given.isna(), strict=True)]
    # Our own CSV puts an apostrophe before what a spreadsheet would run as a formula.
    return [
        re.sub(r"^'(?=[=+@\t\r-])", "", _class_of(one, column == names.get("class_id"), pictured))
        for one in said
    ]


def _class_of(said: Any, numbered: bool, pictured: Pictured) -> str:
    """Return the class that a value says: a name, or a number that the model names."""
    if said is None or said != said:
        return "object"
    whole = isinstance(said, (int, float, np.number)) and float(said).is_integer()
    if whole and not isinstance(said, bool):
        return pictured.class_name(int(said)) if pictured.names or numbered else f"{said:g}"
    return str(said)


def _outlines_of(rows: Any, names: Mapping[str, Any], boxes: Floats) -> list[Any] | None:
    """Return the outlines in a column of WKB, WKT or shapely's shapes, where they fit the boxes."""
    if "geometry" not in names or not len(rows):
        return None
    given = rows[names["geometry"]].to_numpy(dtype=object)
    texts = any(isinstance(one, str) for one in given)
    coded = any(isinstance(one, bytes) for one in given)
    known = [one if isinstance(one, (str, bytes)) or hasattr(one, "geom_type") else None
             for one in given]  # fmt: skip
    shapes = np.array(known, dtype=object)
    shapes = shapely.from_wkt(shapes) if texts else shapely.from_wkb(shapes) if coded else shapes
    bounds = np.reshape(shapely.bounds(shapes), (-1, 4))
    if not np.allclose(bounds, boxes, atol=1.0, equal_nan=True):
        return None  # in another system than the boxes, as on a map
    return outlines_of(shapes)


def mask(values: NDArray[Any], where: str, pictured: Pictured) -> Truth:
    """Read an array ``(h, w)`` of object numbers.

    Of bool, or with a single value beside 0, its connected patches are objects.

    Raises
    ------
    SourceError
        If it has another shape or type.
    """
    from scipy import ndimage

    if values.dtype.kind == "f":  # no number is no object
        numbers = np.nan_to_num(values, nan=0)
        values = numbers.astype(np.int64) if (numbers % 1 == 0).all() else values
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if values.ndim == 2 and values.shape[1] in _BOX_COLUMNS and values.shape != _rows(pictured):
        raise SourceError(
            f"{where} is an array of shape {values.shape}, as boxes have; an array is read as a "
            f"mask (h, w) of object numbers. For boxes {_AS_TABLE}"
        )
    if values.ndim == 2 and not values.size:
        raise SourceError(f"{where} is an array of shape {values.shape}, which has no pixel.")
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise SourceError(
            f"{where} is an array of {values.dtype} of shape {values.shape}; give (h, w) of object "
            "numbers, 0 where there is none, or of bool."
        )
    pictured.check_size(values.shape[1], values.shape[0], where)
    numbers = np.maximum(values, 0) if values.dtype.kind == "i" else values
    known = np.unique(numbers)
    if len(known[known > 0]) <= 1:  # of bool, 0 and 1, 0 and 255: what is there and what is not
        numbers = ndimage.label(numbers)[0]
    background = not numbers.all()
    _, flat = np.unique(numbers, return_inverse=True)
    numbers = flat.reshape(values.shape) + (0 if background else 1)
    boxes, polygons = [], []
    for number, place in enumerate(ndimage.find_objects(numbers), start=1):
        if place is None:
            continue
        y, x = place
        boxes.append((x.start, y.start, x.stop, y.stop))
        polygons.append(mask_outline(numbers[place] == number, x.start, y.start))
    return Truth(Findings(boxes, polygons=polygons if boxes else None))


def _rows(pictured: Pictured) -> tuple[int, int] | None:
    """Return height and width of the image, as an array has them."""
    return None if pictured.size is None else (pictured.size[1], pictured.size[0])


def _json_file(path: Path, pictured: Pictured) -> Truth:
    return parsed(json_of(path), str(path), pictured)


def json_of(path: Path) -> Any:
    """Return what a JSON file holds, compressed or not, with or without a byte order mark.

    Raises
    ------
    SourceError
        If it is too large once it is uncompressed.
    """
    text = unzipped(path)
    if len(text) > MOST_UNZIPPED:
        raise SourceError(f"{path} holds more than {MOST_UNZIPPED >> 30} GB; divide it by image.")
    return json.loads(text.decode("utf-8-sig"))


def _csv(path: Path, pictured: Pictured) -> Truth:
    return table(csv_of(path), str(path), pictured)


def csv_of(path: Path) -> Any:
    """Return the table in a CSV file, whatever is between its columns."""
    import pandas as pd

    with path.open(encoding="utf-8-sig", errors="replace") as file:
        head = file.readline()
    return pd.read_csv(path, sep=max(",;\t", key=head.count))


def _parquet(path: Path, pictured: Pictured) -> Truth:
    import pandas as pd

    try:
        rows = pd.read_parquet(path)
    except ImportError:
        raise SourceError(
            f"{path} needs pyarrow, which is not installed: pip install 'tilevision[parquet]'."
        ) from None
    return table(rows, str(path), pictured)


def _xml(path: Path, pictured: Pictured) -> Truth:
    return xml(tree(path), str(path), pictured)


def _coco(data: Mapping[str, Any], pictured: Pictured, where: str) -> Truth:
    images = data.get("images", [])
    wanted = None
    if images:
        names = [item.get("file_name", item["id"]) for item in images]
        fit = pictured.chosen(names, where)
        mine = [item for item, name in zip(images, names, strict=True) if name in fit]
        for item in mine:
            pictured.check_size(item.get("width"), item.get("height"), where)
        wanted = {key_of(item["id"]) for item in mine}
        known = {key_of(item["id"]) for item in images}
        strange = [row for row in data["annotations"] if key_of(row.get("image_id")) not in known]
        if strange and len(strange) == len(data["annotations"]):
            raise SourceError(
                f"{where} holds annotations of image {strange[0].get('image_id')!r}, which it does "
                "not list under images; use the id that stands there."
            )
    names_of = {key_of(item["id"]): str(item["name"]) for item in data.get("categories", [])}
    rows = [
        row
        for row in data["annotations"]
        if wanted is None or key_of(row.get("image_id")) in wanted
    ]
    unnamed = sorted({key_of(row["category_id"]) for row in rows if "category_id" in row}
                     - set(names_of))  # fmt: skip
    if unnamed:
        raise SourceError(
            f"{where} holds annotations of category {unnamed[0]}, which it does not name under "
            "categories; add it there."
        )
    return _coco_rows(rows, names_of)


def key_of(number: Any) -> str:
    """Return an id as text: 7, 7.0 and "7" are one."""
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)


def _coco_results(rows: Sequence[Any], pictured: Pictured, where: str) -> Truth:
    """Read the list that COCO's evaluation takes: numbers without names, as a model has them."""
    chosen = pictured
    if len({row.get("image_id") for row in rows}) > 1:
        raise SourceError(
            f"{where} holds COCO results of several images, which are numbered there, not named; "
            "give the annotations of one image."
        )
    known = {
        number + (0 if chosen.names and chosen.names[0] is None else 1): name
        for number, name in enumerate(chosen.names)
        if name is not None
    }
    missing = sorted({row["category_id"] for row in rows} - set(known))
    if missing:
        raise SourceError(
            f"{where} holds COCO results, which have class numbers without names, and class "
            f"{missing[0]} has no name here; give a dataset (.coco.json)."
        )
    return _coco_rows(rows, {str(number): name for number, name in known.items()})


def _coco_rows(rows: Sequence[Mapping[str, Any]], names: Mapping[Any, str]) -> Truth:
    polygons = [_segmentation(row.get("segmentation")) for row in rows]
    boxes = [_coco_box(row, polygon) for row, polygon in zip(rows, polygons, strict=True)]
    ids = [row.get("category_id", -1) for row in rows]
    found = Findings(
        boxes,
        scores=np.arange(len(rows), 0, -1) / max(len(rows), 1),  # keeps rows in their order
        labels=[names.get(key_of(i), "object") for i in ids],
        class_ids=[i if isinstance(i, int) else -1 for i in ids] if rows else None,
        polygons=polygons if any(p is not None for p in polygons) else None,
    )
    crowd = [bool(row.get("iscrowd")) for row in rows]
    read = Truth.of(found, crowd)
    return Truth(unscored(read.objects), unscored(read.crowd))


def _coco_box(row: Mapping[str, Any], polygon: Any) -> list[float]:
    if row.get("bbox"):
        x, y, width, height = map(float, row["bbox"])
        return [x, y, x + width, y + height]
    if polygon is None:
        raise SourceError(f"Annotation {row.get('id')!r} has neither bbox nor segmentation.")
    corners = np.concatenate([part[0] for part in polygon])
    return [*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()]


def _segmentation(given: Any) -> list[list[Floats]] | None:
    """Return the parts of an outline; None where there is none."""
    if not given:
        return None
    if isinstance(given, Mapping):
        from pycocotools import mask as masks  # type: ignore[import, unused-ignore]  # no types

        height, width = given["size"]
        coded = given
        if isinstance(given["counts"], list):
            coded = masks.frPyObjects(given, height, width)
        wanted = np.asarray(masks.decode(coded), dtype=bool)
        return mask_outline(wanted, 0, 0) if wanted.any() else None
    rings = [np.reshape(np.asarray(ring, np.float64), (-1, 2)) for ring in given]
    return [[ring] for ring in rings if len(ring) > 2] or None


def _geojson(data: Mapping[str, Any], pictured: Pictured, where: str) -> Truth:
    from shapely.geometry import shape

    # Tiles with their probabilities, as our own export for QuPath has them, are no objects.
    rows = [row for row in data["features"] if _kind(row) != "tile" and row.get("geometry")]
    given = [shape(row["geometry"]) for row in rows]
    shapes, names = _objects(given, [_name(row, pictured) for row in rows], where)
    frame, place = str(data.get("coordinates_in", "")), pictured.place
    crs = _named_crs(data)
    if place is not None and not frame.startswith("pixels"):
        if crs is None:
            _check_degrees(shapes, where)
        shapes = pictured.found(shapes, crs, where)
    elif frame.startswith("degrees") or crs is not None:
        raise SourceError(
            f"{where} is in {crs or 'degrees'}, and the image has no CRS and transform to find it "
            "by; give the truth in pixels."
        )
    origin = np.asarray(data.get("origin", (0, 0)), dtype=np.float64)
    shapes = moved(shapes, lambda points: points + origin)
    return Truth(findings_of_shapes(shapes, names))


def _objects(
    shapes: Sequence[Any], names: Sequence[Any], where: str
) -> tuple[NDArray[np.object_], list[str]]:
    """Return the objects that geometries stand for: each point of many, else one; none of nothing.

    Raises
    ------
    SourceError
        If one is a line, or a collection without areas.
    """
    parts, kinds = [], []
    for shape, name in zip(shapes, names, strict=True):
        if shape is None or shape.is_empty:
            continue
        if shape.geom_type == "GeometryCollection":
            areas = [part for part in shapely.get_parts(shape) if part.area > 0]
            shape = shapely.union_all(areas) if areas else shape  # noqa: PLW2901 - what counts of it
        if shape.geom_type not in ("Polygon", "MultiPolygon", "Point", "MultiPoint"):
            raise SourceError(
                f"{where} holds a {shape.geom_type}, which has no area; leave it out."
            )
        many = list(shape.geoms) if shape.geom_type == "MultiPoint" else [shape]
        parts += many
        kinds += ["object" if name is None or name != name else str(name)] * len(many)
    return np.array(parts, dtype=object), kinds


def _check_degrees(shapes: NDArray[np.object_], where: str) -> None:
    if not len(shapes):
        return
    x0, y0, x1, y1 = shapely.total_bounds(shapes)
    if min(x0, 2 * y0) < -180 or max(x1, 2 * y1) > 180:
        raise SourceError(
            f"{where} is not in longitude and latitude, which GeoJSON of an image with a CRS "
            'is; if it is in pixels, give it the member "coordinates_in": "pixels".'
        )


def _named_crs(data: Mapping[str, Any]) -> str | None:
    """Return the system that GeoJSON of 2008 names; None: longitude and latitude (RFC 7946)."""
    crs = data.get("crs")
    properties = crs.get("properties") if isinstance(crs, Mapping) else None
    name = properties.get("name") if isinstance(properties, Mapping) else None
    return name if isinstance(name, str) else None


def _geopackage(path: Path, pictured: Pictured) -> Truth:
    try:
        import pyogrio
        from pyogrio.raw import read
    except ImportError:
        remedy = "which is not installed: pip install 'tilevision[geo]'."
        raise SourceError(f"{path} needs pyogrio, {remedy}") from None
    layers = [str(name) for name, _ in pyogrio.list_layers(path)]
    chosen = "detections" if "detections" in layers else layers[0]
    if chosen != "detections" and len(layers) > 1:
        told = f"{path} has the layers {', '.join(layers[:5])}"
        raise SourceError(f"{told}; name that of the truth 'detections'.")
    meta, _, wkb, columns = read(path, layer=chosen)
    names = [str(name).lower() for name in meta["fields"]]
    fields = dict(zip(names, columns, strict=True))
    label = next((name for name in (*_NAMES, "class_id") if name in fields), None)
    given = shapely.from_wkb(wkb)
    said = [None] * len(given) if label is None else fields[label].tolist()
    return _on_map(given, said, label == "class_id", meta["crs"], str(path), pictured)


def _on_map(
    given: Any, said: Sequence[Any], numbered: bool, crs: Any, where: str, pictured: Pictured
) -> Truth:
    """Read geometries in a reference system, or in pixels where the image has none either.

    Raises
    ------
    SourceError
        If only one of both has a system.
    """
    place = pictured.place
    if (place is None) != (crs is None):
        which = "the image" if place is None else "the file"
        told = f"{where} and the image both need a reference system, and {which} has none"
        raise SourceError(f"{told}; give the truth in pixels.")
    shapes, kinds = _objects(given, [_class_of(one, numbered, pictured) for one in said], where)
    if place:
        shapes = pictured.found(shapes, crs, where)
    return Truth(findings_of_shapes(shapes, kinds))


def _kind(feature: Mapping[str, Any]) -> object:
    return (feature.get("properties") or {}).get("objectType")


def _name(feature: Mapping[str, Any], pictured: Pictured) -> str:
    """Return the class a feature names; QuPath nests it in ``classification``."""
    properties = feature.get("properties") or {}
    nested = properties.get("classification")
    if isinstance(nested, Mapping) and "name" in nested:
        return str(nested["name"])
    names = [name for name in (*_NAMES, "class_id") if properties.get(name) is not None]
    return _class_of(properties[names[0]], names[0] == "class_id", pictured) if names else "object"


def _ours(data: Mapping[str, Any], pictured: Pictured, where: str) -> Truth:
    image = data.get("image") or {}
    pictured.check_size(image.get("width"), image.get("height"), where)
    pictured.note_name(*filter(None, [image.get("name")]))
    rows = data["detections"]
    nothing = np.full((4, 2), np.nan)
    polygons = [row.get("polygon") for row in rows]
    oriented = [row.get("oriented", nothing) for row in rows]
    points = [row.get("point", (np.nan, np.nan)) for row in rows]
    return Truth(
        Findings(
            [row["box"] for row in rows],
            labels=[row["label"] for row in rows],
            class_ids=[row["class_id"] for row in rows] if rows else None,
            polygons=polygons if any(p is not None for p in polygons) else None,
            oriented=oriented if any("oriented" in row for row in rows) else None,
            points=points if any("point" in row for row in rows) else None,
        )
    )


def _picture(path: Path, pictured: Pictured) -> Truth:
    from tilevision.geometry import Box
    from tilevision.sources import ReadOptions, open_source, read_pixels

    source = open_source(path)
    try:
        width, height = source.size
        # As stored: the numbers of a colour table, not its colours.
        pixels = read_pixels(source, Box(0, 0, width, height), 1.0, ReadOptions(dtype="raw"))
    finally:
        source.close()
    if pixels.shape[2] != 1:
        raise SourceError(f"{path} has {pixels.shape[2]} bands; a mask of objects has one.")
    return mask(pixels[..., 0], str(path), pictured)


def _array(path: Path, pictured: Pictured) -> Truth:
    return mask(np.load(path, allow_pickle=False), str(path), pictured)


READERS: dict[str, Callable[[Path, Pictured], Truth]] = {
    ".json": _json_file,
    ".json.gz": _json_file,
    ".geojson": _json_file,
    ".geojson.gz": _json_file,
    ".xml": _xml,
    ".csv": _csv,
    ".parquet": _parquet,
    ".gpkg": _geopackage,
    ".fgb": _geopackage,
    ".shp": _geopackage,
    ".txt": yolo,
    ".npy": _array,
    ".png": _picture,
    ".tif": _picture,
    ".tiff": _picture,
}
