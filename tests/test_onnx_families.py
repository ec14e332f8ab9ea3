"""Each family of ONNX models is recognised by notes and shapes, and decoded as its makers meant."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tiny_onnx import FLOAT, saying, write

from tilevision.catalogue import model
from tilevision.errors import ModelError
from tilevision.modelspec import build

TILE = np.full((64, 64, 3), 128, dtype=np.uint8)
CAR, SHIP, TREE = "car", "ship", "tree"
NAMES = [CAR, SHIP, TREE]
ULTRALYTICS = {"names": dict(enumerate(NAMES)), "stride": 32, "task": "detect"}
ANCHORS = 8 * 8 + 4 * 4 + 2 * 2  # of an input of 64×64 px
NOBODY = np.random.default_rng(1)


def anchors(rows, columns, count=ANCHORS):
    """Return an output of which only these rows, by number, are not nothing."""
    out = np.zeros((count, columns), np.float32)
    for number, row in rows.items():
        out[number] = row
    return out


def seen(path, tile=TILE, **declared):
    """Return the family that a model was taken for, and what it finds in a tile."""
    spec = model(str(path), **declared)
    return spec.params["family"], build(spec).predict([tile])[0]


def check(findings, *expected):
    """Compare with (label, score, box), best first."""
    assert list(findings.labels) == [label for label, _, _ in expected]
    np.testing.assert_allclose(findings.scores, [s for _, s, _ in expected], atol=1e-5)
    np.testing.assert_allclose(findings.boxes, [b for _, _, b in expected], atol=1e-3)


def test_yolov8(tmp_path: Path) -> None:
    """Rows stand on end, centre and size in pixels; the best class counts, twins are one."""
    rows = {
        3: (20, 30, 10, 20, 0.1, 0.9, 0.0),
        4: (20.5, 30, 10, 20, 0.0, 0.8, 0.0),  # the same ship
        9: (20, 30, 10, 20, 0.7, 0.0, 0.0),  # a car in its place
        50: (50, 50, 4, 6, 0.0, 0.0, 0.04),  # below the floor
    }
    path = saying(tmp_path / "m.onnx", {"output0": anchors(rows, 7).T}, notes=ULTRALYTICS)
    family, found = seen(path)
    assert family == "yolov8"
    check(found, (SHIP, 0.9, (15, 20, 25, 40)), (CAR, 0.7, (15, 20, 25, 40)))
    _, all_of_them = seen(path, nms=None)
    assert len(all_of_them) == 3


def test_yolov8_without_a_word_from_its_exporter(tmp_path: Path) -> None:
    """Shapes alone tell it; without names, classes have numbers."""
    path = saying(tmp_path / "m.onnx", {"o": anchors({0: (8, 8, 4, 4, 0, 0, 0.6)}, 7).T})
    family, found = seen(path)
    assert family == "yolov8"
    check(found, ("class_2", 0.6, (6, 6, 10, 10)))


def test_yolov8_with_rows_lying(tmp_path: Path) -> None:
    """Some exporters turn the rows over; centres that follow the cells tell."""
    out = NOBODY.random((ANCHORS, 7)).astype(np.float32) * 0.04
    number = 0
    for stride in (8, 16, 32):
        for y in range(0, 64, stride):
            for x in range(0, 64, stride):
                out[number, :4] = (x + stride / 2, y + stride / 2, stride, stride)
                number += 1
    out[9, 5] = 0.8
    family, found = seen(saying(tmp_path / "m.onnx", {"o": out}), names=NAMES)
    assert family == "yolov8"
    check(found, (SHIP, 0.8, (8, 8, 16, 16)))


def test_yolov5(tmp_path: Path) -> None:
    """Three anchors to a cell; a class's score is its own times the objectness."""
    rows = {100: (32, 16, 20, 10, 0.5, 0.2, 0.9, 0.1), 7: (9, 9, 2, 2, 0.01, 1, 1, 1)}
    out = anchors(rows, 8, 3 * ANCHORS)
    family, found = seen(saying(tmp_path / "m.onnx", {"output": out}), names=NAMES)
    assert family == "yolov5"
    check(found, (SHIP, 0.45, (22, 11, 42, 21)))


