"""The families of models that are understood, one file for each kind of layout."""

from tilevision.adapters.onnx.families import (
    classifier,
    encoders,
    finished,
    grids,
    pixelmaps,
    pose,
    rotated,
    segmentation,
    transformers,
    yolo,
    yolox,
)
from tilevision.adapters.onnx.families.layout import Candidates, DecodeInfo, Family, Layout

__all__ = ["ALIASES", "FAMILIES", "Candidates", "DecodeInfo", "Family", "Layout"]

FAMILIES: dict[str, Family] = {
    family.name: family
    for module in (
        yolo,
        yolox,
        segmentation,
        rotated,
        pose,
        transformers,
        finished,
        grids,
        classifier,
        encoders,
        pixelmaps,
    )
    for family in module.FAMILIES
}

# Other names of the same layouts.
ALIASES = {
    "yolov7": "yolov5",
    "yolov9": "yolov8",
    "yolov11": "yolov8",
    "yolo11": "yolov8",
    "yolov12": "yolov8",
    "yolo12": "yolov8",
    "yolo26": "yolov10",
    "dfine": "rtdetr",
    "ssd": "torchvision",
    "faster-rcnn": "torchvision",
    "mask-rcnn": "torchvision",
}
