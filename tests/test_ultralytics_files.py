"""Files of Ultralytics on a real picture: outlines of its masks, and what its exporter noted.

The oracle is `YOLO(file).predict`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from framework_models import enliven, needs
from likeness import batch_of, road, settled

from tilevision.adapters.frameworks import ultralytics_models
from tilevision.catalogue import model
from tilevision.modelspec import build

pytestmark = pytest.mark.slow  # makes, exports and runs networks

FLOOR = 0.1
# As large as an input of 320 px, lower, narrower, and larger: the last is shrunk to the input.
SIZES = {"square": (320, 320), "low": (240, 320), "narrow": (320, 200), "shrunk": (560, 640)}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Nothing is installed or asked for."""
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    monkeypatch.setenv("YOLO_OFFLINE", "true")


def saved(kind: str, picture: np.ndarray, folder: Path) -> Path:
    """Return a file of random weights that find a few things on the picture."""
    torch, ultralytics = needs("torch", "ultralytics")
    torch.manual_seed(1)
    made = ultralytics.YOLO(f"{kind}.yaml", verbose=False)
    enliven(made.model)
    head = made.model.model[-1]
    layers = [
        (branch[-1], mean, spread)
        for name, mean, spread in (("cv2", 1.0, 1.0), ("cv3", -5.0, 1.2), ("cv4", 0.0, 0.3))
        for branch in getattr(head, name, None) or []
    ]
    settled(made.model, batch_of(picture), layers)
    made.model.names = {number: f"kind {number}" for number in range(80)}
    path = folder / f"{kind}.pt"
    made.save(path)
    return path


def theirs(file: Any, tile: np.ndarray, side: int, **more: Any) -> Any:
    """Return what Ultralytics finds itself, which takes blue, green, red."""
    _, ultralytics = needs("torch", "ultralytics")
    return ultralytics.YOLO(str(file), task="segment").predict(
        np.ascontiguousarray(tile[..., ::-1]), conf=FLOOR, imgsz=side, device="cpu", verbose=False,
        **more,
    )[0]  # fmt: skip


def area(parts: Any) -> float:
    return sum(shapely.Polygon(part[0], part[1:]).area for part in parts or ())


def holes(parts: Any) -> int:
    return sum(len(part) - 1 for part in parts or ())


def test_outlines_have_the_area_of_the_masks(shared_data: Path, tmp_path: Path) -> None:
    """Holes cut out, pieces apart, in each shape of tile: the pixels of `Results.masks` counted.

    The library's own polygons (`masks.xy`) run through the middles of pixels, close holes and tie
    pieces together.
    """
    _, ops = needs("torch", "ultralytics.utils.ops")
    picture = road(shared_data)
    path = saved("yolov8n-seg", picture, tmp_path)
    detector = build(model(path, score_floor=FLOOR, input_size=320, max_detections=40, iou=0.5))
    seen = 0
    for high, wide in SIZES.values():
        tile = np.ascontiguousarray(picture[:high, 200 : 200 + wide])
        result = theirs(path, tile, 320, max_det=40, iou=0.5)
        found = detector.predict([tile])[0]
        assert len(found) == len(result.boxes) > 3
        seen += len(found)
        np.testing.assert_allclose(found.scores, result.boxes.conf.numpy(), atol=1e-5)
        shrunk = max(high, wide) > 320
        if not shrunk:
            boxes = result.boxes.xyxy.numpy().clip(0, [wide, high] * 2)
            np.testing.assert_allclose(found.boxes, boxes, atol=1e-3)
        # What lies beside the tile in what the network saw is cut off, and the rest enlarged.
        masks = ops.scale_masks(result.masks.data[None].float(), (high, wide))[0] > 0.5
        for shape, mask in zip(found.polygons, masks.numpy(), strict=True):
            assert area(shape) == pytest.approx(mask.sum(), rel=0.02 if shrunk else 2e-3)
    assert seen > 20
    assert any(holes(shape) for shape in found.polygons)
    assert any(len(shape) > 1 for shape in found.polygons)


def test_outlines_by_pixels_are_another_model(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only of files with masks: what was stored with the polygons of before is computed again."""
    picture = road(shared_data)
    for kind in ("yolov8n", "yolov8n-seg"):
        path = saved(kind, picture, tmp_path)
        now = model(path).fingerprint
        with monkeypatch.context() as before:
            before.setattr(ultralytics_models, "_MASKED", ())
            assert (model(path).fingerprint == now) == (kind == "yolov8n")


def test_a_scripted_file_is_what_its_exporter_noted(shared_data: Path, tmp_path: Path) -> None:
    """Size, class names and masks of a ``.torchscript``: tiles are planned for its 160 px.

    Ultralytics runs a file at the size that it was exported for, whatever it is asked for: tiles
    of 640 px would be shrunk to a quarter without a word.
    """
    _, ultralytics = needs("torch", "ultralytics")
    picture = road(shared_data)
    path = saved("yolov8n-seg", picture, tmp_path)
    file = ultralytics.YOLO(str(path)).export(format="torchscript", imgsz=160, verbose=False)
    spec = model(file, score_floor=FLOOR, max_detections=40)
    assert spec.input_size == (160, 160)
    assert spec.names[:2] == ("kind 0", "kind 1")
    tile = np.ascontiguousarray(picture[100:260, 200:360])
    found = build(spec).predict([tile])[0]
    result = theirs(file, tile, 160, max_det=40)
    assert len(found) == len(result.boxes) > 3
    masks = result.masks.data.numpy() > 0.5
    assert [area(shape) for shape in found.polygons] == pytest.approx(
        masks.sum(axis=(1, 2)).tolist(), rel=5e-3
    )
