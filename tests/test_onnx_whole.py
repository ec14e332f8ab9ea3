"""Of an ONNX model everything that it gives is read, its limits are known, and tiles do not mix."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import shapely
from onnx import TensorProto, helper
from tiny_onnx import FLOAT, saying, write

import tilevision as tv
from tilevision.adapters.onnx.graph import maker_of, mixes_pictures, nodes_of
from tilevision.adapters.resizing import resized
from tilevision.catalogue import model
from tilevision.errors import ModelError
from tilevision.modelspec import build

SIDE = 128
TILE = np.full((SIDE, SIDE, 3), 128, np.uint8)
NAMES = ["a", "b", "c", "d"]


def disc(side, cx, cy, radius):
    """Return a mask (side, side) of a disc, in pixels."""
    y, x = np.mgrid[:side, :side] + 0.5
    return (x - cx) ** 2 + (y - cy) ** 2 < radius**2


def area_of(polygon):
    """Return the area of parts of rings, holes taken out."""
    return sum(shapely.Polygon(part[0], part[1:]).area for part in polygon)


def found_by(path, tile=TILE, **declared):
    """Return the spec of a model and what it finds in a tile."""
    spec = model(str(path), **declared)
    return spec, build(spec).predict([tile])[0]


def queries(columns, score, n=50):
    """Return boxes and logits of queries, the first of which is a square in the middle."""
    boxes = np.tile(np.array([0.5, 0.5, 0.01, 0.01], np.float32), (n, 1))
    boxes[0] = (0.5, 0.5, 0.5, 0.5)
    logits = np.full((n, columns), -9, np.float32)
    logits[0, 1] = score
    return boxes, logits


# Masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("rfdetr", ("dets", "labels", "masks")),
        ("detr", ("pred_boxes", "logits", "pred_masks")),
    ],
)
def test_masks_of_queries_are_outlines(tmp_path: Path, family, names) -> None:
    """RF-DETR-Seg (rfdetr 1.3 exports dets, labels, masks) and DETR panoptic give mask logits.

    They lie over the whole input, a quarter as fine or less; the outline has the disc's area.
    """
    boxes, logits = queries(5, 4.0)
    masks = np.full((50, 32, 32), -8, np.float32)
    mask = disc(32, 16, 16, 8)
    masks[0][mask] = 8
    if family == "detr":
        logits[1:, -1] = 9  # softmax, where the last column is "nothing"
    answers = dict(zip(names, (boxes, logits, masks), strict=True))
    path = saying(tmp_path / "m.onnx", answers, size=(SIDE, SIDE))
    spec, found = found_by(path, names=NAMES)
    assert spec.params["family"] == family
    assert found.labels.tolist() == ["b"]
    assert area_of(found.polygons[0]) == pytest.approx(mask.sum() * 16, rel=0.01)


@pytest.mark.parametrize("form", ["picture", "bytes", "box"])
def test_masks_of_mmdetection_are_outlines(tmp_path: Path, form) -> None:
    """MMDeploy pastes masks into the picture, or leaves 28×28 of each box; both are read."""
    whole = disc(SIDE, 60, 70, 20)
    mask = {
        "picture": whole[None].astype(np.float32),
        "bytes": (whole[None] * 255).astype(np.uint8),
        "box": disc(28, 14, 14, 14)[None].astype(np.float32),
    }[form]
    answers = {
        "dets": np.array([[40, 50, 80, 90, 0.9]], np.float32),
        "labels": np.array([2]),
        "masks": mask,
    }
    path = saying(tmp_path / "m.onnx", answers, size=(SIDE, SIDE))
    spec, found = found_by(path, names=NAMES)
    assert spec.params["family"] == "mmdet"
    assert area_of(found.polygons[0]) == pytest.approx(np.pi * 20**2, rel=0.03)
    centre = shapely.Polygon(found.polygons[0][0][0]).centroid
    assert (centre.x, centre.y) == pytest.approx((60, 70), abs=0.5)


def test_outputs_that_are_not_read_are_named_before_the_run(tmp_path: Path) -> None:
    """What a recognised model gives beside, and we cannot use, is said once, by its name."""
    boxes, logits = queries(5, 4.0)
    answers = {"dets": boxes, "labels": logits, "texture": np.zeros((50, 7), np.float32)}
    path = saying(tmp_path / "m.onnx", answers, size=(SIDE, SIDE))
    with pytest.warns(UserWarning, match="output texture of family rfdetr will not be read"):
        model(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(str(saying(tmp_path / "n.onnx", {"dets": boxes, "labels": logits})))


# Columns ------------------------------------------------------------------------------------


def test_a_logit_for_nothing_is_no_class(tmp_path: Path) -> None:
    """RF-DETR's head has one logit more than classes: what is highest there is no object."""
    boxes, logits = queries(5, 2.0)
    boxes[1] = (0.25, 0.25, 0.2, 0.2)
    logits[1, 4] = 3.0
    path = saying(tmp_path / "m.onnx", {"dets": boxes, "labels": logits})
    _, found = found_by(path, names=NAMES)
    assert found.labels.tolist() == ["b"]
    assert found.scores[0] == pytest.approx(1 / (1 + np.exp(-2.0)), abs=1e-5)


