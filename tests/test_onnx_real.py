"""Two real detectors on real pictures: equal to a plain call of onnxruntime decoded by hand."""

import numpy as np
import onnxruntime
import pytest
import skimage.data
from PIL import Image

import tilevision as tv
from tilevision.adapters.resizing import resized
from tilevision.catalogue import model
from tilevision.geometry import iou
from tilevision.modelspec import build

CAR = 2  # of COCO's classes
FLOOR = 0.05


def session(path):
    """Open a model as anyone would."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def fastestdet(path, picture):
    """Boxes, scores, classes above the floor, by the words of its makers, cell by cell."""
    # As OpenCV shrinks, which `tests/test_onnx_whole.py` holds against OpenCV itself.
    fed = resized(np.asarray(picture), (352, 352), antialias=False)
    fed = fed[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255
    (out,) = session(path).run(None, {"input.1": fed})
    width, height = picture.size
    rows = []
    for row in range(22):
        for column in range(22):
            objectness, dx, dy, w, h, *classes = out[0, :, row, column].tolist()
            score = objectness**0.6 * max(classes) ** 0.4
            if score >= FLOOR:
                x, y = (column + np.tanh(dx)) / 22, (row + np.tanh(dy)) / 22
                w, h = 1 / (1 + np.exp(-w)), 1 / (1 + np.exp(-h))
                box = (x - w / 2) * width, (y - h / 2) * height, w * width, h * height
                corners = (box[0], box[1], box[0] + box[2], box[1] + box[3])
                rows.append((*corners, score, int(np.argmax(classes))))
    return np.array(rows)


def yunet(path, picture):
    """Faces above the floor, head by head."""
    fed = np.asarray(picture)[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32)
    opened = session(path)
    names = [port.name for port in opened.get_outputs()]
    out = dict(zip(names, opened.run(None, {"input": fed}), strict=True))
    rows = []
    for stride in (8, 16, 32):
        for cell, (cls, obj, box) in enumerate(
            zip(
                out[f"cls_{stride}"][0],
                out[f"obj_{stride}"][0],
                out[f"bbox_{stride}"][0],
                strict=True,
            )
        ):
            score = float(np.sqrt(cls[0] * obj[0]))
            if score >= FLOOR:
                row, column = divmod(cell, picture.width // stride)
                x, y = (column + box[0]) * stride, (row + box[1]) * stride
                w, h = np.exp(box[2]) * stride, np.exp(box[3]) * stride
                rows.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2, score, 0))
    return np.array(rows)


def same(findings, rows):
    """Each detection has its like by hand, and each by hand its like."""
    assert len(findings) == len(rows) > 0
    left = list(range(len(rows)))
    for box, score, number in zip(findings.boxes, findings.scores, findings.class_ids, strict=True):
        overlap = iou(box, rows[left, :4])
        alike = (overlap > 0.99) & (np.abs(rows[left, 4] - score) < 1e-3)
        alike &= rows[left, 5] == number
        assert alike.any()
        left.pop(int(np.argmax(np.where(alike, overlap, -1))))


def test_fastestdet_is_what_it_is_by_hand(shared_data):
    """On a road full of cars, every box and score, none lost and none made up."""
    path = shared_data / "fastestdet-coco.onnx"
    picture = Image.open(shared_data / "small-vehicles.jpeg").convert("RGB")
    for corner in ((300, 150), (600, 180), (0, 0)):
        tile = picture.crop((*corner, corner[0] + 352, corner[1] + 352))
        spec = model(str(path), nms=None)
        assert spec.params["family"] == "fastestdet"
        (found,) = build(spec).predict([np.asarray(tile)])
        same(found, fastestdet(path, tile))
    tile = picture.crop((100, 100, 900, 500))  # stretched, both ways differently
    (found,) = build(spec).predict([np.asarray(tile)])
    same(found, fastestdet(path, tile))


def test_yunet_is_what_it_is_by_hand(shared_data):
    """On an astronaut's face, alone and in a batch of two sizes."""
    path = shared_data / "yunet-dynamic.onnx"
    picture = skimage.data.astronaut()
    spec = model(str(path), nms=None, names=["face"])
    assert spec.params["family"] == "yunet"
    half = picture[:320, :256]
    found = build(spec).predict([picture, half, picture])
    assert found[0] == found[2]
    same(found[0], yunet(path, Image.fromarray(picture)))
    same(found[1], yunet(path, Image.fromarray(half)))
    (once,) = build(model(str(path), names=["face"])).predict([picture])
    sure = once.filter(0.25)
    assert list(sure.labels) == ["face"]
    x0, y0, x1, y1 = sure.boxes[0]
    assert 170 < x0 < 190 and 55 < y0 < 75 and 260 < x1 < 280 and 165 < y1 < 185


@pytest.mark.slow
def test_a_whole_road_through_a_cluster(shared_data, cluster):
    """Cars are found where they drive: near, far, and across the tiles' seams."""
    path = shared_data / "fastestdet-coco.onnx"
    names = [f"class {n}" if n != CAR else "car" for n in range(80)]
    result = tv.analyze(
        shared_data / "small-vehicles.jpeg",
        tv.model(str(path), names=names),
        min_score=0.6,
        checkpoint=None,
        progress=False,
    )
    assert result.complete and result.facts.grid
    cars = result.findings.filter(classes=["car"])
    for x, y in ((351, 344), (472, 327), (398, 292), (853, 326), (613, 247), (575, 251)):
        inside = (cars.boxes[:, :2] < (x, y)).all(axis=1) & (cars.boxes[:, 2:] > (x, y)).all(axis=1)
        assert inside.any(), (x, y)