def test_end_to_end(tmp_path: Path) -> None:
    """Corners, score and class, as they are: rows of zeros are nothing."""
    rows = {0: (1, 2, 30, 40, 0.9, 2), 1: (1, 2, 30, 41, 0.8, 2)}
    path = saying(tmp_path / "m.onnx", {"output0": anchors(rows, 6, 300)}, notes=ULTRALYTICS)
    family, found = seen(path)
    assert family == "yolov10"
    check(found, (TREE, 0.9, (1, 2, 30, 40)), (TREE, 0.8, (1, 2, 30, 41)))


def test_yolox(tmp_path: Path) -> None:
    """Rows are relative to their cell: an offset and the logarithm of the size, in strides."""
    out = anchors({9: (0.5, 0.25, np.log(2), 0, 0.8, 0, 0.5, 0)}, 8)  # column 1, row 1, stride 8
    out[70] = (0.5, 0.5, 0, 0, 1.0, 0.9, 0, 0)  # stride 16, column 2, row 1
    family, found = seen(saying(tmp_path / "m.onnx", {"output": out}), names=NAMES)
    assert family == "yolox"
    check(found, (CAR, 0.9, (32, 16, 48, 32)), (SHIP, 0.4, (4, 6, 20, 14)))


def test_yolox_decoded_in_the_graph(tmp_path: Path) -> None:
    """The same shape, but centres in pixels: a trial tells which."""
    out = anchors({}, 8)
    out[:, 4:] = 0.01
    number = 0
    for stride in (8, 16, 32):
        for y in range(0, 64, stride):
            for x in range(0, 64, stride):
                out[number, :4] = (x + stride / 2, y + stride / 2, stride, stride)
                number += 1
    out[9, 4:] = (0.8, 0, 0.5, 0)
    family, found = seen(saying(tmp_path / "m.onnx", {"output": out}), names=NAMES)
    assert family == "yolox-decoded"
    check(found, (SHIP, 0.4, (8, 8, 16, 16)))


def prototypes():
    """Return two masks over 64×64 px, a quarter of the resolution: the left half, and all."""
    left = np.full((16, 16), -1.0, np.float32)
    left[:, :8] = 1
    return np.stack([left, np.ones((16, 16), np.float32)])


@pytest.mark.parametrize("version", [8, 5])
def test_segmentation(tmp_path: Path, version: int) -> None:
    """A mask is the sum of prototypes, cut to its box, outlined at the tile's resolution."""
    objectness = (1.0,) if version == 5 else ()
    row = (32, 32, 40, 20, *objectness, 0.9, 0, 0, 1, 0)
    count = ANCHORS * 3 if version == 5 else ANCHORS
    out = anchors({5: row}, len(row), count)
    answers = {"output0": out if version == 5 else out.T, "output1": prototypes()}
    notes = ULTRALYTICS | {"task": "segment"}
    family, found = seen(saying(tmp_path / "m.onnx", answers, notes=notes))
    assert family == ("yolov5-seg" if version == 5 else "yolo-seg")
    check(found, (CAR, 0.9, (12, 22, 52, 42)))
    ((exterior,),) = found.polygons[0]
    low, high = exterior.min(axis=0), exterior.max(axis=0)
    np.testing.assert_allclose([*low, *high], [12, 22, 32, 42], atol=0.51)


def test_segmentation_maps_masks_through_the_letterbox(tmp_path: Path) -> None:
    """In a tile of twice the size and half the height, the mask's edge is where it was seen."""
    out = anchors({5: (32, 32, 40, 20, 0.9, 0, 0, 1, 0)}, 9)
    path = saying(
        tmp_path / "m.onnx",
        {"output0": out.T, "output1": prototypes()},
        notes=ULTRALYTICS | {"task": "segment"},
    )
    _, found = seen(path, np.full((64, 128, 3), 9, np.uint8))
    check(found, (CAR, 0.9, (24, 12, 104, 52)))
    ((exterior,),) = found.polygons[0]
    np.testing.assert_allclose(exterior.max(axis=0), [64, 52], atol=0.51)
    np.testing.assert_allclose(exterior.min(axis=0), [24, 12], atol=0.51)


def test_segmentation_end_to_end(tmp_path: Path) -> None:
    """Rows that were chosen in the graph carry their coefficients behind."""
    out = anchors({0: (12, 22, 52, 42, 0.9, 1, 0, 1)}, 8, 300)
    answers = {"output0": out, "output1": prototypes()}
    family, found = seen(
        saying(tmp_path / "m.onnx", answers, notes=ULTRALYTICS | {"task": "segment"})
    )
    assert family == "yolo-seg-end2end"
    check(found, (SHIP, 0.9, (12, 22, 52, 42)))
    assert found.polygons[0] is not None


