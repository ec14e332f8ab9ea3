"""Files of annotations of many images, divided once, so that each image is looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from tilevision.evaluation.annotated import stem_of
from tilevision.evaluation.drawntruth import via_images
from tilevision.evaluation.toolformats import task_image, uploaded
from tilevision.evaluation.truthformats import IMAGES, key_of

__all__ = ["divided"]


def divided(data: Any) -> dict[str, Any] | None:
    """Return what a file of several images says of each, by the image's stem.

    Of COCO, CVAT for images, Label Studio, VIA and tables; None where it is none of these. So
    each image of a batch is looked up, not searched for.
    """
    if isinstance(data, Mapping) and data.get("images") and "annotations" in data:
        return _divided_coco(data)
    if isinstance(data, ElementTree.Element) and data.tag == "annotations":
        return _divided_cvat(data)
    if (images := via_images(data)) is not None:
        return _divided_via(images)
    if isinstance(data, list) and data and all(_is_task(one) for one in data):
        return _divided_tasks(data)
    if hasattr(data, "columns") and hasattr(data, "groupby"):
        names = {str(name).strip().lower(): name for name in data.columns}
        image = next((names[name] for name in IMAGES if name in names), None)
        if image is not None:
            return dict(iter(data.groupby(data[image].map(stem_of))))
    return None


def _divided_via(images: Mapping[str, Any]) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for name, image in images.items():
        parts.setdefault(stem_of(name), {})[name] = image
    return parts


def _is_task(one: Any) -> bool:
    return isinstance(one, Mapping) and isinstance(one.get("data"), Mapping)


def _divided_cvat(root: ElementTree.Element) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for image in root.findall("image"):
        stem = stem_of(image.get("name", ""))
        parts.setdefault(stem, ElementTree.Element("annotations")).append(image)
    return parts


def _divided_tasks(tasks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return tasks by the stem of their image, and by that before it was uploaded if it is free."""
    parts: dict[str, Any] = {}
    before: dict[str, Any] = {}
    for task in tasks:
        name = task_image(task)
        parts.setdefault(stem_of(name), []).append(task)
        before.setdefault(uploaded(name), []).append(task)
    once = {stem: many for stem, many in before.items() if len(set(map(task_image, many))) == 1}
    return once | parts


def _divided_coco(data: Mapping[str, Any]) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    annotations: dict[Any, list[Any]] = {}
    for item in data["images"]:
        part = parts.setdefault(
            stem_of(item.get("file_name", item["id"])),
            {"images": [], "categories": data.get("categories", []), "annotations": []},
        )
        part["images"].append(item)
        annotations[key_of(item["id"])] = part["annotations"]
    for row in data["annotations"]:
        if key_of(row.get("image_id")) in annotations:
            annotations[key_of(row["image_id"])].append(row)
    return parts
