"""Truth as LabelMe and the VGG Image Annotator (VIA) save it: shapes that people drew."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.errors import SourceError
from tilevision.evaluation.annotated import Pictured, Truth
from tilevision.evaluation.truthshapes import findings_of_shapes, mask_shape, valid

__all__ = ["hand_drawn", "via_images"]

Floats = NDArray[np.float64]

_CLASSES = ("label", "class", "class_name", "name", "category", "type")


def hand_drawn(data: Any, pictured: Pictured, where: str) -> Truth | None:
    """Read JSON of LabelMe (or X-AnyLabeling, which writes the same) or VIA; None: it is neither.

    Raises
    ------
    SourceError
        If it holds what truth cannot be, or is of another image.
    """
    if isinstance(data, Mapping) and isinstance(data.get("shapes"), list):
        return _labelme(data, pictured, where)
    images = via_images(data)
    return None if images is None else _via(images, pictured, where)


def _labelme(data: Mapping[str, Any], pictured: Pictured, where: str) -> Truth:
    """Read a file of one image.

    Shapes of one label with the same number under ``group_id`` are parts of one object.
    """
    pictured.check_size(data.get("imageWidth"), data.get("imageHeight"), where)
    if data.get("imagePath"):
        pictured.chosen([str(data["imagePath"])], where)
    together: dict[Any, list[Any]] = {}
    for number, one in enumerate(data["shapes"]):
        group, label = one.get("group_id"), str(one.get("label") or "object")
        key = (label, number, "alone") if group is None else (label, group)
        together.setdefault(key, []).append(_labelme_shape(one, where))
    found = [shapely.union_all(many) for many in together.values()]
    return Truth(findings_of_shapes(np.array(found, dtype=object), [key[0] for key in together]))


def _labelme_shape(one: Mapping[str, Any], where: str) -> Any:
    kind = one.get("shape_type") or "polygon"
    points = np.reshape(np.array(one["points"], dtype=np.float64), (-1, 2))
    if kind == "rectangle" and len(points) == 2:
        return shapely.box(*points.min(axis=0), *points.max(axis=0))
    if kind in ("polygon", "rectangle", "rotation", "oriented_rectangle") and len(points) > 2:
        return valid(shapely.Polygon(points))
    if kind == "circle" and len(points) == 2:
        return _ellipse(points[0], *[float(np.hypot(*(points[1] - points[0])))] * 2)
    if kind == "point" and len(points) == 1:
        return shapely.Point(points[0])
    if kind == "mask" and one.get("mask"):
        from PIL import Image

        drawn = Image.open(io.BytesIO(base64.b64decode(one["mask"])))
        left, top = points.min(axis=0)
        return mask_shape(np.asarray(drawn.convert("L")) > 0, left, top)
    raise _unread(where, "LabelMe", f"{kind} of {len(points)} points")


def via_images(data: Any) -> dict[str, Any] | None:
    """Return what VIA says of each image, by file name; None where JSON is none of VIA 1 or 2."""
    if not isinstance(data, Mapping):
        return None
    images = data.get("_via_img_metadata", data)
    if not isinstance(images, Mapping) or not images:
        return None
    if not all(isinstance(one, Mapping) and "regions" in one for one in images.values()):
        return None
    return {str(one.get("filename", key)): one for key, one in images.items()}


def _via(images: Mapping[str, Mapping[str, Any]], pictured: Pictured, where: str) -> Truth:
    """Read the regions of this image."""
    wanted = pictured.chosen(images, where)
    shapes, labels = [], []
    for name in images:
        if name not in wanted:
            continue
        regions = images[name]["regions"]
        for region in regions.values() if isinstance(regions, Mapping) else regions:
            shapes.append(_via_shape(region["shape_attributes"], where))
            labels.append(_via_class(region.get("region_attributes") or {}, where))
    return Truth(findings_of_shapes(np.array(shapes, dtype=object), labels))


def _via_shape(said: Mapping[str, Any], where: str) -> Any:
    kind = said.get("name")
    if kind == "rect":
        x, y = float(said["x"]), float(said["y"])
        return shapely.box(x, y, x + float(said["width"]), y + float(said["height"]))
    if kind == "polygon":
        return valid(shapely.Polygon(list(_pairs(said["all_points_x"], said["all_points_y"]))))
    if kind in ("circle", "ellipse", "point"):
        centre = np.array([said["cx"], said["cy"]], dtype=np.float64)
        if kind == "point":
            return shapely.Point(centre)
        if kind == "circle":
            return _ellipse(centre, float(said["r"]), float(said["r"]))
        turned = float(said.get("theta") or 0)
        return _ellipse(centre, float(said["rx"]), float(said["ry"]), turned)
    raise _unread(where, "VIA", f"{kind}")


def _via_class(said: Mapping[str, Any], where: str) -> str:
    """Return the class among a region's attributes: the only one, or the one that is called so."""
    chosen = {str(key): _choice(value) for key, value in said.items()}
    given = {key.lower(): value for key, value in chosen.items() if value}
    named = [key for key in _CLASSES if key in given]
    if len(given) > 1 and not named:
        raise SourceError(
            f"{where} has regions with the attributes {', '.join(sorted(given)[:5])}; name that of "
            "the class 'label'."
        )
    return next((given[key] for key in (*named, *given)), "object")


def _choice(value: Any) -> str:
    """Return a value as text; of boxes to tick, what is ticked."""
    if isinstance(value, Mapping):
        return ", ".join(str(key) for key, ticked in value.items() if ticked)
    return "" if value is None else str(value).strip()


def _pairs(xs: Sequence[Any], ys: Sequence[Any]) -> Iterable[tuple[float, float]]:
    return ((float(x), float(y)) for x, y in zip(xs, ys, strict=True))


def _ellipse(centre: Floats, wide: float, high: float, turned: float = 0.0) -> Any:
    """Return an ellipse of two half axes, turned by radians from x towards y."""
    circle = shapely.Point(0, 0).buffer(1, quad_segs=32)
    sides = shapely.affinity.scale(circle, wide, high, origin=(0, 0))
    placed = shapely.affinity.rotate(sides, turned, origin=(0, 0), use_radians=True)
    return shapely.affinity.translate(placed, *centre)


def _unread(where: str, tool: str, kind: str) -> SourceError:
    return SourceError(
        f"{where} holds a {tool} shape that is no area and no point ({kind}); leave such "
        "shapes out."
    )