def test_rotated_boxes(tmp_path: Path) -> None:
    """Corners of the turned box; neighbours side by side at a slant are not one."""
    turn = np.pi / 4
    step = 5 * np.array([-np.sin(turn), np.cos(turn)])
    rows = {
        0: (30, 30, 30, 4, 0, 0.9, 0, turn),
        1: (30 + step[0], 30 + step[1], 30, 4, 0, 0.8, 0, turn),  # the next ship at the quay
        2: (30.4, 30.4, 30, 4, 0, 0.7, 0, turn),  # the first again
    }
    notes = ULTRALYTICS | {"task": "obb"}
    path = saying(tmp_path / "m.onnx", {"output0": anchors(rows, 8).T}, notes=notes)
    family, found = seen(path)
    assert family == "yolo-obb"
    assert list(found.scores.round(3)) == [0.9, 0.8]
    along, across = 15 / np.sqrt(2), 2 / np.sqrt(2)
    expected = {
        (round(30 + s * along - t * across, 2), round(30 + s * along + t * across, 2))
        for s in (1, -1)
        for t in (1, -1)
    }
    assert {tuple(corner.round(2)) for corner in found.oriented[0]} == expected


@pytest.mark.parametrize(("overlap", "count"), [("family", 1), ("shape", 2)])
def test_duplicates_are_measured_as_the_family_or_by_shape(
    tmp_path: Path, overlap: str, count: int
) -> None:
    """Rotated boxes that share 0.6 of their area are 0.7 alike as Gaussians, and one at 0.65.

    Ultralytics 8.4 (`ultralytics.utils.nms.TorchNMS.fast_nms` by `batch_probiou`).
    """
    rows = {0: (30, 30, 30, 4, 0, 0.9, 0, 0), 1: (30, 31, 30, 4, 0, 0.8, 0, 0)}
    notes = ULTRALYTICS | {"task": "obb"}
    path = saying(tmp_path / "m.onnx", {"output0": anchors(rows, 8).T}, notes=notes)
    spec = model(str(path), nms=0.65, overlap=overlap)
    found = build(spec).predict([TILE])[0]
    assert len(found) == count
    plain = model(str(path), nms=0.65)
    assert (spec.fingerprint == plain.fingerprint) == (overlap == "family")


def test_masks_are_measured_by_outline_where_that_is_asked(tmp_path: Path) -> None:
    """Two objects in one box whose outlines do not meet: one by box, as YOLO has it, or two."""
    prototype = np.zeros((2, 16, 16), np.float32)
    prototype[0, :, :8], prototype[0, :, 8:] = 9, -9
    prototype[1] = -prototype[0]
    rows = {0: (32, 32, 40, 40, 0.9, 0, 0, 1, 0), 1: (32, 32, 40, 40, 0.8, 0, 0, 0, 1)}
    answers = {"output0": anchors(rows, 9).T, "output1": prototype}
    path = saying(tmp_path / "m.onnx", answers, notes=ULTRALYTICS | {"task": "segment"})
    for overlap, count in (("family", 1), ("shape", 2)):
        assert len(seen(path, overlap=overlap)[1]) == count
    with pytest.raises(ModelError, match="give 'family' or 'shape'"):
        model(str(path), overlap="boxes")


def test_only_rotated_boxes_that_are_suppressed_are_another_model(tmp_path: Path) -> None:
    """Upright boxes were compared before: what is stored of others is right, and stays theirs."""
    from tilevision.adapters.onnx.declaring import _identity

    for task, columns in (("obb", 8), ("detect", 7)):
        rows = {0: (30, 30, 30, 4, 0, 0.9, 0, 0.1)[:columns]}
        notes = ULTRALYTICS | {"task": task}
        path = saying(tmp_path / f"{task}.onnx", {"output0": anchors(rows, columns).T}, notes=notes)
        spec = model(str(path))
        assert spec.nms is not None
        given = (spec.params, spec.max_detections, {"nms": spec.nms}, None, None)
        assert (spec.fingerprint == _identity(*given, turned=False)) == (task == "detect")
        assert (spec.fingerprint == _identity(*given, turned=True)) == (task == "obb")


