"""Models that end with their own choice of boxes: torchvision's, TensorFlow's, MMDetection's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.onnx.families.layout import (
    Candidates,
    DecodeInfo,
    Family,
    Layout,
    Outputs,
)
from tilevision.adapters.onnx.families.transformers import SIZES
from tilevision.adapters.onnx.ports import Port
from tilevision.adapters.pixels import are_shares
from tilevision.errors import ModelError

__all__ = ["FAMILIES", "roles_of"]

ROLES = ("boxes", "scores", "labels", "masks", "keypoints")
_TENSORFLOW = ("detection_boxes", "detection_scores", "detection_classes")


def roles_of(ports: tuple[Port, ...]) -> dict[str, str] | None:
    """Return which output holds boxes, scores, labels and masks: by name, else by shape and type.

    Files that torchvision writes by default have numbers for names.
    """
    names = {port.name for port in ports}
    if {"boxes", "scores", "labels"} <= names:
        return {role: role for role in ROLES if role in names}
    roles: dict[str, str] = {}
    for port in ports:
        axes, whole = len(port.shape), "int" in port.dtype
        if axes in (2, 3) and port.shape[-1] == 4 and not whole:
            role = "boxes"
        elif axes in (1, 2):
            role = "labels" if whole else "scores"
        else:
            points = axes == 3 and port.shape[-1] == 3
            masks = axes == 4 and port.shape[1] == 1
            role = "keypoints" if points else "masks" if masks else "other"
        if role in roles or role == "other":
            return None
        roles[role] = port.name
    return roles if roles.keys() >= {"boxes", "scores", "labels"} else None


def _torchvision(outputs: Outputs, info: DecodeInfo) -> Candidates:  # noqa: ARG001
    kinds = {"i": "tensor(int64)", "u": "tensor(int64)"}
    ports = tuple(
        Port(name, out.shape, kinds.get(out.dtype.kind, "tensor(float)"))
        for name, out in outputs.items()
    )
    roles = roles_of(ports)
    if roles is None:
        raise ModelError(
            f"Outputs {', '.join(map(str, ports))} are not boxes, scores and labels; leave family "
            "out, or pass decode=."
        )
    masks = outputs.get(roles.get("masks", ""))
    points = outputs.get(roles.get("keypoints", ""))
    boxes = outputs[roles["boxes"]].reshape(-1, 4)
    _check_pixels(boxes, roles["boxes"])
    return Candidates(
        boxes,
        outputs[roles["scores"]].reshape(-1),
        outputs[roles["labels"]].reshape(-1).astype(np.int64),
        masks=None if masks is None else masks.reshape(len(boxes), *masks.shape[-2:]),
        keypoints=None if points is None else points.reshape(len(boxes), -1, 3),
    )


def _check_pixels(boxes: NDArray[Any], output: str) -> None:
    if are_shares(boxes):
        raise ModelError(
            f"Output {output} has boxes between 0 and 1, as shares of the picture's sides; pass "
            "decode=f, where f(outputs, info) multiplies them by info.input_size (width, height)."
        )


def _tensorflow(outputs: Outputs, info: DecodeInfo) -> Candidates:
    boxes, scores, classes = (outputs[name] for name in _TENSORFLOW)
    corners = boxes.reshape(-1, 4)[:, [1, 0, 3, 2]]  # TensorFlow writes y before x, as shares
    return Candidates(
        corners * np.tile(info.input_size, 2),
        scores.reshape(-1),
        classes.reshape(-1).astype(np.int64),
    )


def _mmdet(outputs: Outputs, info: DecodeInfo) -> Candidates:
    rows = outputs["dets"].reshape(-1, 5)
    _check_pixels(rows[:, :4], "dets")
    masks = outputs.get("masks")
    if masks is not None:
        masks = masks.reshape(len(rows), *masks.shape[-2:]).astype(np.float32)
        if masks.max(initial=0) > 1:  # exported as bytes, 0 and 255
            masks = masks / 255
    return Candidates(
        rows[:, :4],
        rows[:, 4],
        outputs["labels"].reshape(-1).astype(np.int64),
        masks=masks,
        # MMDeploy pastes them into the picture, or leaves them as the head makes them: of a box.
        masks_in_boxes=masks is not None and masks.shape[2:0:-1] != tuple(info.input_size),
    )


def _is_torchvision(layout: Layout) -> bool:
    told_size = any(port.name == SIZES for port in layout.facts.inputs)
    return not told_size and roles_of(layout.facts.outputs) is not None


def _is_mmdet(layout: Layout) -> bool:
    ports: dict[str, Any] = {port.name: port for port in layout.facts.outputs}
    return ports.keys() >= {"dets", "labels"} and ports["dets"].shape[-1] == 5


FAMILIES = (
    Family(
        "torchvision",
        "boxes (n, 4), scores (n) and labels (n): Faster R-CNN, SSD, RetinaNet, Mask R-CNN",
        _is_torchvision,
        _torchvision,
        multiple=1,
        reads=ROLES,
    ),
    Family(
        "tensorflow",
        ", ".join(_TENSORFLOW),
        lambda layout: layout.names >= set(_TENSORFLOW),
        _tensorflow,
        *("rgb", "0..255", False),
        finite=True,
        multiple=1,
        reads=(*_TENSORFLOW, "num_detections"),
    ),
    Family(
        "mmdet",
        "dets (n, k, 5) and labels (n, k), with or without masks",
        _is_mmdet,
        _mmdet,
        *("rgb", "imagenet", "corner"),
        finite=True,
        antialias=False,
        reads=("dets", "labels", "masks"),
    ),
)