def test_scores_and_classes_of_two_class_rtdetr_are_told_apart(tmp_path: Path) -> None:
    """Six columns are box, score and class where the last are whole numbers, else two scores.

    Ultralytics exports RT-DETR either way: (1, 300, 4 + classes), from 8.4 on (1, 300, 6).
    """
    notes = {"names": {0: "ship", 1: "boat"}, "task": "detect", "head": "RTDETRDecoder"}
    rng = np.random.default_rng(0)
    chosen = np.zeros((300, 6), np.float32)
    chosen[:, :2], chosen[:, 2:4] = rng.uniform(0.1, 0.9, (300, 2)), 0.05
    chosen[:, 4], chosen[:, 5] = 0.01, rng.integers(0, 2, 300)
    chosen[0, 4:], chosen[1, 4:] = (0.9, 0), (0.8, 1)
    scores = chosen.copy()
    scores[:, 4:] = 0.01 * rng.random((300, 2))
    scores[0, 4], scores[1, 5] = 0.9, 0.8
    for name, rows in (("chosen", chosen), ("scores", scores)):
        path = saying(tmp_path / f"{name}.onnx", {"output0": rows}, notes=notes)
        _, found = found_by(path)
        assert found.labels.tolist() == ["ship", "boat"], name
        assert found.scores.round(2).tolist() == [0.9, 0.8], name


@pytest.mark.parametrize("end", ["MatMul", "Softmax", "Sigmoid"])
def test_small_logits_are_no_probabilities(tmp_path: Path, end) -> None:
    """What a linear layer ends are logits, though they lie between 0 and 1 on a picture of noise.

    Their scores are the softmax of them; what Softmax or Sigmoid ends stays as it is.
    """
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], ["raw" if end != "MatMul" else "scores"]),
    ]
    if end != "MatMul":
        nodes.append(helper.make_node(end, ["raw"], ["scores"]))
    of = helper.make_tensor_value_info
    weights = np.array([[0.5, 0.1], [0.2, 0.2], [0.1, 0.4]], np.float32)
    path = write(
        tmp_path / "m.onnx", nodes, [of("x", FLOAT, (1, 3, 32, 32))], [of("scores", FLOAT, (1, 2))],
        {"w": weights},
    )  # fmt: skip
    spec, found = found_by(path, names=["forest", "field"], normalize="0..1")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    raw = session.run(None, {"x": np.full((1, 3, 32, 32), 128 / 255, np.float32)})[0][0]
    right = np.exp(raw) / np.exp(raw).sum() if end == "MatMul" else raw
    assert spec.params["family"] == ("classifier-logits" if end == "MatMul" else "classifier")
    assert found.tile_scores["forest"] == pytest.approx(right[0], abs=1e-5)