def test_rotated_boxes_end_to_end(tmp_path: Path) -> None:
    """Centre, size, score, class, angle."""
    rows = anchors({0: (30, 30, 20, 10, 0.9, 1, np.pi / 2)}, 7, 300)
    notes = ULTRALYTICS | {"task": "obb"}
    family, found = seen(saying(tmp_path / "m.onnx", {"output0": rows}, notes=notes))
    assert family == "yolo-obb-end2end"
    check(found, (SHIP, 0.9, (25, 20, 35, 40)))


@pytest.mark.parametrize(
    ("noted", "labels"),
    [
        ({0: "a", 1: "b", 2: "c", 3: "d"}, ["b", "d"]),
        ({1: "b", 3: "d"}, ["b", "d"]),  # numbers without a name between
        ({"1": "b"}, ["b", "class_3"]),
        ({0: 10, 1: 11, 2: 12, 3: 13}, ["11", "13"]),
        ({0: ["a"]}, ["class_1", "class_3"]),  # something else's
        ({1: "b", 10**9: "d"}, ["class_1", "class_3"]),
    ],
)
def test_names_in_a_file_may_have_gaps(tmp_path: Path, noted: Any, labels: list[str]) -> None:
    """Each number has its name, whatever others have; the user's go before."""
    rows = np.zeros((300, 6), np.float32)
    rows[:2] = (4, 4, 20, 20, 0.9, 1), (30, 30, 50, 50, 0.8, 3)
    path = saying(tmp_path / "m.onnx", {"output0": rows}, notes={"task": "detect", "names": noted})
    _, found = seen(path)
    assert found.labels.tolist() == labels and found.class_ids.tolist() == [1, 3]
    _, found = seen(path, names={3: "mine"})
    assert found.labels.tolist() == [labels[0], "mine"]


@pytest.mark.parametrize("softmax", [True, False])
def test_detr(tmp_path: Path, softmax: bool) -> None:
    """Shares of the input; one more column than names is softmax with "nothing", else sigmoid."""
    logits = np.full((100, 4 if softmax else 3), -9.0, np.float32)
    if softmax:
        logits[:, 3] = 9  # nothing
        logits[7] = (0, np.log(3), 0, 0)
    else:
        logits[7] = (0, np.log(9), -1)
    boxes = np.full((100, 4), 0.5, np.float32)
    boxes[7] = (0.5, 0.25, 0.5, 0.25)
    path = saying(tmp_path / "m.onnx", {"logits": logits, "pred_boxes": boxes})
    family, found = seen(path, names=NAMES)
    assert family == ("detr" if softmax else "rtdetr")
    best = found.take([0])
    check(best, (SHIP, 0.5 if softmax else 0.9, (16, 8, 48, 24)))
    # A softmax says "nothing" almost everywhere, a sigmoid that no class is there.
    assert model(str(path)).params["family"] == family
    assert model(str(path), family="detr").params["family"] == "detr"


def test_detr_and_rtdetr_that_show_nothing_are_asked_for(tmp_path: Path) -> None:
    """Logits about 0 are neither's; what is to be given is in the line, and works."""
    logits = np.random.default_rng(0).normal(0, 1, (100, 4)).astype(np.float32)
    boxes = np.full((100, 4), 0.5, np.float32)
    path = saying(tmp_path / "m.onnx", {"logits": logits, "pred_boxes": boxes})
    line = r"may have 4 classes \(RT-DETR.*or 3 and a column for 'nothing' \(DETR.*family='rtdetr'"
    with pytest.raises(ModelError, match=line):
        model(str(path))
    for given, family in (
        ({"family": "rtdetr"}, "rtdetr"),
        ({"family": "detr"}, "detr"),
        ({"names": ["a", "b", "c"]}, "detr"),
        ({"names": ["a", "b", "c", "d"]}, "rtdetr"),
    ):
        assert model(str(path), **given).params["family"] == family


