"""ONNX files of Ultralytics on a real picture: as many, as sure and as placed as it finds them.

The networks have random weights, scaled so that they find hundreds of things on the picture: what
they find is nonsense, but the same nonsense whoever reads them. The oracle is `YOLO(file).predict`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from framework_models import enliven, needs
from PIL import Image

from tilevision.adapters.compaction import compact
from tilevision.catalogue import model
from tilevision.geometry import iou
from tilevision.modelspec import build

pytestmark = pytest.mark.slow  # exports and runs networks

SIDE, FLOOR = 320, 0.1
TASKS = {"seg": "segment", "obb": "obb", "pose": "pose"}
# As large as the input, smaller, and larger: the last is shrunk.
TILES = {"square": (320, 320), "low": (240, 320), "whole": (580, 1068)}
# Of a shrunk tile Ultralytics draws masks at the input's size, where small ones have no pixel left
# and their objects are dropped; ours have the tile's. So masks are compared where both are alike.
MASK_TILES = {"square": (320, 320), "low": (240, 320), "narrow": (320, 200)}


@pytest.fixture
def road(shared_data: Path) -> np.ndarray:
    return np.asarray(Image.open(shared_data / "small-vehicles.jpeg").convert("RGB"))


def exported(kind: str, picture: np.ndarray, folder: Path) -> str:
    """Return an ONNX file whose class scores spread around what a detector gives."""
    torch, ultralytics = needs("torch", "ultralytics")
    torch.manual_seed(1)
    made = ultralytics.YOLO(f"{kind}.yaml", verbose=False)
    enliven(made.model)
    head = made.model.model[-1]
    lasts = [
        (name.endswith("cv3"), branch[-1])
        for name in ("cv2", "cv3", "cv4")
        for branch in getattr(head, name, None) or []
    ]
    seen: dict[int, Any] = {}
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out, at=at: seen.__setitem__(at, out))
        for at, (_, layer) in enumerate(lasts)
    ]
    made.model.eval()
    shown = torch.from_numpy(picture[100:420, 200:520].copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        made.model(shown)
        for at, (scores, layer) in enumerate(lasts):
            if at in seen:
                factor = (1.2 if scores else 1.0) / seen[at].std()
                layer.weight *= factor
                layer.bias *= factor
                layer.bias += (-5.0 if scores else 1.0) - seen[at].mean() * factor
    for hook in hooks:
        hook.remove()
    path = folder / f"{kind}.pt"
    made.save(path)
    return str(
        ultralytics.YOLO(str(path)).export(
            format="onnx", imgsz=SIDE, verbose=False, simplify=False, opset=17
        )
    )


@pytest.mark.parametrize("kind", ["yolov8n", "yolo11n-seg", "yolov8n-obb", "yolov8n-pose"])
def test_a_file_finds_what_its_library_finds(kind: str, road, tmp_path: Path, monkeypatch) -> None:
    """Ultralytics 8.4: each detection has its like, and their number is within 3 %."""
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    _, ultralytics, _ = needs("torch", "ultralytics", "onnx")
    file = exported(kind, road, tmp_path)
    theirs = ultralytics.YOLO(file, task=TASKS.get(kind.rpartition("-")[2], "detect"))
    # Masks of random weights fall into fifty pieces each: a few are as good as many, and quicker.
    few = {"max_detections": 60} if kind.endswith("seg") else {}
    spec = model(file, score_floor=FLOOR, **few)
    detector = build(spec)
    share = 0.03
    for name, (height, width) in (MASK_TILES if kind.endswith("seg") else TILES).items():
        tile = road if name == "whole" else road[100 : 100 + height, 200 : 200 + width]
        mine = detector.predict([tile])[0]
        if mine.polygons is not None:  # Ultralytics leaves out what has no pixel, we its outline
            mine = mine.take(np.array([shape is not None for shape in mine.polygons]))
        stored = compact(mine, (tile.shape[1], tile.shape[0]))
        result = theirs.predict(
            [np.ascontiguousarray(tile[..., ::-1])],
            conf=FLOOR,
            iou=spec.nms,
            max_det=spec.max_detections,
            imgsz=SIDE,
            device="cpu",
            verbose=False,
        )[0]
        found = result.boxes if result.obb is None else result.obb
        boxes, scores = found.xyxy.numpy().astype(float), found.conf.numpy()
        assert len(mine) > 10 and abs(len(mine) - len(boxes)) <= max(1, share * len(boxes)), name
        inside = boxes if result.obb is None else boxes.clip(0, [tile.shape[1], tile.shape[0]] * 2)
        alike = iou(stored.boxes[:, None], inside[None]) > 0.9
        alike &= np.abs(stored.scores[:, None] - scores[None]) < 0.02
        assert alike.any(axis=1).mean() > 0.95, name