# Limits -------------------------------------------------------------------------------------


def test_the_rows_of_the_output_are_the_limit(tmp_path: Path) -> None:
    """A model with room for 300 objects is saturated by 300, without anybody declaring it.

    That changes no detection, so the identity of a model with the limit declared as before stays.
    """
    rows = np.zeros((300, 6), np.float32)
    rows[:, 2:4], rows[:, 4] = 20, 0.9
    notes = {"task": "detect", "names": {0: "cell"}, "imgsz": [64, 64]}
    yolo = str(saying(tmp_path / "rows.onnx", {"output0": rows}, notes=notes))
    logits, boxes = np.full((100, 1), 3, np.float32), np.full((100, 4), 0.1, np.float32)
    outputs = {"logits": logits, "pred_boxes": boxes}
    detr = str(saying(tmp_path / "queries.onnx", outputs, notes={"names": ["cell"]}))
    assert model(yolo).max_detections == 300
    assert model(detr).max_detections == 100
    assert model(yolo, max_detections=1000).fingerprint == model(yolo).fingerprint
    assert model(yolo, max_detections=50).max_detections == 50


# Batches ------------------------------------------------------------------------------------


def quantised(path: Path, sides=("batch", 3, 32, 32)) -> Path:
    """Save a model whose only score is the picture's mean, quantised to 8 bits over the batch."""
    first = np.zeros((1, 20, 6), np.float32)
    first[0, 0] = (2, 2, 20, 20, 0, 0)
    mark = np.zeros((1, 20, 6), np.float32)
    mark[0, 0, 4] = 1
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("DynamicQuantizeLinear", ["mean"], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["again"]),
        helper.make_node("Reshape", ["again", "to"], ["one"]),
        helper.make_node("Mul", ["one", "mark"], ["scores"]),
        helper.make_node("Add", ["scores", "first"], ["output0"]),
    ]
    of = helper.make_tensor_value_info
    constants = {"first": first, "mark": mark, "to": np.array([-1, 1, 1], np.int64)}
    notes = {"names": "{0: 'spot'}", "task": "detect"}
    outputs = [of("output0", FLOAT, [sides[0], 20, 6])]
    return write(path, nodes, [of("images", FLOAT, sides)], outputs, constants, notes)


def test_what_mixes_pictures_is_run_one_by_one(tmp_path: Path) -> None:
    """Dynamic quantisation takes one scale for a batch: a tile's score must not depend on it.

    Whoever declared a batch of 1 was answered rightly, and keeps what is stored.
    """
    path = str(quantised(tmp_path / "int8.onnx"))
    assert mixes_pictures(nodes_of(Path(path)))
    rng = np.random.default_rng(0)
    tiles = [np.full((32, 32, 3), v, np.uint8) for v in rng.integers(40, 255, 8)]
    alone = build(model(path, batch_size=1))
    right = [alone.predict([tile])[0].scores.tolist() for tile in tiles]
    assert model(path).batch_size == 1
    for declared in ({}, {"batch_size": 4}):
        found = build(model(path, **declared)).predict(tiles)
        assert [one.scores.tolist() for one in found] == right
    assert model(path, batch_size=1).params.keys() == model(path).params.keys() - {"reading"}
    assert model(path, batch_size=1).fingerprint != model(path).fingerprint