@pytest.mark.parametrize(("folder", "names"), [("", 4), ("onnx", 4), ("onnx", 3)])
def test_the_configuration_beside_a_file_tells_its_classes(
    tmp_path: Path, folder: str, names: int
) -> None:
    """Optimum and transformers write ``config.json`` with ``id2label`` beside, or above ``onnx/``.

    So lie files in repositories of onnx-community. What else has that name is passed over.
    """
    (tmp_path / folder).mkdir(exist_ok=True)
    logits = np.random.default_rng(0).normal(0, 1, (100, 4)).astype(np.float32)
    answers = {"logits": logits, "pred_boxes": np.full((100, 4), 0.5, np.float32)}
    path = saying(tmp_path / folder / "model.onnx", answers)
    (tmp_path / "config.json").write_text("no JSON")
    with pytest.raises(ModelError, match="may have 4 classes"):
        model(str(path))
    listed = {number: f"kind{number}" for number in range(names)}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": listed}))
    spec = model(str(path))
    assert spec.params["family"] == ("rtdetr" if names == 4 else "detr")
    assert spec.classes == tuple(listed.values())


def test_deformable_attention_tells_a_sigmoid(tmp_path: Path) -> None:
    """RT-DETR, D-FINE and Deformable DETR sample a grid (ONNX ``GridSample``); DETR does not."""
    logits = np.random.default_rng(0).normal(0, 1, (1, 100, 4)).astype(np.float32)
    constants = {
        "grid": np.zeros((1, 1, 1, 2), np.float32), "logits_": logits, "zero": np.float32(0),
        "pred_boxes_": np.full((1, 100, 4), 0.5, np.float32), "axes": np.array([1, 2, 3]),
    }  # fmt: skip
    nodes = [
        helper.make_node("GridSample", ["images", "grid"], ["sampled"]),
        helper.make_node("ReduceSum", ["sampled", "axes"], ["one"], keepdims=0),
        helper.make_node("Mul", ["one", "zero"], ["none"]),
        *(helper.make_node("Add", [f"{n}_", "none"], [n]) for n in ("logits", "pred_boxes")),
    ]
    names = ("logits", "pred_boxes")
    ports = [helper.make_tensor_value_info(name, FLOAT, (1, 100, 4)) for name in names]
    picture = [helper.make_tensor_value_info("images", FLOAT, (1, 3, 64, 64))]
    path = write(tmp_path / "m.onnx", nodes, picture, ports, constants, opset=16)
    assert model(str(path)).params["family"] == "rtdetr"


def test_rtdetr_that_is_told_the_size(tmp_path: Path) -> None:
    """Models that ask for the original size answer in its pixels: they are told the input's."""
    answers = {
        "labels": np.array([1, 0]),
        "boxes": np.array([[1, 2, 30, 40], [0, 0, 9, 9]], np.float32),
        "scores": np.array([0.9, 0.01], np.float32),
    }
    path = saying(tmp_path / "m.onnx", answers, beside={"orig_target_sizes": ("batch", 2)})
    family, found = seen(path, names=NAMES)
    assert family == "rtdetr"
    check(found, (SHIP, 0.9, (1, 2, 30, 40)))


def test_rfdetr(tmp_path: Path) -> None:
    """Outputs called dets and labels: shares of the input, and a sigmoid for each class."""
    logits = np.full((300, 4), -9.0, np.float32)
    logits[2, 1] = np.log(4)
    boxes = np.full((300, 4), 0.5, np.float32)
    family, found = seen(
        saying(tmp_path / "m.onnx", {"dets": boxes, "labels": logits}), names=NAMES
    )
    assert family == "rfdetr"
    check(found, (SHIP, 0.8, (16, 16, 48, 48)))


@pytest.mark.parametrize("chosen", [True, False])
def test_rtdetr_of_ultralytics(tmp_path: Path, chosen: bool) -> None:
    """Queries with a score for each class, or already chosen: box, score, class."""
    row = (0.5, 0.5, 0.5, 0.25, 0.9, 1) if chosen else (0.5, 0.5, 0.5, 0.25, 0, 0.9, 0)
    out = anchors({4: row}, len(row), 300)
    notes = ULTRALYTICS | {"head": "RTDETRDecoder", "description": "Ultralytics rtdetr-l model"}
    family, found = seen(saying(tmp_path / "m.onnx", {"output0": out}, notes=notes))
    assert family == "rtdetr-ultralytics"
    check(found, (SHIP, 0.9, (16, 24, 48, 40)))


