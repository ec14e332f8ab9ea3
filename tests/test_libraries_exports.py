"""Exports whose own library is seldom installed, on a real picture: YOLOv5 and TensorFlow.

The networks end as the library's own do, written out here; what comes before and after them is done
by a library: Ultralytics' letterbox, suppression and masks, which it shares with YOLOv5. (Networks
of the package yolov5 7.0.14 and its own functions were compared by hand: 861, 732, 775 and
673 objects on four tiles, where it finds 861, 732, 772 and 673, all alike.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from framework_models import needs
from likeness import batch_of, check_alike, road, settled, tiles, to_onnx
from test_libraries_boxes import FLOOR, NAMES, OVERLAP, grid, heads

from tilevision.catalogue import model
from tilevision.findings import Findings
from tilevision.modelspec import build
from tilevision.overlaps import geometries

pytestmark = pytest.mark.slow  # makes, exports and runs networks

ANCHORS = 3
MASKS = 8
# For the cells of each stride, in pixels, as in yolov5n.yaml.
SIZES = {8: [(10, 13), (16, 30), (33, 23)], 16: [(30, 61), (62, 45), (59, 119)],
         32: [(116, 90), (156, 198), (373, 326)]}  # fmt: skip


def yolov5(shown: Any, masks: int = 0) -> Any:
    """A network that ends as YOLOv5's Detect and Segment do when they are exported."""
    (torch,) = needs("torch")
    of_each = {"box": 4, "object": 1, "class": len(NAMES)} | ({"mask": masks} if masks else {})
    network = heads({name: ANCHORS * n for name, n in of_each.items()})
    spread = {"box": (0.0, 0.4), "object": (-5.0, 2.0), "class": (0.0, 2.0), "mask": (0.5, 1.0)}
    settled(network, shown, [(e, *spread[name]) for name, end in network.ends.items() for e in end])
    where, stride = grid()

    class Ended(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network
            self.where = torch.from_numpy(where).float().repeat(ANCHORS, 1)
            self.stride = torch.from_numpy(stride).float().repeat(ANCHORS, 1)
            each = [SIZES[int(step)][k] for k in range(ANCHORS) for step in stride[:, 0]]
            self.anchors = torch.tensor(each).float()
            self.prototypes = torch.nn.Conv2d(3, MASKS, 9, 4, 4)

        def forward(self, image: Any) -> Any:
            parts = self.inner(image)[0].split([ANCHORS * n for n in of_each.values()], 1)
            # One anchor after the other, each with all cells.
            box, *rest = (torch.cat(part.chunk(ANCHORS, 1)) for part in parts)
            box = box.sigmoid()
            centre = (box[:, :2] * 2 - 0.5 + self.where) * self.stride
            rows = torch.cat([centre, (box[:, 2:] * 2) ** 2 * self.anchors, *rest], 1)[None]
            if not masks:
                return rows
            field = torch.nn.functional.avg_pool2d(self.prototypes(image), 9, 1, 4)
            return rows, field - field.mean() + field.std()

    return Ended().eval()


def fed(tile: np.ndarray) -> Any:
    """Return a tile as Ultralytics' LetterBox lays it in."""
    torch, _ = needs("torch", "ultralytics")
    from ultralytics.data.augment import LetterBox

    laid = LetterBox((320, 320))(image=tile)
    return torch.from_numpy(np.ascontiguousarray(laid.transpose(2, 0, 1)))[None].float() / 255


def found_by(rows: Any, most: int) -> Any:
    """Return xmin, ymin, xmax, ymax, score, class, … of what Ultralytics' suppression keeps."""
    from ultralytics.utils.nms import non_max_suppression

    # Of later versions, whose scores have the objectness in them, and whose rows stand on end.
    scores = rows[..., 5 : 5 + len(NAMES)] * rows[..., 4:5]
    late = rows[..., :4], scores, rows[..., 5 + len(NAMES) :]
    (torch,) = needs("torch")
    standing = torch.cat(late, 2).transpose(1, 2)
    return non_max_suppression(
        standing, FLOOR, OVERLAP, nc=len(NAMES), max_det=most, max_time_img=60
    )[0]


@pytest.mark.parametrize("kind", ["yolov5", "yolov5-seg"])
def test_yolov5(kind: str, shared_data: Path, tmp_path: Path) -> None:
    """Anchors, objectness times class, boxes as powers of the anchors, masks of prototypes."""
    torch, _ = needs("torch", "ultralytics", "onnx")[:2]
    from ultralytics.utils import ops

    picture = road(shared_data)
    masks = MASKS if kind.endswith("seg") else 0
    network = yolov5(batch_of(picture), masks)
    outputs = ["output0", "output1"][: 2 if masks else 1]
    file = to_onnx(network, batch_of(picture), tmp_path / "y.onnx", outputs)
    spec = model(file, names=NAMES, nms=OVERLAP)
    assert spec.params["family"] == kind
    detector = build(spec)
    for tile in tiles(picture).values():
        pixels = fed(tile)
        with torch.no_grad():
            out = network(pixels)
        rows, field = out if masks else (out, None)
        kept = found_by(rows, spec.max_detections)
        boxes = ops.scale_boxes((320, 320), kept[:, :4].clone(), tile.shape[:2]).numpy()
        mine = detector.predict([tile])[0]
        columns = kept[:, 4].numpy(), kept[:, 5].numpy().astype(int)
        check_alike(mine, tile, boxes, *columns, exact=False)
        if masks and max(tile.shape) <= 320:  # of a shrunk tile its masks are coarser than ours
            drawn = ops.process_mask(field[0], kept[:, 6:], kept[:, :4], (320, 320), upsample=True)
            top, left = ((320 - side) // 2 for side in tile.shape[:2])
            inside = drawn[:, top : top + tile.shape[0], left : left + tile.shape[1]].numpy() > 0
            check_outlines(mine, boxes, inside)


def check_outlines(mine: Findings, boxes: np.ndarray, drawn: np.ndarray) -> None:
    """Raise AssertionError unless each larger mask has the outline that fits its pixels."""
    y, x = np.mgrid[: drawn.shape[1], : drawn.shape[2]] + 0.5
    outlines = geometries(len(mine), None, mine.polygons)
    overlaps = []
    for row, box in enumerate(mine.boxes):
        apart = np.abs(boxes - box.clip(0, [x.max() + 0.5, y.max() + 0.5] * 2)).max(axis=1)
        right = drawn[int(apart.argmin())]
        if apart.min() > 0.5 or right.sum() < 600:
            continue
        seen = shapely.contains_xy(outlines[row], x, y)
        overlaps.append((seen & right).sum() / (seen | right).sum())
    assert len(overlaps) > 10 and np.mean(overlaps) > 0.93 and np.min(overlaps) > 0.8


def test_tensorflow(shared_data: Path, tmp_path: Path) -> None:
    """Object Detection API: bytes as they are, any size; the graph resizes; shares, y before x.

    `tf2onnx` keeps names, types and the order of axes. Class numbers count from 1: label maps do.
    """
    (torch,) = needs("torch", "onnx")[:1]
    picture = road(shared_data)
    network = heads({"box": 4, "class": len(NAMES)})
    spread = {"box": (0.5, 0.6), "class": (-2.0, 1.5)}
    ends = [(e, *spread[name]) for name, end in network.ends.items() for e in end]
    settled(network, batch_of(picture), ends)

    class Saved(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network
            where, stride = grid()
            self.at = torch.from_numpy((where + 0.5) * stride).float()
            self.stride = torch.from_numpy(stride).float()

        def forward(self, image: Any) -> tuple[Any, ...]:
            image = image.permute(0, 3, 1, 2).float() / 255
            image = torch.nn.functional.interpolate(image, (320, 320), mode="bilinear")
            out = self.inner(image)[0]
            half = torch.exp(out[:, :4].clamp(-2, 2)) * self.stride / 2
            score, label = out[:, 4:].max(1)
            score, best = score.topk(100)
            at, half = self.at[best], half[best]
            boxes = torch.cat([at - half[:, :2], at + half[:, 2:]], 1).clamp(0, 320) / 320
            standing = boxes[:, [1, 0, 3, 2]]
            number = torch.full((1,), 100.0)
            return standing[None], (label[best] + 1.0)[None], score[None], number

    saved = Saved().eval()
    names = ["detection_boxes", "detection_classes", "detection_scores", "num_detections"]
    file = to_onnx(
        saved, torch.from_numpy(tiles(picture)["square"].copy())[None], tmp_path / "t.onnx", names,
        dynamic_axes={"image": {1: "height", 2: "width"}},
    )  # fmt: skip
    spec = model(file, names=dict(enumerate(NAMES, 1)))
    assert spec.params["family"] == "tensorflow" and spec.max_detections == 100
    detector = build(spec)
    for tile in tiles(picture).values():
        with torch.no_grad():
            given = saved(torch.from_numpy(tile.copy())[None])
        boxes, classes, scores = (part[0].numpy() for part in given[:3])
        # As the API's own visualization_utils does with use_normalized_coordinates.
        high, wide = tile.shape[:2]
        ymin, xmin, ymax, xmax = (boxes * [high, wide, high, wide]).T
        keep = scores >= FLOOR
        placed = np.stack([xmin, ymin, xmax, ymax], 1)[keep]
        mine = detector.predict([tile])[0]
        check_alike(mine, tile, placed, scores[keep], classes[keep].astype(int), exact=False)
        assert set(mine.labels.tolist()) <= set(NAMES)