def test_a_graph_is_read_as_onnx_reads_it(tmp_path: Path) -> None:
    """Operators, inputs and outputs of all nodes, those of inner graphs too, as onnx lists them."""
    of = helper.make_tensor_value_info
    inner = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "inner", [], [of("y", FLOAT, [1, 3, 4, 4])]
    )
    norm = helper.make_node(
        "BatchNormalization", ["z", "s", "b", "m", "v"], ["out", "m2", "v2"], training_mode=1
    )
    nodes = [
        helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner),
        norm,
        helper.make_node("Sigmoid", ["out"], ["p"]),
        helper.make_node("Flatten", ["p"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [of("x", FLOAT, [1, 3, 4, 4]), of("c", TensorProto.BOOL, [])],
        [of("scores", FLOAT, None)],
        [onnx.numpy_helper.from_array(np.ones(3, np.float32), name) for name in "sbmv"],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph), path)
    read = nodes_of(path)
    assert [node.operator for node in read] == [
        *("If", "Relu", "Relu", "BatchNormalization", "Sigmoid", "Flatten")
    ]
    listed = onnx.load(path).graph.node
    mine = {node.operator: (list(node.inputs), list(node.outputs)) for node in read}
    assert all(mine[node.op_type] == (list(node.input), list(node.output)) for node in listed)
    assert maker_of(read, "scores") == "Sigmoid"
    assert mixes_pictures(read)
    for cut in (b"", b"\x07", path.read_bytes()[:-5], b"not protobuf at all" * 9):
        (tmp_path / "cut.onnx").write_bytes(cut or b"\x00")
        nodes_of(tmp_path / "cut.onnx")  # whatever it holds, no error


# Resizing and defaults ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 30), (64, 48), (128, 96), (200, 170)])
def test_yolo_families_see_tiles_as_opencv_resizes_them(size) -> None:
    """Ultralytics, YOLOX, MMDetection and NanoDet train and predict with cv2.INTER_LINEAR.

    Oracle: cv2.resize, which rounds in fixed point, so that a level may differ by one.
    """
    cv2 = pytest.importorskip("cv2")
    tile = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    right = cv2.resize(tile, size, interpolation=cv2.INTER_LINEAR).astype(int)
    assert np.abs(resized(tile, size, antialias=False).astype(int) - right).max() <= 1


def test_resizing_rounds_and_keeps_the_mean() -> None:
    """Both ways of resizing keep a picture's mean brightness within a tenth of a grey level."""
    tile = np.random.default_rng(0).integers(60, 200, (512, 512, 3)).astype(np.uint8)
    for antialias in (True, False):
        mean = resized(tile, (256, 256), antialias).mean()
        assert mean == pytest.approx(tile.mean(), abs=0.15)


def test_only_classified_tiles_that_are_no_squares_have_another_key(tmp_path: Path) -> None:
    """Squares were seen rightly before, and so was every tile that is stretched on demand."""
    scores = np.array([0.2, 0.7, 0.1], np.float32)
    file = str(saying(tmp_path / "m.onnx", {"scores": scores}, size=(64, 64)))
    spec, stretched = model(file), model(file, letterbox=False)
    assert spec.fingerprint == stretched.fingerprint == stretched.fingerprint_for((64, 32))
    assert spec.fingerprint_for((64, 64)) == spec.fingerprint_for((300, 300)) == spec.fingerprint
    assert spec.fingerprint_for((64, 32)) == spec.fingerprint_for((90, 64)) != spec.fingerprint
    oblong = model(str(saying(tmp_path / "o.onnx", {"scores": scores}, size=(64, 32))))
    assert oblong.fingerprint_for((64, 32)) == oblong.fingerprint_for((9, 9)) == oblong.fingerprint
    with pytest.raises(ModelError, match="would show it a part of each tile"):
        model(file, family="yolov8", letterbox="middle")


def test_only_tiles_that_are_shrunk_have_another_key(tmp_path: Path) -> None:
    """Tiles that fit the input were seen rightly before, and keep their identity."""
    rows = np.zeros((300, 6), np.float32)
    notes = {"task": "detect", "names": {0: "cell"}}
    spec = model(str(saying(tmp_path / "m.onnx", {"output0": rows}, notes=notes)))
    assert spec.input_size == (64, 64)
    assert spec.fingerprint_for((64, 64)) == spec.fingerprint_for((32, 64)) == spec.fingerprint
    assert spec.fingerprint_for((65, 64)) == spec.fingerprint_for((128, 128)) != spec.fingerprint
    same = model("blobs")
    assert same.fingerprint_for((9000, 9000)) == same.fingerprint

    plan = tv.plan(
        np.zeros((128, 128, 3), np.uint8), spec, grid=tv.Grid.by_tile(128), checkpoint=None
    )
    fits = tv.plan(np.zeros((64, 64, 3), np.uint8), spec, grid=tv.Grid.by_tile(64), checkpoint=None)
    assert len({*plan.passes[0].keys.values(), *fits.passes[0].keys.values()}) == 2


