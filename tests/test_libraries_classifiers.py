"""ONNX files of classifiers on a real picture: as sure of each class as their own library is.

The oracles are `YOLO(file).predict` of Ultralytics, and torchvision's own transforms before its
own network. torchvision's presets also leave out an eighth of the picture at each side (Resize 256,
CenterCrop 224), which no file says: tiles are shown up to their edge.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from framework_models import enliven, needs
from likeness import road, scattered, settled, tiles, to_onnx
from PIL import Image

from tilevision.catalogue import model
from tilevision.modelspec import build

pytestmark = pytest.mark.slow  # makes, exports and runs networks

SIDE, CLASSES = 224, 20


def shapes(picture: np.ndarray) -> dict[str, np.ndarray]:
    """Return the picture as a square, a wide and a tall tile, and whole."""
    return tiles(picture) | {"tall": np.ascontiguousarray(picture[100:500, 300:540])}


def shown(tile: np.ndarray) -> Any:
    """Return a tile as torchvision's transforms make it ready, from 0 to 1."""
    (torchvision,) = needs("torchvision")
    t = torchvision.transforms
    chain = t.Compose([t.Resize(SIDE), t.CenterCrop(SIDE), t.ToTensor()])
    return chain(Image.fromarray(tile))[None]


def check(spec: Any, tile: np.ndarray, right: np.ndarray) -> None:
    """Compare each class's score, which differ by hundreds of what they may be off by."""
    found = build(spec).predict([tile])[0].tile_scores
    mine = np.array([found[f"kind {i}"] for i in range(CLASSES)])
    assert np.ptp(right) > 0.1
    assert np.abs(mine - right).max() < 1e-3


def test_a_classifier_of_ultralytics(shared_data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Its ONNX file: probabilities; the middle of tiles that are no squares."""
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    torch, ultralytics, _ = needs("torch", "ultralytics", "onnx")
    torch.manual_seed(1)
    picture = road(shared_data)
    made = ultralytics.YOLO("yolov8n-cls.yaml", verbose=False)
    made.model.model[-1].linear = torch.nn.Linear(1280, CLASSES)
    made.model.names = {i: f"kind {i}" for i in range(CLASSES)}
    enliven(made.model)
    settled(made.model, shown(tiles(picture)["square"]), [(made.model.model[-1].linear, 0.0, 2.0)])
    made.save(tmp_path / "c.pt")
    kept = ultralytics.YOLO(tmp_path / "c.pt")
    file = kept.export(format="onnx", imgsz=SIDE, verbose=False, simplify=False, opset=17)
    theirs, spec = ultralytics.YOLO(file, task="classify"), model(file)
    assert spec.params["family"] == "classifier"
    for tile in shapes(picture).values():
        picture_bgr = np.ascontiguousarray(tile[..., ::-1])
        probs = theirs.predict(picture_bgr, imgsz=SIDE, device="cpu", verbose=False)[0].probs
        check(spec, tile, probs.data.numpy())


def test_a_classifier_of_torchvision(shared_data: Path, tmp_path: Path) -> None:
    """Its ONNX file: logits; normalised as ImageNet; the middle of tiles that are no squares."""
    torch, torchvision, _ = needs("torch", "torchvision", "onnx")
    torch.manual_seed(0)
    picture = road(shared_data)
    network = scattered(torchvision.models.mobilenet_v3_small(num_classes=CLASSES))
    scale = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    first = scale(shown(tiles(picture)["square"]))
    settled(network, first, [(network.classifier[-1], 0.0, 2.0)])
    file = to_onnx(network, first, tmp_path / "m.onnx", ["logits"])
    spec = model(file, names=[f"kind {i}" for i in range(CLASSES)])
    assert spec.params["family"] == "classifier-logits"
    for tile in shapes(picture).values():
        with torch.no_grad():
            right = network(scale(shown(tile)))[0].softmax(0).numpy()
        check(spec, tile, right)
