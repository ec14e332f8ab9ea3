"""ONNX files of Ultralytics on a real picture: as many, as sure and as placed as it finds them.

The oracle is `YOLO(file).predict`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from framework_models import enliven, needs
from likeness import TILES, batch_of, check_alike, road, settled, tiles

from tilevision.adapters.compaction import compact
from tilevision.catalogue import model
from tilevision.geometry import iou
from tilevision.modelspec import build

pytestmark = pytest.mark.slow  # exports and runs networks

SIDE, FLOOR = 320, 0.1
TASKS = {"seg": "segment", "obb": "obb", "pose": "pose"}
# Of a shrunk tile Ultralytics draws masks at the input's size, where small ones have no pixel left
# and their objects are dropped; ours have the tile's. So masks are compared where both are alike.
MASK_TILES = {"square": (320, 320), "low": (240, 320), "narrow": (320, 200)}


def exported(kind: str, picture: np.ndarray, folder: Path) -> str:
    """Return an ONNX file whose class scores spread around what a detector gives."""
    torch, ultralytics = needs("torch", "ultralytics")
    torch.manual_seed(1)
    made = ultralytics.YOLO(f"{kind}.yaml", verbose=False)
    enliven(made.model)
    head = made.model.model[-1]
    ended = {"end2end": True} if hasattr(head, "one2one_cv2") else {}
    if ended:  # one box for each object, chosen in the graph
        head.end2end = True
    settled(made.model, batch_of(picture), _lasts(head, "one2one_" if ended else ""))
    path = folder / f"{kind}.pt"
    made.save(path)
    return str(
        ultralytics.YOLO(str(path)).export(
            format="onnx", imgsz=SIDE, verbose=False, simplify=False, opset=17, **ended
        )
    )


def _lasts(head: Any, chosen: str) -> Iterator[tuple[Any, float, float]]:
    """Yield the last layers of boxes, scores and the rest, each with its mean and deviation."""
    boxes = (1.0, 1.0) if head.reg_max > 1 else (4.0, 0.7)  # as a distribution, or as they are
    for name, spread in (("cv2", boxes), ("cv3", (-5.0, 1.2)), ("cv4", (1.0, 1.0))):
        for branch in getattr(head, chosen + name, None) or []:
            if hasattr(branch, "__getitem__") and hasattr(branch[-1], "weight"):
                yield (branch[-1], *spread)


KINDS = {
    "yolov8n": "yolov8",
    "yolo11n-seg": "yolo-seg",
    "yolov8n-obb": "yolo-obb",
    "yolov8n-pose": "yolo-pose",
    "yolo26n": "yolov10",
    "yolo26n-obb": "yolo-obb-end2end",
    "yolo26n-pose": "yolo-pose-end2end",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_finds_what_its_library_finds(
    kind: str, shared_data, tmp_path: Path, monkeypatch
) -> None:
    """Ultralytics 8.4: each detection has its like, and their number is within 3 %."""
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    _, ultralytics, _ = needs("torch", "ultralytics", "onnx")
    picture = road(shared_data)
    file = exported(kind, picture, tmp_path)
    theirs = ultralytics.YOLO(file, task=TASKS.get(kind.rpartition("-")[2], "detect"))
    # Masks of random weights fall into fifty pieces each: a few are as good as many, and quicker.
    few = {"max_detections": 60} if kind.endswith("seg") else {}
    spec = model(file, score_floor=FLOOR, **few)
    assert spec.params["family"] == KINDS[kind]
    detector = build(spec)
    share = 0.03
    for name, (height, width) in (MASK_TILES if kind.endswith("seg") else TILES).items():
        tile = picture if name == "whole" else picture[100 : 100 + height, 200 : 200 + width]
        mine = detector.predict([tile])[0]
        if mine.polygons is not None:  # Ultralytics leaves out what has no pixel, we its outline
            mine = mine.take(np.array([shape is not None for shape in mine.polygons]))
        stored = compact(mine, (tile.shape[1], tile.shape[0]))
        result = theirs.predict(
            [np.ascontiguousarray(tile[..., ::-1])],
            conf=FLOOR,
            iou=spec.nms or 0.7,
            max_det=spec.max_detections,
            imgsz=SIDE,
            device="cpu",
            verbose=False,
        )[0]
        found = result.boxes if result.obb is None else result.obb
        boxes, scores = found.xyxy.numpy().astype(float), found.conf.numpy()
        assert len(mine) > 3 and abs(len(mine) - len(boxes)) <= max(1, share * len(boxes)), name
        inside = boxes if result.obb is None else boxes.clip(0, [tile.shape[1], tile.shape[0]] * 2)
        alike = iou(stored.boxes[:, None], inside[None]) > 0.9
        alike &= np.abs(stored.scores[:, None] - scores[None]) < 0.02
        assert alike.any(axis=1).mean() > 0.95, name


def test_an_rt_detr_finds_what_its_library_finds(
    shared_data: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Ultralytics 8.4: its export and RTDETR(file).predict, which stretches the picture."""
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    torch, ultralytics, _ = needs("torch", "ultralytics", "onnx")
    torch.manual_seed(1)
    picture = road(shared_data)
    made = ultralytics.RTDETR("rtdetr-resnet50.yaml")
    enliven(made.model)
    head = made.model.model[-1]
    scores = [(one, -2.5, 1.2) for one in (head.enc_score_head, *head.dec_score_head)]
    boxes = [(one.layers[-1], 0.0, 0.5) for one in (head.enc_bbox_head, *head.dec_bbox_head)]
    for layer, _, _ in boxes:
        torch.nn.init.normal_(layer.weight, std=0.1)
    settled(made.model, batch_of(picture), scores + boxes)
    made.save(tmp_path / "rtdetr.pt")
    kept = ultralytics.RTDETR(tmp_path / "rtdetr.pt")
    file = kept.export(format="onnx", imgsz=SIDE, verbose=False, simplify=False, opset=17)
    theirs, spec = ultralytics.RTDETR(file), model(file, score_floor=FLOOR)
    assert spec.params["family"].startswith("rtdetr-ultralytics")
    detector = build(spec)
    for tile in tiles(picture).values():
        found = theirs.predict(
            np.ascontiguousarray(tile[..., ::-1]), conf=FLOOR, imgsz=SIDE, device="cpu",
            verbose=False,
        )[0].boxes  # fmt: skip
        right = found.xyxy.numpy(), found.conf.numpy(), found.cls.numpy().astype(int)
        check_alike(detector.predict([tile])[0], tile, *right, exact=False)