def test_files_of_ultralytics_have_its_own_overlap(tmp_path: Path) -> None:
    """Its predict() takes iou=0.7, and so does its .pt here: the .onnx of the network as well."""
    out = np.zeros((5, 84), np.float32)
    notes = {"names": {0: "cell"}, "task": "detect", "stride": 32}
    for author, overlap in (("Ultralytics", 0.7), ("somebody", 0.5)):
        path = saying(tmp_path / f"{author}.onnx", {"o": out}, notes=notes | {"author": author})
        assert model(str(path)).nms == overlap


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    """What a clone without Git LFS leaves is no model: the remedy is git lfs pull.

    Git LFS specification, version 1: a pointer begins with ``version`` and its address.
    """
    path = tmp_path / "m.onnx"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n")
    with pytest.raises(ModelError, match="git lfs pull"):
        model(str(path))


def test_weights_that_were_left_behind_are_named(tmp_path: Path) -> None:
    """A file with external data, copied alone, says which file is missing and where."""
    whole, alone = tmp_path / "whole", tmp_path / "alone"
    whole.mkdir()
    alone.mkdir()
    made = onnx.load(saying(tmp_path / "m.onnx", {"out": np.zeros((300, 6), np.float32)}))
    onnx.save_model(
        made, whole / "m.onnx", save_as_external_data=True, location="m.weights", size_threshold=999
    )
    assert (whole / "m.weights").is_file()
    (alone / "m.onnx").write_bytes((whole / "m.onnx").read_bytes())
    with pytest.raises(ModelError, match=r"keeps its weights in m\.weights, which is not in"):
        model(str(alone / "m.onnx"))


@pytest.mark.parametrize("last", ["Slice", "TopK"])
def test_what_a_graph_keeps_of_an_order_is_the_limit(tmp_path: Path, last: str) -> None:
    """Scores gathered by the first 7 of an order, or by the best 7: no tile can have more.

    So torchvision 0.29 ends (``keep[:detections_per_img]``), whose files state no number of rows.
    """
    take = ["order", "zero", "most", "zero", "one"] if last == "Slice" else ["many", "most"]
    made = ["rows"] if last == "Slice" else ["best", "rows"]
    nodes = [
        helper.make_node(last, take, made),
        helper.make_node("Gather", ["many", "rows"], ["scores"]),
        helper.make_node("Gather", ["places", "rows"], ["boxes"]),
        helper.make_node("Gather", ["numbers", "rows"], ["labels"]),
    ]
    constants = {
        "zero": np.array([0]), "one": np.array([1]), "most": np.array([7]),
        "order": np.arange(20), "many": np.full(20, 0.5, np.float32),
        "places": np.tile(np.array([1, 1, 9, 9], np.float32), (20, 1)),
        "numbers": np.ones(20, np.int64),
    }  # fmt: skip
    picture = helper.make_tensor_value_info("image", FLOAT, (3, None, None))
    outputs = [
        helper.make_tensor_value_info("boxes", FLOAT, (None, 4)),
        helper.make_tensor_value_info("labels", TensorProto.INT64, (None,)),
        helper.make_tensor_value_info("scores", FLOAT, (None,)),
    ]
    path = write(tmp_path / "m.onnx", nodes, [picture], outputs, constants)
    spec = model(str(path))
    assert spec.params["family"] == "torchvision"
    assert spec.max_detections == 7
    found = build(spec).predict([np.zeros((64, 64, 3), np.uint8)])[0]
    assert len(found) == 7
