"""Truth as annotation tools export it: Pascal VOC and CVAT in XML, Label Studio in JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.errors import SourceError
from tilevision.evaluation.annotated import Pictured, Truth, stem_of
from tilevision.evaluation.truthshapes import findings_of_shapes, mask_shape, unscored, valid
from tilevision.findings import Findings

__all__ = ["label_studio", "task_image", "tree", "uploaded", "whole_task", "xml"]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_SHAPES = ("box", "polygon", "points", "ellipse", "mask")
_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before an uploaded file's name
_BARE = ("rectangle", "polygon", "ellipse", "keypoint")  # shapes that are labelled beside


def tree(path: Path) -> ElementTree.Element:
    """Return the XML in a file.

    Raises
    ------
    SourceError
        If it declares entities.
    """
    text = path.read_text("utf-8-sig")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise SourceError(
            f"{path} declares XML entities, which VOC and CVAT never do; remove them."
        )
    return ElementTree.fromstring(text.encode("utf-8"))  # noqa: S314  # no entities


def xml(root: ElementTree.Element, where: str, pictured: Pictured) -> Truth:
    """Read the XML of Pascal VOC or CVAT for images.

    Raises
    ------
    SourceError
        If it is neither, or names no image like this one.
    """
    if root.tag == "annotation":
        return _voc(root, where, pictured)
    if root.tag == "annotations":
        return _cvat(root, pictured, where)
    raise SourceError(
        f"{where} is XML of <{root.tag[:40]}>, which is neither Pascal VOC (<annotation>) nor CVAT "
        "for images (<annotations>)."
    )


def _voc(root: ElementTree.Element, where: str, pictured: Pictured) -> Truth:
    """Read objects; those that are marked as difficult are neither right nor wrong (VOC 2012)."""
    pictured.check_size(root.findtext("size/width"), root.findtext("size/height"), where)
    objects = root.findall("object")
    if any(one.find("bndbox") is None for one in objects):
        raise SourceError(f"{where} holds an object without bndbox; export it with boxes.")
    boxes = [[float(one.findtext(f"bndbox/{name}", "")) for name in _CORNERS] for one in objects]
    difficult = [
        one.findtext("difficult", "0").strip().lower() in ("1", "true", "yes") for one in objects
    ]
    labels = [one.findtext("name", "object") for one in objects]
    outlines = [_voc_outline(one) for one in objects]
    found = Findings(
        boxes,
        scores=np.arange(len(boxes), 0, -1) / max(len(boxes), 1),  # keeps rows in their order
        labels=labels,
        polygons=outlines if any(one is not None for one in outlines) else None,
    )
    read = Truth.of(found, difficult)
    return Truth(unscored(read.objects), unscored(read.crowd))


def _voc_outline(one: ElementTree.Element) -> NDArray[np.float64] | None:
    """Return the outline of an object that has one, as Roboflow writes it: x1, y1, x2, y2, …"""
    corners = one.find("polygon")
    if corners is None:
        return None
    said = {part.tag: part.text or "" for part in corners}
    numbers = range(1, 1 + len(said) // 2)
    ring = [(float(said[f"x{number}"]), float(said[f"y{number}"])) for number in numbers]
    return np.array(ring) if len(ring) > 2 else None


def _cvat(root: ElementTree.Element, pictured: Pictured, where: str) -> Truth:
    images = root.findall("image")
    if not images:
        what = "tracks of a video" if root.find("track") is not None else "no image"
        raise SourceError(f"{where} is CVAT XML with {what}; export it as CVAT for images 1.1.")
    wanted = pictured.chosen([one.get("name", "") for one in images], where)
    for image in images:
        if image.get("name", "") in wanted:
            pictured.check_size(image.get("width"), image.get("height"), where)
    rows = [
        shape
        for image in images
        if image.get("name", "") in wanted
        for shape in image
        if shape.tag != "tag"
    ]
    unread = sorted({shape.tag for shape in rows} - set(_SHAPES))
    if unread:
        raise SourceError(
            f"{where} holds CVAT shapes of kind {unread[0]}, which are not read; leave them out."
        )
    together: dict[Any, list[ElementTree.Element]] = {}
    for number, shape in enumerate(rows):
        # Parts of one outline are polygons of one group, as our own export has them; 0 is none.
        group = shape.get("group_id", "0") if shape.tag == "polygon" else "0"
        key = number if group in ("", "0") else (group, shape.get("label"))
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


def task_image(task: Mapping[str, Any]) -> str:
    """Return the name of a task's image, as it stands there."""
    texts = [value for value in task["data"].values() if isinstance(value, str)]
    return str(task["data"].get("image", texts[0] if texts else ""))


def whole_task(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task of Label Studio's JSON-MIN as its JSON has it: regions are its lists there."""
    rows = []
    for value in task.values():
        for region in value if isinstance(value, list) else ():
            if isinstance(region, Mapping) and "original_width" in region:
                kind = next((key for key in region if str(key).endswith("labels")), "")
                sizes = {key: region.get(key) for key in ("original_width", "original_height")}
                rows.append({"type": kind, "value": region, **sizes})
    named = {key: value for key, value in task.items() if isinstance(value, str)}
    return {"data": named, "annotations": [{"result": rows}]}


def uploaded(name: str) -> str:
    """Return what an image was called before it was uploaded."""
    return _UPLOAD.sub("", stem_of(name.partition("?")[0]))


def label_studio(tasks: Sequence[Any], pictured: Pictured, where: str) -> Truth:
    """Read the regions of the task of this image, of the annotation that counts.

    Raises
    ------
    SourceError
        If no task is this image's, or a region is of a kind that is not read.
    """
    wanted = _tasks_of(tasks, pictured, where)
    shapes, labels = [], []
    for task in wanted:
        rows = _result_of(task)
        named = {row.get("id"): row["value"].get("labels") for row in rows if _only_labels(row)}
        for row in rows:
            kind = str(row.get("type", ""))
            bare = kind in _BARE
            kind = f"{kind}labels" if bare else kind
            # Key points of a pose name the region that they belong to, which is the object.
            if not kind.endswith("labels") or (kind == "keypointlabels" and row.get("parentID")):
                continue
            if _only_labels(row):
                continue
            shapes.append(_studio_shape(row, kind, pictured, where))
            names = (named.get(row.get("id")) if bare else row["value"].get(kind)) or ["object"]
            labels.append((row.get("id"), str(names[0])))
    return Truth(findings_of_shapes(*_joined(shapes, labels)))


def _tasks_of(tasks: Sequence[Any], pictured: Pictured, where: str) -> list[Any]:
    """Return the tasks of an image, by the name it has there or had before it was uploaded."""
    names = [task_image(task) for task in tasks]
    stem = None if pictured.name is None else stem_of(pictured.name)
    if all(stem_of(name) != stem for name in names):
        fit = [task for task in tasks if uploaded(task_image(task)) == stem]
        if fit and len({task_image(task) for task in fit}) == 1:
            return fit
    wanted = pictured.chosen(names, where)
    return [task for task, name in zip(tasks, names, strict=True) if name in wanted]


def _only_labels(row: Mapping[str, Any]) -> bool:
    """Return True if a row names the class of a region of another row."""
    return row.get("type") == "labels"


def _result_of(task: Mapping[str, Any]) -> list[Any]:
    """Return the regions of the annotation marked as ground truth, else of the first of all."""
    given = task.get("annotations") or task.get("predictions") or []
    answers = [one for one in given if not one.get("was_cancelled")]
    best = [one for one in answers if one.get("ground_truth")] or answers
    rows: list[Any] = best[0].get("result", []) if best else []
    return rows


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
