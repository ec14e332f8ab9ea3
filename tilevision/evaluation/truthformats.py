"""How each format of annotations is read as truth."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.errors import SourceError
from tilevision.evaluation.annotated import Pictured, Truth, stem_of
from tilevision.evaluation.truthshapes import (
    findings_of_shapes,
    mask_outline,
    mask_shape,
    moved,
    valid,
)
from tilevision.findings import Findings

__all__ = ["READERS", "divided", "folder", "mask", "parsed", "table"]

Floats = NDArray[np.float64]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_NAMES = ("label", "class", "class_name", "name", "category")
_IMAGES = ("image_path", "file_name", "filename", "image", "image_name", "image_id", "path", "img")
_SHAPES = ("box", "polygon", "points", "ellipse", "mask")


def parsed(data: Any, where: str, pictured: Pictured) -> Truth:
    """Read what a JSON file holds.

    Raises
    ------
    SourceError
        If it is of no known kind.
    """
    if isinstance(data, Mapping) and data.get("format") == "tilevision":
        return _ours(data)
    if isinstance(data, Mapping) and "annotations" in data and "result" not in data:
        return _coco(data, pictured, where)
    if isinstance(data, Mapping) and data.get("type") == "FeatureCollection":
        return _geojson(data, pictured, where)
    tasks = data if isinstance(data, list) else [data]
    if tasks and all(isinstance(one, Mapping) for one in tasks):
        if all("data" in one for one in tasks):
            return _label_studio(tasks, pictured, where)
        if all("bbox" in one and "category_id" in one for one in tasks):
            return _coco_results(tasks, pictured, where)
    if data == []:
        return Truth(Findings())
    raise SourceError(
        f"{where} is neither COCO (annotations) nor GeoJSON (a FeatureCollection) nor Label Studio "
        "(tasks)."
    )


def table(rows: Any, where: str, pictured: Pictured) -> Truth:
    """Read a table of boxes; of a table of several images the rows of this one.

    Raises
    ------
    SourceError
        If a corner has no column, or no image is this one.
    """
    names = {str(name).strip().lower(): name for name in rows.columns}
    missing = [name for name in _CORNERS if name not in names]
    if missing:
        raise SourceError(
            f"{where} lacks the column {', '.join(missing)}; name the columns "
            "xmin, ymin, xmax, ymax and label."
        )
    image = next((names[name] for name in _IMAGES if name in names), None)
    if image is not None and len(rows):
        wanted = pictured.chosen(rows[image].tolist(), where)
        rows = rows[rows[image].isin(wanted)]
    boxes = rows[[names[name] for name in _CORNERS]].to_numpy(dtype=np.float64)
    boxes = boxes[~np.isnan(boxes).all(axis=1)]  # an image without objects is one empty row
    label = next((names[name] for name in _NAMES if name in names), None)
    if label is None:
        return Truth(Findings(boxes))
    kept = rows[~rows[[names[name] for name in _CORNERS]].isna().all(axis=1)]
    # Our own CSV puts an apostrophe before what a spreadsheet would run as a formula.
    labels = [re.sub(r"^'(?=[=+@\t\r-])", "", str(one)) for one in kept[label]]
    return Truth(Findings(boxes, labels=labels))


def divided(data: Any) -> dict[str, Any] | None:
    """Return what a COCO dataset or a table of several images says of each, by the image's stem.

    None where it is neither. So each image of a batch is looked up, not searched for.
    """
    if isinstance(data, Mapping) and data.get("images") and "annotations" in data:
        return _divided_coco(data)
    if hasattr(data, "columns") and hasattr(data, "groupby"):
        names = {str(name).strip().lower(): name for name in data.columns}
        image = next((names[name] for name in _IMAGES if name in names), None)
        if image is not None:
            return dict(iter(data.groupby(data[image].map(stem_of))))
    return None


def _divided_coco(data: Mapping[str, Any]) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    annotations: dict[Any, list[Any]] = {}
    for item in data["images"]:
        part = parts.setdefault(
            stem_of(item.get("file_name", item["id"])),
            {"images": [], "categories": data.get("categories", []), "annotations": []},
        )
        part["images"].append(item)
        annotations[item["id"]] = part["annotations"]
    for row in data["annotations"]:
        if row.get("image_id") in annotations:
            annotations[row["image_id"]].append(row)
    return parts


def mask(values: NDArray[Any], where: str, _pictured: Pictured) -> Truth:
    """Read an array ``(h, w)`` of object numbers, or of bool: its connected patches are objects.

    Raises
    ------
    SourceError
        If it has another shape or type.
    """
    from scipy import ndimage

    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise SourceError(
            f"{where} is an array of {values.dtype} of shape {values.shape}; give (h, w) of object "
            "numbers, 0 where there is none, or of bool."
        )
    numbers = ndimage.label(values)[0] if values.dtype == np.bool_ else values
    _, numbers = np.unique(numbers, return_inverse=True)
    numbers = numbers.reshape(values.shape) + (0 if not values.all() else 1)
    boxes, polygons = [], []
    for number, place in enumerate(ndimage.find_objects(numbers), start=1):
        if place is None:
            continue
        y, x = place
        boxes.append((x.start, y.start, x.stop, y.stop))
        polygons.append(mask_outline(numbers[place] == number, x.start, y.start))
    return Truth(Findings(boxes, polygons=polygons if boxes else None))


def folder(path: Path, pictured: Pictured) -> Truth:
    """Read the file of the image in a folder of YOLO labels, or in one of files like it.

    Raises
    ------
    SourceError
        If there is none.
    """
    labels = path / "labels" if (path / "labels").is_dir() else path
    stem = Path(pictured.name or "").stem
    found = [
        one
        for one in sorted(labels.rglob(f"{_literal(stem)}.*"))
        if one.suffix.lower() in READERS and one.is_file()
    ]
    if not stem or not found:
        raise SourceError(f"{labels} holds no labels named like {pictured.name!r}.")
    return READERS[found[0].suffix.lower()](found[0], pictured)


def _literal(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)


def _json_file(path: Path, pictured: Pictured) -> Truth:
    return parsed(json.loads(path.read_text("utf-8")), str(path), pictured)


def _csv(path: Path, pictured: Pictured) -> Truth:
    import pandas as pd

    return table(pd.read_csv(path), str(path), pictured)


def _parquet(path: Path, pictured: Pictured) -> Truth:
    import pandas as pd

    try:
        rows = pd.read_parquet(path)
    except ImportError:
        raise SourceError(
            f"{path} needs pyarrow, which is not installed: pip install 'tilevision[parquet]'."
        ) from None
    read = table(rows, str(path), pictured).objects
    if "geometry" not in rows.columns or len(read) != len(rows):
        return Truth(read)
    shapes = shapely.from_wkb(rows["geometry"].to_numpy(dtype=object))
    label = next((name for name in _NAMES if name in rows.columns), None)
    return Truth(findings_of_shapes(shapes, None if label is None else list(map(str, rows[label]))))


def _xml(path: Path, pictured: Pictured) -> Truth:
    text = path.read_text("utf-8-sig")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise SourceError(
            f"{path} declares XML entities, which VOC and CVAT never do; remove them."
        )
    root = ElementTree.fromstring(text.encode("utf-8"))  # noqa: S314  # no entities
    if root.tag == "annotation":
        return _voc(root)
    if root.tag == "annotations":
        return _cvat(root, pictured, str(path))
    raise SourceError(
        f"{path} is XML of <{root.tag[:40]}>, which is neither Pascal VOC (<annotation>) nor CVAT "
        "for images (<annotations>)."
    )


def _voc(root: ElementTree.Element) -> Truth:
    objects = root.findall("object")
    boxes = [[float(one.findtext(f"bndbox/{name}", "")) for name in _CORNERS] for one in objects]
    return Truth(Findings(boxes, labels=[one.findtext("name", "object") for one in objects]))


def _cvat(root: ElementTree.Element, pictured: Pictured, where: str) -> Truth:
    images = root.findall("image")
    if not images:
        what = "tracks of a video" if root.find("track") is not None else "no image"
        raise SourceError(f"{where} is CVAT XML with {what}; export it as CVAT for images 1.1.")
    wanted = pictured.chosen([one.get("name", "") for one in images], where)
    rows = [
        (shape, shape.get("group_id"), number)
        for image in images
        if image.get("name", "") in wanted
        for number, shape in enumerate(image)
        if shape.tag != "tag"
    ]
    unread = sorted({shape.tag for shape, _, _ in rows} - set(_SHAPES))
    if unread:
        raise SourceError(f"{where} holds CVAT shapes of kind {unread[0]}, which have no area.")
    together: dict[Any, list[ElementTree.Element]] = {}
    for shape, group, number in rows:
        # Parts of one outline are polygons of one group, as our own export has them.
        key = (group, shape.get("label")) if group and shape.tag == "polygon" else number
        together.setdefault(key, []).append(shape)
    found = [shapely.union_all([_cvat_shape(one) for one in many]) for many in together.values()]
    labels = [many[0].get("label", "object") for many in together.values()]
    return Truth(findings_of_shapes(np.array(found, dtype=object), labels))


def _cvat_shape(shape: ElementTree.Element) -> Any:
    def number(name: str) -> float:
        return float(shape.attrib[name])

    if shape.tag == "box":
        box = shapely.box(number("xtl"), number("ytl"), number("xbr"), number("ybr"))
        turn = float(shape.get("rotation", 0))
        return shapely.affinity.rotate(box, turn, "center") if turn else box
    if shape.tag == "ellipse":
        circle = shapely.Point(0, 0).buffer(1, quad_segs=32)
        sides = shapely.affinity.scale(circle, number("rx"), number("ry"))
        turned = shapely.affinity.rotate(sides, float(shape.get("rotation", 0)), "center")
        return shapely.affinity.translate(turned, number("cx"), number("cy"))
    if shape.tag == "mask":
        left, top = number("left"), number("top")
        width, height = int(number("width")), int(number("height"))
        counts = [int(one) for one in shape.attrib["rle"].split(",")]
        flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        return mask_shape(flat.reshape(height, width), left, top)
    points = [tuple(map(float, pair.split(","))) for pair in shape.attrib["points"].split(";")]
    if shape.tag == "polygon":
        return valid(shapely.Polygon(points))
    return shapely.MultiPoint(points) if len(points) > 1 else shapely.Point(points[0])


def _coco(data: Mapping[str, Any], pictured: Pictured, where: str) -> Truth:
    images = data.get("images", [])
    wanted = None
    if images:
        names = [item.get("file_name", item["id"]) for item in images]
        fit = pictured.chosen(names, where)
        wanted = {item["id"] for item, name in zip(images, names, strict=True) if name in fit}
    names_of = {item["id"]: str(item["name"]) for item in data.get("categories", [])}
    rows = [row for row in data["annotations"] if wanted is None or row.get("image_id") in wanted]
    return _coco_rows(rows, names_of)


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
    return _coco_rows(rows, known)


def _coco_rows(rows: Sequence[Mapping[str, Any]], names: Mapping[Any, str]) -> Truth:
    polygons = [_segmentation(row.get("segmentation")) for row in rows]
    boxes = [_coco_box(row, polygon) for row, polygon in zip(rows, polygons, strict=True)]
    ids = [row.get("category_id", -1) for row in rows]
    found = Findings(
        boxes,
        scores=np.arange(len(rows), 0, -1) / max(len(rows), 1),  # keeps rows in their order
        labels=[names.get(i, "object") for i in ids],
        class_ids=[i if isinstance(i, int) else -1 for i in ids] if rows else None,
        polygons=polygons if any(p is not None for p in polygons) else None,
    )
    crowd = [bool(row.get("iscrowd")) for row in rows]
    read = Truth.of(found, crowd)
    return Truth(_unscored(read.objects), _unscored(read.crowd))


def _unscored(findings: Findings) -> Findings:
    columns = findings.columns | {"scores": np.full(len(findings), np.nan)}
    return Findings(**columns)


def _coco_box(row: Mapping[str, Any], polygon: Any) -> list[float]:
    if "bbox" in row:
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
    shapes = np.array([shape(row["geometry"]) for row in rows], dtype=object)
    frame, place = str(data.get("coordinates_in", "")), pictured.place
    crs = _named_crs(data)
    if place is not None and not frame.startswith("pixels"):
        if crs is None:
            _check_degrees(shapes, where)
        shapes = moved(shapes, lambda points: place.from_crs(points, crs))
    elif frame.startswith("degrees") or crs is not None:
        raise SourceError(
            f"{where} is in {crs or 'degrees'}, and the image has no CRS and transform to find it "
            "by; give the truth in pixels."
        )
    origin = np.asarray(data.get("origin", (0, 0)), dtype=np.float64)
    shapes = moved(shapes, lambda points: points + origin)
    return Truth(findings_of_shapes(shapes, [_name(row) for row in rows]))


def _check_degrees(shapes: NDArray[np.object_], where: str) -> None:
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
        raise SourceError(
            f"{path} needs pyogrio, which is not installed: pip install 'tilevision[geo]'."
        ) from None
    layers = [str(name) for name, _ in pyogrio.list_layers(path)]
    chosen = "detections" if "detections" in layers else layers[0]
    if chosen != "detections" and len(layers) > 1:
        raise SourceError(
            f"{path} has the layers {', '.join(layers[:5])}; name that of the truth 'detections'."
        )
    meta, _, wkb, columns = read(path, layer=chosen)
    place = pictured.place
    if place is None or meta["crs"] is None:
        raise SourceError(
            f"{path} lies on a map, and the image or the file has no CRS; give the truth in pixels."
        )
    shapes = moved(shapely.from_wkb(wkb), lambda points: place.from_crs(points, meta["crs"]))
    names = [str(name).lower() for name in meta["fields"]]
    fields = dict(zip(names, columns, strict=True))
    label = next((fields[name] for name in _NAMES if name in fields), None)
    return Truth(findings_of_shapes(shapes, None if label is None else list(map(str, label))))


def _kind(feature: Mapping[str, Any]) -> object:
    return (feature.get("properties") or {}).get("objectType")


def _name(feature: Mapping[str, Any]) -> str:
    """Return the class a feature names; QuPath nests it in ``classification``."""
    properties = feature.get("properties") or {}
    nested = properties.get("classification")
    if isinstance(nested, Mapping) and "name" in nested:
        return str(nested["name"])
    return next((str(properties[name]) for name in _NAMES if name in properties), "object")


def _label_studio(tasks: Sequence[Any], pictured: Pictured, where: str) -> Truth:
    def named(task: Mapping[str, Any]) -> str:
        texts = [v for v in task["data"].values() if isinstance(v, str)]
        return str(task["data"].get("image", texts[0] if texts else ""))

    wanted = pictured.chosen([named(task) for task in tasks], where)
    shapes, labels = [], []
    for task in tasks:
        if named(task) not in wanted:
            continue
        answers = task.get("annotations") or task.get("predictions") or []
        for row in answers[0].get("result", []) if answers else []:
            kind = str(row.get("type", ""))
            # Key points of a pose name the region that they belong to, which is the object.
            if not kind.endswith("labels") or (kind == "keypointlabels" and row.get("parentID")):
                continue
            shapes.append(_studio_shape(row, kind, pictured, where))
            names = row["value"].get(kind) or ["object"]
            labels.append((row.get("id"), str(names[0])))
    return Truth(findings_of_shapes(*_joined(shapes, labels)))


def _joined(shapes: list[Any], labels: list[Any]) -> tuple[NDArray[np.object_], list[str]]:
    """Unite the parts of one outline, which our own export numbers d1, d1-1, …"""
    together: dict[Any, list[Any]] = {}
    for number, (shape, (name, label)) in enumerate(zip(shapes, labels, strict=True)):
        part = re.fullmatch(r"(d\d+)(-\d+)?", str(name))
        together.setdefault((part[1] if part else number, label), []).append(shape)
    found = np.array([shapely.union_all(many) for many in together.values()], dtype=object)
    return found, [label for _, label in together]


def _studio_shape(row: Mapping[str, Any], kind: str, pictured: Pictured, where: str) -> Any:
    value = row["value"]
    size = (row.get("original_width"), row.get("original_height"))
    width, height = size if all(size) else (pictured.size or (None, None))
    if width is None or height is None:
        raise SourceError(f"{where} does not say how large the image is; export it with sizes.")
    sides = np.array([width, height]) / 100
    if kind == "polygonlabels":
        return valid(shapely.Polygon(np.array(value["points"]) * sides))
    if kind == "keypointlabels":
        return shapely.Point(np.array([value["x"], value["y"]]) * sides)
    if kind in ("rectanglelabels", "ellipselabels"):
        if kind == "ellipselabels":
            circle = shapely.Point(0, 0).buffer(1, quad_segs=32)
            wide, high = np.array([value["radiusX"], value["radiusY"]]) * sides
            shape = shapely.affinity.scale(circle, wide, high)
            at = (0, 0)
        else:
            wide, high = np.array([value["width"], value["height"]]) * sides
            shape, at = shapely.box(0, 0, wide, high), (0, 0)
        shape = shapely.affinity.rotate(shape, value.get("rotation", 0), at)
        x, y = np.array([value["x"], value["y"]]) * sides
        return shapely.affinity.translate(shape, x, y)
    raise SourceError(f"{where} holds {kind}, which are not read; export polygons or rectangles.")


def _yolo(path: Path, pictured: Pictured) -> Truth:
    if pictured.size is None:
        raise SourceError(f"{path} is in shares of the sides; give the size of the image.")
    names = _yolo_names(path) or pictured.names
    rows = [line.split() for line in path.read_text("utf-8").splitlines() if line.strip()]
    known = Pictured(names=tuple(names))
    shapes = [_yolo_shape(path, row, np.array(pictured.size)) for row in rows]
    labels = [known.class_name(int(row[0])) for row in rows]
    return Truth(findings_of_shapes(np.array(shapes, dtype=object), labels))


def _yolo_shape(path: Path, row: Sequence[str], size: NDArray[Any]) -> Any:
    """Return what a line says: a box, with or without a score, else the corners of an outline."""
    values = np.array([float(one) for one in row[1:]])
    if len(values) in (4, 5):
        centre, sides = values[:2] * size, values[2:4] * size / 2
        return shapely.box(*(centre - sides), *(centre + sides))
    if len(values) >= 6 and len(values) % 2 == 0:
        return valid(shapely.Polygon(np.reshape(values, (-1, 2)) * size))
    raise SourceError(
        f"{path} has a line of {len(row)} numbers; YOLO has class, x, y, width and height, or "
        "class and corners."
    )


def _yolo_names(path: Path) -> tuple[str | None, ...]:
    """Return the class names that the ``data.yaml`` beside the labels lists."""
    for above in path.parents[:2]:
        listed = above / "data.yaml"
        if listed.is_file():
            text = listed.read_text("utf-8")
            found = re.findall(r"(?m)^\s+(\d+):\s*(.+?)\s*$", text)
            if not found:  # - name, or names: [a, b]
                found = list(enumerate(re.findall(r"(?m)^\s*-\s+(.+?)\s*$", text)))
                inline = re.search(r"(?m)^names:\s*\[(.*)\]", text)
                found = list(enumerate(inline[1].split(","))) if inline else found
            numbered = {int(number): _unquoted(name) for number, name in found}
            return tuple(numbered.get(i) for i in range(max(numbered, default=-1) + 1))
    return ()


def _unquoted(text: str) -> str:
    text = text.strip()
    if text.startswith('"'):
        try:
            return str(json.loads(re.sub(r"\\U000?([0-9a-fA-F]{5,8})", _surrogates, text)))
        except ValueError:
            return text.strip('"')
    return text.strip("'")


def _surrogates(match: re.Match[str]) -> str:
    return json.dumps(chr(int(match[1], 16)))[1:-1]


def _ours(data: Mapping[str, Any]) -> Truth:
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
    from tilevision.sources import open_source

    source = open_source(path)
    try:
        width, height = source.size
        pixels = source.read(Box(0, 0, width, height))
    finally:
        source.close()
    if pixels.shape[2] != 1:
        raise SourceError(f"{path} has {pixels.shape[2]} bands; a mask of objects has one.")
    return mask(pixels[..., 0], str(path), pictured)


READERS: dict[str, Callable[[Path, Pictured], Truth]] = {
    ".json": _json_file,
    ".geojson": _json_file,
    ".xml": _xml,
    ".csv": _csv,
    ".parquet": _parquet,
    ".gpkg": _geopackage,
    ".txt": _yolo,
    ".png": _picture,
    ".tif": _picture,
    ".tiff": _picture,
}