@pytest.mark.parametrize("named", [True, False])
def test_torchvision(tmp_path: Path, named: bool) -> None:
    """Boxes, labels and scores without a batch axis, by name or by shape and type."""
    answers = {
        "boxes": np.array([[1, 2, 30, 40], [5, 5, 9, 9]], np.float32),
        "labels": np.array([2, 1]),
        "scores": np.array([0.9, 0.3], np.float32),
    }
    if not named:
        answers = dict(zip(("1842", "1870", "1871"), answers.values(), strict=True))
    path = saying(tmp_path / "m.onnx", answers, batch=1, batched=False)
    family, found = seen(path, names=NAMES)
    assert family == "torchvision"
    check(found, (TREE, 0.9, (1, 2, 30, 40)), (SHIP, 0.3, (5, 5, 9, 9)))


def test_torchvision_masks(tmp_path: Path) -> None:
    """Mask R-CNN's masks become outlines."""
    mask = np.zeros((1, 1, 64, 64), np.float32)
    mask[0, 0, 10:20, 5:25] = 0.9
    answers = {
        "boxes": np.array([[4, 8, 30, 40]], np.float32),
        "labels": np.array([1]),
        "scores": np.array([0.9], np.float32),
        "masks": mask,
    }
    path = saying(tmp_path / "m.onnx", answers, batch=1, batched=False)
    _, found = seen(path)
    ((exterior,),) = found.polygons[0]
    np.testing.assert_allclose([*exterior.min(axis=0), *exterior.max(axis=0)], [5, 10, 25, 20])


def test_tensorflow(tmp_path: Path) -> None:
    """Shares of the input, y before x; the input has its channels last, as bytes."""
    answers = {
        "detection_boxes": np.array([[0.25, 0.5, 0.5, 1.0]], np.float32),
        "detection_classes": np.array([1], np.float32),
        "detection_scores": np.array([0.9], np.float32),
        "num_detections": np.array(1, np.float32),
    }
    path = saying(tmp_path / "m.onnx", answers, dtype="uint8", last=True)
    family, found = seen(path)
    assert family == "tensorflow"
    check(found, ("class_1", 0.9, (32, 16, 64, 32)))


def test_mmdet(tmp_path: Path) -> None:
    """Boxes with their score, and labels."""
    answers = {
        "dets": np.array([[1, 2, 30, 40, 0.9]], np.float32),
        "labels": np.array([1]),
    }
    family, found = seen(saying(tmp_path / "m.onnx", answers), names=NAMES)
    assert family == "mmdet"
    check(found, (SHIP, 0.9, (1, 2, 30, 40)))


def test_boxes_of_any_number(tmp_path: Path) -> None:
    """MMDeploy leaves the number of boxes open; what is a limit of all models is that of these."""
    dets, labels = np.array([[1, 2, 30, 40, 0.9]], np.float32), np.array([1])
    path = saying(tmp_path / "m.onnx", {"dets": dets, "labels": labels})
    graph = onnx.load(path)
    for out in graph.graph.output:
        out.type.tensor_type.shape.dim[1].dim_param = "found"
    onnx.save(graph, path)
    assert model(path, names=NAMES).max_detections == 1000
    family, found = seen(path, names=NAMES)
    assert family == "mmdet"
    check(found, (SHIP, 0.9, (1, 2, 30, 40)))


def test_fastestdet(tmp_path: Path) -> None:
    """One grid of cells: objectness and classes to the powers 0.6 and 0.4."""
    out = np.zeros((8, 4, 4), np.float32)
    out[5:] = 1 / 3
    out[:, 1, 2] = (0.9, 0, np.arctanh(0.5), 0, np.log(1 / 3), 0.1, 0.8, 0.1)
    family, found = seen(saying(tmp_path / "m.onnx", {"758": out}), names=NAMES)
    assert family == "fastestdet"
    score = 0.9**0.6 * 0.8**0.4
    check(found, (SHIP, score, (32 - 16, 24 - 8, 32 + 16, 24 + 8)))


@pytest.mark.parametrize("plus", [True, False])
def test_nanodet(tmp_path: Path, plus: bool) -> None:
    """Distances to the four sides are distributions; from a cell's corner, or once its centre."""
    out = np.full((ANCHORS + plus, 3 + 32), -50.0, np.float32)
    out[:, :3] = 0.01
    out[9, 1] = 0.8  # stride 8, column 1, row 1
    for side, strides in enumerate((1, 0, 2, 3)):
        out[9, 3 + 8 * side + strides] = 50
    family, found = seen(saying(tmp_path / "m.onnx", {"output": out}), names=NAMES)
    assert family == "nanodet"
    at = 8 if plus else 12
    check(found, (SHIP, 0.8, (at - 8, at, at + 16, at + 24)))


def test_yunet(tmp_path: Path) -> None:
    """Three heads for each stride; a score is the root of class times objectness."""
    answers = {}
    for stride in (8, 16, 32):
        n = (64 // stride) ** 2
        for head, columns in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            answers[f"{head}_{stride}"] = np.zeros((n, columns), np.float32)
    answers["cls_16"][6] = 0.9
    answers["obj_16"][6] = 0.4
    answers["bbox_16"][6] = (0.5, 0.5, np.log(2), 0)  # column 2, row 1
    family, found = seen(saying(tmp_path / "m.onnx", answers), names=["face"])
    assert family == "yunet"
    check(found, ("face", 0.6, (24, 16, 56, 32)))


def test_classifier(tmp_path: Path) -> None:
    """Scores of the tile as a whole: logits become probabilities, probabilities stay."""
    logits = np.log(np.array([0.2, 0.7, 0.1], np.float32)) + 3
    family, found = seen(saying(tmp_path / "a.onnx", {"logits": logits}), names=NAMES)
    assert family == "classifier-logits"
    assert not len(found)
    assert found.tile_scores == pytest.approx({CAR: 0.2, SHIP: 0.7, TREE: 0.1}, abs=1e-6)
    shares = np.array([0.2, 0.9, 0.1], np.float32)
    family, found = seen(saying(tmp_path / "b.onnx", {"scores": shares}), names=NAMES)
    assert family == "classifier"
    assert found.tile_scores == pytest.approx({CAR: 0.2, SHIP: 0.9, TREE: 0.1}, abs=1e-6)


def test_many_classes_are_kept_where_they_are_likely(tmp_path: Path) -> None:
    """A thousand classes for each tile would be all noise but a few."""
    scores = np.full(1000, 0.0001, np.float32)
    scores[17] = 0.9
    _, found = seen(saying(tmp_path / "m.onnx", {"scores": scores}))
    assert list(found.tile_scores) == ["class_17"]


@pytest.mark.parametrize(
    ("answers", "notes", "words"),
    [
        ({"x": np.zeros((12, 7), np.float32)}, {}, r"not known.*x \(\?, 12, 7\) float.*decode=f"),
        ({"mask": np.zeros((5, 64, 64), np.float32)}, {}, r"\(\?, 5, 64.*which may be anything"),
        ({"o": np.zeros((56, ANCHORS), np.float32)}, {"task": "pose"}, "exported for pose"),
        ({"a": np.zeros(3, np.int64), "b": np.zeros(3, np.int64)}, {}, "not known"),
    ],
)
def test_what_is_not_understood_is_one_line(tmp_path: Path, answers, notes, words) -> None:
    """The line lists inputs and outputs, and says what to pass."""
    path = saying(tmp_path / "odd.onnx", answers, notes=notes)
    with pytest.raises(ModelError, match=words) as caught:
        model(str(path))
    assert "\n" not in str(caught.value)
    assert "odd.onnx" in str(caught.value)


def test_names_that_do_not_fit_refuse_a_family(tmp_path: Path) -> None:
    """A count of names that no layout explains is no reason to guess."""
    path = saying(tmp_path / "m.onnx", {"o": anchors({}, 9).T})
    with pytest.raises(ModelError, match=r"not known.*3 class names"):
        model(str(path), names=NAMES)


def test_a_family_that_is_wrong_is_told_by_the_tile(tmp_path: Path) -> None:
    """Scores that are none, and outputs of another shape, say so instead of answering."""
    path = saying(tmp_path / "m.onnx", {"o": anchors({0: (1, 1, 2, 2, 44, 0, 0)}, 7).T})
    with pytest.raises(ModelError, match=r"scores run from .* to 44, not from 0 to 1"):
        seen(path, family="yolov8")
    with pytest.raises(ModelError, match="not what family 'fastestdet' gives"):
        seen(path, family="fastestdet")
    with pytest.raises(ModelError, match="are not those of family 'yolox'"):
        seen(path, family="yolox")
    with pytest.raises(ModelError, match="Did you mean 'yolov8'"):
        seen(path, family="yolo8")
    assert model(str(path), family="yolo12").params["family"] == "yolov8"
